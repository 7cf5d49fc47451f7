from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.errors import InvalidInput
from cache_management.cache.reasoning.confidence import WAYS, Calibration, Confidence, How, confidence, vote
from cache_management.cache.reasoning.result import CoTStep, ReasoningResult
from tests.cache.reasoning.results import chain, node, results, small_tree, tree


def sure(*values: float | None) -> ReasoningResult:
    steps = [CoTStep(step_number=at, thought="t", confidence=value) for at, value in enumerate(values, start=1)]
    return ReasoningResult(reasoning_type="cot", problem="p", steps=steps)


@pytest.mark.parametrize(
    ("how", "value"),
    [("min", 0.25), ("mean", 0.5), ("product", 0.09375), ("geometric", 0.09375 ** (1 / 3)), ("last", 0.75)],
)
def test_ways_to_put_confidences_together(how: How, value: float) -> None:
    assert confidence(sure(0.5, 0.25, None, 0.75), how) == Confidence(pytest.approx(value), 3, 1)


def test_the_least_sure_step_counts_unless_said_otherwise() -> None:
    assert confidence(sure(0.5, 0.25)).value == 0.25


@given(results(), st.sampled_from(WAYS))
def test_a_confidence_is_from_0_to_1_or_unknown(result: ReasoningResult, how: How) -> None:
    found = confidence(result, how)

    assert found.value is None or 0 <= found.value <= 1 + 1e-9


def test_unknown_is_not_0() -> None:
    assert confidence(sure(None, None)) == Confidence(None, 0, 2)
    assert confidence(sure(0.5, None), "last").value is None
    assert confidence(chain()) == Confidence(None, 0, 0)
    assert confidence(sure(0.0, 1.0), "geometric").value == 0.0


def test_of_a_tree_the_best_way_counts() -> None:
    assert confidence(small_tree(), "last").value == 0.9
    assert confidence(small_tree(), "min").value == 0.7
    assert confidence(tree(node("r", score=0.2))).value == 0.2


def test_votes_for_final_answers() -> None:
    given_ = [
        sure(0.9).model_copy(update={"final_answer": "a"}),
        *[sure(0.2).model_copy(update={"final_answer": "b"})] * 2,
    ]

    assert vote(given_) == [("b", 2.0), ("a", 1.0)]
    assert [answer for answer, _ in vote(given_, "min")] == ["a", "b"]
    assert vote([chain("x", answer=None)]) == []


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1), st.lists(st.floats(0, 1), min_size=2))
def test_a_calibration_never_falls_and_is_never_certain(judged: list[tuple[float, bool]], asked: list[float]) -> None:
    calibration = Calibration(judged)

    found = [calibration.of(value) for value in sorted(asked)]

    assert found == sorted(found)
    assert all(0 < value < 1 for value in found)


def test_a_calibration_tells_how_often_a_confidence_was_right() -> None:
    judged = [(0.9, at < 60) for at in range(100)] + [(0.5, at < 20) for at in range(100)]
    calibration = Calibration(judged)

    assert calibration.of(0.9) == pytest.approx(61 / 102)
    assert calibration.of(0.5) == pytest.approx(21 / 102)
    assert confidence(sure(0.9), calibration=calibration).value == pytest.approx(61 / 102)
    assert confidence(sure(None), calibration=calibration).value is None


def test_between_what_was_judged_a_line_is_drawn() -> None:
    calibration = Calibration([(0.1, False)] * 98 + [(0.9, True)] * 98)

    assert calibration.of(0.1) == calibration.of(0.0) == pytest.approx(0.01)
    assert calibration.of(0.9) == calibration.of(1.0) == pytest.approx(0.99)
    assert calibration.of(0.5) == pytest.approx(0.5)


def test_another_range_is_brought_to_0_to_1() -> None:
    result = sure(90, 80).model_copy(update={"metadata": {"confidence_range": [0, 100]}})

    assert confidence(result, "min").value == pytest.approx(0.8)
    assert confidence(result, "product").value == pytest.approx(0.72)


@pytest.mark.parametrize(
    "wrong", [[], [(1.5, True)], [(math.nan, True)], [(0.5, "no")], [("a", True)], [5], None, "ab", [(True, True)]]
)
def test_what_is_no_case_teaches_nothing(wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="calibration"):
        Calibration(wrong)


def test_what_cannot_be_asked_is_refused() -> None:
    for value in (math.nan, 5, -0.1, "x"):
        with pytest.raises(InvalidInput, match="not from 0 to 1"):
            Calibration([(0.5, True)]).of(value)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="how="):
        confidence(chain("a"), "most")  # type: ignore[arg-type]
