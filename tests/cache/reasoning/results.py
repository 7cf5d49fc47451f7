"""Chains and trees for tests: small ones by hand, and any valid one by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from cache_management.cache.reasoning.result import CoTStep, ReasoningResult, ToTNode

TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=12)
SCORES = st.none() | st.floats(0, 1)
METADATA = st.dictionaries(
    st.text(max_size=3), st.integers() | st.booleans() | st.none() | st.text(max_size=3), max_size=2
)
PROBLEMS = TEXTS.filter(lambda text: bool(text.strip()))


def chain(*thoughts: str, problem: str = "a problem", answer: str | None = "42", **metadata: Any) -> ReasoningResult:
    steps = [CoTStep(step_number=at, thought=each) for at, each in enumerate(thoughts, start=1)]
    return ReasoningResult(reasoning_type="cot", problem=problem, steps=steps, final_answer=answer, metadata=metadata)


def node(node_id: str, parent_id: str | None = None, score: float | None = None, **fields: Any) -> ToTNode:
    return ToTNode(
        node_id=node_id, thought=fields.pop("thought", f"thought {node_id}"), parent_id=parent_id, score=score, **fields
    )


def tree(*nodes: ToTNode, problem: str = "a problem", answer: str | None = None, **metadata: Any) -> ReasoningResult:
    return ReasoningResult(
        reasoning_type="tot", problem=problem, steps=list(nodes), final_answer=answer, metadata=metadata
    )


def small_tree() -> ReasoningResult:
    """Return the tree of the drawing: a root, two branches, two leaves under the first, and one nobody expanded."""
    return tree(
        node("root", children_ids=["a", "b"], score=0.0, depth=0),
        node("a", "root", 0.4, children_ids=["a1", "a2"], depth=1),
        node("b", "root", 0.7, children_ids=["b1"], depth=1),
        node("a1", "a", 0.9, depth=2),
        node("a2", "a", depth=2),
        answer="a1",
    )


@st.composite
def chains(draw: Callable[[st.SearchStrategy[Any]], Any]) -> ReasoningResult:
    numbers = sorted(draw(st.sets(st.integers(1, 30), max_size=6)))
    return ReasoningResult(
        reasoning_type="cot",
        problem=draw(PROBLEMS),
        steps=[
            CoTStep(
                step_number=number,
                thought=draw(TEXTS),
                rationale=draw(TEXTS),
                confidence=draw(SCORES),
                metadata=draw(METADATA),
            )
            for number in numbers
        ],
        final_answer=draw(st.none() | TEXTS),
        metadata=draw(METADATA),
    )


@st.composite
def trees(draw: Callable[[st.SearchStrategy[Any]], Any]) -> ReasoningResult:
    """Any valid forest, in any order, with equal siblings and unexpanded children; depths and children complete."""
    count = draw(st.integers(0, 12))
    parents = [draw(st.none() | st.integers(0, at - 1)) if at else None for at in range(count)]
    ids = draw(st.just([str(at) for at in range(count)]) | st.permutations([f"n{at}" for at in range(count)]))
    order = draw(st.permutations(range(count)))
    below: dict[int, list[str]] = {at: [] for at in range(count)}
    for at in order:
        if parents[at] is not None:
            below[parents[at]].append(ids[at])
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent is None else depths[parent] + 1)
    return ReasoningResult(
        reasoning_type="tot",
        problem=draw(PROBLEMS),
        steps=[
            ToTNode(
                node_id=ids[at],
                thought=draw(st.sampled_from(["", "x", " x", "y"]) | TEXTS),
                parent_id=None if parents[at] is None else ids[parents[at]],
                children_ids=draw(st.permutations(below[at] + draw(st.sampled_from([[], [f"unexpanded {at}"]])))),
                score=draw(SCORES),
                depth=depths[at],
                metadata=draw(METADATA),
            )
            for at in order
        ],
        final_answer=draw(st.none() | TEXTS),
        metadata=draw(METADATA),
    )


def results() -> st.SearchStrategy[ReasoningResult]:
    return chains() | trees()


def ids(thoughts: Sequence[CoTStep | ToTNode]) -> list[str]:
    return [each.node_id if isinstance(each, ToTNode) else str(each.step_number) for each in thoughts]
