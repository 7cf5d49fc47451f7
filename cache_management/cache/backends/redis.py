"""One Redis or Valkey node."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from cache_management.cache.backends.redis_node import RedisNode
from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.clock import Clock, system_clock
from cache_management.cache.codec import pack, unpack
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import CorruptRecord, JournalGap
from cache_management.cache.events import CorruptEvent, Listener, ignore
from cache_management.cache.patterns import escape_glob
from cache_management.cache.records import Record

_NOTES_KEPT = 100_000
_JOURNAL_LIFE_SECONDS = 7 * 24 * 3600
_TOKEN_LIFE_SECONDS = 7 * 24 * 3600
_PAGE = 500


class RedisBackend(FullBackend):
    """Keeps each record under one Redis key, with its expiry set on the server too.

    One round trip per call. Connections belong to an event loop, so a cache that is used
    from a second `asyncio.run` opens new ones.
    """

    name = "redis"

    def __init__(self, config: CacheConfig, *, clock: Clock = system_clock, listener: Listener = ignore) -> None:
        self._node = RedisNode(config)
        self._clock = clock
        self._listener = listener

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        if not keys:
            return {}
        async with self._node.talk() as client:
            frames = await client.mget(keys)
        now = self._clock()
        found = {}
        for key, frame in zip(keys, frames, strict=True):
            record = None if frame is None else self._read(key, frame, now)
            if record is not None:
                found[key] = record
        return found

    async def get(self, key: str) -> Record | None:
        async with self._node.talk() as client:
            frame = await client.get(key)
        return None if frame is None else self._read(key, frame, self._clock())

    def _read(self, key: str, frame: bytes, now: float) -> Record | None:
        try:
            record = unpack(key, frame)
        except CorruptRecord as exc:
            self._listener(CorruptEvent(backend=self.name, storage_key=key, detail=str(exc)))
            return None
        # Checked here too: the server's clock may differ from this one.
        return None if record.is_expired(now) else record

    async def put(self, key: str, record: Record) -> None:
        frame = pack(key, record)
        async with self._node.talk(len(frame)) as client:
            await _set(client, key, frame, record, self._clock())

    async def put_many(self, records: Mapping[str, Record]) -> None:
        if not records:
            return
        now = self._clock()
        frames = {key: pack(key, record) for key, record in records.items()}
        async with self._node.talk(sum(map(len, frames.values()))) as client:
            pipeline = client.pipeline(transaction=False)
            for key, frame in frames.items():
                _set(pipeline, key, frame, records[key], now)
            await pipeline.execute()

    async def delete_many(self, keys: Sequence[str]) -> int:
        if not keys:
            return 0
        async with self._node.talk() as client:
            return int(await client.unlink(*keys))

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        cursor = 0
        match = escape_glob(prefix) + "*"
        while True:
            async with self._node.talk() as client:
                cursor, page = await client.scan(cursor, match=match, count=1000, _type="string")
            for key in page:
                yield key.decode()
            if cursor == 0:
                return

    async def ping(self) -> None:
        async with self._node.talk() as client:
            await client.ping()

    async def aclose(self) -> None:
        await self._node.aclose()

    async def append(self, stream: str, items: Sequence[bytes]) -> str:
        if not items:
            return await self.tail(stream)
        async with self._node.talk(sum(map(len, items))) as client:
            pipeline = client.pipeline(transaction=False)
            for item in items:
                pipeline.xadd(stream, {b"i": item}, maxlen=_NOTES_KEPT, approximate=True)
            # A journal that nobody writes goes away; readers then find a gap and read all again.
            pipeline.expire(stream, _JOURNAL_LIFE_SECONDS)
            replies = await pipeline.execute()
        return str(replies[-2].decode())

    async def tail(self, stream: str) -> str:
        async with self._node.talk() as client:
            newest = await client.xrevrange(stream, count=1)
        return newest[0][0].decode() if newest else ""

    async def read_after(self, stream: str, cursor: str, *, limit: int) -> tuple[list[bytes], str]:
        async with self._node.talk() as client:
            # From the cursor itself: finding it again proves that nothing behind it was trimmed.
            rows = await client.xrange(stream, min=cursor or "-", count=limit + 1)
            if not cursor and rows:
                added = (await client.xinfo_stream(stream)).get("entries-added")
                if added != await client.xlen(stream):
                    raise JournalGap(f"stream {stream!r} no longer holds its beginning")
        if cursor:
            if not rows or rows[0][0].decode() != cursor:
                raise JournalGap(f"stream {stream!r} no longer holds {cursor}")
            rows = rows[1:]
        rows = rows[:limit]
        return [fields[b"i"] for _, fields in rows], rows[-1][0].decode() if rows else cursor

    async def acquire(self, name: str, *, owner: str, ttl_seconds: float) -> int | None:
        async with self._node.talk() as client:
            token = await self._node.run_script(
                client, "acquire_lease", [name, f"{name}:token"], [owner, _ms(ttl_seconds), _ms(_TOKEN_LIFE_SECONDS)]
            )
        return None if token is None else int(token)

    async def renew(self, name: str, *, owner: str, ttl_seconds: float) -> bool:
        async with self._node.talk() as client:
            return bool(await self._node.run_script(client, "renew_lease", [name], [owner, _ms(ttl_seconds)]))

    async def release(self, name: str, *, owner: str) -> bool:
        async with self._node.talk() as client:
            return bool(await self._node.run_script(client, "release_lease", [name], [owner]))

    async def add_tags(self, tags: Mapping[str, Mapping[str, float | None]]) -> None:
        now = _ms(self._clock())
        async with self._node.talk() as client:
            for tag, keys in tags.items():
                pairs: list[Any] = []
                for key, expires_at in keys.items():
                    pairs += ["inf" if expires_at is None else _ms(expires_at), key]
                await self._node.run_script(client, "add_tag", [tag], [now, *pairs])

    async def tagged(self, tag: str) -> list[str]:
        async with self._node.talk() as client:
            found = await client.zrangebyscore(tag, f"({_ms(self._clock())}", "+inf")
        return [key.decode() for key in found]

    async def remove_tags(self, tags: Mapping[str, Sequence[str]]) -> None:
        async with self._node.talk() as client:
            pipeline = client.pipeline(transaction=False)
            for tag, keys in tags.items():
                for start in range(0, len(keys), _PAGE):
                    pipeline.zrem(tag, *keys[start : start + _PAGE])
            await pipeline.execute()

    def watch(self, prefixes: Sequence[str], on_change: Callable[[Sequence[str] | None], None]) -> None:
        return None  # nobody vouches for copies yet

    def is_current(self) -> bool:
        return False


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)


def _set(client: Any, key: str, frame: bytes, record: Record, now: float) -> Any:
    if record.is_expired(now):
        return client.unlink(key)
    if record.expires_at is None:
        return client.set(key, frame)
    return client.set(key, frame, pxat=math.ceil(record.expires_at * 1000))
