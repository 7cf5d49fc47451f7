"""How two chains, or two trees, differ: what they share from the beginning, and what each has of its own."""

from __future__ import annotations

import difflib
from typing import Literal

import msgspec

from cache_management.cache.reasoning.result import ReasoningResult
from cache_management.cache.reasoning.step_identity import canonical_text
from cache_management.cache.reasoning.trees import Tree, score_of

What = Literal["same", "removed", "added"]


class Change(msgspec.Struct, frozen=True):
    """A thought of both, of the first only ("removed"), or of the second only ("added"); `depth` is 0 for a root."""

    what: What
    thought: str
    depth: int
    first_score: float | None = None
    second_score: float | None = None


class Comparison(msgspec.Struct, frozen=True):
    """Two results side by side. `shared_prefix` is how many thoughts are the same from the beginning on."""

    changes: tuple[Change, ...]
    shared_prefix: int
    same: int
    removed: int
    added: int
    same_answer: bool


def compare(first: ReasoningResult, second: ReasoningResult) -> Comparison:
    """Compare two results by the texts of their thoughts, each tree in the order of its branches."""
    sides = [_lines(first), _lines(second)]
    left, right = ([(depth, text) for depth, text, _, _ in side] for side in sides)
    changes: list[Change] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            for one, other in zip(sides[0][a:b], sides[1][c:d], strict=True):
                changes.append(Change("same", one[3], one[0], one[2], other[2]))
            continue
        changes += [Change("removed", one[3], one[0], one[2]) for one in sides[0][a:b]]
        changes += [Change("added", other[3], other[0], None, other[2]) for other in sides[1][c:d]]
    prefix = next((at for at, each in enumerate(changes) if each.what != "same"), len(changes))
    counts = {what: sum(each.what == what for each in changes) for what in ("same", "removed", "added")}
    return Comparison(
        tuple(changes),
        prefix,
        counts["same"],
        counts["removed"],
        counts["added"],
        first.final_answer == second.final_answer,
    )


def _lines(result: ReasoningResult) -> list[tuple[int, str, float | None, str]]:
    tree = Tree(result)
    depths = [0] * len(tree.thoughts)
    is_chain = result.reasoning_type == "cot"
    lines = []
    for place in tree.walk():
        parent = tree.parent[place]
        depths[place] = 0 if parent is None or is_chain else depths[parent] + 1
        thought = tree.thoughts[place]
        lines.append((depths[place], canonical_text(thought.thought), score_of(thought), thought.thought))
    return lines
