"""Whether the steps of a chain, or the nodes of a tree, fit together: all that is wrong is told at once.

Real logs are not tidy: what harms nobody is a warning and, where that can be done, mended. No walk is recursive: trees
may be thousands of levels deep.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from cache_management.cache.codec import encode_metadata
from cache_management.cache.errors import InvalidEntry
from cache_management.cache.reasoning.result import CoTStep, ReasoningResult, ToTNode

_SHOWN = 20
_LARGEST_NUMBER = 2**53


class Limits(msgspec.Struct, frozen=True):
    """How large a result may be; its bytes are bounded by `max_entry_bytes`."""

    steps: int = 100_000
    depth: int = 50_000


class Finding(msgspec.Struct, frozen=True):
    """Something that is wrong, or worth knowing: where (`steps[3].parent_id`), what stands there, and the rule."""

    path: str
    value: Any
    rule: str
    message: str
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class InvalidReasoning(InvalidEntry):
    """A chain or a tree does not fit together. `findings` says all that is wrong with it."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        errors = [each for each in findings if each.level == "error"]
        more = f"\n  … and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        shown = "\n  ".join(str(each) for each in errors[:_SHOWN])
        super().__init__(f"the reasoning cannot be stored, nothing was changed:\n  {shown}{more}")
        self.findings = tuple(findings)


class Checked(msgspec.Struct, frozen=True):
    """A result as it is stored (steps in order, depths and children filled in), and what was noticed."""

    result: ReasoningResult
    warnings: tuple[Finding, ...]


def check(result: ReasoningResult, *, limits: Limits | None = None) -> Checked:
    """Look at a result as a whole.

    Raises:
        InvalidReasoning: Something is wrong; names all of it.
    """
    found: list[Finding] = []
    limits = limits or Limits()
    _check_texts(result, found)
    if not result.problem.strip():
        found.append(Finding("problem", result.problem, "problem", "it is empty: say what was to be solved"))
    if not result.steps:
        found.append(Finding("steps", [], "no_steps", "there are none", "warning"))
    if len(result.steps) > limits.steps:
        found.append(
            Finding("steps", len(result.steps), "size", f"{len(result.steps):,} are too many: {limits.steps:,} at most")
        )
        raise InvalidReasoning(found)
    if result.reasoning_type == "cot":
        steps: list[CoTStep] | list[ToTNode] = _check_chain(result, found)
    else:
        steps = _check_tree(result, found, limits)
    if any(each.level == "error" for each in found):
        raise InvalidReasoning(found)
    # Built anew, not validated again: each part was, and so was how they fit together.
    return Checked(result.model_copy(update={"steps": steps}), tuple(found))


def _check_texts(result: ReasoningResult, found: list[Finding]) -> None:
    texts = [("problem", result.problem), ("final_answer", result.final_answer or "")]
    metadata: list[tuple[str, object]] = [("metadata", result.metadata)]
    for place, each in enumerate(result.thoughts):
        texts.append((f"steps[{place}].thought", each.thought))
        if isinstance(each, CoTStep):
            texts.append((f"steps[{place}].rationale", each.rationale))
        else:
            texts += [(f"steps[{place}].node_id", each.node_id), (f"steps[{place}].parent_id", each.parent_id or "")]
            texts += [(f"steps[{place}].children_ids", child) for child in each.children_ids]
        if each.metadata:
            metadata.append((f"steps[{place}].metadata", each.metadata))
        if not each.thought.strip():
            found.append(Finding(f"steps[{place}].thought", each.thought, "empty_thought", "it is empty", "warning"))
    for path, text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            found.append(Finding(path, None, "unicode", f"it is not valid Unicode at character {exc.start}"))
    for path, value in metadata:
        try:
            encode_metadata(value).decode()
        except (InvalidEntry, UnicodeError) as exc:
            found.append(Finding(path, None, "metadata", str(exc)))


