"""What a place that keeps records can do."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import msgspec

from cache_management.cache.errors import JournalGap
from cache_management.cache.records import Head, Record


class Backend(ABC):
    """A place that keeps records. Implementations inherit tests/contracts/backend.py.

    Every method raises BackendUnavailable when the store does not answer within its budget.
    """

    name: str

    @abstractmethod
    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        """Return the records that exist; absent, expired and corrupt ones are left out."""

    @abstractmethod
    async def put_many(self, records: Mapping[str, Record]) -> None:
        """Store records, replacing what was there. Expired records are stored as absent."""

    @abstractmethod
    async def delete_many(self, keys: Sequence[str]) -> int:
        """Remove records; return how many were there and not expired."""

    @abstractmethod
    def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """Yield the live keys that begin with `prefix`, each at least once, in no order."""

    @abstractmethod
    async def ping(self) -> None:
        """Return when the store answers."""

    @abstractmethod
    async def aclose(self) -> None:
        """Free connections and files. Using the backend again opens them anew."""

    def peek(self, key: str) -> Record | None:
        """Return a record that can be had without waiting, or None: `get` may still have it."""
        return None

    def touched(self, key: str) -> None:  # noqa: B027 - most stores need no hint
        """Learn that somebody was served a copy of a record: a hint for what goes first when full."""

    async def get(self, key: str) -> Record | None:
        return (await self.get_many([key])).get(key)

    async def put(self, key: str, record: Record) -> None:
        await self.put_many({key: record})

    async def delete(self, key: str) -> bool:
        return await self.delete_many([key]) > 0

    async def inspect_many(self, keys: Sequence[str]) -> dict[str, Record | None]:
        """Return records as `get_many` does, for whoever walks the store: it does not count as a use.

        None stands for one that is there and cannot be read, where the store can tell.
        """
        return dict(await self.get_many(keys))

    async def scan_page(self, prefix: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        """Return some of the keys that `scan` yields, and the bookmark behind them; None at the end.

        A bookmark is opaque text for this kind of store; the empty one stands at the beginning. It outlives
        the connection and the process. A walk from the beginning to the end sees every key that was there all
        the while at least once, whatever else came and went. A page holds about `limit` keys, at most twice
        as many; it may hold fewer, even none, and yet not be the last.

        Raises:
            InvalidInput: The bookmark is of another kind of store.
        """
        # Looks at every key for each page: right for what lies in this process, too slow for a server.
        keys = heapq.nsmallest(limit, {key async for key in self.scan(prefix) if key > bookmark})
        return keys, keys[-1] if len(keys) == limit else None

    async def count(self, prefix: str = "") -> int:
        """Return how many live keys begin with `prefix`."""
        return len({key async for key in self.scan(prefix)})


class Journal(ABC):
    """Short notes in order, kept for a while, that tell readers what changed.

    Each stream has its own order. A cursor is opaque; the empty one stands before everything.
    """

    @abstractmethod
    async def append(self, stream: str, items: Sequence[bytes]) -> str:
        """Add notes; return the cursor behind the last one."""

    @abstractmethod
    async def tail(self, stream: str) -> str:
        """Return the cursor behind the newest note."""

    @abstractmethod
    async def read_after(self, stream: str, cursor: str, *, limit: int) -> tuple[list[bytes], str]:
        """Return up to `limit` notes behind a cursor, and the cursor behind the last of them.

        Raises:
            JournalGap: Notes behind the cursor are no longer held.
        """

    @abstractmethod
    async def trim(self, stream: str, cursor: str) -> None:
        """Let go of what stands before a cursor, some of it by and by; nothing behind it.

        Whoever reads from further back hears of a gap, or still gets what is there.

        Raises:
            JournalGap: The stream never gave this cursor, where the store can tell.
        """


def note_number(stream: str, cursor: str) -> int:
    """Return the number of a note that a cursor of a store in one place stands behind.

    Raises:
        JournalGap: It is of another kind of store.
    """
    if not cursor:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise JournalGap(f"stream {stream!r} never gave this cursor")
    return int(cursor)


class Leases(ABC):
    """Rights with an end: who holds a name, until when, and in which order holders came.

    A lease keeps work from being done twice; it does not prove anything once its time is
    over. Whoever must be safe compares the fencing token where the effect takes hold.
    """

    @abstractmethod
    async def acquire(self, name: str, *, owner: str, ttl_seconds: float) -> int | None:
        """Take a free name; return a fencing token larger than every earlier one, or None."""

    @abstractmethod
    async def renew(self, name: str, *, owner: str, ttl_seconds: float) -> bool:
        """Prolong a lease that `owner` still holds; return whether it does."""

    @abstractmethod
    async def release(self, name: str, *, owner: str) -> bool:
        """Give a lease back; return whether `owner` held it. Somebody else's is left alone."""


