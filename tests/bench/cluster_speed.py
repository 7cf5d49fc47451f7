"""How fast the replicated cache reads and writes beside clients that promise less, and what its versions cost."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from itertools import cycle
from pathlib import Path
from time import perf_counter, process_time, time
from typing import Any, Final, Literal

import msgspec
from redis import Redis, RedisError
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode

from cache_management import CacheConfig, DistributedCache, ReplicationConfig
from cache_management.cache.backends.redis import RedisBackend
from cache_management.cache.backends.redis_cluster import RedisClusterBackend
from cache_management.cache.config import CacheBackend
from cache_management.cache.errors import CacheError
from cache_management.cache.records import Record
from cache_management.services import Server, start_redis
from cache_management.services.redis_cluster import start_redis_cluster
from tests.bench.measure import Comparison, Figures, Report, percentile, spread
from tests.faults.cluster.naive import NaiveCache

KEYS: Final = [f"question-{number:04}" for number in range(1000)]
VALUE: Final = "".join(random.Random(15).choices("etaoin shrdlu cmfwyp", k=1000))
PATIENT: Final = CacheConfig(backend=CacheBackend.REDIS, timeout_seconds=5.0, strict=True)
_LIFE_SECONDS = 3600.0
_AT_ONCE = 50
_TRIES = 5
_SETTLE_SECONDS = 0.003  # what a run left on its way is not the next one's

Call = Literal["get", "set"]
_NAIVE, _REDIS_PY, _PY_CLUSTER = "naive", "redis-py", "redis-py RedisCluster"
_BACKEND, _OUR_CLUSTER = "RedisBackend", "redis+cluster://"
_QUORUM, _ONE, _ALL = "quorum", "one", "all"
_QUORUM_TWO, _QUORUM_SINGLE, _QUORUM_FIVE = "quorum, replicas=1", "quorum, replicas=0 on 1 node", "quorum on 5 nodes"
_PAIRS: Final[tuple[tuple[str, str], ...]] = (
    (_ONE, _NAIVE),
    (_QUORUM, _NAIVE),
    (_ALL, _NAIVE),
    (_QUORUM_TWO, _NAIVE),
    (_QUORUM_SINGLE, _NAIVE),
    (_QUORUM_FIVE, _NAIVE),
    (_QUORUM_SINGLE, _BACKEND),
    (_ONE, _BACKEND),
    (_QUORUM, _BACKEND),
    (_ONE, _REDIS_PY),
    (_QUORUM, _REDIS_PY),
    (_QUORUM, _PY_CLUSTER),
    (_OUR_CLUSTER, _PY_CLUSTER),
    (_BACKEND, _REDIS_PY),
)
_GOALS: Final = {(_QUORUM, _NAIVE, "get"): ">= 0.8 x", (_ONE, _NAIVE, "get"): ">= 0.95 x"}


class Contestant(msgspec.Struct, frozen=True):
    """A client of some servers."""

    name: str
    get: Callable[[str], Awaitable[Any]]
    set: Callable[[str], Awaitable[Any]]


class _Timed(msgspec.Struct):
    rates: list[float] = msgspec.field(default_factory=list)
    cpu_rates: list[float] = msgspec.field(default_factory=list)
    latencies: list[float] = msgspec.field(default_factory=list)


Found = dict[tuple[str, Call, int], _Timed]


async def measure(report: Report, folder: Path, rounds: int, run_seconds: float) -> None:
    """Let all contestants run in turn, in each round in another order; add a row for each pair."""
    async with AsyncExitStack() as stack:
        contestants = await _contestants(stack, folder)
        found = await _race(contestants, rounds, run_seconds)
    for ours, theirs in _PAIRS:
        for call in ("get", "set"):
            for at_once in (1, _AT_ONCE):
                report.rows.append(_row(found, ours, theirs, call, at_once))
    for each in contestants:
        report.notes.append(_latencies(found, each.name))


async def _race(contestants: Sequence[Contestant], rounds: int, run_seconds: float) -> Found:
    found: Found = {}
    chance = random.Random(1)
    supply = cycle(chance.sample(KEYS, len(KEYS)))
    for each in contestants:
        await fill(each.set)
    for number in range(-1, rounds):  # the first one warms up
        for call in ("get", "set"):
            for at_once in (1, _AT_ONCE):
                for each in chance.sample(contestants, len(contestants)):
                    await asyncio.sleep(_SETTLE_SECONDS)
                    timed = _Timed() if number < 0 else found.setdefault((each.name, call, at_once), _Timed())  # type: ignore[arg-type]
                    await _run(getattr(each, call), supply, at_once, run_seconds, timed)
    return found


async def fill(write: Callable[[str], Awaitable[Any]]) -> None:
    """Write every key, again where a busy machine let a call run out of its time."""
    await _write_surely(write, KEYS[0])  # makes the slot table
    for start in range(0, len(KEYS), 10):
        await asyncio.gather(*(_write_surely(write, key) for key in KEYS[start : start + 10]))


async def _write_surely(write: Callable[[str], Awaitable[Any]], key: str) -> None:
    for _ in range(_TRIES):
        with suppress(CacheError, RedisError, OSError):
            await write(key)
            return
        await asyncio.sleep(0.5)
    await write(key)


async def _run(
    function: Callable[[str], Awaitable[Any]], keys: Iterator[str], at_once: int, seconds: float, timed: _Timed
) -> None:
    latencies: list[float] = []
    cpu, began = process_time(), perf_counter()

    async def call_on() -> None:
        # At least one call each: a busy machine may stand still for longer than a short round lasts.
        while True:
            started = perf_counter()
            await function(next(keys))
            ended = perf_counter()
            latencies.append(ended - started)
            if ended >= began + seconds:
                return

    await (call_on() if at_once == 1 else asyncio.gather(*(call_on() for _ in range(at_once))))
    timed.rates.append(len(latencies) / (perf_counter() - began))
    timed.cpu_rates.append(len(latencies) / (process_time() - cpu))
    timed.latencies += latencies


def _row(found: Found, ours: str, theirs: str, call: Call, at_once: int) -> Comparison:
    sides = [found[name, call, at_once] for name in (ours, theirs)]
    middle, low, high = spread([a / b for a, b in zip(sides[0].rates, sides[1].rates, strict=True)])
    return Comparison(
        what=f"{ours}: {call}{'' if at_once == 1 else f', {at_once} at once'}",
        reference=theirs,
        unit="calls/s",
        ours=Figures(median=statistics.median(sides[0].rates)),
        theirs=Figures(median=statistics.median(sides[1].rates)),
        ratio=middle,
        ratio_low=low,
        ratio_high=high,
        cpu_ratio=statistics.median(a / b for a, b in zip(sides[0].cpu_rates, sides[1].cpu_rates, strict=True)),
        callers=at_once,
        runs=len(sides[0].rates),
        goal=_GOALS.get((ours, theirs, call), ""),
    )


def _latencies(found: Found, name: str) -> str:
    words = []
    for call in ("get", "set"):
        for at_once in (1, _AT_ONCE):
            taken = found[name, call, at_once].latencies  # type: ignore[index]
            half, most = statistics.median(taken) * 1e6, percentile(taken, 99) * 1e6
            words.append(f"{call}{'' if at_once == 1 else f' {at_once} at once'} {half:,.0f} / {most:,.0f}")
    return f"p50 / p99 in us, {name}: {', '.join(words)}"


# Who runs.


async def _contestants(stack: AsyncExitStack, folder: Path) -> list[Contestant]:
    def servers(name: str, count: int) -> list[Server]:
        return [stack.enter_context(running(folder / name / str(number))) for number in range(count)]

    three, naive, (single,) = servers("three", 3), servers("naive", 3), servers("single", 1)
    levels = [await _distributed(stack, level, three, 2, level) for level in ("one", "quorum", "all")]
    shards = stack.enter_context(_primaries(folder / "shards"))
    return [
        *levels,
        await _distributed(stack, _QUORUM_TWO, servers("two copies", 3), 1),
        await _distributed(stack, _QUORUM_SINGLE, servers("one copy", 1), 0),
        await _distributed(stack, _QUORUM_FIVE, servers("five", 5), 2),
        await _naive(stack, naive),
        await _redis_py(stack, _REDIS_PY, AsyncRedis(port=single.port, decode_responses=True)),
        await _backend(stack, _BACKEND, RedisBackend(config_of(single.url))),
        await _redis_py(
            stack,
            _PY_CLUSTER,
            RedisCluster(
                startup_nodes=[ClusterNode("127.0.0.1", server.port) for server in shards], decode_responses=True
            ),
        ),
        await _backend(stack, _OUR_CLUSTER, RedisClusterBackend(config_of(cluster_url(shards)))),
    ]


async def _distributed(
    stack: AsyncExitStack, name: str, servers: Sequence[Server], replicas: int, level: str = "quorum"
) -> Contestant:
    cache = distributed(servers, ReplicationConfig(replicas=replicas, consistency_level=level))
    await stack.enter_async_context(cache)
    return Contestant(name, cache.get, lambda key: cache.set(key, VALUE))


async def _naive(stack: AsyncExitStack, servers: Sequence[Server]) -> Contestant:
    naive = NaiveCache(addresses(servers), timeout_seconds=PATIENT.timeout_seconds)
    stack.push_async_callback(naive.aclose)
    return Contestant(_NAIVE, naive.get, lambda key: naive.set(key, VALUE, ttl_seconds=_LIFE_SECONDS))


async def _redis_py(stack: AsyncExitStack, name: str, client: Any) -> Contestant:
    stack.push_async_callback(client.aclose)
    return Contestant(name, client.get, lambda key: client.set(key, VALUE, px=int(1000 * _LIFE_SECONDS)))


async def _backend(stack: AsyncExitStack, name: str, backend: RedisBackend) -> Contestant:
    stack.push_async_callback(backend.aclose)
    value = VALUE.encode()

    def get(key: str) -> Awaitable[Any]:
        return backend.get("b:" + key)  # redis-py writes beside it

    return Contestant(name, get, lambda key: backend.put("b:" + key, Record(value, time() + _LIFE_SECONDS, 0)))


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Run a server that keeps nothing."""
    server = start_redis(folder)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def _primaries(folder: Path) -> Iterator[list[Server]]:
    """Run a Redis Cluster of three primaries: replicas would take time of theirs."""
    servers = start_redis_cluster(folder)
    try:
        for replica in servers[3:]:
            replica.kill()
        yield servers[:3]
    finally:
        for server in servers[:3]:
            server.kill()


