"""Where books are kept: read, changed in one step, and written where nobody else wrote meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from cache_management.cache.backends.base import Backend, Conditional, Sweepable
from cache_management.cache.clock import Clock, VersionClock
from cache_management.cache.errors import (
    BackendRefused,
    BackendUnavailable,
    ConfigurationError,
    CorruptRecord,
    InvalidEntry,
)
from cache_management.cache.events import CorruptEvent, Listener
from cache_management.cache.identity import KeySpace
from cache_management.cache.reasoning.book import Book
from cache_management.cache.reasoning.book_codec import ForeignBook, decode_book, encode_book
from cache_management.cache.reasoning.step_identity import Canonical, problem_id
from cache_management.cache.records import Record

T = TypeVar("T")


class _Nothing:
    """What a change of a book returns that is not there."""


_NOTHING = _Nothing()

_TRIES = 50
_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.05
_KEPT = 256
_UNREADABLE_AFTER = 5
_CHANCE_BITS = 19


class Bookshelf:
    """The books of one namespace.

    Args:
        kept: How many decoded books are kept in this process; a book is decoded anew when its record changed.
    """

    def __init__(
        self,
        backend: Backend,
        namespace: str,
        *,
        limit_bytes: int,
        canonical: Canonical,
        clock: Clock,
        listener: Listener,
        kept: int = _KEPT,
    ) -> None:
        if not isinstance(backend, Conditional):
            raise ConfigurationError(
                f"the {backend.name} backend cannot keep reasoning: it changes nothing in one step"
            )
        self._backend = backend
        self._changing: Conditional = backend
        self.namespace = namespace
        self._limit_bytes = limit_bytes
        self._canonical = canonical
        self._clock = clock
        self._listener = listener
        self._versions = VersionClock(clock)
        self._keys = KeySpace("bok", namespace)
        self._kept = kept
        self._decoded: OrderedDict[str, tuple[Record, Book, float]] = OrderedDict()

    @property
    def prefix(self) -> str:
        """Return what the storage keys of all books begin with."""
        return self._keys.prefix

    def storage_key(self, name: str) -> str:
        """Return where the book of a problem stands; `name` is its `problem_id`."""
        return self._keys.to_storage(name)

    def spelling(self, text: str) -> str:
        """Return the form of a text by which steps are compared."""
        return self._canonical(text)

    async def read(self, name: str) -> Book | None:
        """Return the book of a problem, which is only to be looked at; None when there is none.

        What is past its time is not in it.

        Raises:
            BackendUnavailable: The store does not answer.
        """
        storage_key = self.storage_key(name)
        record = self._backend.peek(storage_key) or await self._backend.get(storage_key)
        if record is None:
            self._decoded.pop(storage_key, None)
            return None
        kept = self._decoded.get(storage_key)
        now = self._clock()
        if kept is not None and (kept[0] is record or kept[0].value == record.value) and now < kept[2]:
            with contextlib.suppress(KeyError):  # another thread let go of it
                self._decoded.move_to_end(storage_key)
            return kept[1]
        book = self._decode(storage_key, record)
        if book is not None:
            book.compact(now)
            self._decoded[storage_key] = (record, book, book.lapses_at())
            while len(self._decoded) > self._kept:
                self._decoded.popitem(last=False)
        return book

    async def change(self, problem: str, change: Callable[[Book], T]) -> T:
        """Change the book of a problem, in one step for everybody who reads it; return what `change` returns.

        Args:
            change: Is called anew, with another book, when somebody else wrote meanwhile. A book that it leaves
                empty is removed.

        Raises:
            InvalidEntry: The book is or would be too large; nothing was changed.
            BackendUnavailable: The store does not answer; it may be changed.
        """
        changed = await self._change(
            problem_id(problem), change, lambda: Book(problem, self.namespace, canonical=self._canonical)
        )
        assert not isinstance(changed, _Nothing)  # noqa: S101 - there is always a book
        return changed

    async def change_named(self, name: str, change: Callable[[Book], T]) -> T | None:
        """Change a book if there is one; see `change`. Returns None where there is none."""
        changed = await self._change(name, change, lambda: None)
        return None if isinstance(changed, _Nothing) else changed

    async def _change(
        self, name: str, change: Callable[[Book], T], otherwise: Callable[[], Book | None]
    ) -> T | _Nothing:
        storage_key = self.storage_key(name)
        pause = _FIRST_PAUSE_SECONDS
        for attempt in range(_TRIES):
            record = self._backend.peek(storage_key) or await self._backend.get(storage_key)
            book = None if record is None else self._decode(storage_key, record, is_to_change=True)
            if book is None:
                book = otherwise()
                if book is None:
                    return _NOTHING
            changed = change(book)
            book.compact(self._clock())
            expected = None if record is None else record.version
            if await self._write(storage_key, book, expected):
                return changed
            if expected is None and attempt >= _UNREADABLE_AFTER:
                await self._refuse_unreadable(storage_key)
            await asyncio.sleep(pause * random.random())  # noqa: S311 - only so that two do not meet again
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        raise BackendUnavailable(self._backend.name, "too many write to one problem at once; try again")

    async def _refuse_unreadable(self, storage_key: str) -> None:
        """Raise when something stands in the way that cannot be read: it may be sealed with a key that is elsewhere."""
        if isinstance(self._backend, Sweepable):
            head = (await self._backend.heads([storage_key])).get(storage_key)
            # Read behind the head: what was written since has another version by then.
            if head is not None and await self._backend.get(storage_key) is None:
                raise BackendRefused(
                    self._backend.name,
                    "what it holds of this problem cannot be read: it is damaged, or sealed with another encryption"
                    " key; `forget_problem` removes it",
                )

    async def forget(self, name: str) -> bool:
        """Remove a book, whether or not it can be read; return whether one was there."""
        return await self._backend.delete(self.storage_key(name))

    def decoded(self, storage_key: str, record: Record) -> Book | None:
        """Return the book of a record, None when it cannot be read."""
        return self._decode(storage_key, record)

    async def _write(self, storage_key: str, book: Book, expected: int | None) -> bool:
        if book.is_empty():
            return expected is None or await self._changing.delete_if(storage_key, expected=expected)
        # By chance, so that a book that was removed and begun anew in one millisecond is not taken for the former.
        version = self._versions.next() + secrets.randbits(_CHANCE_BITS)
        if expected is not None and version <= expected:
            self._versions.observe(expected)
            version = self._versions.next()
        record = Record(encode_book(book, limit_bytes=self._limit_bytes), book.expires_at(), version)
        return await self._changing.put_if(storage_key, record, expected=expected)

    def _decode(self, storage_key: str, record: Record, *, is_to_change: bool = False) -> Book | None:
        try:
            return decode_book(
                record.value, namespace=self.namespace, limit_bytes=self._limit_bytes, canonical=self._canonical
            )
        except ForeignBook as exc:
            if is_to_change:  # a book that is begun anew would replace all that is in it
                raise InvalidEntry(f"the problem cannot be changed here: {exc}") from None
            self._listener(CorruptEvent(self._backend.name, storage_key, str(exc)))
            return None
        except CorruptRecord as exc:
            self._listener(CorruptEvent(self._backend.name, storage_key, str(exc)))
            return None
