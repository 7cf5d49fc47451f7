from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.errors import InvalidInput
from cache_management.cache.reasoning.differences import compare
from cache_management.cache.reasoning.reading import read_result, read_steps
from cache_management.cache.reasoning.result import CoTStep, ReasoningResult, ToTNode
from cache_management.cache.reasoning.validation import InvalidReasoning
from tests.cache.reasoning.results import chain, node, results, small_tree, tree

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["step", "text", "id", "parent", "children", "metadata", "score", "x"]), inner
        )
    ),
    max_leaves=8,
)


@given(results())
def test_what_is_written_as_json_is_read_back_equal(result: ReasoningResult) -> None:
    assert read_result(json.loads(result.model_dump_json())) == result


def test_short_names_and_full_ones_are_read() -> None:
    assert read_steps("cot", [{"step": 1, "text": "a"}, {"step_number": 2, "thought": "b", "confidence": 0.5}]) == [
        CoTStep(step_number=1, thought="a"),
        CoTStep(step_number=2, thought="b", confidence=0.5),
    ]
    assert read_steps("tot", [{"id": 0, "text": "r", "children": [1]}, {"id": 1, "parent": 0, "thought": "a"}]) == [
        ToTNode(node_id="0", thought="r", children_ids=["1"]),
        ToTNode(node_id="1", thought="a", parent_id="0"),
    ]
    assert read_steps("cot", ["a", "b"]) == chain("a", "b").steps
    assert read_steps("cot", [{"text": "a"}]) == chain("a").steps


def test_what_is_not_known_goes_to_metadata() -> None:
    (step,) = read_steps("cot", [{"step": 1, "text": "a", "calc": [1], "metadata": {"by": "me"}}])

    assert step.metadata == {"by": "me", "calc": [1]}
    result = read_result({"problem": "p", "steps": [], "source": "a log", "metadata": {"model": "m"}})
    assert result.metadata == {"source": "a log", "model": "m"}


def test_one_thing_said_twice_must_be_the_same() -> None:
    assert read_steps("tot", [{"id": 1, "node_id": "1", "text": "a", "thought": "a"}])
    with pytest.raises(InvalidReasoning, match=r"steps\[0\]\.thought: it says another thing than text"):
        read_steps("cot", [{"step": 1, "text": "a", "thought": "b"}])
    with pytest.raises(InvalidReasoning, match="metadata, too"):
        read_steps("cot", [{"step": 1, "text": "a", "x": 1, "metadata": {"x": 2}}])


def test_all_steps_that_cannot_be_read_are_told() -> None:
    with pytest.raises(InvalidReasoning) as refusal:
        read_steps("cot", [5, {"step": "x", "text": "a"}, {"step": 1}, {"step": 2, "text": "b"}, {"metadata": 1}])

    assert {each.path for each in refusal.value.findings} == {
        "steps[0]",
        "steps[1].step_number",
        "steps[2].thought",
        "steps[4].metadata",
    }


@given(ANY_JSON)
def test_any_json_is_a_result_or_a_clear_error(given_: Any) -> None:
    for value in (given_, {"problem": "p", "steps": given_}, {"problem": "p", "steps": [given_], "type": "tot"}):
        with contextlib.suppress(InvalidInput):
            assert isinstance(read_result(value), ReasoningResult)


def test_the_type_is_told_by_the_steps() -> None:
    assert read_result({"problem": "p", "nodes": [{"id": 0, "thought": "t"}]}).reasoning_type == "tot"
    assert read_result({"problem": "p", "steps": ["t"]}).reasoning_type == "cot"
    for neither in ({"problem": "p"}, {"problem": "p", "steps": [], "nodes": []}):
        with pytest.raises(InvalidInput, match="give one of them"):
            read_result(neither)
    with pytest.raises(InvalidInput, match="take cot or tot"):
        read_result({"problem": "p", "steps": [], "reasoning_type": "dag"})


def test_two_chains_side_by_side() -> None:
    found = compare(chain("a", "b", "c", answer="1"), chain("a", "x", "c", answer="2"))

    assert [(each.what, each.thought) for each in found.changes] == [
        ("same", "a"),
        ("removed", "b"),
        ("added", "x"),
        ("same", "c"),
    ]
    assert (found.shared_prefix, found.same, found.removed, found.added, found.same_answer) == (1, 2, 1, 1, False)


def test_two_trees_side_by_side() -> None:
    other = tree(
        node("root", score=0.0), node("a", "root", 0.5), node("c", "root", 0.1), node("a1", "a", 0.9), answer="a1"
    )
    found = compare(small_tree(), other)

    assert [(each.what, each.thought, each.depth) for each in found.changes] == [
        ("same", "thought root", 0),
        ("same", "thought a", 1),
        ("same", "thought a1", 2),
        ("removed", "thought a2", 2),
        ("removed", "thought b", 1),
        ("added", "thought c", 1),
    ]
    assert (found.changes[1].first_score, found.changes[1].second_score) == (0.4, 0.5)
    assert found.same_answer


@given(results())
def test_a_result_is_the_same_as_itself(result: ReasoningResult) -> None:
    found = compare(result, result)

    assert (found.same, found.removed, found.added) == (len(result.steps), 0, 0)
