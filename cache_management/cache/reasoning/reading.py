"""Reads steps and results from JSON as people and logs write it: `step` and `text`, `id` and `parent`, too.

What is not known goes to a step's metadata, not to the bin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from cache_management.cache.config import explain_validation
from cache_management.cache.errors import InvalidInput
from cache_management.cache.reasoning.result import CoTStep, ReasoningResult, ReasoningType, ToTNode
from cache_management.cache.reasoning.validation import Finding, InvalidReasoning

_ALIASES = {
    "cot": {"step": "step_number", "text": "thought"},
    "tot": {"id": "node_id", "parent": "parent_id", "children": "children_ids", "text": "thought"},
}
_KINDS: dict[str, type[BaseModel]] = {"cot": CoTStep, "tot": ToTNode}
_IDS = ("node_id", "parent_id")


def read_steps(reasoning_type: ReasoningType, given: object) -> list[CoTStep] | list[ToTNode]:
    """Return steps from JSON values: objects, or of a chain just texts.

    Raises:
        InvalidReasoning: Some cannot be read; names all of them.
    """
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise InvalidInput(f"steps must be a list of objects, not {type(given).__name__}")
    found: list[Finding] = []
    steps: list[Any] = []
    for place, each in enumerate(given):
        fields = _fields(reasoning_type, each, place, found)
        if fields is None:
            continue
        try:
            # Strictly: a true is no number, and a text none either.
            steps.append(_KINDS[reasoning_type].model_validate(fields, strict=True))
        except ValidationError as exc:
            for error in exc.errors():
                at = ".".join(str(part) for part in error["loc"])
                value = error.get("input")
                shown = None if isinstance(value, Mapping) else value
                found.append(Finding(f"steps[{place}].{at}", shown, "type", f"{error['msg']} ({shown!r:.60})"))
    if found:
        raise InvalidReasoning(found)
    return steps


def _fields(reasoning_type: str, given: object, place: int, found: list[Finding]) -> dict[str, Any] | None:
    path = f"steps[{place}]"
    if isinstance(given, str) and reasoning_type == "cot":
        return {"step_number": place + 1, "thought": given}
    if not isinstance(given, Mapping):
        found.append(Finding(path, None, "type", f"it must be an object, not {type(given).__name__}"))
        return None
    known = _KINDS[reasoning_type].model_fields
    fields: dict[str, Any] = {}
    said_as: dict[str, str] = {}
    metadata = given.get("metadata", {})
    if not isinstance(metadata, Mapping):
        found.append(Finding(f"{path}.metadata", None, "type", f"it must be an object, not {type(metadata).__name__}"))
        return None
    metadata = dict(metadata)
    for said, value in given.items():
        name = _ALIASES[reasoning_type].get(said, said)
        if name == "metadata":
            continue
        if name not in known:
            if metadata.get(said, value) != value:
                found.append(Finding(f"{path}.{said}", None, "alias", "it is in metadata, too, with another value"))
            metadata[said] = value
            continue
        read = _read(name, value)
        if name in fields and fields[name] != read:
            found.append(
                Finding(f"{path}.{said}", None, "alias", f"it says another thing than {said_as[name]}: leave one out")
            )
        said_as[name] = said
        fields[name] = read
    if reasoning_type == "cot" and "step_number" not in fields:
        fields["step_number"] = place + 1
    if metadata:
        fields["metadata"] = metadata
    return fields


def _read(name: str, value: object) -> object:
    if name in _IDS:
        return _as_id(value)
    return [_as_id(each) for each in value] if name == "children_ids" and isinstance(value, list) else value


def _as_id(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def read_result(given: object) -> ReasoningResult:
    """Return a result from a JSON object: `problem`, `steps`, and perhaps `reasoning_type`, `final_answer`, `metadata`.

    Without a type it is a tree when its steps have ids. Fields that are not known go to its metadata.

    Raises:
        InvalidReasoning, InvalidInput: It cannot be read; the message says why.
    """
    if not isinstance(given, Mapping):
        raise InvalidInput(f"a result must be an object with a problem and steps, not {type(given).__name__}")
    if ("steps" in given) == ("nodes" in given):
        raise InvalidInput("a result has a list of steps, or one of nodes: give one of them")
    steps = given.get("steps", given.get("nodes"))
    kind = given.get("reasoning_type", given.get("type"))
    if kind is None:
        first = steps[0] if isinstance(steps, list) and steps else None
        kind = "tot" if isinstance(first, Mapping) and ("node_id" in first or "id" in first) else "cot"
    if kind not in ("cot", "tot"):
        raise InvalidInput(f"reasoning_type {kind!r:.40}: take cot or tot")
    metadata = given.get("metadata", {})
    if not isinstance(metadata, Mapping):
        raise InvalidInput(f"metadata must be an object, not {type(metadata).__name__}")
    read = ("reasoning_type", "type", "problem", "steps", "nodes", "final_answer", "metadata")
    rest = {name: value for name, value in given.items() if name not in read}
    try:
        return ReasoningResult(
            reasoning_type=kind,
            problem=given.get("problem"),
            steps=read_steps(kind, steps),
            final_answer=given.get("final_answer"),
            metadata={**rest, **metadata},
        )
    except ValidationError as exc:
        raise InvalidInput(explain_validation(exc, what="the reasoning")) from None
