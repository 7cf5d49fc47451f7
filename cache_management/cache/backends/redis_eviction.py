"""What goes first when a Redis server is nearly full, between two watermarks.

What is stored and read is noted in this process and told to the server a moment later, so that
no call waits for it. The server holds the queue (a sorted set beside the entries); the process
that finds it above the high mark removes from the front until it is below the low one. The rules
are those of `cache/eviction`; the scripts in `lua/` say how they read over a sorted set.

A process that dies loses the notes of its last moment. Entries without a note are found by a
scan when the queue runs empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from cache_management.cache.backends.redis_node import RedisNode
from cache_management.cache.clock import Clock
from cache_management.cache.config import CacheConfig, EvictionObjective, EvictionPolicy
from cache_management.cache.errors import BackendRefused, BackendUnavailable
from cache_management.cache.events import Listener, RemoveEvent
from cache_management.cache.eviction.gdsf import GdsfEvictor
from cache_management.cache.eviction.lfu import LfuEvictor
from cache_management.cache.records import Record, Weight

logger = logging.getLogger("cache_management")

_QUEUE, _MARKS, _STATE, _GHOSTS = _KEYS = tuple(f"cm1:evict:{name}" for name in ("queue", "marks", "state", "ghosts"))
_LEASE = "cm1:lease:evict"
_LEASE_SECONDS = 30.0
_LIFE_SECONDS = 7 * 24 * 3600  # of the queue when nobody writes any more
_NOTE_EVERY_SECONDS = 0.1
_NOTE_EVERY_SHARE = (
    0.01  # of the limit written by this process; ten of them may write between the high mark and the limit
)
_NOTES_AT_ONCE = 500
_MOST_NOTES = 20_000  # more of one moment are dropped: they only say what goes first
_REMOVED_AT_ONCE = 100
_ROOM_SHARE = 0.02  # of the limit is made free when a write was refused
_QUEUE_BYTES = 120
_LOOKED_AT_ONCE = 20
_LOOK_AGAIN_SECONDS = 60.0
_ENTRIES = "cm1:[lv][le][mc]:*"  # llm and vec


class RedisEviction:
    """Keeps a server below its memory limit.

    The limit is `redis_memory_limit` and the server's own `maxmemory` if it says `noeviction`, whichever
    is less; without one nothing is noted.
    """

    def __init__(self, node: RedisNode, config: CacheConfig, *, clock: Clock, listener: Listener) -> None:
        self._node = node
        self._clock = clock
        self._listener = listener
        self._own_limit = config.redis_memory_limit
        self._high = config.eviction_high_watermark
        self._low = config.eviction_low_watermark
        self._rule, self._worth = _rule(config)
        self._notes: dict[str, _Note] = {}
        self._bytes_noted = 0
        self._bytes_to_wait_for = math.inf
        self._limit: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._hurry: asyncio.Event | None = None
        self._idle_until = 0.0
        self._has_adopted = False
        self._has_warned = False

    def stored(self, key: str, record: Record, size_bytes: int) -> None:
        """Note that a record was written."""
        if self._is_idle():
            return
        old = self._notes.get(key, _NOTHING)
        uses = 1 if old[0] == "d" else old[1] + 1
        worth = self._worth.worth(Weight(size_bytes, record.cost_micro, record.expires_at))
        expiry = math.inf if record.expires_at is None else record.expires_at
        self._note(key, ("s", uses, worth, expiry if self._rule == "ttl" else self._clock()))
        self._bytes_noted += size_bytes
        if self._bytes_noted > self._bytes_to_wait_for and self._hurry is not None:
            self._hurry.set()

    def read(self, key: str) -> None:
        """Note that a record was read."""
        if self._is_idle():
            return
        what, uses, worth, place = self._notes.get(key, _NOTHING)
        if what != "d":
            self._note(key, (what, uses + 1, worth, place if self._rule == "ttl" else self._clock()))

    def removed(self, keys: Iterable[str]) -> None:
        """Note that records were deleted."""
        if not self._is_idle():
            for key in keys:
                self._note(key, ("d", 0, 0.0, 0.0))

    async def make_room(self) -> bool:
        """Remove a few entries at once because the server refused a write; return whether there is some now."""
        used, limit = await self._memory()
        if limit is None:
            return False
        # Never less than a share, though it may not be full at this moment: other writers are on their way too.
        return await self._free(max(used - limit, 0) + _ROOM_SHARE * limit) > 0

    async def aclose(self) -> None:
        """Tell the server what is still noted."""
        if self._task is not None and self._task.get_loop() is asyncio.get_running_loop():
            self._task.cancel()
            await asyncio.wait((self._task,))
            if self._notes:
                with contextlib.suppress(BackendUnavailable):  # notes only say what goes first
                    await self._tell()
        self._task = None

    def _is_idle(self) -> bool:
        return time.monotonic() < self._idle_until

    def _note(self, key: str, note: _Note) -> None:
        if len(self._notes) < _MOST_NOTES or key in self._notes:
            self._notes[key] = note
        if self._task is None or self._task.done() or self._task.get_loop() is not asyncio.get_running_loop():
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        """Tell and sweep until nothing is left to do."""
        try:
            while self._notes:
                self._hurry = asyncio.Event()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), _NOTE_EVERY_SECONDS)
                if self._limit is None and (await self._memory())[1] is None:
                    self._notes.clear()
                    self._idle_until = time.monotonic() + _LOOK_AGAIN_SECONDS
                    return
                try:
                    await self._tell()
                except BackendRefused:  # a server that is full takes no notes
                    self._has_adopted = False
                    await self.make_room()
                await self._forget_gone()
                used, limit = await self._memory()
                if limit is not None and used > self._high * limit:
                    await self._sweep(self._low * limit)
        except BackendUnavailable:
            self._notes.clear()  # the calls themselves say that the server is down

    async def _tell(self) -> None:
        notes, self._notes, self._bytes_noted = self._notes, {}, 0
        for page in _pages(list(notes.items())):
            words: list[Any] = []
            for key, (what, uses, worth, place) in page:
                words += [key, what, uses, repr(worth), repr(place)]
            await self._node.run_script("note_uses", _KEYS, [self._rule, _LIFE_SECONDS * 1000, *words])

    async def _forget_gone(self) -> None:
        """Drop expired entries from the queue while many of a random few are."""
        while await self._node.run_script("forget_gone", [_QUEUE, _MARKS], [_LOOKED_AT_ONCE]) > _LOOKED_AT_ONCE / 4:
            pass

    async def _sweep(self, target_bytes: float) -> None:
        owner = secrets.token_hex(8)
        lease = [_LEASE, f"{_LEASE}:token"]
        ms = int(_LEASE_SECONDS * 1000)
        with contextlib.suppress(BackendRefused):  # full: two sweeps at once are better than none
            if await self._node.run_script("acquire_lease", lease, [owner, ms, _LIFE_SECONDS * 1000]) is None:
                return
        try:
            while (used := (await self._memory())[0]) > target_bytes:
                if not await self._free(used - target_bytes):
                    self._warn()
                    return
                await self._node.run_script("renew_lease", [_LEASE], [owner, ms])
        finally:
            await self._node.run_script("release_lease", [_LEASE], [owner])

    async def _free(self, surplus_bytes: float) -> int:
        """Remove entries until about so many bytes are free, at most some at once; return how many went.

        None go when all of them together would not be enough: they would go for nothing.
        """
        if not self._has_adopted:
            self._has_adopted = await self._adopt()
        entry_bytes = await self._bytes_of_an_entry()
        entries = await self._node.call(*(("ZCARD", _QUEUE) if self._has_adopted else ("DBSIZE",)))
        if not entry_bytes or entries * entry_bytes < surplus_bytes:
            return 0
        count = min(_REMOVED_AT_ONCE, math.ceil(surplus_bytes / entry_bytes))
        # Those that nobody noted are older than any note.
        removed = 0 if self._has_adopted else await self._remove_unnoted(count)
        return removed or await self._remove(count) or await self._remove_unnoted(count)

    async def _bytes_of_an_entry(self) -> float:
        """Return what a typical entry takes on the server, its place in the queue included; 0 without entries."""
        async for page in self._entries():
            sizes = await self._node.pipeline([("MEMORY", "USAGE", key) for key in page[:_LOOKED_AT_ONCE]])
            held = [size for size in sizes if size is not None]
            if held:
                return float(sum(held)) / len(held) + _QUEUE_BYTES
        return 0.0

    async def _remove(self, count: int) -> int:
        answer = await self._node.run_script("sweep", _KEYS, [self._rule, count, _LIFE_SECONDS * 1000])
        total = 0
        for group, removed in zip(answer[::2], answer[1::2], strict=True):
            total += removed
            self._listener(RemoveEvent("evicted", group.decode().rpartition(":")[2], removed))
        return total

    async def _adopt(self) -> bool:
        """Put entries that nobody noted at the front of the queue; return whether the server had room for that."""
        try:
            async for page in self._entries():
                await self._node.call("ZADD", _QUEUE, "NX", *(word for key in page for word in (0, key)))
            await self._node.call("PEXPIRE", _QUEUE, _LIFE_SECONDS * 1000)
        except BackendRefused:
            return False
        return True

    async def _remove_unnoted(self, count: int) -> int:
        """Remove some entries that are not in the queue, whichever."""
        removed = 0
        async for page in self._entries():
            scores = await self._node.call("ZMSCORE", _QUEUE, *page)
            unnoted = [key for key, score in zip(page, scores, strict=True) if score is None]
            if unnoted:
                # Not UNLINK, which frees a moment later: somebody waits for the room.
                removed += await self._node.call("DEL", *unnoted[: count - removed])
            if removed >= count:
                break
        if removed:
            self._listener(RemoveEvent("evicted", "", removed))
        return removed

    async def _entries(self) -> AsyncIterator[list[bytes]]:
        cursor: bytes | str = "0"
        while True:
            cursor, page = await self._node.call("SCAN", cursor, "MATCH", _ENTRIES, "COUNT", 1000, "TYPE", "string")
            if page:
                yield page
            if int(cursor) == 0:
                return

    async def _memory(self) -> tuple[int, int | None]:
        """Return the bytes that the server uses and its limit; None: it has none, or evicts by itself."""
        found = _fields(await self._node.call("INFO", "memory"))
        limit = self._own_limit
        if found.get("maxmemory_policy") == "noeviction" and int(found["maxmemory"]):
            limit = min(int(found["maxmemory"]), limit or sys.maxsize)
        self._limit = limit
        self._bytes_to_wait_for = math.inf if limit is None else _NOTE_EVERY_SHARE * limit
        return int(found["used_memory"]), limit

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s is above its memory limit, and evicting every entry would not be enough: "
                "something else fills it, or the limit is too small",
                self._node.address,
            )


_Note = tuple[str, int, float, float]  # what happened, uses, worth of one use, moment of use or of expiry
_NOTHING: _Note = ("r", 0, 0.0, 0.0)


def _rule(config: CacheConfig) -> tuple[str, LfuEvictor]:
    """Return the scripts' word for a policy, and what says how much one use is worth."""
    match config.eviction_policy:
        case EvictionPolicy.LFU:
            return "lfu", LfuEvictor()
        case EvictionPolicy.GDSF:
            return "lfu", GdsfEvictor(cost_weight=config.eviction_cost_weight)
        case EvictionPolicy.AUTO if config.eviction_objective is EvictionObjective.HIT_RATIO:
            return "s3fifo", LfuEvictor()
        case EvictionPolicy.AUTO:
            is_money = config.eviction_objective is EvictionObjective.MONEY
            return "lfu", GdsfEvictor(cost_weight=1.0 if is_money else 0.5)
        case policy:
            return str(policy.value), LfuEvictor()


def _pages(notes: list[tuple[str, _Note]]) -> Iterator[list[tuple[str, _Note]]]:
    for start in range(0, len(notes), _NOTES_AT_ONCE):
        yield notes[start : start + _NOTES_AT_ONCE]


def _fields(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode().splitlines())
    return {name: value for name, colon, value in lines if colon}
