"""A backend around a backend: hands everything on. Tiers, batches and guards change what they need."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from cache_management.cache.backends.base import (
    Backend,
    Conditional,
    Journal,
    Leases,
    Stash,
    Surplus,
    Sweepable,
    Swept,
    Tags,
    Watched,
)
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import ConfigurationError
from cache_management.cache.records import Head, Record


class FullBackend(Backend, Journal, Leases, Tags, Conditional, Stash, Watched, Sweepable):
    """A backend with every optional ability."""

    def evict_by(self, config: CacheConfig) -> None:
        """Evict by the policy of a configuration from now on; by the old one where nothing says otherwise.

        Raises:
            ConfigurationError: The store does not evict by a policy of this program.
        """
        raise ConfigurationError(f"the {self.name} backend evicts by itself: leave eviction_policy out")


class WrappedBackend(FullBackend):
    """Hands every call to the backend inside."""

    def __init__(self, inner: FullBackend) -> None:
        self.inner = inner
        self.name = inner.name

    async def get(self, key: str) -> Record | None:
        return await self.inner.get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        return await self.inner.get_many(keys)

    async def inspect_many(self, keys: Sequence[str]) -> dict[str, Record | None]:
        return await self.inner.inspect_many(keys)

    async def put(self, key: str, record: Record) -> None:
        await self.inner.put(key, record)

    async def put_many(self, records: Mapping[str, Record]) -> None:
        await self.inner.put_many(records)

    async def delete_many(self, keys: Sequence[str]) -> int:
        return await self.inner.delete_many(keys)

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        async for key in self.inner.scan(prefix):
            yield key

    async def scan_page(self, prefix: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        return await self.inner.scan_page(prefix, bookmark, limit)

    async def count(self, prefix: str = "") -> int:
        return await self.inner.count(prefix)

    async def ping(self) -> None:
        await self.inner.ping()

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def append(self, stream: str, items: Sequence[bytes]) -> str:
        return await self.inner.append(stream, items)

    async def tail(self, stream: str) -> str:
        return await self.inner.tail(stream)

    async def read_after(self, stream: str, cursor: str, *, limit: int) -> tuple[list[bytes], str]:
        return await self.inner.read_after(stream, cursor, limit=limit)

    async def trim(self, stream: str, cursor: str) -> None:
        await self.inner.trim(stream, cursor)

    async def acquire(self, name: str, *, owner: str, ttl_seconds: float) -> int | None:
        return await self.inner.acquire(name, owner=owner, ttl_seconds=ttl_seconds)

    async def renew(self, name: str, *, owner: str, ttl_seconds: float) -> bool:
        return await self.inner.renew(name, owner=owner, ttl_seconds=ttl_seconds)

    async def release(self, name: str, *, owner: str) -> bool:
        return await self.inner.release(name, owner=owner)

    async def add_tags(self, tags: Mapping[str, Mapping[str, float | None]]) -> None:
        await self.inner.add_tags(tags)

    async def tagged(self, tag: str) -> list[str]:
        return await self.inner.tagged(tag)

    async def tagged_page(self, tag: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        return await self.inner.tagged_page(tag, bookmark, limit)

    async def tags_page(self, prefix: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        return await self.inner.tags_page(prefix, bookmark, limit)

    async def remove_tags(self, tags: Mapping[str, Sequence[str]]) -> None:
        await self.inner.remove_tags(tags)

    async def put_if(self, key: str, record: Record, *, expected: int | None) -> bool:
        return await self.inner.put_if(key, record, expected=expected)

    async def delete_if(self, key: str, *, expected: int) -> bool:
        return await self.inner.delete_if(key, expected=expected)

    async def surplus(self) -> Surplus:
        return await self.inner.surplus()

    async def victims(self, aim: Mapping[str, int], limit: int) -> list[str]:
        return await self.inner.victims(aim, limit)

    async def sweep(self, aim: Mapping[str, int], limit: int) -> Swept:
        return await self.inner.sweep(aim, limit)

    async def drop_expired(self, bookmark: str, limit: int) -> tuple[Swept, str | None]:
        return await self.inner.drop_expired(bookmark, limit)

    async def heads(self, keys: Sequence[str]) -> dict[str, Head]:
        return await self.inner.heads(keys)

    async def delete_older(self, keys: Sequence[str], version: int) -> list[str]:
        return await self.inner.delete_older(keys, version)

    async def stash(self, name: str, piece: bytes, *, ttl_seconds: float) -> None:
        await self.inner.stash(name, piece, ttl_seconds=ttl_seconds)

    async def stashed(self, name: str) -> bytes | None:
        return await self.inner.stashed(name)

    async def drop_stashed(self, names: Sequence[str]) -> None:
        await self.inner.drop_stashed(names)

    def touched(self, key: str) -> None:
        self.inner.touched(key)

    def evict_by(self, config: CacheConfig) -> None:
        self.inner.evict_by(config)

    def watch(self, prefixes: Sequence[str], on_change: Callable[[Sequence[str] | None], None]) -> None:
        self.inner.watch(prefixes, on_change)

    def is_current(self) -> bool:
        return self.inner.is_current()