class Tags(ABC):
    """Which storage keys carry a tag, so that invalidating one reads no other entry.

    A tag may name keys that are gone or no longer carry it: whoever removes entries by tag
    looks at the entry first. Names of keys that expired are dropped by and by.
    """

    @abstractmethod
    async def add_tags(self, tags: Mapping[str, Mapping[str, float | None]]) -> None:
        """Note, by tag, the storage keys that carry it and when each expires (None: never)."""

    @abstractmethod
    async def tagged(self, tag: str) -> list[str]:
        """Return the storage keys noted under a tag that have not expired."""

    @abstractmethod
    async def tagged_page(self, tag: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        """Return some of what `tagged` returns, and the bookmark behind it; as `scan_page` does."""

    @abstractmethod
    async def tags_page(self, prefix: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        """Return some of the tags that begin with `prefix`, and the bookmark behind them; as `scan_page` does."""

    @abstractmethod
    async def remove_tags(self, tags: Mapping[str, Sequence[str]]) -> None:
        """Forget storage keys of tags; unknown ones are passed over."""


class Conditional(ABC):
    """Writes only over what the writer has read, in one step for everybody who reads.

    Implementations inherit tests/contracts/conditional.py.
    """

    @abstractmethod
    async def put_if(self, key: str, record: Record, *, expected: int | None) -> bool:
        """Store a record if the one that is held has the version `expected`, or if none is held and it is None.

        Returns:
            Whether it was stored. False may also mean that somebody else is at it: read again, and try again.
        """

    @abstractmethod
    async def delete_if(self, key: str, *, expected: int) -> bool:
        """Remove a record that has this version; return whether it was."""


class Stash(ABC):
    """Pieces of work under way, kept beside the entries under names of their own.

    No read, list or count of entries sees them, no bound counts them, and nothing evicts them: they go
    when they are dropped, or at the end of their time.
    """

    @abstractmethod
    async def stash(self, name: str, piece: bytes, *, ttl_seconds: float) -> None:
        """Keep a piece, replacing what was there.

        Raises:
            BackendUnavailable: It may not be kept; a store without room says BackendRefused where it can.
        """

    @abstractmethod
    async def stashed(self, name: str) -> bytes | None:
        """Return a piece, or None when there is none."""

    @abstractmethod
    async def drop_stashed(self, names: Sequence[str]) -> None:
        """Forget pieces; unknown names are passed over."""


class Watched(ABC):
    """Tells who keeps copies of records when the store's own change, so that no copy outlives its original."""

    @abstractmethod
    def watch(self, prefixes: Sequence[str], on_change: Callable[[Sequence[str] | None], None]) -> None:
        """Call `on_change` with keys below `prefixes` that were written, removed or expired.

        It gets None when any of them may have changed unseen: a connection was lost, everything
        was flushed. What this very object was asked to write or delete need not be told; what it
        evicts or drops by itself must be. A second call replaces the first watcher.
        """

    @abstractmethod
    def is_current(self) -> bool:
        """Tell whether changes elsewhere have been told up to a moment ago; never waits.

        False while nobody is connected, and after a second of silence. Reading from the store
        makes it true again.
        """


class Surplus(msgspec.Struct, frozen=True):
    """What a store holds beyond its bounds, and beyond the life of its entries.

    `entries` and `size_bytes` have to go until it is where it should be, about; a store that bounds only one of them
    leaves the other at 0, and so does one that is within its bounds. `aim` is that place, for `sweep`. `expired`
    entries, of so many bytes, are served to nobody; a store that drops them by itself has none.
    """

    entries: int = 0
    size_bytes: int = 0
    aim: dict[str, int] = {}
    expired: int = 0
    expired_bytes: int = 0


class Swept(msgspec.Struct, frozen=True):
    """What one call removed: entries with their bytes, and `names` of entries that were gone before.

    `is_done`: the aim is reached, or nothing more can be removed. `is_busy`: another process is at it; nothing was
    done, and a moment later it may be.
    """

    entries: int = 0
    size_bytes: int = 0
    names: int = 0
    is_done: bool = True
    is_busy: bool = False


class Sweepable(ABC):
    """Can be relieved from outside: of what goes first, of what is past its life, and of what is older than a moment.

    Stores make room when they are written to. This is for those that nobody writes to, and whose bounds became
    narrower: each call does a bounded part of it. Implementations inherit tests/contracts/sweepable.py.
    """

    @abstractmethod
    async def surplus(self) -> Surplus:
        """Say what there is to remove; an empty aim when the store is within its bounds."""

    @abstractmethod
    async def victims(self, aim: Mapping[str, int], limit: int) -> list[str]:
        """Return some of the keys that `sweep` would remove first, as far as they are known."""

    @abstractmethod
    async def sweep(self, aim: Mapping[str, int], limit: int) -> Swept:
        """Remove up to about `limit` entries, those that go first, while the store is above the aim."""

    @abstractmethod
    async def drop_expired(self, bookmark: str, limit: int) -> tuple[Swept, str | None]:
        """Drop some entries past their life, and names that lead nowhere; the bookmark is None at the end."""

    @abstractmethod
    async def heads(self, keys: Sequence[str]) -> dict[str, Head]:
        """Return the heads of the records that exist, without reading their values."""

    @abstractmethod
    async def delete_older(self, keys: Sequence[str], version: int) -> list[str]:
        """Remove the records whose version is smaller, each at once or not at all; return those that were removed."""
