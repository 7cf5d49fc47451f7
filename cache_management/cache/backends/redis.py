"""One Redis or Valkey node."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from cache_management.cache.backends.base import Surplus, Swept
from cache_management.cache.backends.redis_connection import Argument, Command
from cache_management.cache.backends.redis_eviction import Eviction, RedisEviction, is_full
from cache_management.cache.backends.redis_node import LARGE_BYTES, RedisNode, Servers
from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.clock import Clock, system_clock
from cache_management.cache.codec import HEAD_BYTES, pack, read_head, unpack, version_bytes
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendRefused, BackendUnavailable, CorruptRecord, InvalidInput, JournalGap
from cache_management.cache.events import CorruptEvent, Listener, ignore
from cache_management.cache.patterns import escape_glob
from cache_management.cache.records import Head, Record

T = TypeVar("T")
_NOTES_KEPT = 100_000
_CURSOR = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_JOURNAL_LIFE_SECONDS = 7 * 24 * 3600
_TOKEN_LIFE_SECONDS = 7 * 24 * 3600
_PAGE = 500
_LOOKS_FOR_A_PAGE = 50
_BUDGETS_FOR_ROOM = 4
_LARGEST_PIECE_BYTES = 64 * 2**20


class RedisBackend(FullBackend):
    """Keeps each record under one Redis key, with its expiry set on the server too.

    One round trip per call, over a connection that all callers of an event loop share; see
    docs/design/0007-redis-connection.md. A cache that is used from a second `asyncio.run` opens a new one.
    """

    name = "redis"

    def __init__(self, config: CacheConfig, *, clock: Clock = system_clock, listener: Listener = ignore) -> None:
        self._node, self._eviction = self._open(config, clock, listener)
        self._on_change: Callable[[Sequence[str] | None], None] | None = None
        self._seconds_for_room = _BUDGETS_FOR_ROOM * config.timeout_seconds
        self._clock = clock
        self._listener = listener

    def evict_by(self, config: CacheConfig) -> None:
        self._eviction.follow(config)

    def _open(self, config: CacheConfig, clock: Clock, listener: Listener) -> tuple[Servers, Eviction]:
        node = RedisNode(config)
        return node, RedisEviction(node, config, clock=clock, listener=listener, dropped=self._dropped)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        if not keys:
            return {}
        frames = await self._frames(keys)
        now = self._clock()
        found = {}
        for key, frame in zip(keys, frames, strict=True):
            record = None if frame is None else self._read(key, frame, now)
            if record is not None:
                found[key] = record
        return found

    async def _frames(self, keys: Sequence[str]) -> list[bytes | None]:
        frames: list[bytes | None] = await self._node.call("MGET", *keys)
        return frames

    async def get(self, key: str) -> Record | None:
        frame = await self._node.call("GET", key)
        return None if frame is None else self._read(key, frame, self._clock())

    async def inspect_many(self, keys: Sequence[str]) -> dict[str, Record | None]:
        frames = await self._frames(keys) if keys else []
        now = self._clock()
        found = {key: self._unpack(key, frame) for key, frame in zip(keys, frames, strict=True) if frame is not None}
        return {key: record for key, record in found.items() if record is None or not record.is_expired(now)}

    def _unpack(self, key: str, frame: bytes) -> Record | None:
        try:
            return unpack(key, frame)
        except CorruptRecord as exc:
            self._listener(CorruptEvent(backend=self.name, storage_key=key, detail=str(exc)))
            return None

    def _read(self, key: str, frame: bytes, now: float) -> Record | None:
        record = self._unpack(key, frame)
        # Checked here too: the server's clock may differ from this one.
        if record is None or record.is_expired(now):
            return None
        self._eviction.read(key)
        return record

    async def put(self, key: str, record: Record) -> None:
        frame = pack(key, record)
        command = _set(key, frame, record, self._clock())
        write = self._make_room_for(lambda: self._node.call(*command, payload_bytes=len(frame)))
        await (write if len(frame) <= LARGE_BYTES else _to_its_end(write))
        self._eviction.stored(key, record, len(frame))

    async def put_many(self, records: Mapping[str, Record]) -> None:
        now = self._clock()
        frames = {key: pack(key, record) for key, record in records.items()}
        commands = [_set(key, frame, records[key], now) for key, frame in frames.items()]
        payload_bytes = sum(map(len, frames.values()))
        write = self._make_room_for(lambda: self._node.pipeline(commands, payload_bytes=payload_bytes))
        await (write if payload_bytes <= LARGE_BYTES else _to_its_end(write))
        for key, frame in frames.items():
            self._eviction.stored(key, records[key], len(frame))

    async def _make_room_for(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write; while the server says that it is full, evict some entries and try again, a few times."""
        try:
            return await write()
        except BackendRefused as exc:
            if not is_full(exc):
                raise
            with contextlib.suppress(BackendUnavailable, TimeoutError):
                async with asyncio.timeout(self._seconds_for_room):
                    while await self._eviction.make_room():
                        with contextlib.suppress(BackendRefused):
                            return await write()
            raise

    async def put_if(self, key: str, record: Record, *, expected: int | None) -> bool:
        frame = pack(key, record)
        expires = "" if record.expires_at is None else ms(record.expires_at)
        now = self._clock()
        args: list[Argument] = [_wanted(expected), b"" if record.is_expired(now) else frame, expires, repr(now)]
        write = self._make_room_for(lambda: self._node.run_script("put_if", [key], args, payload_bytes=len(frame)))
        is_stored = bool(await (write if len(frame) <= LARGE_BYTES else _to_its_end(write)))
        if is_stored:
            self._eviction.stored(key, record, len(frame))
        return is_stored

    async def delete_if(self, key: str, *, expected: int) -> bool:
        args: list[Argument] = [_wanted(expected), b"", b"", repr(self._clock())]
        is_removed = bool(await self._node.run_script("put_if", [key], args))
        if is_removed:
            self._eviction.removed([key])
        return is_removed

    async def delete_many(self, keys: Sequence[str]) -> int:
        removed: int = sum(await self._node.pipeline([("UNLINK", *page) for page in self._groups(keys)]))
        self._eviction.removed(keys)
        return removed

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        cursor: bytes | str = "0"
        match = escape_glob(prefix) + "*"
        while True:
            cursor, page = await self._node.call("SCAN", cursor, "MATCH", match, "COUNT", 1000, "TYPE", "string")
            for key in page:
                yield key.decode()
            if int(cursor) == 0:
                return

    async def scan_page(self, prefix: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        """Return a page, see `Backend.scan_page`.

        A server that was restarted may order its keys anew: a walk across the restart can miss some.
        """
        return await self._scan_page(prefix, bookmark, limit, of_type="string")

    async def _scan_page(self, prefix: str, bookmark: str, limit: int, *, of_type: str) -> tuple[list[str], str | None]:
        cursor: bytes | str = _cursor(bookmark)
        match = escape_glob(prefix) + "*"
        keys: dict[str, None] = {}
        # Where few keys have the prefix most answers are empty: a bounded number of them makes one page.
        for _ in range(_LOOKS_FOR_A_PAGE):
            cursor, found = await self._node.call("SCAN", cursor, "MATCH", match, "COUNT", limit, "TYPE", of_type)
            keys.update(dict.fromkeys(key.decode() for key in found))
            if int(cursor) == 0:
                return list(keys), None
            if 2 * len(keys) >= limit:
                break
        return list(keys), str(int(cursor))

    async def ping(self) -> None:
        await self._node.call("PING")

    async def aclose(self) -> None:
        await self._eviction.aclose()
        await self._node.aclose()

    async def append(self, stream: str, items: Sequence[bytes]) -> str:
        if not items:
            return await self.tail(stream)
        notes: list[Command] = [("XADD", stream, "MAXLEN", "~", _NOTES_KEPT, "*", "i", item) for item in items]
        # A journal that nobody writes goes away; readers then find a gap and read all again.
        commands: list[Command] = [*notes, ("EXPIRE", stream, _JOURNAL_LIFE_SECONDS)]
        payload_bytes = sum(map(len, items))
        # A note that is lost while the answers it is about find room would bring back what was removed.
        replies = await self._make_room_for(lambda: self._node.pipeline(commands, payload_bytes=payload_bytes))
        return str(replies[-2].decode())

    async def tail(self, stream: str) -> str:
        newest = await self._node.call("XREVRANGE", stream, "+", "-", "COUNT", 1)
        return newest[0][0].decode() if newest else ""

    async def read_after(self, stream: str, cursor: str, *, limit: int) -> tuple[list[bytes], str]:
        if cursor and not _CURSOR.fullmatch(cursor):
            raise JournalGap(f"stream {stream!r} never gave this cursor")
        # From the cursor itself: finding it again proves that nothing behind it was trimmed.
        rows = await self._node.call("XRANGE", stream, cursor or "-", "+", "COUNT", limit + 1)
        if not cursor and rows:
            held = await self._node.call("XINFO", "STREAM", stream)
            length = held[b"length"]
            # Redis 6.2 does not tell how many there were. One that never grew beyond what is kept was never trimmed.
            if length != held.get(b"entries-added", length if length < _NOTES_KEPT else None):
                raise JournalGap(f"stream {stream!r} no longer holds its beginning")
        if cursor:
            if not rows or rows[0][0].decode() != cursor:
                raise JournalGap(f"stream {stream!r} no longer holds {cursor}")
            rows = rows[1:]
        rows = rows[:limit]
        return [fields[1] for _, fields in rows], rows[-1][0].decode() if rows else cursor

    async def trim(self, stream: str, cursor: str) -> None:
        if _CURSOR.fullmatch(cursor):  # the note at the cursor itself stays, so that its reader finds it again
            await self._node.call("XTRIM", stream, "MINID", "~", cursor)

    async def acquire(self, name: str, *, owner: str, ttl_seconds: float) -> int | None:
        token = await self._node.run_script(
            "acquire_lease", [name, f"{name}:token"], [owner, ms(ttl_seconds), ms(_TOKEN_LIFE_SECONDS)]
        )
        return None if token is None else int(token)

    async def renew(self, name: str, *, owner: str, ttl_seconds: float) -> bool:
        return bool(await self._node.run_script("renew_lease", [name], [owner, ms(ttl_seconds)]))

    async def release(self, name: str, *, owner: str) -> bool:
        return bool(await self._node.run_script("release_lease", [name], [owner]))

    async def add_tags(self, tags: Mapping[str, Mapping[str, float | None]]) -> None:
        now = ms(self._clock())
        for tag, keys in tags.items():
            pairs: list[Argument] = []
            for key, expires_at in keys.items():
                pairs += ["inf" if expires_at is None else ms(expires_at), key]
            await self._node.run_script("add_tag", [tag], [now, *pairs])

    async def tagged(self, tag: str) -> list[str]:
        found = await self._node.call("ZRANGEBYSCORE", tag, f"({ms(self._clock())}", "+inf")
        return [key.decode() for key in found]

    async def tagged_page(self, tag: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        after, words = await self._node.call("ZSCAN", tag, _cursor(bookmark), "COUNT", limit)
        now = ms(self._clock())
        pairs = zip(words[::2], words[1::2], strict=True)
        keys = [key.decode() for key, expires_at in pairs if float(expires_at) > now]
        return keys, None if int(after) == 0 else str(int(after))

    async def tags_page(self, prefix: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        return await self._scan_page(prefix, bookmark, limit, of_type="zset")

    async def remove_tags(self, tags: Mapping[str, Sequence[str]]) -> None:
        await self._node.pipeline([("ZREM", tag, *page) for tag, keys in tags.items() for page in _pages(keys)])

    async def surplus(self) -> Surplus:
        return await self._eviction.surplus()

    async def victims(self, aim: Mapping[str, int], limit: int) -> list[str]:
        return await self._eviction.victims(limit)

    async def sweep(self, aim: Mapping[str, int], limit: int) -> Swept:
        return await self._eviction.sweep(aim.get("", sys.maxsize), limit)

    async def drop_expired(self, bookmark: str, limit: int) -> tuple[Swept, str | None]:
        # The server drops entries by itself; their names stay in the queue.
        return await self._eviction.forget_names(bookmark, limit)

    async def heads(self, keys: Sequence[str]) -> dict[str, Head]:
        commands: list[Command] = []
        for key in keys:
            commands += [("GETRANGE", key, 0, HEAD_BYTES - 1), ("STRLEN", key)]
        replies = iter(await self._node.pipeline(commands))
        now = self._clock()
        found = {}
        for key, start, size in zip(keys, replies, replies, strict=True):
            if size:
                try:
                    version, expires_at = read_head(start)
                except CorruptRecord:
                    version, expires_at = 0, None
                if expires_at is None or expires_at > now:
                    found[key] = Head(version, expires_at, size)
        return found

    async def delete_older(self, keys: Sequence[str], version: int) -> list[str]:
        groups = self._groups(keys)
        bound = version_bytes(version)
        answers = await asyncio.gather(*(self._node.run_script("delete_older", each, [bound]) for each in groups))
        removed = [each[place - 1] for each, places in zip(groups, answers, strict=True) for place in places]
        self._eviction.removed(removed)
        return removed

    def _groups(self, keys: Sequence[str]) -> list[Sequence[str]]:
        """Cut keys into groups that one command may name."""
        return _pages(keys)

    async def stash(self, name: str, piece: bytes, *, ttl_seconds: float) -> None:
        # Neither noted for eviction nor given room by it: entries must not go for what may be given up.
        write = self._node.call("SET", name, piece, "PX", ms(ttl_seconds), payload_bytes=len(piece))
        await (write if len(piece) <= LARGE_BYTES else _to_its_end(write))

    async def stashed(self, name: str) -> bytes | None:
        # Its size is not known: it may take as long as one that was written.
        found: bytes | None = await self._node.call("GET", name, payload_bytes=_LARGEST_PIECE_BYTES)
        return found

    async def drop_stashed(self, names: Sequence[str]) -> None:
        await self._node.pipeline([("UNLINK", *page) for page in self._groups(names)])

    def watch(self, prefixes: Sequence[str], on_change: Callable[[Sequence[str] | None], None]) -> None:
        self._on_change = on_change
        self._node.watch(prefixes, on_change)

    def touched(self, key: str) -> None:
        self._eviction.read(key)

    def _dropped(self, keys: Sequence[str]) -> None:
        if self._on_change is not None:
            self._on_change(keys)

    def is_current(self) -> bool:
        return self._node.is_current()


async def _to_its_end(write: Coroutine[Any, Any, object]) -> None:
    """Await a write on the second connection even when its caller is cancelled.

    Else it could arrive after a later write or delete of its key that travelled on the first one.
    """
    task = asyncio.ensure_future(write)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # its caller is gone
        raise


def _cursor(bookmark: str) -> str:
    if not (bookmark or "0").isdecimal():
        raise InvalidInput(f"{bookmark!r:.80} is no bookmark of a Redis store: begin again with an empty one")
    return bookmark or "0"


def ms(seconds: float) -> int:
    """Return whole milliseconds, no fewer."""
    return math.ceil(seconds * 1000)


def _pages(keys: Sequence[str]) -> list[Sequence[str]]:
    return [keys[start : start + _PAGE] for start in range(0, len(keys), _PAGE)]


def _wanted(version: int | None) -> bytes:
    return b"" if version is None else version_bytes(version)


def _set(key: str, frame: bytes, record: Record, now: float) -> Command:
    if record.is_expired(now):
        return ("UNLINK", key)
    if record.expires_at is None:
        return ("SET", key, frame)
    return ("SET", key, frame, "PXAT", math.ceil(record.expires_at * 1000))
