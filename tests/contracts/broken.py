"""A store that is down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.clock import Clock, system_clock
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.records import Record


class BreakableBackend(MemoryBackend):
    """Keeps records in memory while `up`; refuses everything else."""

    name = "breakable"

    def __init__(self, *, up: bool = False, clock: Clock = system_clock) -> None:
        super().__init__(max_size=10_000, clock=clock)
        self.up = up

    def _check(self) -> None:
        if not self.up:
            raise BackendUnavailable(self.name, "a test broke it")

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        self._check()
        return await super().get_many(keys)

    def peek(self, key: str) -> Record | None:
        return super().peek(key) if self.up else None

    async def get(self, key: str) -> Record | None:
        self._check()
        return await super().get(key)

    async def put(self, key: str, record: Record) -> None:
        self._check()
        await super().put(key, record)

    async def put_many(self, records: Mapping[str, Record]) -> None:
        self._check()
        await super().put_many(records)

    async def put_if(self, key: str, record: Record, *, expected: int | None) -> bool:
        self._check()
        return await super().put_if(key, record, expected=expected)

    async def delete_many(self, keys: Sequence[str]) -> int:
        self._check()
        return await super().delete_many(keys)

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        self._check()
        async for key in super().scan(prefix):
            yield key

    async def append(self, stream: str, items: Sequence[bytes]) -> str:
        self._check()
        return await super().append(stream, items)

    async def tail(self, stream: str) -> str:
        self._check()
        return await super().tail(stream)
