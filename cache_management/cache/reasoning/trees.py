"""Walks through a tree of thoughts, or a chain as the tree of one branch: paths, leaves, what is left to expand.

Pure, and never recursive. The one root of a tree stands for the problem: where a path has more than its root, the
root's score counts for nothing (the logs of real searches have none there, or a 0). The first step of a chain, and the
roots of a forest, are thoughts like any other.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from cache_management.cache.errors import InvalidInput
from cache_management.cache.reasoning.result import CoTStep, ReasoningResult, ToTNode

By = Literal["leaf", "product", "min", "mean", "sum_log"]
WAYS: tuple[By, ...] = ("leaf", "product", "min", "mean", "sum_log")

Thought = CoTStep | ToTNode


class Path(msgspec.Struct, frozen=True):
    """The way from a root to a leaf; `score` is None where no thought on it has one."""

    thoughts: tuple[Thought, ...]
    score: float | None

    @property
    def node_ids(self) -> tuple[str, ...]:
        """Return the ids of the nodes; a chain has the numbers of its steps."""
        return tuple(id_of(each) for each in self.thoughts)


def id_of(thought: Thought) -> str:
    """Return the id of a node, or the number of a step as text."""
    return thought.node_id if isinstance(thought, ToTNode) else str(thought.step_number)


def score_of(thought: Thought) -> float | None:
    """Return the score of a node, or the confidence of a step."""
    return thought.score if isinstance(thought, ToTNode) else thought.confidence


class Tree:
    """A result with its edges: whose children are whose, in the order in which they are listed."""

    def __init__(self, result: ReasoningResult) -> None:
        self.result = result
        self.thoughts: list[Thought] = list(result.steps)
        self.children: list[list[int]] = [[] for _ in self.thoughts]
        self.parent: list[int | None] = [None] * len(self.thoughts)
        self.place: dict[str, int] = {id_of(each): place for place, each in enumerate(self.thoughts)}
        if result.reasoning_type == "cot":
            for place in range(1, len(self.thoughts)):
                self.parent[place] = place - 1
                self.children[place - 1].append(place)
        else:
            self._join(result.nodes)
        self.roots = [place for place, parent in enumerate(self.parent) if parent is None]

    def _join(self, nodes: Sequence[ToTNode]) -> None:
        by_parent: dict[str, list[int]] = defaultdict(list)
        for place, node in enumerate(nodes):
            if node.parent_id is not None and node.parent_id in self.place:
                self.parent[place] = self.place[node.parent_id]
                by_parent[node.parent_id].append(place)
        for place, node in enumerate(nodes):
            mine = by_parent.get(node.node_id, [])
            if len(mine) > 1:
                listed = {child: rank for rank, child in enumerate(node.children_ids)}
                mine.sort(key=lambda each: listed.get(nodes[each].node_id, len(listed)))
            self.children[place] = mine

    def leaves(self) -> list[int]:
        """Return the places of the thoughts that nothing follows."""
        return [place for place, below in enumerate(self.children) if not below]

    def path_to(self, place: int) -> list[int]:
        """Return the places from the root to a thought."""
        path = [place]
        while (parent := self.parent[path[-1]]) is not None:
            path.append(parent)
        return path[::-1]

    def scores_along(self, path: Sequence[int]) -> list[float | None]:
        """Return the scores of the thoughts on a way, without the root that stands for the problem."""
        stands_for_the_problem = self.result.reasoning_type == "tot" and len(self.roots) == 1 and len(path) > 1
        return [score_of(self.thoughts[at]) for at in (path[1:] if stands_for_the_problem else path)]

    def below(self, place: int) -> Iterator[int]:
        """Yield a thought and all that follow from it, each before its children, in their order."""
        waiting = [place]
        while waiting:
            at = waiting.pop()
            yield at
            waiting += reversed(self.children[at])

    def walk(self) -> Iterator[int]:
        """Yield every thought, each before its children, in their order."""
        for root in self.roots:
            yield from self.below(root)

    def find(self, node_id: str) -> int:
        """Return the place of a node.

        Raises:
            InvalidInput: There is none.
        """
        place = self.place.get(node_id)
        if place is None:
            raise InvalidInput(f"the reasoning has no {'node' if self.result.nodes else 'step'} {node_id!r:.60}")
        return place


def best_paths(result: ReasoningResult, k: int = 1, *, by: By = "leaf") -> list[Path]:
    """Return the best ways from a root to a leaf, best first; of equal ones the earlier leaf first.

    Args:
        by: `leaf` takes the score of the last thought, the others put together those of all that have one: `product`,
            `min`, `mean`, `sum_log` (natural logarithm; minus infinity with a 0).
    """
    tree = Tree(result)
    check_way(by)
    ways = []
    for leaf in _likely_leaves(tree, check_k(k), by):
        path = tree.path_to(leaf)
        ways.append((_along(tree.scores_along(path), by), path))
    known = sorted((way for way in ways if way[0] is not None), key=lambda way: way[0] or 0.0, reverse=True)
    chosen = [*known, *(way for way in ways if way[0] is None)][:k]
    return [Path(tuple(tree.thoughts[at] for at in path), score) for score, path in chosen]


class _Sum(NamedTuple):
    """What is put together along a way, as far as that goes step by step."""

    known: int = 0
    total: float = 0.0
    logs: float = 0.0
    product: float = 1.0
    least: float = math.inf
    last: float | None = None

    def with_score(self, score: float | None) -> _Sum:
        if score is None:
            return self._replace(last=None)
        return _Sum(
            self.known + 1,
            self.total + score,
            self.logs + (math.log(score) if score > 0 else -math.inf),
            self.product * score,
            min(self.least, score),
            score,
        )

    def value(self, by: By) -> float | None:
        if by == "leaf":
            return self.last
        if not self.known:
            return None
        return {
            "product": self.product,
            "min": self.least,
            "mean": self.total / self.known,
            "sum_log": self.logs,
        }[by]


def _likely_leaves(tree: Tree, k: int, by: By) -> list[int]:
    """Return leaves among which the k best are, in their order: a way is not walked for each of very many.

    Means and logarithms that are summed up step by step may be off by a little, so that some more are returned.
    """
    sums: dict[int, _Sum] = {}
    leaves: list[tuple[int, float | None]] = []
    stands_for_the_problem = tree.result.reasoning_type == "tot" and len(tree.roots) == 1
    for place in tree.walk():
        parent = tree.parent[place]
        is_left_out = parent is None and stands_for_the_problem and bool(tree.children[place])
        before = _Sum() if parent is None else sums[parent]
        sums[place] = before if is_left_out else before.with_score(score_of(tree.thoughts[place]))
        if not tree.children[place]:
            leaves.append((place, sums[place].value(by)))
    leaves.sort()  # as they stand in the result
    if by not in ("mean", "sum_log"):  # the others are exact
        best = heapq.nlargest(k, (each for each in leaves if each[1] is not None), key=lambda each: each[1] or 0.0)
        unknown = [each for each in leaves if each[1] is None][: k - len(best)]
        return sorted(place for place, _ in [*best, *unknown])
    values = heapq.nlargest(k, (value for _, value in leaves if value is not None))
    least = -math.inf
    if len(values) == k:
        least = values[-1] - 1e-9 * max(1.0, abs(values[-1])) if math.isfinite(values[-1]) else values[-1]
        return sorted(place for place, value in leaves if value is not None and value >= least)
    return [place for place, _ in leaves]


def check_k(k: int) -> int:
    """Return how many are wanted.

    Raises:
        InvalidInput: It is no whole number from 1.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InvalidInput(f"k={k!r:.40}: take a whole number from 1")
    return k


