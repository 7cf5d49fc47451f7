from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_management.cache.cluster.hot_keys import HotKeys, Sketch, merged
from cache_management.cache.errors import InvalidInput


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def assert_bounds(sketch: Sketch, truth: Counter[str]) -> None:
    """Check the three promises of Space-Saving."""
    assert len(sketch.counts) <= sketch.capacity
    assert sketch.floor <= sketch.total / sketch.capacity
    for key, true in truth.items():
        if true > sketch.total / sketch.capacity:
            assert key in sketch.counts
        if key not in sketch.counts:
            assert true <= sketch.floor
    for key, count in sketch.counts.items():
        error = sketch.errors.get(key, 0)
        assert error <= sketch.floor
        assert count - error <= truth[key] <= count


def stream(seed: int, length: int) -> list[tuple[str, int]]:
    """Return notes of some fifty keys, a few of them often."""
    rng = random.Random(seed)
    return [(str(int(rng.paretovariate(0.5)) % 50), rng.randint(1, 5)) for _ in range(length)]


seeds = st.integers(0, 2**32)


@given(seed=seeds, length=st.integers(0, 300), capacity=st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_counts_are_within_their_bounds(seed: int, length: int, capacity: int) -> None:
    keys, truth = HotKeys(capacity, half_life_seconds=None), Counter[str]()

    for key, times in stream(seed, length):
        keys.note(key, times)
        truth[key] += times

    assert keys.sketch().total == sum(truth.values())
    assert_bounds(keys.sketch(), truth)


@given(sides=st.lists(st.tuples(seeds, st.integers(0, 300), st.integers(1, 12)), min_size=2, max_size=4))
@settings(max_examples=100, deadline=None)
def test_merged_sketches_keep_the_bounds(sides: list[tuple[int, int, int]]) -> None:
    truth, sketches = Counter[str](), []
    for seed, length, capacity in sides:
        keys = HotKeys(capacity, half_life_seconds=None)
        for key, times in stream(seed, length):
            keys.note(key, times)
            truth[key] += times
        sketches.append(keys.sketch())

    whole = sketches[0]
    for sketch in sketches[1:]:
        whole = merged(whole, msgspec.msgpack.decode(msgspec.msgpack.encode(sketch), type=Sketch))

    assert_bounds(whole, truth)


def test_hot_keys_are_found_among_a_hundred_thousand_others() -> None:
    keys, rng, truth = HotKeys(100, half_life_seconds=None), random.Random(6), Counter[str]()
    for number in range(100_000):
        key = f"hot-{rng.randrange(5)}" if rng.random() < 0.2 else f"once-{number}"
        keys.note(key)
        truth[key] += 1

    hot = keys.hot(2000)

    assert [key for key, _ in hot] == sorted((f"hot-{number}" for number in range(5)), key=lambda key: -dict(hot)[key])
    assert all(truth[key] <= count <= truth[key] + keys.error for key, count in hot)
    assert len(keys._pending) + len(keys.sketch().counts) <= 400


def test_a_key_is_hot_at_the_threshold_and_not_one_below() -> None:
    keys = HotKeys(10)
    keys.note("at", 1000)
    keys.note("below", 999)
    keys.note("above", 2000)

    assert keys.hot(1000) == [("above", 2000), ("at", 1000)]


def test_a_new_key_is_not_hot_by_the_error_of_a_full_sketch() -> None:
    keys = HotKeys(2, half_life_seconds=None)
    for key in "abcdefgh":
        keys.note(key, 100)
        keys.sketch()

    keys.note("new")

    assert keys.error >= 100
    assert keys.sketch().counts["new"] > 100
    assert keys.hot(101) == []


def test_counts_halve_with_the_half_life() -> None:
    clock = Clock()
    keys = HotKeys(10, half_life_seconds=3600, clock=clock)
    keys.note("yesterday", 1000)
    clock.now += 3600
    keys.note("today", 600)

    assert keys.hot(1) == [("today", 600), ("yesterday", 500)]

    clock.now += 24 * 3600

    assert keys.hot(1) == []


def test_notes_of_the_last_moments_count_in_full() -> None:
    clock = Clock()
    keys = HotKeys(10, half_life_seconds=3600, clock=clock)
    for _ in range(1000):
        clock.now += 0.2
        keys.note("key")
        assert len(keys.hot(1)) == 1

    assert keys.hot(1000) == [("key", 1000)]


def test_a_clock_that_is_set_back_neither_grows_counts_nor_stops_their_fading() -> None:
    clock = Clock()
    keys = HotKeys(10, half_life_seconds=100, clock=clock)
    keys.note("key", 1000)
    clock.now -= 500_000
    keys.note("key")
    assert keys.hot(1) == [("key", 1001)]

    clock.now += 100

    assert keys.hot(1) == [("key", 500)]


@pytest.mark.parametrize("wrong", [{"capacity": 0}, {"half_life_seconds": 0}, {"half_life_seconds": -1.0}])
def test_sizes_that_count_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        HotKeys(**wrong)
