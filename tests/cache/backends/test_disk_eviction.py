"""The policies on disk: beside those of the memory store, under several processes, and from one to another."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from itertools import permutations
from pathlib import Path

import pytest

from cache_management.cache.backends import disk_eviction, open_backend
from cache_management.cache.backends.disk import DiskBackend
from cache_management.cache.codec import pack
from cache_management.cache.config import CacheBackend, CacheConfig, EvictionObjective, EvictionPolicy
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.eviction import gdsf, make_evictor, s3fifo
from cache_management.cache.eviction.gdsf import GdsfEvictor
from cache_management.cache.records import Record
from tests.cache.backends.test_disk import race, start
from tests.cache.eviction import replay as sequences
from tests.cache.eviction.replay import WEB07, Outcome, llm_weights, read_trace, replay
from tests.contracts.clock import ManualClock

PREFIX = "cm1:llm:disk:k"
POLICIES = ["lru", "lfu", "ttl", "s3fifo", "gdsf"]
CLOSE = 0.005
TRACES = {
    "pairs": (sequences.pairs(600, distance=5), 60),
    "loop": (sequences.loop(300, rounds=6), 60),
    "favourites": (sequences.moving_favourites(phases=3, requests=800), 200),
    "scan": ([f"f{at}" for at in range(30)] * 4 + [f"s{at}" for at in range(600)] + [f"f{at}" for at in range(30)], 60),
}


def opened(folder: Path, clock: ManualClock, **options: object) -> DiskBackend:
    defaults: dict[str, object] = {"max_size": 10, "size_limit_bytes": 10**9, "timeout_seconds": 20.0, "clock": clock}
    return DiskBackend(folder, **{**defaults, **options})  # type: ignore[arg-type]


def record(value: bytes = b"value", *, cost: int = 0, expires_at: float | None = None) -> Record:
    return Record(value=value, expires_at=expires_at, version=1, cost_micro=cost)


async def names(backend: DiskBackend) -> list[str]:
    return [key.removeprefix(PREFIX) async for key in backend.scan(PREFIX)]


async def replay_on_disk(
    backend: DiskBackend, clock: ManualClock, keys: Sequence[str], records: dict[str, Record] | None = None
) -> Outcome:
    hits = 0
    saved = total = 0
    for key in keys:
        clock.advance(0.01)
        wanted = record() if records is None else records[key]
        total += wanted.cost_micro
        if await backend.get(PREFIX + key) is None:
            await backend.put(PREFIX + key, wanted)
        else:
            hits += 1
            saved += wanted.cost_micro
    return Outcome(hits / len(keys), saved / max(total, 1))


def check(folder: Path) -> None:
    """Compare sums and marks with the records."""
    with closing(sqlite3.connect(folder / "cache.sqlite")) as db:

        def ids(table: str) -> list[int]:
            return [row[0] for row in db.execute(f"SELECT id FROM {table} ORDER BY id")]

        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert ids("records") == ids("marks")
        (late,) = db.execute(
            "SELECT count(*) FROM marks WHERE (rank, tick) > (wanted, used_at) AND worth > 0"
        ).fetchone()
        (overdue,) = db.execute(
            "SELECT count(*) FROM marks JOIN records USING (id) WHERE coalesce(due, 9e99) > coalesce(expires_at, 9e99)"
        ).fetchone()
        assert (late, overdue) == (0, 0)
        counted = "SELECT grp, count(*), sum(length(frame)) FROM records JOIN marks USING (id) GROUP BY grp"
        assert db.execute("SELECT id, entries, bytes FROM groups WHERE id AND entries").fetchall() == (
            db.execute(counted).fetchall()
        )
        assert db.execute("SELECT bytes FROM groups WHERE id = 0").fetchone() == (
            db.execute("SELECT coalesce(sum(length(frame)), 0) FROM records").fetchone()
        )
        if db.execute("SELECT policy FROM groups WHERE id = 0").fetchone() == ("s3fifo",):
            small = "SELECT count(*) FROM marks WHERE grp = groups.id AND rank = 0"
            assert db.execute(f"SELECT count(*) FROM groups WHERE small <> ({small})").fetchone() == (0,)


# the rules of the memory store


def test_constants_are_those_of_the_memory_store() -> None:
    for name in ("_SMALL_SHARE", "_MOST_USES", "_USES_TO_STAY"):
        assert getattr(disk_eviction, name) == getattr(s3fifo, name)
    assert disk_eviction._COSTS_REMEMBERED == gdsf._COSTS_REMEMBERED


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("trace", TRACES)
async def test_hit_ratio_is_that_of_the_memory_store(tmp_path: Path, policy: str, trace: str) -> None:
    keys, capacity = TRACES[trace]
    clock = ManualClock()
    backend = opened(tmp_path, clock, max_size=capacity, policy=EvictionPolicy(policy))

    found = await replay_on_disk(backend, clock, keys)

    await backend.aclose()
    assert found.hits == pytest.approx(replay(make_evictor(policy), keys, capacity=capacity).hits, abs=CLOSE)
    check(tmp_path)


@pytest.mark.parametrize("policy", ["lfu", "s3fifo"])
async def test_hit_ratio_on_web07_is_that_of_the_memory_store(
    tmp_path: Path, developer_data: Path, policy: str
) -> None:
    keys = read_trace(developer_data / WEB07)[:15_000]
    clock = ManualClock()
    backend = opened(tmp_path, clock, max_size=500, policy=EvictionPolicy(policy))

    found = await replay_on_disk(backend, clock, keys)

    await backend.aclose()
    assert found.hits == pytest.approx(replay(make_evictor(policy), keys, capacity=500).hits, abs=CLOSE)


@pytest.mark.parametrize("cost_weight", [0.0, 0.5, 1.0])
async def test_gdsf_saves_as_much_money_as_in_memory(tmp_path: Path, cost_weight: float) -> None:
    keys = sequences.moving_favourites(phases=2, requests=1200)
    weights = llm_weights(keys)
    empty = len(pack("", record(b"")))
    records = {key: record(b"x" * (each.size_bytes - empty), cost=round(each.cost)) for key, each in weights.items()}
    capacity = sum(each.size_bytes for each in weights.values()) // 10
    clock = ManualClock()
    backend = opened(
        tmp_path,
        clock,
        max_size=10**6,
        size_limit_bytes=capacity,
        policy=EvictionPolicy.GDSF,
        cost_weight=cost_weight,
    )

    found = await replay_on_disk(backend, clock, keys, records)

    await backend.aclose()
    beside = replay(GdsfEvictor(cost_weight=cost_weight), keys, capacity=capacity, weights=weights)
    assert found.money == pytest.approx(beside.money, abs=0.02)
    assert found.hits == pytest.approx(beside.hits, abs=0.02)
    check(tmp_path)


@pytest.mark.parametrize("policy", POLICIES)
async def test_sums_and_queues_survive_any_history(tmp_path: Path, policy: str) -> None:
    chance = random.Random(policy)
    clock = ManualClock()
    options = {"max_size": 12, "size_limit_bytes": 6_000, "policy": EvictionPolicy(policy)}
    backends = [opened(tmp_path, clock, **options) for _ in range(2)]
    for _ in range(1500):
        clock.advance(chance.random())
        backend = chance.choice(backends)
        key = f"cm1:llm:{chance.choice('ab')}:k{min(int(chance.paretovariate(0.7)), 60)}"
        act = chance.random()
        if act < 0.5:
            await backend.get(key)
        elif act < 0.93:
            life = chance.choice([None, 3, 30])
            await backend.put(
                key,
                record(
                    b"x" * chance.randrange(900),
                    cost=chance.choice([0, 10, 10_000]),
                    expires_at=life and clock.now + life,
                ),
            )
        elif act < 0.99:
            await backend.delete(key)
        else:
            await backend.aclose()

    for backend in backends:
        await backend.aclose()

    check(tmp_path)
    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db:
        assert db.execute("SELECT max(entries) FROM groups").fetchone()[0] <= 12
        assert db.execute("SELECT bytes FROM groups WHERE id = 0").fetchone()[0] <= 6_000


async def test_new_use_displaces_old_fame(tmp_path: Path) -> None:
    clock = ManualClock()
    backend = opened(tmp_path, clock, max_size=3, policy=EvictionPolicy.LFU)
    await backend.put(PREFIX + "famous", record())
    for _ in range(10):
        await backend.get(PREFIX + "famous")

    for at in range(30):
        clock.advance(1)
        await backend.put(f"{PREFIX}{at}", record())
        await backend.get(f"{PREFIX}{at}")

    assert "famous" not in await names(backend)
    await backend.aclose()


async def test_frequently_read_stays_even_when_another_process_read_it(tmp_path: Path) -> None:
    clock = ManualClock()
    writer = opened(tmp_path, clock, max_size=2, policy=EvictionPolicy.LFU)
    await writer.put_many({PREFIX + "often": record(), PREFIX + "once": record()})
    reader = opened(tmp_path, clock, max_size=2, policy=EvictionPolicy.LFU)
    for _ in range(3):
        await reader.get(PREFIX + "often")
    await reader.aclose()
    clock.advance(1)
    await writer.get(PREFIX + "once")

    await writer.put(PREFIX + "new", record())

    assert await names(writer) == ["new", "often"]
    await writer.aclose()


async def test_soonest_to_expire_goes_first_and_never_last(tmp_path: Path) -> None:
    clock = ManualClock()
    backend = opened(tmp_path, clock, max_size=3, policy=EvictionPolicy.TTL)
    for name, life in (("never", None), ("soon", 10), ("later", 50)):
        await backend.put(PREFIX + name, record(expires_at=life and clock.now + life))
    await backend.put(PREFIX + "soon", record(expires_at=clock.now + 100))
    await backend.put(PREFIX + "never", record())

    await backend.put(PREFIX + "new", record(expires_at=clock.now + 5))

    assert await names(backend) == ["never", "new", "soon"]
    await backend.aclose()


async def test_dear_answers_outlive_cheap_ones_and_an_overwrite_changes_the_price(tmp_path: Path) -> None:
    clock = ManualClock()
    backend = opened(tmp_path, clock, max_size=3, policy=EvictionPolicy.GDSF)
    for name, cost in (("dear", 50_000), ("dear once", 60_000), ("cheap", 100)):
        await backend.put(PREFIX + name, record(cost=cost))
    await backend.put(PREFIX + "dear once", record(cost=1))

    await backend.put_many({PREFIX + "new": record(cost=1000), PREFIX + "newer": record(cost=1000)})

    assert await names(backend) == ["dear", "new", "newer"]
    await backend.aclose()


async def test_ageing_goes_on_where_a_float_ends(tmp_path: Path) -> None:
    clock = ManualClock()
    backend = opened(tmp_path, clock, max_size=3, policy=EvictionPolicy.LFU)
    await backend.put_many({PREFIX + name: record() for name in "abc"})
    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db, db:
        db.execute("UPDATE groups SET age = 1e16 WHERE id = 1")
        db.execute("UPDATE marks SET wanted = wanted + 1e16, rank = rank + 1e16")
    for name in "cab":
        await backend.get(PREFIX + name)

    for name in ("new", "newer"):
        clock.advance(1)
        await backend.put(PREFIX + name, record())

    await backend.aclose()
    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db:
        assert db.execute("SELECT age FROM groups WHERE id = 1").fetchone()[0] < 100
    check(tmp_path)


async def test_ghosts_are_no_more_than_entries(tmp_path: Path) -> None:
    clock = ManualClock()
    backend = opened(tmp_path, clock, max_size=20, policy=EvictionPolicy.S3FIFO)
    for at in range(300):
        await backend.put(f"{PREFIX}{at}", record())

    await backend.aclose()

    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db:
        assert 10 <= db.execute("SELECT count(*) FROM ghosts").fetchone()[0] <= 20


# several processes, and other policies


@pytest.mark.parametrize("policy", POLICIES)
def test_bounds_hold_under_four_writing_processes(tmp_path: Path, policy: str) -> None:
    race(*(start("fill", tmp_path, name, 40, 30_000, policy) for name in "abcd"))

    check(tmp_path)
    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db:
        entries, size = db.execute("SELECT entries, bytes FROM groups WHERE id = 1").fetchone()
    assert 20 <= entries <= 40
    assert 25_000 <= size <= 30_000


@pytest.mark.parametrize(("before", "after"), list(permutations(POLICIES, 2)))
async def test_changed_policy_takes_over_what_is_there(tmp_path: Path, before: str, after: str) -> None:
    clock = ManualClock()
    first = opened(tmp_path, clock, policy=EvictionPolicy(before))
    for at in range(30):
        clock.advance(1)
        await first.put(f"{PREFIX}{at:02}", record(cost=100, expires_at=clock.now + 1000))
    held = await names(first)
    for name in held[1:]:
        clock.advance(1)
        await first.get(PREFIX + name)
    await first.aclose()

    second = opened(tmp_path, clock, policy=EvictionPolicy(after))
    assert await names(second) == held
    await second.put(PREFIX + "new", record(expires_at=clock.now + 1000))

    # Under every policy the one that nobody read is the least.
    assert await names(second) == [*held[1:], "new"]
    for at in range(30):
        await second.put(f"{PREFIX}more{at}", record())
    await second.aclose()
    check(tmp_path)


async def test_of_two_policies_at_once_the_last_one_decides(tmp_path: Path) -> None:
    clock = ManualClock()
    first = opened(tmp_path, clock, policy=EvictionPolicy.LRU)
    await first.put(PREFIX + "cheap", record(cost=1))
    second = opened(tmp_path, clock, policy=EvictionPolicy.GDSF)
    await second.put_many({f"{PREFIX}{at}": record(cost=1000) for at in range(9)})
    await first.get(PREFIX + "cheap")

    await first.put(PREFIX + "new", record(cost=1000))

    assert "cheap" not in await names(first)
    for backend in (first, second):
        await backend.aclose()
    check(tmp_path)


async def test_policy_of_a_newer_program_is_named(tmp_path: Path) -> None:
    backend = opened(tmp_path, ManualClock())
    await backend.put(PREFIX + "a", record())
    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db, db:
        db.execute("UPDATE groups SET policy = 'oracle' WHERE id = 0")

    with pytest.raises(BackendUnavailable, match="'oracle'"):
        await backend.put(PREFIX + "b", record())
    await backend.aclose()


async def test_sums_without_entries_are_damage(tmp_path: Path) -> None:
    backend = opened(tmp_path, ManualClock(), max_size=2)
    await backend.put_many({PREFIX + "a": record(), PREFIX + "b": record()})
    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db, db:
        db.execute("DELETE FROM marks")

    with pytest.raises(BackendUnavailable, match="counts 2 entries and has none"):
        await backend.put(PREFIX + "c", record())
    assert await backend.get(PREFIX + "a") is not None
    await backend.aclose()


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (EvictionObjective.HIT_RATIO, "s3fifo"),
        (EvictionObjective.BALANCED, "gdsf 0.5"),
        (EvictionObjective.MONEY, "gdsf 1.0"),
    ],
)
async def test_auto_chooses_by_objective(tmp_path: Path, objective: EvictionObjective, expected: str) -> None:
    config = CacheConfig(
        backend=CacheBackend.DISK, disk_path=tmp_path, eviction_policy="auto", eviction_objective=objective
    )
    backend = open_backend(config)
    await backend.ping()
    await backend.aclose()

    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db:
        assert db.execute("SELECT policy FROM groups WHERE id = 0").fetchone() == (expected,)


async def test_cost_weight_is_that_of_the_settings(tmp_path: Path) -> None:
    config = CacheConfig(
        backend=CacheBackend.DISK, disk_path=tmp_path, eviction_policy="gdsf", eviction_cost_weight=0.25
    )
    backend = open_backend(config)
    await backend.ping()
    await backend.aclose()

    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db:
        assert db.execute("SELECT policy FROM groups WHERE id = 0").fetchone() == ("gdsf 0.25",)
