"""How long nobody is served when a node is killed or frozen."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import statistics
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from time import perf_counter, time
from typing import Any

import msgspec
from redis import RedisError
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.crc import key_slot

from cache_management import CacheConfig, DistributedCache, ReplicationConfig
from cache_management.cache.backends.redis_cluster import RedisClusterBackend
from cache_management.cache.config import CacheBackend
from cache_management.cache.errors import CacheError
from cache_management.cache.records import Record
from cache_management.services import Server, start_redis
from cache_management.services.redis_cluster import start_redis_cluster
from tests.bench.cluster_speed import KEYS, VALUE, addresses, cluster_url, config_of, distributed, fill
from tests.bench.measure import Comparison, Figures, Report, percentile, spread
from tests.faults.cluster.naive import NaiveCache

_TIMEOUT_SECONDS = 0.25  # the default of the configuration
_CONFIG = CacheConfig(backend=CacheBackend.REDIS, timeout_seconds=_TIMEOUT_SECONDS, strict=True)
_CALM_SECONDS = 0.5
_LONGEST_SECONDS = 20.0

Do = Callable[[str], Awaitable[Any]]


class _Side(msgspec.Struct):
    """A client, its servers, and what is done until it is whole again."""

    name: str
    servers: list[Server]
    get: Do
    set: Do
    whole: Callable[[], Awaitable[None]]


class _Gap(msgspec.Struct):
    """What one caller saw in the time after a node was hurt, in seconds; `calm` is the longest gap before."""

    longest: float
    calm: float
    latencies: list[float]
    failed: int


async def measure(report: Report, folder: Path, hurt: str, count: int, seconds: float) -> None:
    """Hurt one node after the other, of the replicated cache and of the naive client in turn."""
    found: dict[tuple[str, str], list[_Gap]] = {}
    async with AsyncExitStack() as stack:
        sides = [await _replicated(stack, folder / "ours"), await _naive(stack, folder / "naive")]
        for side in sides:
            await fill(side.set)
        for number in range(count):
            for side in sides:
                for call, gap in (await _hurt_one(side, hurt, number % 3, seconds)).items():
                    found.setdefault((side.name, call), []).append(gap)
    for call in ("get", "set"):
        ours, naive = found["quorum", call], found["naive", call]
        report.rows.append(_row(f"gap of {call} after {hurt}", "naive", ours, naive))
    for name in ("quorum", "naive"):
        report.notes.append(f"{hurt} of a node {count} times, {name}: {_told(found, name)}, in the {seconds:g} s after")


def _told(found: dict[tuple[str, str], list[_Gap]], name: str) -> str:
    words = []
    for call in ("get", "set"):
        gaps = found[name, call]
        taken = [each for gap in gaps for each in gap.latencies]
        words.append(
            f"{call}s stood still for {1000 * statistics.median(gap.longest for gap in gaps):.1f} ms"
            f" (most {1000 * max(gap.longest for gap in gaps):.1f},"
            f" undisturbed {1000 * statistics.median(gap.calm for gap in gaps):.1f}),"
            f" p99 {1000 * percentile(taken, 99):.2f} ms,"
            f" {sum(gap.failed for gap in gaps)} of {len(taken) + sum(gap.failed for gap in gaps):,} failed"
        )
    return "; ".join(words)


async def _hurt_one(side: _Side, hurt: str, place: int, seconds: float) -> dict[str, _Gap]:
    """Read and write on while a node is hurt; bring it back."""
    server = side.servers[place]
    callers = {"get": _Caller(side.get), "set": _Caller(side.set)}
    tasks = [asyncio.create_task(caller.call_on()) for caller in callers.values()]
    await asyncio.sleep(min(seconds, _CALM_SECONDS))
    hurt_at = perf_counter()
    os.kill(server.pid, signal.Signals[hurt])
    await asyncio.sleep(seconds)
    for caller in callers.values():
        caller.is_over = True
    await asyncio.gather(*tasks)
    if hurt == "SIGKILL":
        server.kill()  # it is dead: this tells its record so
        side.servers[place] = await asyncio.to_thread(start_redis, server.data_dir, port=server.port)
    else:
        os.kill(server.pid, signal.SIGCONT)
    await side.whole()
    return {name: caller.gap(hurt_at) for name, caller in callers.items()}


class _Caller:
    """Calls on and on, and notes when it succeeded."""

    def __init__(self, do: Do) -> None:
        self._do = do
        self.is_over = False
        self._ended_at = 0.0
        self._done: list[tuple[float, float]] = []  # when each began and ended
        self._failed: list[float] = []

    async def call_on(self) -> None:
        for key in itertools.cycle(KEYS):
            if self.is_over:
                self._ended_at = perf_counter()
                return
            began = perf_counter()
            try:
                await self._do(key)
            except (CacheError, RedisError, OSError):
                self._failed.append(perf_counter())
                await asyncio.sleep(0)
            else:
                self._done.append((began, perf_counter()))

    def gap(self, hurt_at: float) -> _Gap:
        ended = [end for _, end in self._done]
        return _Gap(
            longest=_longest([hurt_at, *(end for end in ended if end > hurt_at), self._ended_at]),
            calm=_longest([end for end in ended if end <= hurt_at]),
            latencies=[end - began for began, end in self._done if end > hurt_at],
            failed=sum(at > hurt_at for at in self._failed),
        )


def _longest(moments: Sequence[float]) -> float:
    return max((b - a for a, b in itertools.pairwise(moments)), default=0.0)


async def _replicated(stack: AsyncExitStack, folder: Path) -> _Side:
    servers = _three(stack, folder)
    cache = await stack.enter_async_context(distributed(servers, ReplicationConfig(replicas=2), config=_CONFIG))

    async def whole() -> None:
        await _until(lambda: _is_whole(cache))

    return _Side("quorum", servers, cache.get, lambda key: cache.set(key, VALUE), whole)


async def _is_whole(cache: DistributedCache) -> bool:
    statuses = await cache.statuses()
    return all(status.state == "member" for status in statuses) and len(cache.get_available_nodes()) == len(statuses)


async def _naive(stack: AsyncExitStack, folder: Path) -> _Side:
    servers = _three(stack, folder)
    naive = NaiveCache(addresses(servers), timeout_seconds=_TIMEOUT_SECONDS)
    stack.push_async_callback(naive.aclose)

    async def whole() -> None:
        await asyncio.sleep(_TIMEOUT_SECONDS)  # until what it still waits for is given up

    return _Side("naive", servers, naive.get, lambda key: naive.set(key, VALUE), whole)


def _three(stack: AsyncExitStack, folder: Path) -> list[Server]:
    servers = [start_redis(folder / str(number)) for number in range(3)]
    for number in range(3):
        stack.callback(lambda number=number: servers[number].kill())  # whichever runs there then
    return servers


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = perf_counter() + _LONGEST_SECONDS
    while not await holds():
        if perf_counter() > deadline:
            raise RuntimeError(f"a node that was hurt did not count again within {_LONGEST_SECONDS:g} s")
        await asyncio.sleep(0.02)


def _row(what: str, reference: str, ours: Sequence[_Gap], theirs: Sequence[_Gap]) -> Comparison:
    longest = [[1000 * gap.longest for gap in side] for side in (ours, theirs)]
    return _beside(what, reference, *longest, goal="100 ms")


def _beside(what: str, reference: str, ours: Sequence[float], theirs: Sequence[float], goal: str = "") -> Comparison:
    middle, low, high = spread([a / b for a, b in zip(ours, theirs, strict=True)])
    return Comparison(
        what=what,
        reference=reference,
        unit="ms",
        ours=Figures(median=statistics.median(ours), p99=percentile(ours, 99)),
        theirs=Figures(median=statistics.median(theirs), p99=percentile(theirs, 99)),
        ratio=middle,
        ratio_low=low,
        ratio_high=high,
        runs=len(ours),
        goal=goal,
    )


# Redis Cluster.


async def measure_redis_cluster(report: Report, folder: Path, count: int) -> None:
    """Kill primaries one after the other; wait until their slots can be written to again, by two clients at once."""
    found: list[list[float]] = [[], []]
    servers = start_redis_cluster(folder)
    try:
        async with AsyncExitStack() as stack:
            ours = RedisClusterBackend(config_of(cluster_url(servers), _TIMEOUT_SECONDS))
            stack.push_async_callback(ours.aclose)
            theirs = RedisCluster(
                startup_nodes=[ClusterNode("127.0.0.1", server.port) for server in servers],
                socket_timeout=_TIMEOUT_SECONDS,
                socket_connect_timeout=_TIMEOUT_SECONDS,
                require_full_coverage=False,
            )
            stack.push_async_callback(theirs.aclose)
            record = Record(VALUE.encode(), time() + 3600, 0)
            for place in range(min(count, 3)):
                keys = [key for key in KEYS if _is_of(key, place)][:20]
                writers: list[Do] = [partial(ours.put, record=record), partial(theirs.set, value=VALUE, px=3_600_000)]
                for write in writers:
                    for key in keys:
                        await write(key)
                killed_at = perf_counter()
                os.kill(servers[place].pid, signal.SIGKILL)
                ends = await asyncio.gather(*(_writable(write, keys) for write in writers))
                for times, end in zip(found, ends, strict=True):
                    times.append(1000 * (end - killed_at))
                servers[place].kill()
    finally:
        for server in servers:
            with suppress(ProcessLookupError):
                server.kill()
    what = "Redis Cluster: all slots writable after SIGKILL"
    report.rows.append(_beside(what, "redis-py RedisCluster", *found))
    report.notes.append(
        f"Redis Cluster: {min(count, 3)} of 3 primaries killed, a replica each, cluster-node-timeout 1,500 ms;"
        " ours is redis+cluster://"
    )


def _is_of(key: str, place: int) -> bool:
    """Tell whether a key is of the primary at a place: slots are dealt out evenly, in order."""
    slot = key_slot(key.encode())
    return 16384 * place // 3 <= slot < 16384 * (place + 1) // 3


async def _writable(write: Do, keys: Sequence[str]) -> float:
    """Return the moment from which every key could be written."""
    deadline = perf_counter() + _LONGEST_SECONDS
    while perf_counter() < deadline:
        try:
            for key in keys:
                await write(key)
        except (CacheError, RedisError, OSError):
            await asyncio.sleep(0.01)
        else:
            return perf_counter()
    raise RuntimeError(f"slots of a killed primary were not writable within {_LONGEST_SECONDS:g} s")