def _check_chain(result: ReasoningResult, found: list[Finding]) -> list[CoTStep]:
    steps = result.chain
    low, high = _range_of(result, found)
    seen: dict[int, int] = {}
    for place, step in enumerate(steps):
        path = f"steps[{place}].step_number"
        if step.step_number >= 2**63:
            found.append(Finding(path, str(step.step_number), "step_number", "it is beyond 64 bits"))
        elif step.step_number < 1:
            found.append(
                Finding(
                    path, step.step_number, "step_number", f"{step.step_number} is not positive: steps count from 1"
                )
            )
        elif step.step_number > _LARGEST_NUMBER:
            found.append(Finding(path, None, "step_number", f"it is too large: {_LARGEST_NUMBER:,} at most"))
        elif step.step_number in seen:
            other = seen[step.step_number]
            found.append(
                Finding(path, step.step_number, "step_number", f"{step.step_number} is that of steps[{other}], too")
            )
        seen.setdefault(step.step_number, place)
        _check_number(f"steps[{place}].confidence", step.confidence, low, high, "confidence_range", found)
    numbers = [step.step_number for step in steps]
    if numbers != sorted(numbers):
        found.append(Finding("steps", numbers[:_SHOWN], "order", "they are not in order: sorted by number", "warning"))
    elif numbers and numbers != list(range(1, len(numbers) + 1)):
        found.append(Finding("steps", numbers[:_SHOWN], "gap", "their numbers have gaps", "warning"))
    return sorted(steps, key=lambda step: step.step_number)


def _check_tree(result: ReasoningResult, found: list[Finding], limits: Limits) -> list[ToTNode]:
    nodes = result.nodes
    low, high = _range_of(result, found)
    places: dict[str, int] = {}
    for place, node in enumerate(nodes):
        if node.node_id in places:
            other = places[node.node_id]
            found.append(
                Finding(
                    f"steps[{place}].node_id",
                    node.node_id,
                    "duplicate_id",
                    f"{node.node_id!r} is that of steps[{other}], too",
                )
            )
        places.setdefault(node.node_id, place)
        _check_number(f"steps[{place}].score", node.score, low, high, "score_range", found)
    if nodes and not any(node.parent_id is None for node in nodes):
        found.append(Finding("steps", None, "no_root", "no node is a root: one at least has no parent_id"))
    _check_parents(nodes, places, found)
    children = _check_children(nodes, places, found)
    if any(each.level == "error" for each in found):
        return nodes
    depths = _depths(nodes, places, found)
    if max(depths.values(), default=0) > limits.depth:
        deepest = max(depths, key=lambda place: depths[place])
        found.append(
            Finding(
                f"steps[{deepest}].depth",
                depths[deepest],
                "size",
                f"{depths[deepest]:,} is too deep: {limits.depth:,} at most",
            )
        )
    return [_filled_in(node, children[place], depths.get(place, 0)) for place, node in enumerate(nodes)]


def _filled_in(node: ToTNode, children: list[str], depth: int) -> ToTNode:
    if node.children_ids == children and node.depth == depth:
        return node
    return node.model_copy(update={"children_ids": children, "depth": depth})


def _check_parents(nodes: Sequence[ToTNode], places: dict[str, int], found: list[Finding]) -> None:
    for place, node in enumerate(nodes):
        path = f"steps[{place}].parent_id"
        if node.parent_id == node.node_id:
            found.append(Finding(path, node.parent_id, "self_parent", f"{node.node_id!r} is its own parent"))
        elif node.parent_id is not None and node.parent_id not in places:
            found.append(Finding(path, node.parent_id, "dangling_parent", f"there is no node {node.parent_id!r}"))
    for cycle in _cycles(nodes, places):
        ids = [nodes[place].node_id for place in cycle]
        shown = " -> ".join(repr(each) for each in [*ids[:_SHOWN], *(["…"] if len(ids) > _SHOWN else []), ids[0]])
        found.append(Finding(f"steps[{cycle[0]}].parent_id", ids, "cycle", f"its parents lead back to it: {shown}"))


def _cycles(nodes: Sequence[ToTNode], places: dict[str, int]) -> Iterable[list[int]]:
    """Yield each cycle of parents once, as places from a node to the one whose parent is the first again."""
    done: set[int] = set()
    for start in range(len(nodes)):
        path: list[int] = []
        on_path: dict[int, int] = {}
        at: int | None = start
        while at is not None and at not in done and at not in on_path:
            on_path[at] = len(path)
            path.append(at)
            parent = nodes[at].parent_id
            at = None if parent is None or parent == nodes[at].node_id else places.get(parent)
        if at is not None and at in on_path:
            yield path[on_path[at] :]
        done.update(path)


