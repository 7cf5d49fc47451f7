"""Draws chains and trees of thoughts as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len, chop_cells

from cache_management.cache.reasoning.result import CoTStep, ReasoningResult, ToTNode
from cache_management.cache.reasoning.trees import Tree, best_paths, score_of

BEST = "*"
_LEAST_WIDTH = 20
_TEXT_WIDTH = 40
_LEAST_DEPTH = 8
_MOST_DEPTH = 200  # a line is as long as its thought is deep


class Signs(NamedTuple):
    """What branches are drawn with."""

    branch: str
    last: str
    down: str
    gap: str
    more: str


BOXES = Signs("├── ", "└── ", "│   ", "    ", "…")
ASCII = Signs("|-- ", "`-- ", "|   ", "    ", "...")


def signs_for(encoding: str | None) -> Signs:
    """Return boxes where a terminal can show them."""
    try:
        "".join(BOXES).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BOXES


class Line(NamedTuple):
    """A line, and whether it is on the best way."""

    text: str
    is_best: bool = False


def draw(
    result: ReasoningResult,
    *,
    width: int = 100,
    signs: Signs = BOXES,
    max_depth: int | None = None,
    min_score: float | None = None,
) -> Iterator[Line]:
    """Yield the lines of a result: a tree with its scores, or a chain as a list with its confidences.

    Args:
        max_depth: Below it thoughts are counted, not shown; by default what fits into the width, 200 at most.
        min_score: So are thoughts below this score; those without a score are shown.
    """
    if result.reasoning_type == "cot":
        yield from _chain(result.chain, width)
    else:
        yield from _tree(result, width, signs, max_depth, min_score)


def _chain(steps: Sequence[CoTStep], width: int) -> Iterator[Line]:
    for step in steps:
        number = f"{step.step_number}. "
        sure = f" (confidence: {'-' if step.confidence is None else f'{step.confidence:.2f}'})"
        for at, text in enumerate(_wrapped(shown(step.thought) + sure, width - len(number))):
            yield Line((number if at == 0 else " " * len(number)) + text)
        if step.rationale:
            for text in _wrapped(shown(step.rationale), width - len(number) - 2):
                yield Line(" " * (len(number) + 2) + text)


def _tree(
    result: ReasoningResult, width: int, signs: Signs, max_depth: int | None, min_score: float | None
) -> Iterator[Line]:
    tree = Tree(result)
    fitting = max(_LEAST_DEPTH, (width - _TEXT_WIDTH) // len(signs.gap))
    deepest = fitting if max_depth is None else min(max_depth, _MOST_DEPTH)
    kept = _kept(tree, min_score)
    best: set[int] = set()
    for path in best_paths(result) if len(tree.thoughts) > 1 else []:
        if path.score is not None:
            best = {tree.place[each] for each in path.node_ids}
    # What is still to be drawn, the next one last: a place, or a text in its stead; what stands before it; whether it
    # is the last of its parent; how deep it lies.
    waiting: list[tuple[int | str, str, bool, int]] = []

    def wait_for(places: Sequence[int], unexpanded: Sequence[str], prefix: str, depth: int) -> None:
        shown_here = [place for place in places if kept[place]] if depth <= deepest else []
        hidden = sum(1 for place in places if depth > deepest or not kept[place] for _ in tree.below(place))
        below: list[int | str] = [*shown_here, *(unexpanded if depth <= deepest else ())]
        if hidden:
            below.append(f"{signs.more} {hidden} more")
        waiting.extend((below[at], prefix, at == len(below) - 1, depth) for at in range(len(below) - 1, -1, -1))

    wait_for(tree.roots, (), "", 0)
    while waiting:
        place, prefix, is_last, depth = waiting.pop()
        mark, after = (signs.last, signs.gap) if is_last else (signs.branch, signs.down)
        if isinstance(place, str):
            yield Line(prefix + mark + place)
            continue
        node = tree.thoughts[place]
        score = score_of(node)
        words = f"{shown(node.thought)} (score: {'-' if score is None else f'{score:.2f}'})"
        if place in best:
            words = f"{BEST} {words}"
        for at, text in enumerate(_wrapped(words, width - cell_len(prefix + mark))):
            yield Line(prefix + (mark if at == 0 else after) + text, place in best)
        children = node.children_ids if isinstance(node, ToTNode) else ()
        unexpanded = [f"{shown(child)} (not expanded)" for child in children if child not in tree.place]
        wait_for(tree.children[place], unexpanded, prefix + after, depth + 1)


def _kept(tree: Tree, min_score: float | None) -> list[bool]:
    """Tell of each thought whether it is shown: it has no score, or one that is high enough, or leads to such."""
    kept = [min_score is None] * len(tree.thoughts)
    if min_score is not None:
        for place in reversed(list(tree.walk())):
            score = score_of(tree.thoughts[place])
            kept[place] = score is None or score >= min_score or any(kept[child] for child in tree.children[place])
    return kept


def shown(text: str) -> str:
    """Return a text for a terminal: in one line, its control characters as escapes."""
    words = " ".join(text.split())
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in words)


def _wrapped(text: str, width: int) -> list[str]:
    width = max(width, _LEAST_WIDTH)
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        candidate = f"{line} {word}" if line else word
        if cell_len(candidate) <= width:
            line = candidate
            continue
        if line:
            lines.append(line)
        pieces = chop_cells(word, width)
        lines += pieces[:-1]
        line = pieces[-1] if pieces else ""
    return [*lines, line]
