"""What was removed while an answer was computed, so that a late answer does not bring it back.

A removal notes what it removes in the store's journal, then removes. A computation takes the end
of the journal before it starts, and reads on from there before it stores and again after it: in
whichever order the two meet, one of them finds the other, and what came too late is taken back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.errors import BackendRefused, JournalGap
from cache_management.cache.identity import LAYOUT, digest

_ANYTHING = b"*"
_MANY = 500
_PAGE = 1000


class Removals:
    """The notes of one namespace. A name is a storage key, or that of a tag.

    A store that keeps no journal tells only of removals by the same object.
    """

    def __init__(self, backend: Backend, namespace: str) -> None:
        self._journal: Journal = backend if isinstance(backend, Journal) else _own_journal()
        self._stream = f"{LAYOUT}:removed:{namespace}"

    async def note(self, names: Sequence[str] | None) -> None:
        """Note what is about to be removed; None: anything may be.

        A store that is full refuses notes, and would refuse a late answer too: the removal goes on.

        Raises:
            BackendUnavailable: It is not noted.
        """
        # Very many are noted as one: a reader would rather compute once more than read them all.
        some = names is not None and len(names) <= _MANY
        with contextlib.suppress(BackendRefused):
            await self._journal.append(self._stream, [_note(name) for name in names or ()] if some else [_ANYTHING])

    async def now(self) -> str:
        """Return the moment, for `since`."""
        return await self._journal.tail(self._stream)

    async def since(self, moment: str, names: Iterable[str]) -> bool:
        """Tell whether one of the names may have been removed since a moment.

        Raises:
            BackendUnavailable: It cannot be told.
        """
        while True:
            try:
                notes, moment = await self._journal.read_after(self._stream, moment, limit=_PAGE)
            except JournalGap:
                return True
            if notes and not {_ANYTHING, *map(_note, names)}.isdisjoint(notes):
                return True
            if len(notes) < _PAGE:
                return False


def _note(name: str) -> bytes:
    return digest(name).encode()


def _own_journal() -> Journal:
    # Here: a process with another store needs nothing of the memory store.
    from cache_management.cache.backends.memory import MemoryBackend

    return MemoryBackend(max_size=1)
