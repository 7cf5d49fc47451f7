"""One Redis or Valkey node."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.clock import Clock, system_clock
from cache_management.cache.codec import pack, unpack
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendUnavailable, CorruptRecord, JournalGap
from cache_management.cache.events import CorruptEvent, Listener, ignore
from cache_management.cache.patterns import escape_glob
from cache_management.cache.records import Record

try:
    import redis.asyncio as aioredis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError, ResponseError
except ImportError as exc:
    raise ImportError("The Redis backend needs: pip install 'cache-management[redis]'") from exc

if TYPE_CHECKING:
    from redis.asyncio.client import Pipeline

_CONNECTIONS = 64
_NOTES_KEPT = 100_000
_JOURNAL_LIFE_SECONDS = 7 * 24 * 3600
_BYTES_PER_SECOND = 20_000_000  # what a slow link still carries; large values get more time by it


class RedisBackend(Backend, Journal):
    """Keeps each record under one Redis key, with its expiry set on the server too.

    One round trip per call. Connections belong to an event loop, so a cache that is used
    from a second `asyncio.run` opens new ones.
    """

    name = "redis"

    def __init__(self, config: CacheConfig, *, clock: Clock = system_clock, listener: Listener = ignore) -> None:
        self._config = config
        self._timeout = config.timeout_seconds
        self._clock = clock
        self._listener = listener
        self._client_and_loop: tuple[Any, asyncio.AbstractEventLoop] | None = None

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        if not keys:
            return {}
        async with self._talk() as client:
            frames = [await client.get(keys[0])] if len(keys) == 1 else await client.mget(keys)
        now = self._clock()
        found = {}
        for key, frame in zip(keys, frames, strict=True):
            if frame is None:
                continue
            try:
                record = unpack(key, frame)
            except CorruptRecord as exc:
                self._listener(CorruptEvent(backend=self.name, storage_key=key, detail=str(exc)))
                continue
            # Checked here too: the server's clock may differ from this one.
            if not record.is_expired(now):
                found[key] = record
        return found

    async def put_many(self, records: Mapping[str, Record]) -> None:
        if not records:
            return
        now = self._clock()
        frames = {key: pack(key, record) for key, record in records.items()}
        async with self._talk(sum(map(len, frames.values()))) as client:
            if len(frames) == 1:
                (key,) = frames
                await _set(client, key, frames[key], records[key], now)
                return
            pipeline = client.pipeline(transaction=False)
            for key, frame in frames.items():
                _set(pipeline, key, frame, records[key], now)
            await pipeline.execute()

    async def delete_many(self, keys: Sequence[str]) -> int:
        if not keys:
            return 0
        async with self._talk() as client:
            return int(await client.unlink(*keys))

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        cursor = 0
        match = escape_glob(prefix) + "*"
        while True:
            async with self._talk() as client:
                cursor, page = await client.scan(cursor, match=match, count=1000, _type="string")
            for key in page:
                yield key.decode()
            if cursor == 0:
                return

    async def ping(self) -> None:
        async with self._talk() as client:
            await client.ping()

    async def aclose(self) -> None:
        if self._client_and_loop is None:
            return
        client, loop = self._client_and_loop
        self._client_and_loop = None
        if loop is asyncio.get_running_loop():
            with contextlib.suppress(RedisError, OSError):
                await client.aclose()

    async def append(self, stream: str, items: Sequence[bytes]) -> str:
        if not items:
            return await self.tail(stream)
        async with self._talk(sum(map(len, items))) as client:
            pipeline = client.pipeline(transaction=False)
            for item in items:
                pipeline.xadd(stream, {b"i": item}, maxlen=_NOTES_KEPT, approximate=True)
            # A journal that nobody writes goes away; readers then find a gap and read all again.
            pipeline.expire(stream, _JOURNAL_LIFE_SECONDS)
            replies = await pipeline.execute()
        return str(replies[-2].decode())

    async def tail(self, stream: str) -> str:
        async with self._talk() as client:
            newest = await client.xrevrange(stream, count=1)
        return newest[0][0].decode() if newest else ""

    async def read_after(self, stream: str, cursor: str, *, limit: int) -> tuple[list[bytes], str]:
        async with self._talk() as client:
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

    @contextlib.asynccontextmanager
    async def _talk(self, payload_bytes: int = 0) -> AsyncIterator[Any]:
        budget = self._timeout + payload_bytes / _BYTES_PER_SECOND
        with self._translate(budget):
            async with asyncio.timeout(budget):
                yield self._client()

    @contextlib.contextmanager
    def _translate(self, budget: float) -> Iterator[None]:
        where = f"redis at {self._address()}"
        try:
            yield
        except TimeoutError as exc:
            raise BackendUnavailable(where, f"no answer within {budget:.3g} s") from exc
        except ResponseError as exc:
            raise BackendUnavailable(where, f"it refused: {exc}") from exc
        except (RedisError, OSError) as exc:
            raise BackendUnavailable(where, str(exc) or type(exc).__name__) from exc

    def _client(self) -> Any:
        loop = asyncio.get_running_loop()
        if self._client_and_loop is None or self._client_and_loop[1] is not loop:
            # The old loop is gone or elsewhere, and with it the sockets that belonged to it.
            self._client_and_loop = (self._connect(), loop)
        return self._client_and_loop[0]

    def _connect(self) -> Any:
        config = self._config
        # The whole call has its own time budget, so the client must not retry at leisure inside it;
        # one retry remains for a connection that the server closed while it was idle.
        options: dict[str, Any] = {
            "max_connections": _CONNECTIONS,
            "timeout": None,
            "socket_timeout": None,
            "socket_connect_timeout": config.timeout_seconds,
            "retry": Retry(NoBackoff(), 1),
        }
        if config.url and config.url.startswith("unix:"):
            pool = aioredis.BlockingConnectionPool.from_url(config.url, **options)
        else:
            if config.redis_ssl:
                options["connection_class"] = aioredis.SSLConnection
            pool = aioredis.BlockingConnectionPool(
                host=config.redis_host,
                port=config.redis_port,
                db=config.redis_db,
                username=config.redis_username,
                password=config.redis_password.get_secret_value() if config.redis_password else None,
                **options,
            )
        return aioredis.Redis.from_pool(pool)

    def _address(self) -> str:
        if self._config.url and self._config.url.startswith("unix:"):
            return "its unix socket"
        return f"{self._config.redis_host}:{self._config.redis_port}"


def _set(client: Any | Pipeline, key: str, frame: bytes, record: Record, now: float) -> Any:
    if record.is_expired(now):
        return client.unlink(key)
    if record.expires_at is None:
        return client.set(key, frame)
    return client.set(key, frame, pxat=math.ceil(record.expires_at * 1000))
