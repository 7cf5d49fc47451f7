from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given

from cache_management.cache.reasoning.result import CoTStep, ReasoningResult, ToTNode
from cache_management.cache.reasoning.validation import InvalidReasoning, Limits, check
from tests.cache.reasoning.results import chain, node, results, small_tree, tree


def refused(result: ReasoningResult, **limits: Any) -> dict[str, str]:
    """Return the rule of each error, by its path."""
    with pytest.raises(InvalidReasoning) as refusal:
        check(result, limits=Limits(**limits) if limits else None)
    found = {each.path: each.rule for each in refusal.value.findings if each.level == "error"}
    for each in refusal.value.findings:
        if each.level == "error":
            assert str(each) in str(refusal.value), "every error is told"
    return found


def warned(result: ReasoningResult) -> dict[str, str]:
    return {each.path: each.rule for each in check(result).warnings}


def step(number: int, thought: str = "t", **fields: Any) -> CoTStep:
    return CoTStep(step_number=number, thought=thought, **fields)


def steps(*given_: CoTStep) -> ReasoningResult:
    return ReasoningResult(reasoning_type="cot", problem="p", steps=list(given_))


@given(results())
def test_what_is_whole_stays_as_it_is(result: ReasoningResult) -> None:
    assert check(result).result == result


def test_numbers_are_positive_and_stand_once() -> None:
    assert refused(steps(step(1), step(0), step(-2), step(1))) == {
        "steps[1].step_number": "step_number",
        "steps[2].step_number": "step_number",
        "steps[3].step_number": "step_number",
    }


def test_steps_out_of_order_are_sorted_and_gaps_told() -> None:
    shuffled = steps(step(3), step(1))

    assert [each.step_number for each in check(shuffled).result.chain] == [1, 3]
    assert warned(shuffled) == {"steps": "order"}
    assert warned(steps(step(1), step(3))) == {"steps": "gap"}


@pytest.mark.parametrize("wrong", [1.01, -0.01, math.inf, -math.inf, math.nan])
def test_confidences_and_scores_lie_in_their_range(wrong: float) -> None:
    assert refused(steps(step(1, confidence=wrong))) == {"steps[0].confidence": "confidence"}
    assert refused(tree(node("r", score=wrong))) == {"steps[0].score": "score"}


def test_a_result_may_say_another_range() -> None:
    assert check(tree(node("r", score=20), score_range=[0, 60])).warnings == ()
    assert refused(tree(node("r", score=61), score_range=[0, 60])) == {"steps[0].score": "score"}
    assert refused(tree(node("r"), score_range=[1, 1])) == {"metadata.score_range": "range"}
    assert refused(steps(step(1)).model_copy(update={"metadata": {"confidence_range": "all"}})) == {
        "metadata.confidence_range": "range"
    }


def test_all_that_is_wrong_is_told_at_once() -> None:
    found = refused(
        tree(
            node("r"),
            node("a", "r", 2.0),
            node("a", "r"),
            node("b", "nobody"),
            node("c", "c"),
            node("d", "e"),
            node("e", "d"),
        )
    )

    assert found == {
        "steps[1].score": "score",
        "steps[2].node_id": "duplicate_id",
        "steps[3].parent_id": "dangling_parent",
        "steps[4].parent_id": "self_parent",
        "steps[5].parent_id": "cycle",
    }


def test_a_cycle_names_those_on_it() -> None:
    with pytest.raises(InvalidReasoning, match="'a' -> 'c' -> 'b' -> 'a'"):
        check(tree(node("r"), node("a", "c"), node("b", "a"), node("c", "b"), node("d", "a")))


def test_a_tree_has_a_root() -> None:
    assert refused(tree(node("a", "b"), node("b", "a"))) == {"steps": "no_root", "steps[0].parent_id": "cycle"}


def test_several_roots_are_a_forest() -> None:
    assert check(tree(node("a", depth=0), node("b", depth=0))).warnings == ()


def test_depths_are_checked_and_found() -> None:
    assert refused(tree(node("r", depth=1), node("a", "r", depth=1, children_ids=[]))) == {"steps[0].depth": "depth"}
    found = check(tree(node("a", "r"), node("r"))).result.nodes
    assert [each.depth for each in found] == [1, 0]


def test_children_and_parents_agree() -> None:
    assert refused(tree(node("r", children_ids=["a"]), node("a"))) == {"steps[0].children_ids": "other_parent"}
    assert refused(tree(node("r", children_ids=["b"]), node("a", "r"), node("b", "a"))) == {
        "steps[0].children_ids": "other_parent"
    }
    mended = check(tree(node("r", children_ids=["x"]), node("a", "r")))
    assert mended.result.nodes[0].children_ids == ["x", "a"]
    assert [each.rule for each in mended.warnings] == ["unexpanded", "child_missing"]


def test_the_tree_of_the_manual_is_taken_with_a_word_on_what_was_not_expanded() -> None:
    assert warned(small_tree()) == {"steps[2].children_ids": "unexpanded"}


def test_empty_thoughts_and_no_steps_are_only_told() -> None:
    assert warned(steps(step(1, " "))) == {"steps[0].thought": "empty_thought"}
    assert warned(steps()) == {"steps": "no_steps"}


def test_texts_are_unicode_and_metadata_json() -> None:
    broken = "\ud800"
    assert refused(
        ReasoningResult(
            reasoning_type="tot",
            problem=broken,
            steps=[ToTNode(node_id="r", thought=broken, metadata={"m": math.nan})],
            final_answer=broken,
            metadata={broken: 1},
        )
    ) == {
        "problem": "unicode",
        "final_answer": "unicode",
        "steps[0].thought": "unicode",
        "steps[0].metadata": "metadata",
    }


def test_a_problem_says_something() -> None:
    assert refused(chain("a", problem=" \n")) == {"problem": "problem"}


def test_sizes_are_bounded() -> None:
    assert refused(chain("a", "b"), steps=1) == {"steps": "size"}
    deep = tree(node("0"), *(node(str(at), str(at - 1)) for at in range(1, 5)))
    assert refused(deep, depth=3) == {"steps[4].depth": "size"}


def test_very_deep_trees_are_walked_without_recursion() -> None:
    count = 20_000
    deep = tree(node("0"), *(node(str(at), str(at - 1)) for at in range(1, count)))

    assert check(deep).result.nodes[-1].depth == count - 1

    ring = tree(node("r"), *(node(str(at), str((at + 1) % count)) for at in range(count)))
    with pytest.raises(InvalidReasoning, match="lead back"):
        check(ring)


def test_steps_of_the_other_type_are_refused_by_the_result_itself() -> None:
    with pytest.raises(ValueError, match=r"steps\[0\] is a ToTNode"):
        ReasoningResult(reasoning_type="cot", problem="p", steps=[node("r")])
    with pytest.raises(ValueError, match="reasoning_type"):
        ReasoningResult(reasoning_type="other", problem="p", steps=[])  # type: ignore[arg-type]
