"""How much a step takes on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cache_management.workers.pace import STEP_SECONDS, Pace


def test_slow_work_makes_small_steps_at_once() -> None:
    pace = Pace(least=16, most=256)

    pace.learn(256, 5.0)

    assert pace.size == 25


def test_quick_work_makes_larger_steps_by_and_by() -> None:
    pace = Pace(least=16, most=256)
    pace.learn(256, 50.0)
    sizes = []
    for _ in range(6):
        pace.learn(pace.size, 0.01)
        sizes.append(pace.size)

    assert sizes == [32, 64, 128, 256, 256, 256]


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 1000)), max_size=30))
def test_a_step_is_never_outside_its_bounds(steps: list[tuple[int, float]]) -> None:
    pace = Pace(least=16, most=256)
    for items, seconds in steps:
        pace.learn(items, seconds)
        assert 16 <= pace.size <= 256


@given(st.floats(0.001, 0.03))
def test_steps_of_steady_work_take_about_half_a_second(seconds_each: float) -> None:
    pace = Pace(least=1, most=256)
    for _ in range(20):
        pace.learn(pace.size, pace.size * seconds_each)

    assert pace.size == 256 or abs(pace.size * seconds_each - STEP_SECONDS) <= seconds_each
