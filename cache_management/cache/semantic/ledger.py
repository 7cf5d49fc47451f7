"""The evidence of one namespace and model, shared by all processes over the store's journal.

Every comparison is a note of the journal, and each process adds the notes up in their order, so
all come to the same sums. Now and then one writes its sums and how far it has read as a record:
a newcomer starts there, and what the journal no longer holds is not lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.clock import VersionClock
from cache_management.cache.errors import JournalGap
from cache_management.cache.identity import LAYOUT, KeySpace
from cache_management.cache.records import Record
from cache_management.cache.semantic.evidence import (
    Evidence,
    Observation,
    State,
    decode_observation,
    decode_state,
    encode_observation,
    encode_state,
)

_EVERY_SECONDS = 1.0
_PAGE = 1000
_WRITE_EVERY = 500  # notes
_WRITE_SECONDS = 3600.0  # and this long after the last time: a journal that nobody writes is gone after a week


class Ledger:
    """Reads and adds observations.

    Args:
        space: Scores of another model mean something else, so it has evidence of its own.
        budget: The share of wrong answers that may be served, 0 to 1.
    """

    def __init__(
        self,
        backend: Backend,
        journal: Journal,
        *,
        namespace: str,
        space: str,
        budget: float,
        versions: VersionClock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._journal = journal
        self._stream = f"{LAYOUT}:log:{namespace}:evidence:{space}"
        self._record = KeySpace("evd", namespace).to_storage(space)
        self._versions = versions
        self._monotonic = monotonic
        self._cursor: str | None = None
        self._next_look = 0.0
        self._written = 0
        self._next_write = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        self.evidence = Evidence(budget)

    async def catch_up(self, *, at_once: bool = False) -> Evidence:
        """Return the evidence, at most a second behind (`at_once`: not behind at all).

        Raises:
            BackendUnavailable: The store cannot be read.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # A lock belongs to the loop that waited on it first; that one is closed, see `PerLoop`.
            self._loop, self._lock = loop, asyncio.Lock()
        is_due = at_once or self._cursor is None or self._monotonic() >= self._next_look
        # What is known serves whoever comes while others look for news; who knows nothing waits.
        if is_due and (at_once or self._cursor is None or not self._lock.locked()):
            async with self._lock:
                if at_once or self._cursor is None or self._monotonic() >= self._next_look:
                    self._next_look = self._monotonic() + _EVERY_SECONDS
                    await self._read()
        return self.evidence

    async def note(self, observations: Sequence[Observation]) -> None:
        """Tell every process of comparisons.

        Raises:
            BackendUnavailable: They are not noted.
        """
        await self._journal.append(self._stream, [encode_observation(seen) for seen in observations])
        self._next_look = 0.0
        if any(seen.source == "feedback" for seen in observations):
            self._next_write = 0.0  # it is rare, and must hold for good

    async def _read(self) -> None:
        cursor = await self._begin() if self._cursor is None else self._cursor
        gaps = 0
        while True:
            try:
                notes, cursor = await self._journal.read_after(self._stream, cursor, limit=_PAGE)
            except JournalGap:
                # Somebody else may have written down what the journal no longer holds; if not, it is gone.
                gaps += 1
                cursor = await self._begin() if gaps == 1 else await self._journal.tail(self._stream)
                continue
            self._cursor = cursor
            for note in notes:
                seen = decode_observation(note)
                if seen is not None:
                    self.evidence.add(seen)
            if len(notes) < _PAGE:
                break
        news = self.evidence.seen - self._written
        if news >= _WRITE_EVERY or (news and self._monotonic() >= self._next_write):
            await self._write()

    async def _begin(self) -> str:
        """Take over what is written down, if it is more than what is known here; return how far that reaches."""
        found = await self._load()
        if found is None or found[1].seen < self.evidence.seen:
            return self._cursor or ""
        cursor, state = found
        # What was judged meanwhile is in there: whoever keeps something because of the former state looks again.
        self.evidence = Evidence(self.evidence.budget, state, judgements=self.evidence.judgements + 1)
        self._written = state.seen
        return cursor

    async def _load(self) -> tuple[str, State] | None:
        record = await self._backend.get(self._record)
        return None if record is None else decode_state(record.value)

    async def _write(self) -> None:
        self._written = self.evidence.seen
        self._next_write = self._monotonic() + _WRITE_SECONDS
        held = await self._load()
        # One that missed notes in a gap must not put less in the place of more.
        if held is None or held[1].seen <= self.evidence.seen:
            value = encode_state(self.evidence.state, self._cursor or "")
            await self._backend.put(self._record, Record(value, None, self._versions.next()))
