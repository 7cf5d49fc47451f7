"""Keeps a Redis server below its memory limit, between two watermarks.

The server holds the queue (a sorted set beside the entries) that `redis_notes` fills. A process that
finds the server above the high mark removes from the front until it is below the low one. The rules
are those of `cache/eviction`; `lua/note_uses.lua` and `lua/sweep.lua` say how they read over a sorted set.
Processes that share a server should have the same policy: each policy has a queue of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, get_args

import msgspec

from cache_management.cache.backends.base import Surplus, Swept
from cache_management.cache.backends.redis_node import RedisNode
from cache_management.cache.backends.redis_notes import LIFE_MS, Notes, Queue
from cache_management.cache.clock import Clock
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendRefused, BackendUnavailable
from cache_management.cache.events import Listener, RemoveEvent
from cache_management.cache.identity import LAYOUT, Kind, is_entry
from cache_management.cache.records import Record

logger = logging.getLogger("cache_management")

_LEASE = "cm1:lease:evict"
_LEASE_MS = 30_000
_PART_LEASE_MS = 10_000  # of one call of `sweep`: should its process die, the next one need not wait long
_TELL_EVERY_SECONDS = 0.1
# Share of the limit that a process writes before it tells at once: ten of them fit between high mark and limit.
_TELL_EVERY_SHARE = 0.01
_ROOM_SHARE = 0.02  # of the limit is made free when a write was refused
_REMOVED_AT_ONCE = 100
_LOOKS_AT_ONCE = 1000
_PAGES_AT_ONCE = 10
_SAMPLED_AT_ONCE = 20
_SAMPLES_AT_MOST = 5
_LOOK_AGAIN_SECONDS = 60.0
_HOPELESS = 1.25
_ENTRIES = tuple(f"{LAYOUT}:{kind}:".encode() for kind in get_args(Kind))


class Memory(msgspec.Struct, frozen=True):
    """What the server says of its memory, in bytes; without a `limit`, or when it evicts by itself, None."""

    used: int
    overhead: int
    limit: int | None

    @property
    def surplus(self) -> int:
        """Return the bytes above the limit, 0 below it."""
        return max(0, self.used - (self.limit or sys.maxsize))

    def may_help(self, target_bytes: float) -> bool:
        """Tell whether removing entries can bring it down so far: what is no data cannot be removed."""
        return self.overhead < target_bytes


class Eviction(Protocol):
    """What a backend tells of its entries, and asks about its memory."""

    def stored(self, key: str, record: Record, size_bytes: int) -> None: ...

    def read(self, key: str) -> None: ...

    def removed(self, keys: Iterable[str]) -> None: ...

    def follow(self, config: CacheConfig) -> None: ...

    async def make_room(self) -> bool: ...

    async def surplus(self) -> Surplus: ...

    async def victims(self, limit: int) -> list[str]: ...

    async def sweep(self, aim_bytes: int, limit: int) -> Swept: ...

    async def forget_names(self, bookmark: str, limit: int) -> tuple[Swept, str | None]: ...

    async def aclose(self) -> None: ...


class RedisEviction:
    """Notes what is used, and removes what goes first.

    The limit is `redis_memory_limit` or the server's own `maxmemory` if it says `noeviction`, whichever
    is less; without one nothing is noted.

    Args:
        dropped: Is told the keys that were removed; the server does not tell them to the one who did it.
    """

    def __init__(
        self,
        node: RedisNode,
        config: CacheConfig,
        *,
        clock: Clock,
        listener: Listener,
        dropped: Callable[[Sequence[str]], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._listener = listener
        self._dropped = dropped
        self._monotonic = monotonic
        self._own_limit = config.redis_memory_limit
        self._high = config.eviction_high_watermark
        self._low = config.eviction_low_watermark
        self._clock = clock
        self._queue = Queue(config)
        self._notes = Notes(self._queue, clock=clock)
        self._limit: int | None = None
        self._worker: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._room: asyncio.Task[bool] | None = None
        self._cursor: bytes | str = "0"
        self._idle_until = 0.0
        self._has_warned = False
        self._removed_count = 0

    def stored(self, key: str, record: Record, size_bytes: int) -> None:
        """Note that a record was written."""
        if self._monotonic() >= self._idle_until:
            self._notes.stored(key, record, size_bytes)
            self._start()

    def read(self, key: str) -> None:
        """Note that a record, or a copy of it, was read."""
        if self._monotonic() >= self._idle_until:
            self._notes.read(key)
            self._start()

    def removed(self, keys: Iterable[str]) -> None:
        """Note that records were deleted."""
        if self._monotonic() >= self._idle_until:
            self._notes.removed(keys)
            self._start()

    def follow(self, config: CacheConfig) -> None:
        """Evict by the policy of a configuration from now on, in whose queue what is there is lined up as it is met."""
        self._queue = Queue(config)
        self._notes = Notes(self._queue, clock=self._clock)
        self._cursor = "0"

    async def make_room(self) -> bool:
        """Remove some entries because the server refused a write; return whether any went.

        Writers that come together share it.

        Raises:
            BackendUnavailable: The server does not let us, or does not answer.
        """
        room = self._room
        if room is None or room.done() or room.get_loop() is not asyncio.get_running_loop():
            room = self._room = asyncio.get_running_loop().create_task(self._make_room())
        return await asyncio.shield(room)

    async def surplus(self) -> Surplus:
        """Say how far the server is above the low mark, once it is above the high one."""
        memory = await self._memory()
        if memory.limit is None or memory.used <= self._high * memory.limit:
            return Surplus()
        aim = int(self._low * memory.limit)
        return Surplus(size_bytes=memory.used - aim, aim={"": aim})

    async def victims(self, limit: int) -> list[str]:
        """Return names from the front of the queue, without looking whether they still belong there."""
        return [name.decode() for name in await self._node.call("ZRANGE", self._queue.queue, 0, limit - 1)]

    async def sweep(self, aim_bytes: int, limit: int) -> Swept:
        """Remove up to about `limit` entries while the server is above the aim; see `Sweepable.sweep`."""
        removed, freed = self._removed_count, 0
        owner = await self._take_lease(_PART_LEASE_MS)
        if owner is None:
            return Swept(is_done=False, is_busy=True)
        is_done = False
        try:
            await self._adopt()
            while not is_done and self._removed_count - removed < limit:
                memory = await self._memory()
                surplus = memory.used - aim_bytes
                bytes_now = await self._free(surplus) if surplus > 0 and memory.may_help(aim_bytes) else 0
                freed += bytes_now
                is_done = not bytes_now
        finally:
            await self._node.run_script("release_lease", [_LEASE], [owner])
        return Swept(self._removed_count - removed, freed, is_done=is_done)

    async def forget_names(self, bookmark: str, limit: int) -> tuple[Swept, str | None]:
        """Drop the names of entries that are gone from a part of the queue; see `Sweepable.drop_expired`.

        The queue moves meanwhile, so some are passed over: the next walk finds them.
        """
        start = int(bookmark or 0)
        names = await self._node.call("ZRANGE", self._queue.queue, start, start + limit - 1)
        if not names:
            return Swept(), None
        forgotten = await self._node.run_script("forget_these", [self._queue.queue, self._queue.marks], names)
        return Swept(names=forgotten), str(start + len(names) - forgotten)

    async def aclose(self) -> None:
        """Tell the server what is still noted."""
        worker = self._worker
        if worker is None or worker.get_loop() is not asyncio.get_running_loop():
            return
        self._worker = None
        worker.cancel()
        await asyncio.wait((worker,))
        with contextlib.suppress(BackendUnavailable):  # notes only say what goes first
            if len(self._notes) and (self._limit or (await self._memory()).limit):
                await self._notes.tell(self._node)

    def _start(self) -> None:
        worker = self._worker
        if len(self._notes) == 0 or (worker is not None and not worker.done() and _is_alive(worker)):
            if self._limit is not None and self._notes.stored_bytes > _TELL_EVERY_SHARE * self._limit:
                self._hurry_up()
            return
        self._hurry = asyncio.Event()
        self._worker = asyncio.get_running_loop().create_task(self._work())

    def _hurry_up(self) -> None:
        if self._worker is not None and self._worker.get_loop() is asyncio.get_running_loop():
            self._hurry.set()

    async def _work(self) -> None:
        """Tell and sweep until nothing is left to do."""
        try:
            while len(self._notes):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), _TELL_EVERY_SECONDS)
                self._hurry.clear()
                if not await self._tell_and_sweep():
                    self._rest()
        except BackendRefused as exc:
            self._rest()
            self._warn(f"does not let its memory be watched: {exc.reason}")
        except BackendUnavailable:
            self._notes.clear()  # the calls themselves say that the server is down

    def _rest(self) -> None:
        self._notes.clear()
        self._idle_until = self._monotonic() + _LOOK_AGAIN_SECONDS

    async def _tell_and_sweep(self) -> bool:
        """Return False when the server needs no help."""
        if self._limit is None and (await self._memory()).limit is None:
            return False
        try:
            await self._notes.tell(self._node)
        except BackendRefused as exc:
            if not is_full(exc):
                raise
            # A server that is full takes no notes: from now on the queue does not know everything.
            await self._node.call("HDEL", self._queue.state, "adopted", "adoption")
            await self.make_room()
        await self._forget_gone()
        memory = await self._memory()
        if memory.limit is not None and memory.used > self._high * memory.limit:
            await self._sweep(self._low * memory.limit)
        return True

    async def _forget_gone(self) -> None:
        """Drop expired entries from the queue while many of a random few are, a bounded number of times."""
        names = [self._queue.queue, self._queue.marks]
        for _ in range(_SAMPLES_AT_MOST):
            if await self._node.run_script("forget_gone", names, [_SAMPLED_AT_ONCE]) <= _SAMPLED_AT_ONCE / 4:
                return

    async def _sweep(self, target_bytes: float) -> None:
        owner = await self._take_lease(_LEASE_MS)
        if owner is None:
            return
        try:
            await self._adopt()
            while (memory := await self._memory()).used > target_bytes:
                if not memory.may_help(target_bytes) or not await self._free(memory.used - target_bytes):
                    self._warn("is above its memory limit and holds nothing more to evict: something else fills it")
                    return
                await self._node.run_script("renew_lease", [_LEASE], [owner, _LEASE_MS])
        finally:
            await self._node.run_script("release_lease", [_LEASE], [owner])

    async def _take_lease(self, life_ms: int) -> str | None:
        """Take the right to sweep for a while; None when another process has it."""
        owner = secrets.token_hex(8)
        names = [_LEASE, f"{_LEASE}:token"]
        try:
            token = await self._node.run_script("acquire_lease", names, [owner, life_ms, LIFE_MS])
        except BackendRefused as exc:
            if not is_full(exc):  # full: two sweeps at once are better than none
                raise
            return owner
        return None if token is None else owner

    async def _make_room(self) -> bool:
        memory = await self._memory()
        # Far above its limit it has been given a lower one: that is for the sweep, and this write fails.
        if memory.limit is None or not memory.may_help(memory.limit) or memory.used > _HOPELESS * memory.limit:
            return False
        # More than is missing, for those that write meanwhile.
        missing = memory.surplus + _ROOM_SHARE * memory.limit
        freed = 0
        while freed < missing:
            now = await self._free(missing - freed)
            if not now:
                break
            freed += now
        return freed > 0

    async def _free(self, surplus_bytes: float) -> int:
        """Remove some entries, at most so many bytes and one; return the bytes that went, 0 when there are no more."""
        if not await self._node.call("HEXISTS", self._queue.state, "adopted"):
            freed = await self._remove_unnoted(surplus_bytes)  # older than anything that was noted
            if freed:
                return freed
        # What is unnoted now may be noted, by those who stored it, while we look for it; what was stored here a moment
        # ago goes only when there is nothing else.
        return (
            await self._remove_noted(surplus_bytes)
            or await self._remove_unnoted(surplus_bytes)
            or await self._remove_noted(surplus_bytes)
            or await self._remove_unnoted(surplus_bytes, spares_newest=False)
        )

    async def _remove_noted(self, surplus_bytes: float) -> int:
        """Remove entries from the front of the queue; return the bytes that went, 0 when it is empty."""
        left = 1
        while left:
            answer = await self._node.run_script(
                "sweep",
                self._queue.names,
                [self._queue.rule, int(surplus_bytes), _REMOVED_AT_ONCE, _LOOKS_AT_ONCE, LIFE_MS],
            )
            freed, left, *keys = answer
            if keys:
                self._tell_removed(keys)
                return int(freed) or 1
        return 0

    async def _adopt(self) -> None:
        """Put what nobody noted to the front of a queue that began anew, as far as the server has room for it."""
        queue = self._queue  # the policy may be changed meanwhile
        if await self._node.call("HEXISTS", queue.state, "adopted"):
            return
        cursor: bytes | str = "0"
        token = secrets.token_hex(8)
        try:
            await self._node.call("HSET", queue.state, "adoption", token)
            while True:
                cursor, page = await self._scan(cursor)
                if page:
                    words = [word for key in page for word in (0, key)]
                    await self._node.call("ZADD", queue.queue, "NX", *words)
                if int(cursor) == 0:
                    break
            await self._node.run_script("end_adoption", [queue.state], [token])
        except BackendRefused as exc:
            if not is_full(exc):
                raise
        for name in (queue.queue, queue.state):
            await self._node.call("PEXPIRE", name, LIFE_MS)

    async def _remove_unnoted(self, surplus_bytes: float, *, spares_newest: bool = True) -> int:
        """Remove entries that are not in the queue, whichever, from a few pages; return the bytes that went.

        The newest ones of this process are not there either: their notes wait to be told.
        """
        freed = 0
        removed: list[bytes] = []
        is_from_the_start = int(self._cursor) == 0
        for _ in range(_PAGES_AT_ONCE):
            cursor, page = await self._scan(self._cursor)
            self._cursor = cursor
            if page:
                scores = await self._node.call("ZMSCORE", self._queue.queue, *page)
                unnoted = [
                    key
                    for key, score in zip(page, scores, strict=True)
                    if score is None and not (spares_newest and key.decode() in self._notes)
                ][:_REMOVED_AT_ONCE]
                sizes = await self._node.pipeline([("MEMORY", "USAGE", key) for key in unnoted])
                for key, size in zip(unnoted, sizes, strict=True):
                    if freed >= surplus_bytes:
                        break
                    if size is not None:  # None: gone meanwhile
                        removed.append(key)
                        freed += size
            if freed >= surplus_bytes:
                break
            if int(cursor) == 0:
                if is_from_the_start or removed:
                    break
                is_from_the_start = True
        if removed:
            # Not UNLINK, which frees a moment later: somebody waits for the room.
            await self._node.call("DEL", *removed)
            self._tell_removed(removed)
        return freed

    async def _scan(self, cursor: bytes | str) -> tuple[bytes, list[bytes]]:
        after, page = await self._node.call("SCAN", cursor, "MATCH", f"{LAYOUT}:*", "COUNT", 1000, "TYPE", "string")
        return after, [key for key in page if key.startswith(_ENTRIES)]

    def _tell_removed(self, keys: Sequence[bytes]) -> None:
        names = [key.decode() for key in keys]
        self._removed_count += len(names)
        self._dropped(names)
        gone = Counter((name.split(":", 3)[2], is_entry(name)) for name in names)
        for (namespace, of_entries), count in gone.items():
            self._listener(RemoveEvent("evicted", namespace, count, of_entries))

    async def _memory(self) -> Memory:
        lines = (line.partition(":") for line in (await self._node.call("INFO", "memory")).decode().splitlines())
        found = {name: value for name, colon, value in lines if colon}
        limit = self._own_limit
        if found.get("maxmemory_policy") == "noeviction" and int(found.get("maxmemory", 0)):
            limit = min(int(found["maxmemory"]), limit or sys.maxsize)
        self._limit = limit
        return Memory(int(found.get("used_memory", 0)), int(found.get("used_memory_overhead", 0)), limit)

    def _warn(self, problem: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("%s %s", self._node.address, problem)


def is_full(error: BackendRefused) -> bool:
    """Tell whether a server refused because its memory is full."""
    return "OOM" in error.reason


def _is_alive(worker: asyncio.Task[None]) -> bool:
    loop = worker.get_loop()
    return loop.is_running() and not loop.is_closed()
