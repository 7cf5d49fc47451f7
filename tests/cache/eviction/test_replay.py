"""Hit ratios and money on key sequences: what each policy must reach, and where bad ones collapse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from cache_management.cache.eviction.base import Evictor
from cache_management.cache.eviction.gdsf import GdsfEvictor
from cache_management.cache.eviction.lfu import LfuEvictor
from cache_management.cache.eviction.lru import LruEvictor
from cache_management.cache.eviction.s3fifo import S3FifoEvictor
from tests.cache.eviction import replay as sequences
from tests.cache.eviction.replay import WEB07, belady, llm_weights, read_trace, replay

BALANCED = partial(GdsfEvictor, cost_weight=0.5)
BY_FREQUENCY = partial(GdsfEvictor, cost_weight=0.0)
SERIOUS: dict[str, Callable[[], Evictor]] = {
    "lru": LruEvictor,
    "lfu": LfuEvictor,
    "s3fifo": S3FifoEvictor,
    "gdsf a=0": BY_FREQUENCY,
    "gdsf a=0.5": BALANCED,
    "gdsf a=1": GdsfEvictor,
}
WEB07_FLOORS = {
    # By share of the distinct keys: what independent implementations reached, see docs/design/0005-eviction.md.
    0.01: {"lru": 0.392, "s3fifo": 0.438, "gdsf a=0": 0.430, "lfu": 0.430},
    0.10: {"lru": 0.557, "s3fifo": 0.582, "gdsf a=0": 0.575, "lfu": 0.575},
}
TOLERANCE = 0.005


class UnagedLfu(LfuEvictor):
    """What collapses: old fame never fades."""

    def victim(self) -> str | None:
        key = super().victim()
        self._age = 0.0
        return key


@pytest.fixture
def web07(developer_data: Path) -> list[str]:
    return read_trace(developer_data / WEB07)


@pytest.mark.parametrize(("share", "policy"), list(product(WEB07_FLOORS, ["lru", "s3fifo", "gdsf a=0", "lfu"])))
def test_web07_hit_ratio_is_that_of_the_published_tables(web07: list[str], share: float, policy: str) -> None:
    capacity = int(len(set(web07)) * share)

    found = replay(SERIOUS[policy](), web07, capacity=capacity).hits

    best = belady(web07, capacity=capacity)
    print(f"web07 {share:.0%} {policy}: {found:.4f}, Belady {best:.4f}")
    assert WEB07_FLOORS[share][policy] - TOLERANCE <= found < best


def test_web07_optimum_is_the_published_one(web07: list[str]) -> None:
    count = len(set(web07))

    assert [round(belady(web07, capacity=count // part), 3) for part in (100, 10)] == [0.534, 0.681]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.20])
def test_gdsf_saves_money_and_the_balanced_one_keeps_the_hits(web07: list[str], share: float) -> None:
    weights = llm_weights(web07)
    capacity = int(sum(weight.size_bytes for weight in weights.values()) * share)

    lru, money, balanced = (
        replay(make(), web07, capacity=capacity, weights=weights) for make in (LruEvictor, GdsfEvictor, BALANCED)
    )

    print(f"web07 {share:.0%} of the bytes: lru {lru}, gdsf a=1 {money}, a=0.5 {balanced}")
    assert money.money >= lru.money + 0.05
    assert balanced.hits >= lru.hits - 0.04
    assert lru.money < balanced.money < money.money


@pytest.mark.parametrize("policy", SERIOUS)
def test_what_is_wanted_twice_soon_is_found(policy: str) -> None:
    keys = sequences.pairs(6000, distance=5)

    assert replay(SERIOUS[policy](), keys, capacity=200).hits == pytest.approx(1 / 3, abs=0.002)
    assert replay(UnagedLfu(), keys, capacity=200).hits < 0.05


@pytest.mark.parametrize("policy", SERIOUS)
def test_new_favourites_displace_the_old(policy: str) -> None:
    keys = sequences.moving_favourites(phases=20, requests=1500)

    found = replay(SERIOUS[policy](), keys, capacity=300).hits

    assert found >= replay(LruEvictor(), keys, capacity=300).hits - 0.025
    assert found >= replay(UnagedLfu(), keys, capacity=300).hits + 0.1


def test_a_loop_larger_than_the_store_is_partly_kept_by_s3fifo() -> None:
    keys = sequences.loop(1000, rounds=20)

    found = {name: replay(make(), keys, capacity=100).hits for name, make in SERIOUS.items()}

    assert found.pop("s3fifo") >= 0.08
    assert set(found.values()) == {0.0}
    assert belady(keys, capacity=100) == pytest.approx(0.095, abs=0.001)


def test_favourites_outlive_a_scan_of_what_nobody_wants_again() -> None:
    favourites = [f"favourite{at}" for at in range(50)]
    keys = favourites * 4 + [f"scan{at}" for at in range(2000)] + favourites

    found = {name: replay(make(), keys, capacity=100).hits * len(keys) for name, make in SERIOUS.items()}

    assert round(found["s3fifo"]) == 200
    assert round(found["lru"]) == 150