def addresses(servers: Sequence[Server]) -> list[str]:
    """Return "host:port" of servers."""
    return [f"127.0.0.1:{server.port}" for server in servers]


def cluster_url(servers: Sequence[Server]) -> str:
    """Return the URL of a Redis Cluster."""
    return f"redis+cluster://{','.join(addresses(servers))}"


def config_of(url: str, timeout_seconds: float = PATIENT.timeout_seconds) -> CacheConfig:
    """Return the configuration of a store that raises when it is down."""
    return CacheConfig(url=url, timeout_seconds=timeout_seconds, strict=True)


def distributed(
    servers: Sequence[Server], replication: ReplicationConfig, *, config: CacheConfig = PATIENT, **given: Any
) -> DistributedCache:
    """Return a replicated cache over servers."""
    return DistributedCache(addresses(servers), replication_config=replication, config=config, **given)


# What versions cost.


async def measure_versions(report: Report, folder: Path, entries: int) -> None:
    """Compare memory and server time of one copy with those of a plain key."""
    keys = [f"question-{number:06}" for number in range(entries)]
    with ExitStack() as servers:
        ours, theirs = (servers.enter_context(running(folder / name)) for name in ("ours", "plain"))
        with Redis(port=ours.port) as asked, Redis(port=theirs.port) as plain:
            async with distributed([ours], ReplicationConfig(replicas=0)) as cache:
                await cache.set("first", VALUE)  # from here on the table and the scripts are there
                before = _bytes_used(asked), _bytes_used(plain)
                asked.config_resetstat()
                for start in range(0, entries, _AT_ONCE):
                    await asyncio.gather(*(cache.set(key, VALUE) for key in keys[start : start + _AT_ONCE]))
                used = (_bytes_used(asked) - before[0]) / entries
            # One name of the same length, so that only what is beside it differs.
            names = [key.decode() for key in asked.scan_iter("e:*", count=1000)][:entries]
            _set_plainly(plain, names)
            plainly_used = (_bytes_used(plain) - before[1]) / len(names)
            put, plain_set = _micros(asked, "evalsha"), _micros(plain, "set")
    report.rows += [
        single("memory of a copy", "SET with PX", "bytes", used, plainly_used),
        single("put, time on the server", "SET with PX", "us", put, plain_set),
    ]


def _set_plainly(client: Redis, names: Sequence[str]) -> None:
    for start in range(0, len(names), _AT_ONCE):
        with client.pipeline(transaction=False) as pipeline:
            for name in names[start : start + _AT_ONCE]:
                pipeline.set(name, VALUE, px=int(1000 * _LIFE_SECONDS))
            pipeline.execute()


def _bytes_used(client: Redis) -> int:
    return int(client.info("memory")["used_memory"])


def _micros(client: Redis, command: str) -> float:
    return float(client.info("commandstats")[f"cmdstat_{command}"]["usec_per_call"])


def single(what: str, reference: str, unit: str, ours: float, theirs: float, goal: str = "") -> Comparison:
    """Return a row of something that was measured once."""
    return Comparison(
        what=what,
        reference=reference,
        unit=unit,
        ours=Figures(median=ours),
        theirs=Figures(median=theirs),
        ratio=ours / theirs,
        ratio_low=ours / theirs,
        ratio_high=ours / theirs,
        runs=1,
        goal=goal,
    )
