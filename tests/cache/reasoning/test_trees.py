from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.errors import InvalidInput
from cache_management.cache.reasoning.result import CoTStep, ReasoningResult
from cache_management.cache.reasoning.trees import (
    WAYS,
    By,
    Tree,
    best_paths,
    frontier,
    id_of,
    leaves,
    pruned,
    score_of,
    subtree,
)
from cache_management.cache.reasoning.validation import check
from tests.cache.reasoning.results import chain, ids, node, results, small_tree, tree


def ways_by_recursion(result: ReasoningResult, by: By) -> list[tuple[float | None, tuple[str, ...]]]:
    """Return every way to a leaf with its score, found otherwise than the code does."""
    parents = {each.node_id: each.parent_id for each in result.nodes}
    by_id = {each.node_id: each for each in result.nodes}
    found = []
    for each in result.nodes:
        if each.node_id in parents.values():
            continue
        path = [each.node_id]
        while (parent := parents[path[-1]]) is not None:
            path.append(parent)
        path.reverse()
        without_root = len(path) > 1 and sum(parent is None for parent in parents.values()) == 1
        scores = [by_id[name].score for name in (path[1:] if without_root else path)]
        known = [score for score in scores if score is not None]
        value: float | None
        if by == "leaf":
            value = scores[-1]
        elif not known:
            value = None
        elif by == "product":
            value = math.prod(known)
        elif by == "min":
            value = min(known)
        elif by == "mean":
            value = math.fsum(known) / len(known)
        else:
            value = math.fsum(math.log(score) if score else -math.inf for score in known)
        found.append((value, tuple(path)))
    return found


@given(results(), st.sampled_from(WAYS), st.integers(1, 5))
def test_the_best_paths_are_those_of_a_walk_by_brute_force(result: ReasoningResult, by: By, k: int) -> None:
    if result.reasoning_type == "cot":
        found = best_paths(result, k, by=by)
        assert [path.node_ids for path in found] == ([tuple(ids(result.steps))] if result.steps else [])
        return
    every = ways_by_recursion(result, by)

    found = best_paths(result, k, by=by)

    scores = sorted((score for score, _ in every if score is not None), reverse=True)
    wanted: list[float | None] = [*scores, *[None] * (len(every) - len(scores))]
    assert [path.score for path in found] == wanted[:k]
    assert all((path.score, path.node_ids) in every for path in found)
    assert len({path.node_ids for path in found}) == len(found)


def test_the_root_counts_for_nothing_where_there_is_more() -> None:
    path = best_paths(small_tree(), by="product")[0]

    assert (path.node_ids, path.score) == (("root", "b"), 0.7)
    assert best_paths(small_tree(), by="leaf")[0].node_ids == ("root", "a", "a1")
    assert best_paths(tree(node("r", score=0.3)))[0].score == 0.3


def test_every_step_of_a_chain_and_every_root_of_a_forest_counts() -> None:
    steps = [CoTStep(step_number=1, thought="x", confidence=0.1), CoTStep(step_number=2, thought="y", confidence=0.9)]
    sure = ReasoningResult(reasoning_type="cot", problem="p", steps=steps)

    assert best_paths(sure, by="min")[0].score == 0.1
    assert best_paths(tree(node("a", score=0.1), node("a1", "a", 0.9), node("b", score=0.2)), by="min")[0].score == 0.2


def test_what_cannot_be_asked_is_refused() -> None:
    for k in (0, -1, 1.5, True):
        with pytest.raises(InvalidInput, match="k="):
            best_paths(small_tree(), k)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="by="):
        best_paths(small_tree(), by="worst")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="no node 'zz'"):
        subtree(small_tree(), "zz")


@given(results(), st.data())
def test_pruning_leaves_a_whole_result_without_the_branch(result: ReasoningResult, data: st.DataObject) -> None:
    if not result.steps:
        return
    victim = data.draw(st.sampled_from(ids(result.steps)))
    tree_ = Tree(result)
    gone = {id_of(tree_.thoughts[at]) for at in tree_.below(tree_.find(victim))}

    left = pruned(result, victim)
    branch = subtree(result, victim)

    assert set(ids(left.steps)) == set(ids(result.steps)) - gone
    assert set(ids(branch.steps)) == gone
    if left.steps:
        assert check(left).result == left, "nothing had to be mended"
    assert check(branch).result.steps == branch.steps


def test_the_parent_forgets_a_pruned_child_and_keeps_what_was_not_expanded() -> None:
    left = pruned(small_tree(), "a")

    assert ids(left.steps) == ["root", "b"]
    assert left.nodes[0].children_ids == ["b"]
    assert left.nodes[1].children_ids == ["b1"]


@given(results())
def test_leaves_come_best_first_and_without_a_score_last(result: ReasoningResult) -> None:
    found = [score_of(each) for each in leaves(result)]

    known = [score for score in found if score is not None]
    assert known == sorted(known, reverse=True)
    assert found == [*known, *[None] * (len(found) - len(known))]
    assert leaves(result, 2) == leaves(result)[:2]


def test_a_search_goes_on_at_leaves_and_at_what_was_not_expanded() -> None:
    assert ids(frontier(small_tree())) == ["a1", "b", "a2"]
    assert ids(frontier(tree(node("r"), node("a", "r", metadata={"final": True})))) == []


def test_very_deep_results_are_walked() -> None:
    count = 20_000
    deep = tree(node("0"), *(node(str(at), str(at - 1), 0.5) for at in range(1, count)))

    assert len(best_paths(deep)[0].node_ids) == count
    assert len(subtree(deep, str(count // 2)).steps) == count // 2
    assert len(list(Tree(chain(*map(str, range(count)))).walk())) == count
