"""Each policy against a slow and obvious reference, by random histories."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cache_management.cache.config import EvictionPolicy
from cache_management.cache.eviction import make_evictor
from cache_management.cache.eviction.base import Evictor
from cache_management.cache.eviction.lfu import LfuEvictor
from cache_management.cache.records import Weight

KEYS = st.sampled_from("abcdefg")
EXPIRIES = st.none() | st.integers(1, 5).map(float)


class SlowReference:
    """Remembers for each key what its policy looks at, and searches all of them."""

    def __init__(self, policy: EvictionPolicy) -> None:
        self.policy = policy
        self.ticks = itertools.count()
        self.rank: dict[str, tuple[float, int]] = {}
        self.uses: dict[str, int] = {}
        self.age = 0.0

    def insert(self, key: str, expires_at: float | None) -> None:
        if self.policy is EvictionPolicy.TTL:
            self.rank[key] = (math.inf if expires_at is None else expires_at, next(self.ticks))
        else:
            self.uses[key] = self.uses.get(key, 0) + 1
            self.rank[key] = (self._height(key), next(self.ticks))

    def hit(self, key: str) -> None:
        if key in self.rank and self.policy is not EvictionPolicy.TTL:
            self.uses[key] += 1
            self.rank[key] = (self._height(key), next(self.ticks))

    def remove(self, key: str) -> None:
        self.rank.pop(key, None)
        self.uses.pop(key, None)

    def victim(self) -> str | None:
        if not self.rank:
            return None
        key = min(self.rank, key=self.rank.__getitem__)
        self.age = max(self.age, self.rank[key][0])
        return key

    def _height(self, key: str) -> float:
        return self.age + self.uses[key] if self.policy is EvictionPolicy.LFU else 0.0


class EvictionHistory(RuleBasedStateMachine):
    policy: EvictionPolicy

    @initialize()
    def begin(self) -> None:
        self.evictor = make_evictor(self.policy)
        self.reference = SlowReference(self.policy)
        self.most = 0

    @rule(key=KEYS, expires_at=EXPIRIES)
    def insert(self, key: str, expires_at: float | None) -> None:
        self.evictor.on_insert(key, Weight(size_bytes=1, expires_at=expires_at))
        self.reference.insert(key, expires_at)
        self.most = max(self.most, len(self.reference.rank))

    @rule(key=KEYS)
    def hit(self, key: str) -> None:
        self.evictor.on_hit(key)
        self.reference.hit(key)

    @rule(key=KEYS)
    def remove(self, key: str) -> None:
        self.evictor.on_remove(key)
        self.reference.remove(key)

    @precondition(lambda self: self.reference.rank)
    @rule()
    def evict(self) -> None:
        expected = self.reference.victim()
        assert self.evictor.victim() == expected
        assert expected is not None
        self.evictor.on_remove(expected)
        self.reference.remove(expected)

    @invariant()
    def memory_is_bounded(self) -> None:
        heap = getattr(getattr(self, "evictor", None), "_heap", [])
        assert len(heap) <= 2 * getattr(self, "most", 0) + 17

    def teardown(self) -> None:
        while (expected := self.reference.victim()) is not None:
            assert self.evictor.victim() == expected
            self.evictor.on_remove(expected)
            self.reference.remove(expected)
        assert self.evictor.victim() is None


def history_of(policy: EvictionPolicy) -> Any:
    machine: Any = type(f"{policy.name.title()}History", (EvictionHistory,), {"policy": policy})
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
    return machine.TestCase


TestLru = history_of(EvictionPolicy.LRU)
TestLfu = history_of(EvictionPolicy.LFU)
TestTtl = history_of(EvictionPolicy.TTL)


@pytest.fixture(params=list(EvictionPolicy))
def evictor(request: pytest.FixtureRequest) -> Evictor:
    return make_evictor(request.param)


def test_empty_evictor_has_no_victim(evictor: Evictor) -> None:
    assert evictor.victim() is None


def test_unknown_keys_are_ignored(evictor: Evictor) -> None:
    evictor.on_hit("unknown")
    evictor.on_remove("unknown")

    assert evictor.victim() is None


def test_asking_twice_names_the_same_victim(evictor: Evictor) -> None:
    for key in "abc":
        evictor.on_insert(key, Weight(size_bytes=1))

    assert evictor.victim() == evictor.victim() == "a"


def test_many_hits_leave_a_small_heap() -> None:
    evictor = LfuEvictor()
    for key in "abc":
        evictor.on_insert(key, Weight(size_bytes=1))

    for at in range(100_000):
        evictor.on_hit("abc"[at % 3])

    assert len(evictor._heap) <= 2 * 3 + 17


def test_old_fame_gives_way_to_new_use() -> None:
    evictor = LfuEvictor()
    evictor.on_insert("famous", Weight(size_bytes=1))
    for _ in range(10):
        evictor.on_hit("famous")
    went = []

    for at in range(30):
        evictor.on_insert(f"new{at}", Weight(size_bytes=1))
        evictor.on_hit(f"new{at}")
        victim = evictor.victim()
        assert victim is not None
        evictor.on_remove(victim)
        went.append(victim)

    assert "famous" in went
