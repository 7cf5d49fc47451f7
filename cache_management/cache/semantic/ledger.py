"""The evidence of one namespace and model, shared by all processes over the store's journal.

Every comparison is a note of the journal, and each process adds the notes up in their order, so
all come to the same sums. Now and then one writes its sums and how far it has read as a record:
a newcomer starts there, and what the journal no longer holds is not lost.
"""

from __future__ import annotations

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
    decode_observation,
    decode_state,
    encode_observation,
    encode_state,
)

_EVERY_SECONDS = 1.0
_PAGE = 1000
_WRITE_EVERY = 500  # notes


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
        self._is_reading = False
        self.evidence = Evidence(budget)

    async def catch_up(self, *, at_once: bool = False) -> Evidence:
        """Return the evidence, at most a second behind (`at_once`: not behind at all).

        Raises:
            BackendUnavailable: The store cannot be read.
        """
        now = self._monotonic()
        # One task reads, so that no note is added twice; the others go by what is known.
        if not self._is_reading and (self._cursor is None or at_once or now >= self._next_look):
            self._is_reading = True
            self._next_look = now + _EVERY_SECONDS
            try:
                await self._read()
            finally:
                self._is_reading = False
        return self.evidence

    async def note(self, observations: Sequence[Observation]) -> None:
        """Tell every process of comparisons.

        Raises:
            BackendUnavailable: They are not noted.
        """
        await self._journal.append(self._stream, [encode_observation(seen) for seen in observations])
        self._next_look = 0.0

    async def _read(self) -> None:
        cursor = await self._begin() if self._cursor is None else self._cursor
        notes: list[bytes] = []
        while True:
            try:
                notes, cursor = await self._journal.read_after(self._stream, cursor, limit=_PAGE)
            except JournalGap:
                # What is gone is gone; what comes from here on is read.
                notes, cursor = [], await self._journal.tail(self._stream)
            self._cursor = cursor
            for note in notes:
                seen = decode_observation(note)
                if seen is not None:
                    self.evidence.add(seen)
            if len(notes) < _PAGE:
                break
        if self.evidence.seen - self._written >= _WRITE_EVERY:
            await self._write()

    async def _begin(self) -> str:
        record = await self._backend.get(self._record)
        found = None if record is None else decode_state(record.value)
        if found is None:
            return ""
        cursor, state = found
        self.evidence = Evidence(self.evidence.budget, state)
        self._written = state.seen
        return cursor

    async def _write(self) -> None:
        # Two that write at once wrote the same sums, or one has read a little further: either will do.
        value = encode_state(self.evidence.state, self._cursor or "")
        self._written = self.evidence.seen
        await self._backend.put(self._record, Record(value, None, self._versions.next()))
