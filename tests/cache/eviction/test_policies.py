"""Each policy against a slow and obvious reference, by random histories."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cache_management.cache.config import EvictionObjective, EvictionPolicy
from cache_management.cache.errors import ConfigurationError
from cache_management.cache.eviction import lfu, make_evictor
from cache_management.cache.eviction.base import Evictor
from cache_management.cache.eviction.gdsf import GdsfEvictor
from cache_management.cache.eviction.heap import KeyHeap
from cache_management.cache.eviction.lfu import LfuEvictor
from cache_management.cache.eviction.lru import LruEvictor
from cache_management.cache.eviction.s3fifo import S3FifoEvictor
from cache_management.cache.eviction.ttl import TtlEvictor
from cache_management.cache.records import Weight
from tests.cache.eviction.references import AgedReference, LruReference, Reference, S3FifoReference, TtlReference

KEYS = st.sampled_from("abcdefghijklmnop")
WEIGHTS = st.builds(
    Weight,
    size_bytes=st.sampled_from([1, 2, 4, 8]),
    cost=st.sampled_from([0.0, 1.0, 4.0, 16.0]),
    expires_at=st.none() | st.integers(1, 5).map(float),
)


class EvictionHistory(RuleBasedStateMachine):
    make: Callable[[], Evictor]
    make_reference: Callable[[], Reference]

    @initialize()
    def begin(self) -> None:
        self.evictor = type(self).make()
        self.reference = type(self).make_reference()
        self.most = 0

    @rule(key=KEYS, weight=WEIGHTS)
    def insert_or_overwrite(self, key: str, weight: Weight) -> None:
        self.evictor.on_insert(key, weight)
        self.reference.insert(key, weight)
        self.most = max(self.most, len(self.reference.keys()))

    @rule(key=KEYS)
    def hit(self, key: str) -> None:
        self.evictor.on_hit(key)
        self.reference.hit(key)

    @rule(key=KEYS)
    def delete_or_expire(self, key: str) -> None:
        self.evictor.on_remove(key)
        self.reference.remove(key)

    @precondition(lambda self: self.reference.keys())
    @rule()
    def evict(self) -> None:
        self.evict_one()

    @precondition(lambda self: self.reference.keys())
    @rule(key=KEYS, weight=WEIGHTS)
    def fill_a_full_store(self, key: str, weight: Weight) -> None:
        held = self.reference.keys()
        if key not in held:
            self.evict_one()
        self.insert_or_overwrite(key, weight)

    def evict_one(self) -> None:
        named = self.evictor.victim()
        assert named in self.reference.victims()
        assert named is not None
        self.evictor.on_remove(named)
        self.reference.evict(named)

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "evictor"):
            assert held_by(self.evictor) <= (2 * self.most + 17, 2 * self.most + 17)

    def teardown(self) -> None:
        if hasattr(self, "evictor"):
            while self.reference.keys():
                self.evict_one()
            assert self.evictor.victim() is None


def held_by(evictor: Evictor) -> tuple[int, int]:
    """Return how many items its heap holds, and how many ghosts."""
    heap = getattr(evictor, "_heap", None)
    return len(heap._items) if heap else 0, len(getattr(evictor, "_ghosts", ()))


def history_of(make: Callable[[], Evictor], make_reference: Callable[[], Reference]) -> Any:
    members = {"make": staticmethod(make), "make_reference": staticmethod(make_reference)}
    machine: Any = type("History", (EvictionHistory,), members)
    machine.TestCase.settings = settings(max_examples=50, stateful_step_count=60, deadline=None)
    return machine.TestCase


def rebasing_always(make: Callable[[], LfuEvictor]) -> LfuEvictor:
    evictor = make()
    evictor._rebase_at = 0.0
    return evictor


TestLru = history_of(LruEvictor, LruReference)
TestTtl = history_of(TtlEvictor, TtlReference)
TestLfu = history_of(LfuEvictor, AgedReference)
TestS3Fifo = history_of(S3FifoEvictor, S3FifoReference)
TestGdsfBySize = history_of(partial(GdsfEvictor, cost_weight=0.0), partial(AgedReference, 0.0))
TestGdsfBalanced = history_of(partial(GdsfEvictor, cost_weight=0.5), partial(AgedReference, 0.5))
TestGdsfMoney = history_of(GdsfEvictor, partial(AgedReference, 1.0))
TestLfuRebased = history_of(partial(rebasing_always, LfuEvictor), AgedReference)
TestGdsfRebased = history_of(partial(rebasing_always, GdsfEvictor), partial(AgedReference, 1.0))


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


def test_nothing_is_left_after_many_operations(evictor: Evictor) -> None:
    for at in range(30_000):
        evictor.on_insert(f"k{at}", Weight(size_bytes=1 + at % 7, cost=at % 5, expires_at=float(at % 11)))
        evictor.on_hit(f"k{at * 7 // 8}")
        if at >= 50:
            victim = evictor.victim()
            assert victim is not None
            evictor.on_remove(victim)
    heap, ghosts = held_by(evictor)
    assert heap <= 2 * 51 + 17
    assert ghosts <= 52

    while (victim := evictor.victim()) is not None:
        evictor.on_remove(victim)

    for name, value in vars(evictor).items():
        if isinstance(value, KeyHeap):
            assert not value._items
            assert not value._wanted
            assert not value._queued
        elif hasattr(value, "__len__") and name != "_ghosts":  # those are bounded above, and outlive their keys
            assert not value, name


def test_many_hits_leave_a_small_heap() -> None:
    evictor = LfuEvictor()
    for key in "abc":
        evictor.on_insert(key, Weight(size_bytes=1))

    for at in range(100_000):
        evictor.on_hit("abc"[at % 3])

    assert held_by(evictor) == (3, 0)


@pytest.mark.parametrize("make", [LfuEvictor, GdsfEvictor, TtlEvictor])
def test_deletes_and_overwrites_leave_a_small_heap(make: Callable[[], Evictor]) -> None:
    evictor = make()

    for at in range(1000):
        evictor.on_insert("deleted", Weight(size_bytes=1))
        evictor.on_remove("deleted")
        evictor.on_insert("sooner and larger", Weight(size_bytes=2**at if at < 60 else 1, expires_at=5000.0 - at))

    assert held_by(evictor)[0] <= 2 * 2 + 17


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


def test_ageing_goes_on_where_a_float_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    evictor = LfuEvictor()
    evictor._age = 2.0**60  # here, one use more is no longer another number

    for key in "abc":
        evictor.on_insert(key, Weight(size_bytes=1))
    evictor.victim()
    for key in "cab":
        evictor.on_hit(key)
        evictor.on_hit(key)
    evictor.on_insert("new", Weight(size_bytes=1))

    assert evictor._age < 2.0**53
    assert evictor.victim() == "new"


def test_dear_answers_outlive_cheap_ones_of_the_same_size() -> None:
    evictor = GdsfEvictor()
    evictor.on_insert("dear", Weight(size_bytes=100, cost=50.0))
    evictor.on_insert("cheap", Weight(size_bytes=100, cost=1.0))

    assert evictor.victim() == "cheap"


@pytest.mark.parametrize("cost", [0.0, -1.0, math.nan, math.inf])
def test_an_unknown_cost_is_a_typical_one(cost: float) -> None:
    evictor = GdsfEvictor()
    for key, known in {"cheap": 1.0, "dear": 10_000.0}.items():
        evictor.on_insert(key, Weight(size_bytes=100, cost=known))

    evictor.on_insert("unknown", Weight(size_bytes=100, cost=cost))

    went = []
    while (victim := evictor.victim()) is not None:
        evictor.on_remove(victim)
        went.append(victim)
    assert went == ["cheap", "unknown", "dear"]


def test_what_came_back_after_probation_stays_through_a_scan() -> None:
    evictor = S3FifoEvictor()
    held = 0

    def ask(key: str) -> None:
        nonlocal held
        if held == 20:
            victim = evictor.victim()
            assert victim is not None
            evictor.on_remove(victim)
            held -= 1
        evictor.on_insert(key, Weight(size_bytes=1))
        held += 1

    for at in range(40):
        ask(f"first{at}")
    went_on_probation = "first20"
    ask(went_on_probation)
    for at in range(200):
        ask(f"scan{at}")

    assert went_on_probation in evictor._main


@pytest.mark.parametrize(
    ("objective", "expected", "cost_weight"),
    [
        (EvictionObjective.HIT_RATIO, S3FifoEvictor, None),
        (EvictionObjective.BALANCED, GdsfEvictor, 0.5),
        (EvictionObjective.MONEY, GdsfEvictor, 1.0),
    ],
)
def test_auto_chooses_by_objective(
    objective: EvictionObjective, expected: type[Evictor], cost_weight: float | None
) -> None:
    evictor = make_evictor(EvictionPolicy.AUTO, objective=objective)

    assert type(evictor) is expected
    assert getattr(evictor, "_cost_weight", None) == cost_weight


def test_the_cost_weight_is_that_of_the_settings() -> None:
    evictor = make_evictor("gdsf", cost_weight=0.25)

    assert isinstance(evictor, GdsfEvictor)
    assert evictor._cost_weight == 0.25


def test_a_policy_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigurationError, match="'random'"):
        make_evictor("random")


def test_lfu_is_gdsf_where_everything_weighs_the_same() -> None:
    assert lfu.LfuEvictor().worth(Weight(size_bytes=1)) == GdsfEvictor().worth(Weight(size_bytes=1, cost=1.0))