def _check_children(nodes: Sequence[ToTNode], places: dict[str, int], found: list[Finding]) -> list[list[str]]:
    """Look at who is listed as whose child; return the lists, each with the children that were missing."""
    of_parent: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        if node.parent_id is not None:
            of_parent[node.parent_id].append(node.node_id)
    children: list[list[str]] = []
    for place, node in enumerate(nodes):
        path = f"steps[{place}].children_ids"
        for child, times in Counter(node.children_ids).items():
            if times > 1:
                found.append(
                    Finding(
                        path, child, "child_repeated", f"{child!r} stands in it {times} times: once kept", "warning"
                    )
                )
        listed = list(dict.fromkeys(node.children_ids))
        for child in listed:
            if child not in places:
                found.append(
                    Finding(path, child, "unexpanded", f"{child!r} was not expanded: there is no such node", "warning")
                )
            elif nodes[places[child]].parent_id != node.node_id:
                other = nodes[places[child]].parent_id
                says = "it is a root" if other is None else f"its parent is {other!r}"
                found.append(
                    Finding(
                        path,
                        child,
                        "other_parent",
                        f"{child!r} says of itself that {says}",
                    )
                )
        missing = [child for child in of_parent.get(node.node_id, ()) if child not in set(listed)]
        if missing and node.children_ids:  # who lists none leaves it to their parents
            shown = ", ".join(repr(child) for child in missing[:_SHOWN])
            found.append(Finding(path, missing[:_SHOWN], "child_missing", f"it lacked {shown}: added", "warning"))
        children.append(listed + missing)
    return children


def _depths(nodes: Sequence[ToTNode], places: dict[str, int], found: list[Finding]) -> dict[int, int]:
    """Return how deep each node lies, by its place; tell where something else was said."""
    below: dict[int, list[int]] = defaultdict(list)
    level = []
    for place, node in enumerate(nodes):
        if node.parent_id is None:
            level.append(place)
        else:
            below[places[node.parent_id]].append(place)
    depths: dict[int, int] = {}
    depth = 0
    while level:
        for place in level:
            depths[place] = depth
            said = nodes[place].depth
            if said is not None and said != depth:
                why = "a root has 0" if depth == 0 else f"its parent has {depth - 1}"
                found.append(
                    Finding(f"steps[{place}].depth", said, "depth", f"it is {said} and must be {depth}: {why}")
                )
        level = [child for place in level for child in below[place]]
        depth += 1
    return depths


def range_of(result: ReasoningResult) -> tuple[float, float] | None:
    """Return the range of a result's confidences or scores, 0 to 1 unless it says another; None for what is none."""
    said = result.metadata.get(range_name(result))
    if said is None:
        return 0.0, 1.0
    if not isinstance(said, list) or len(said) != 2:
        return None
    low, high = said
    if not (_is_finite(low) and _is_finite(high)) or not low < high:  # type: ignore[operator]
        return None
    return float(low), float(high)  # type: ignore[arg-type]


def range_name(result: ReasoningResult) -> str:
    """Return where a result says its range."""
    return "confidence_range" if result.reasoning_type == "cot" else "score_range"


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _range_of(result: ReasoningResult, found: list[Finding]) -> tuple[float, float]:
    known = range_of(result)
    if known is not None:
        return known
    name = range_name(result)
    said = result.metadata[name]
    found.append(
        Finding(f"metadata.{name}", said, "range", f"{said!r:.60} is no range: give two numbers, the smaller first")
    )
    return -math.inf, math.inf


def _check_number(  # noqa: PLR0917 - private, a rule with all it needs
    path: str, value: float | None, low: float, high: float, range_name: str, found: list[Finding]
) -> None:
    if value is None:
        return
    rule = path.rpartition(".")[2]
    if not math.isfinite(value):
        found.append(Finding(path, None, rule, f"it is {value}: leave it out where it is not known"))
    elif not low <= value <= high:
        found.append(
            Finding(
                path,
                value,
                rule,
                f"{value:g} is not from {low:g} to {high:g}: metadata.{range_name} may say another range",
            )
        )
