"""What a place that keeps records can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence

from cache_management.cache.records import Record


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

    async def get(self, key: str) -> Record | None:
        return (await self.get_many([key])).get(key)

    async def put(self, key: str, record: Record) -> None:
        await self.put_many({key: record})

    async def delete(self, key: str) -> bool:
        return await self.delete_many([key]) > 0

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