def check_way(by: By) -> None:
    """Raise InvalidInput unless paths can be weighed this way."""
    if by not in WAYS:
        raise InvalidInput(f"by={by!r:.40}: take one of {', '.join(WAYS)}")


def _along(scores: Sequence[float | None], by: By) -> float | None:
    if by == "leaf":
        return scores[-1]
    known = [score for score in scores if score is not None]
    if not known:
        return None
    match by:
        case "product":
            return math.prod(known)
        case "min":
            return min(known)
        case "mean":
            return math.fsum(known) / len(known)
        case "sum_log":
            return math.fsum(math.log(score) if score > 0 else -math.inf for score in known)


def leaves(result: ReasoningResult, k: int | None = None) -> list[Thought]:
    """Return the thoughts that nothing follows, best score first, those without a score last; at most `k`."""
    tree = Tree(result)
    found = [tree.thoughts[place] for place in tree.leaves()]
    found.sort(key=lambda each: -math.inf if (score := score_of(each)) is None else score, reverse=True)
    return found if k is None else found[: check_k(k)]


def frontier(result: ReasoningResult) -> list[Thought]:
    """Return what a search would expand next, best score first: leaves, and thoughts with unexpanded children.

    A leaf whose `metadata` says `final` is an end, not a beginning.
    """
    tree = Tree(result)
    found = []
    for place, thought in enumerate(tree.thoughts):
        is_open = isinstance(thought, ToTNode) and any(child not in tree.place for child in thought.children_ids)
        if is_open or (not tree.children[place] and not thought.metadata.get("final")):
            found.append(thought)
    found.sort(key=lambda each: -math.inf if (score := score_of(each)) is None else score, reverse=True)
    return found


def subtree(result: ReasoningResult, node_id: str) -> ReasoningResult:
    """Return a node and all that follow from it, as a tree of their own."""
    tree = Tree(result)
    root = tree.find(node_id)
    kept = set(tree.below(root))
    up = len(tree.path_to(root)) - 1
    nodes = []
    for place, node in enumerate(result.nodes):
        if place in kept:
            depth = None if node.depth is None else node.depth - up
            parent = None if place == root else node.parent_id
            nodes.append(node.model_copy(update={"parent_id": parent, "depth": depth}))
    steps: list[CoTStep] | list[ToTNode] = nodes
    if result.reasoning_type == "cot":
        steps = [step for place, step in enumerate(result.chain) if place in kept]
    return result.model_copy(update={"steps": steps})


def pruned(result: ReasoningResult, node_id: str) -> ReasoningResult:
    """Return a result without a node and all that follow from it; its parent does not list it any more."""
    tree = Tree(result)
    gone = set(tree.below(tree.find(node_id)))
    if result.reasoning_type == "cot":
        return result.model_copy(update={"steps": [s for place, s in enumerate(result.chain) if place not in gone]})
    left = []
    for place, node in enumerate(result.nodes):
        if place in gone:
            continue
        children = [child for child in node.children_ids if child != node_id]
        left.append(node if children == node.children_ids else node.model_copy(update={"children_ids": children}))
    return result.model_copy(update={"steps": left})
