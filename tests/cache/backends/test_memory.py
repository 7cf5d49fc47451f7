"""MemoryBackend: the contract of all backends, and random histories against bounds that must hold."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cache_management.cache.backends import memory, open_backend
from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.backends.memory import ENTRY_OVERHEAD_BYTES, MemoryBackend
from cache_management.cache.config import CacheBackend, CacheConfig, EvictionPolicy
from cache_management.cache.events import Event, RemoveEvent
from cache_management.cache.records import Record
from tests.conftest import PROJECT_ROOT
from tests.contracts.backend import BackendContract, JournalContract


class TestMemoryBackend(BackendContract):
    async def make(self) -> Backend:
        return MemoryBackend(max_size=10_000, clock=self.clock)


class TestMemoryJournal(JournalContract):
    @pytest.fixture(autouse=True)
    def short_journal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "_JOURNAL_LENGTH", 10)

    async def make_journal(self) -> Journal:
        return MemoryBackend(max_size=10)

    async def lose_beginning(self, journal: Journal, stream: str) -> None:
        await journal.append(stream, [b"more"] * 10)

    async def count_notes(self, journal: Journal, stream: str) -> int:
        assert isinstance(journal, MemoryBackend)
        return len(journal._streams[stream].items)

    async def journal_after_a_loss(self, journal: Journal, stream: str) -> Journal:
        return MemoryBackend(max_size=10)


def record(value: bytes = b"x", expires_at: float | None = None) -> Record:
    return Record(value=value, expires_at=expires_at, version=1)


async def test_least_recently_read_goes_first() -> None:
    backend = MemoryBackend(max_size=2, policy=EvictionPolicy.LRU)
    await backend.put_many({"cm1:llm:n:ka": record(), "cm1:llm:n:kb": record()})
    await backend.get("cm1:llm:n:ka")

    await backend.put("cm1:llm:n:kc", record())

    assert {key async for key in backend.scan()} == {"cm1:llm:n:ka", "cm1:llm:n:kc"}


async def test_inspecting_is_no_use() -> None:
    backend = MemoryBackend(max_size=2, policy=EvictionPolicy.LRU)
    await backend.put_many({"cm1:llm:n:ka": record(), "cm1:llm:n:kb": record()})
    await backend.inspect_many(["cm1:llm:n:ka"])

    await backend.put("cm1:llm:n:kc", record())

    assert {key async for key in backend.scan()} == {"cm1:llm:n:kb", "cm1:llm:n:kc"}


async def test_kinds_and_namespaces_are_bounded_apart() -> None:
    backend = MemoryBackend(max_size=2)

    for at in range(5):
        await backend.put_many({f"cm1:{group}:k{at}": record() for group in ("llm:a", "llm:b", "vec:a")})

    assert [await backend.count(f"cm1:{group}:") for group in ("llm:a", "llm:b", "vec:a")] == [2, 2, 2]


async def test_newest_entry_is_not_its_own_victim() -> None:
    backend = MemoryBackend(max_size=2, policy=EvictionPolicy.TTL)
    await backend.put_many({"cm1:llm:n:klong": record(expires_at=9e9), "cm1:llm:n:kforever": record()})

    await backend.put("cm1:llm:n:kshort", record(expires_at=5e9))

    assert {key async for key in backend.scan()} == {"cm1:llm:n:kshort", "cm1:llm:n:kforever"}


async def test_single_place_goes_to_the_newest() -> None:
    backend = MemoryBackend(max_size=1, policy=EvictionPolicy.LFU)
    await backend.put("cm1:llm:n:kold", record())
    for _ in range(5):
        await backend.get("cm1:llm:n:kold")

    await backend.put("cm1:llm:n:knew", record())

    assert [key async for key in backend.scan()] == ["cm1:llm:n:knew"]


async def test_eviction_is_told_with_its_namespace() -> None:
    heard: list[Event] = []
    backend = MemoryBackend(max_size=1, listener=heard.append)

    await backend.put_many({"cm1:llm:shop:ka": record(), "cm1:llm:shop:kb": record()})

    assert heard == [RemoveEvent(reason="evicted", namespace="shop", count=1)]


OVERHEAD = ENTRY_OVERHEAD_BYTES
A, B, C, D = (f"cm1:llm:n:k{letter}" for letter in "abcd")


def bytes_for(*values: int) -> int:
    """Return what entries under one-letter keys take, by the length of their values."""
    return sum(len(A) + value + OVERHEAD for value in values)


async def held(backend: MemoryBackend) -> str:
    return "".join(sorted([key[-1] async for key in backend.scan()]))


async def test_bytes_are_bounded_too() -> None:
    backend = MemoryBackend(max_size=100, memory_limit=bytes_for(100, 100, 100))
    for key in (A, B, C):
        await backend.put(key, record(bytes(100)))
    await backend.get(A)

    await backend.put(D, record(bytes(101)))

    assert await held(backend) == "ad"
    assert backend.size_bytes == bytes_for(100, 101)


async def test_an_entry_larger_than_the_store_is_not_kept_and_pushes_nothing_out() -> None:
    heard: list[Event] = []
    backend = MemoryBackend(max_size=100, memory_limit=bytes_for(100, 100), listener=heard.append)
    await backend.put_many({A: record(bytes(100)), B: record(bytes(100))})

    await backend.put(C, record(bytes(bytes_for(100, 100))))

    assert await held(backend) == "ab"
    assert heard == [RemoveEvent(reason="evicted", namespace="n", count=1)]


async def test_a_refused_overwrite_leaves_no_old_answer() -> None:
    backend = MemoryBackend(max_size=100, memory_limit=bytes_for(100, 100))
    await backend.put(A, record(b"old"))

    await backend.put(A, record(bytes(bytes_for(100, 100))))

    assert await backend.get(A) is None
    assert backend.size_bytes == 0


async def test_an_overwrite_that_grew_pushes_others_out() -> None:
    backend = MemoryBackend(max_size=100, memory_limit=bytes_for(100, 100, 100))
    await backend.put_many({key: record(bytes(100)) for key in (A, B, C)})

    await backend.put(C, record(bytes(200)))

    assert await held(backend) == "bc"


async def test_the_kind_that_holds_most_gives_way() -> None:
    backend = MemoryBackend(max_size=100, memory_limit=bytes_for(100, 100, 100, 100))
    await backend.put_many({A: record(bytes(100)), "cm1:vec:n:ka": record(bytes(100))})
    await backend.put_many({"cm1:vec:n:kb": record(bytes(100)), "cm1:vec:n:kc": record(bytes(100))})

    await backend.put(B, record(bytes(100)))

    assert {key async for key in backend.scan()} == {A, B, "cm1:vec:n:kb", "cm1:vec:n:kc"}


@pytest.mark.parametrize("policy", list(EvictionPolicy))
@pytest.mark.parametrize("limits", [{"max_size": 3}, {"max_size": 100, "memory_limit": bytes_for(1, 1, 1)}])
async def test_what_has_expired_goes_first(policy: EvictionPolicy, limits: dict[str, int]) -> None:
    now = 0.0
    heard: list[Event] = []
    backend = MemoryBackend(**limits, policy=policy, clock=lambda: now, listener=heard.append)
    await backend.put_many({A: record(), B: record(expires_at=10.0), C: record()})
    await backend.get(B)
    now = 10.0

    await backend.put(D, record())

    assert await held(backend) == "acd"
    assert heard == [RemoveEvent(reason="expired", namespace="n", count=1)]


@pytest.mark.parametrize("policy", list(EvictionPolicy))
async def test_many_overwrites_and_deletes_leave_nothing(policy: EvictionPolicy) -> None:
    backend = MemoryBackend(max_size=50, policy=policy, clock=lambda: 0.0)
    for at in range(10_000):
        await backend.put(f"cm1:llm:n:k{at % 70}", record(expires_at=1.0 + at % 3))

    group = backend._groups["cm1:llm:n:"]
    assert len(group._expiries) <= 2 * 50 + 17
    await backend.delete_many([key async for key in backend.scan()])

    assert (backend.size_bytes, group.count, group.size_bytes, backend._slots) == (0, 0, 0, {})
    assert group.evictor.victim() is None


async def test_an_entry_that_was_written_again_lives_by_its_new_expiry() -> None:
    now = 0.0
    backend = MemoryBackend(max_size=2, clock=lambda: now)
    await backend.put(A, record(expires_at=10.0))
    await backend.put(B, record())
    await backend.put(A, record(expires_at=20.0))
    now = 10.0

    await backend.put(C, record())

    assert await held(backend) == "ac"


async def test_an_expiry_that_comes_back_is_noted_once() -> None:
    backend = MemoryBackend(max_size=2, clock=lambda: 0.0)

    for _ in range(200):
        await backend.put(A, record(expires_at=10.0))
        await backend.delete(A)

    assert len(backend._groups["cm1:llm:n:"]._expiries) <= 2 * 1 + 17


async def test_a_record_that_knows_its_cost_is_kept_for_it() -> None:
    backend = MemoryBackend(max_size=2, policy=EvictionPolicy.GDSF)
    await backend.put(A, Record(b"x", None, 1, cost_micro=500))
    await backend.put(B, Record(b"x", None, 1, cost_micro=1))

    await backend.put(C, Record(b"x", None, 1, cost_micro=20))

    assert await held(backend) == "ac"


@pytest.mark.parametrize("policy", [EvictionPolicy.LRU, EvictionPolicy.GDSF])
async def test_the_overhead_of_an_entry_is_about_what_it_takes(policy: EvictionPolicy) -> None:
    count = 3000
    gc.collect()
    tracemalloc.start()
    try:
        backend = MemoryBackend(max_size=count, policy=policy)
        for at in range(2 * count):
            await backend.put(f"cm1:llm:n:k{at:020d}", Record(bytes(100), 4e9 + at, at))
        taken = tracemalloc.get_traced_memory()[0] / count
    finally:
        tracemalloc.stop()

    assert 0.5 * OVERHEAD <= taken - 131 <= 1.5 * OVERHEAD


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a call of the memory backend, which never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the memory backend waited")


STORAGE_KEYS = st.sampled_from(
    [f"cm1:{group}:k{letter}" for group in ("llm:a", "llm:b", "vec:a") for letter in "pqrst"]
)


class MemoryHistory(RuleBasedStateMachine):
    """Whatever happens: bounds hold, sums are right, expired goes first, answers are the last written."""

    policy: EvictionPolicy
    limit: int | None

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.told = {"evicted": 0, "expired": 0}
        self.written: dict[str, Record] = {}
        self.recent: list[str] = []
        self.backend = MemoryBackend(
            max_size=3, memory_limit=self.limit, policy=self.policy, clock=lambda: self.now, listener=self.hear
        )

    def hear(self, event: Event) -> None:
        assert isinstance(event, RemoveEvent)
        self.told[event.reason] += event.count

    def stored(self) -> dict[str, Record]:
        return {key: slot.record for key, slot in self.backend._slots.items()}

    @rule(key=STORAGE_KEYS, size=st.integers(0, 400), ttl=st.none() | st.integers(0, 4), version=st.integers(0, 99))
    def put(self, key: str, size: int, ttl: int | None, version: int) -> None:
        before = self.stored()
        self.told = {"evicted": 0, "expired": 0}
        made = Record(bytes(size), None if ttl is None else self.now + ttl, version)

        run(self.backend.put(key, made))

        self.written[key] = made
        after = self.stored()
        fits = self.limit is None or len(key) + size + OVERHEAD <= self.limit
        assert (after.get(key) is made) == (fits and ttl != 0)
        self.check_what_went(key, before, after)
        self.use(key)

    def check_what_went(self, key: str, before: Mapping[str, Record], after: Mapping[str, Record]) -> None:
        group = key.rpartition(":")[0]
        went = before.keys() - after.keys() - {key}
        assert not went or key in after, "an entry that was not kept pushed another one out"
        expired = len(went) - sum(not before[each].is_expired(self.now) for each in went)
        itself = 1 if key in before else 0
        assert expired <= self.told["expired"] <= expired + itself
        assert len(went) - expired <= self.told["evicted"] <= len(went) - expired + 1
        within = [each for each in before if self.limit is not None or each.startswith(group)]
        alive = [each for each in went if not before[each].is_expired(self.now)]
        if alive:
            left = [each for each in within if each in after and after[each].is_expired(self.now)]
            assert not left, "an entry went while an expired one was there"
        if self.policy is EvictionPolicy.LRU and self.limit is None:
            kept = [each for each in within if each in after and each != key]
            assert all(self.recent.index(gone) < self.recent.index(each) for gone in alive for each in kept)

    @rule(key=STORAGE_KEYS)
    def get(self, key: str) -> None:
        kept = self.stored().get(key)

        found = run(self.backend.get(key))

        alive = kept is not None and not kept.is_expired(self.now)
        assert found == (self.written[key] if alive else None)
        assert (key in self.backend._slots) == alive
        if alive:
            self.use(key)

    @rule(keys=st.lists(STORAGE_KEYS, max_size=4))
    def get_many(self, keys: list[str]) -> None:
        alive = {key: kept for key, kept in self.stored().items() if not kept.is_expired(self.now)}

        assert run(self.backend.get_many(keys)) == {key: alive[key] for key in keys if key in alive}

        for key in keys:
            if key in alive:
                self.use(key)

    @rule(key=STORAGE_KEYS)
    def delete(self, key: str) -> None:
        kept = self.stored().get(key)

        assert run(self.backend.delete(key)) == (kept is not None and not kept.is_expired(self.now))

        assert key not in self.backend._slots

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    def use(self, key: str) -> None:
        self.recent = [*(each for each in self.recent if each != key), key]

    @invariant()
    def bounds_hold_and_sums_are_right(self) -> None:
        if not hasattr(self, "backend"):
            return
        sizes: dict[str, list[int]] = {name: [] for name in self.backend._groups}
        for key, kept in self.stored().items():
            sizes[key.rpartition(":")[0] + ":"].append(len(key) + len(kept.value) + OVERHEAD)
        for name, group in self.backend._groups.items():
            assert (group.count, group.size_bytes) == (len(sizes[name]), sum(sizes[name]))
            assert group.count <= 3
            assert len(group._expiries) <= 2 * 3 + 17
        assert self.backend.size_bytes == sum(map(sum, sizes.values()))
        assert self.limit is None or self.backend.size_bytes <= self.limit

    def teardown(self) -> None:
        if hasattr(self, "backend"):
            # An evictor that holds a key too many names it here; one too few is left over in the store.
            for group in self.backend._groups.values():
                while (key := group.evictor.victim()) is not None:
                    assert key in self.backend._slots
                    self.backend.discard(key)
            assert self.stored() == {}


def history_of(policy: EvictionPolicy, limit: int | None) -> Any:
    machine: Any = type("History", (MemoryHistory,), {"policy": policy, "limit": limit})
    machine.TestCase.settings = settings(max_examples=30, stateful_step_count=50, deadline=None)
    return machine.TestCase


TestLruByEntries = history_of(EvictionPolicy.LRU, None)
TestLruByBytes = history_of(EvictionPolicy.LRU, 3000)
TestLfuByBytes = history_of(EvictionPolicy.LFU, 3000)
TestTtlByBytes = history_of(EvictionPolicy.TTL, 3000)
TestS3FifoByEntries = history_of(EvictionPolicy.S3FIFO, None)
TestS3FifoByBytes = history_of(EvictionPolicy.S3FIFO, 3000)
TestGdsfByBytes = history_of(EvictionPolicy.GDSF, 3000)


async def test_configuration_bounds_the_bytes_and_sets_the_aim() -> None:
    config = CacheConfig(
        backend=CacheBackend.MEMORY, memory_limit="5kB", eviction_policy="auto", eviction_objective="money"
    )
    backend = open_backend(config)
    assert isinstance(backend, MemoryBackend)

    await backend.put_many({key: record(bytes(1000)) for key in (A, B, C, D)})

    assert backend.size_bytes <= 5000
    assert type(backend._groups["cm1:llm:n:"].evictor).__name__ == "GdsfEvictor"


@pytest.mark.parametrize("chosen", [CacheBackend.MEMORY, CacheBackend.DISK, CacheBackend.REDIS])
async def test_configuration_chooses_the_backend(chosen: CacheBackend, tmp_path: object) -> None:
    backend = open_backend(CacheConfig(backend=chosen, disk_path=str(tmp_path)))

    assert backend.name == chosen.value
    await backend.aclose()


@pytest.fixture
def threads_change_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("threads_change_often")
@pytest.mark.parametrize("policy", [each for each in EvictionPolicy if each is not EvictionPolicy.AUTO])
def test_loops_of_several_threads_share_a_full_store(policy: EvictionPolicy) -> None:
    backend = MemoryBackend(max_size=20, policy=policy)
    keys = [f"cm1:llm:n:k{at}" for at in range(60)]
    failures: list[BaseException] = []

    async def use(seed: int) -> None:
        for at in range(3000):
            key = keys[(at * 7 + seed * 13 + at // 11) % 60]
            if at % 2:
                await backend.put(key, record(expires_at=9e9 - at % 3))
            else:
                await backend.get_many([key, keys[at % 60]])
                backend.peek(key)
            if not at % 31:
                await backend.delete_many([key])

    def run(seed: int) -> None:
        try:
            asyncio.run(use(seed))
        except BaseException as exc:  # of a thread, told to the test
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert asyncio.run(backend.count()) == sum(group.count for group in backend._groups.values()) <= 20
    assert backend.size_bytes == sum(slot.size_bytes for slot in backend._slots.values())


_FORKS = """
import os, sys, threading
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.records import Record

sys.setswitchinterval(1e-6)
backend, record = MemoryBackend(max_size=20), Record(value=b"value", expires_at=None, version=1)

def write():
    while True:
        backend.keep("cm1:llm:n:k", record)

threading.Thread(target=write, daemon=True).start()
for _ in range(30):
    child = os.fork()
    if not child:
        os._exit(0 if backend._lock.acquire(timeout=5) else 1)
    if os.waitpid(child, 0)[1]:
        os._exit(1)
os._exit(0)
"""


def test_a_forked_child_finds_no_lock_held() -> None:
    # In a process of its own: what else a test runner has loaded need not survive a fork.
    done = subprocess.run([sys.executable, "-c", _FORKS], timeout=60, check=False, cwd=PROJECT_ROOT)

    assert done.returncode == 0


async def test_a_listener_may_use_the_store() -> None:
    heard = []

    def listen(event: Event) -> None:
        heard.append(backend.peek("cm1:llm:n:kb"))

    backend = MemoryBackend(max_size=1, listener=listen)
    await backend.put("cm1:llm:n:ka", record())
    await backend.put("cm1:llm:n:kb", record(b"b"))

    assert heard == [record(b"b")]
