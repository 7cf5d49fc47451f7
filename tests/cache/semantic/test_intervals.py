from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.errors import InvalidInput
from cache_management.cache.semantic.intervals import anytime, suspicion, wilson


@pytest.mark.parametrize(
    ("wrong", "total", "low", "high"),
    [(0, 189, 0.0, 0.02), (0, 381, 0.0, 0.01), (3, 67, 0.015, 0.124), (2, 32, 0.017, 0.201)],
)
def test_wilson_gives_the_published_values(wrong: int, total: int, low: float, high: float) -> None:
    found = wilson(wrong, total)

    assert found.low == pytest.approx(low, abs=6e-4)
    assert found.high == pytest.approx(high, abs=6e-4)


@pytest.mark.parametrize("interval", [wilson, anytime])
@given(total=st.integers(0, 5000), part=st.floats(0, 1))
def test_an_interval_holds_its_share_and_stays_between_0_and_1(interval: object, total: int, part: float) -> None:
    wrong = round(total * part)

    low, share, high = interval(wrong, total)  # type: ignore[operator]

    assert 0 <= low <= share <= high <= 1


@given(total=st.integers(1, 2000), part=st.floats(0, 1))
def test_what_may_be_watched_is_not_narrower(total: int, part: float) -> None:
    wrong = round(total * part)

    assert anytime(wrong, total, error=0.04).high >= wilson(wrong, total).share
    assert anytime(wrong, 2 * total).high <= anytime(wrong, total).high + 1e-9


def test_an_interval_that_is_watched_all_the_time_misses_the_truth_at_the_stated_rate() -> None:
    rng = random.Random(7)
    truth, runs, missed, missed_by_wilson = 0.03, 200, 0, 0
    for _ in range(runs):
        wrong, out, wilson_out = 0, False, False
        for total in range(1, 1001):
            wrong += rng.random() < truth
            if total % 25 == 0:
                found, once = anytime(wrong, total), wilson(wrong, total)
                out = out or not found.low <= truth <= found.high
                wilson_out = wilson_out or not once.low <= truth <= once.high
        missed += out
        missed_by_wilson += wilson_out

    assert missed <= 0.05 * runs + 3 * (runs * 0.05 * 0.95) ** 0.5
    assert missed_by_wilson > 0.15 * runs, "this is why there are two"


@pytest.mark.parametrize(("wrong", "total"), [(2, 1), (-1, 1)])
def test_what_is_no_count_is_refused(wrong: int, total: int) -> None:
    with pytest.raises(InvalidInput, match="is no count"):
        wilson(wrong, total)
    with pytest.raises(InvalidInput, match="is no count"):
        anytime(wrong, total)


def test_false_alarms_are_as_rare_as_promised() -> None:
    rng = random.Random(1)
    runs = []
    for _ in range(60):
        known: list[float] = []
        length = 0
        while not known or sum(known) < 50 * len(known):
            known = suspicion(known, wrong=rng.random() < 0.05, expected=0.05)
            length += 1
        runs.append(length)

    assert sum(runs) / len(runs) >= 50


@given(st.lists(st.booleans(), max_size=50), st.floats(0.001, 0.5))
def test_suspicion_is_a_finite_number_from_zero(seen: list[bool], expected: float) -> None:
    known: list[float] = []
    for wrong in seen:
        known = suspicion(known, wrong=wrong, expected=expected)

    assert all(0 <= each < float("inf") for each in known)
