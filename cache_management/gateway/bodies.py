"""JSON bodies: read strictly, because two readers of one body must not see two requests."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from cache_management.gateway.calls import BadRequest, NotUnderstood

MAX_DEPTH = 100
_DIGITS = 400
encode = msgspec.json.Encoder().encode


def read_request(body: bytes) -> dict[str, Any]:
    """Read the JSON object of a request.

    Raises:
        BadRequest: It is none: no UTF-8, no JSON, nested too deeply, a number beyond all bounds, a name given twice.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        raise BadRequest(f"the body is not UTF-8 at byte {exc.start}") from None
    try:
        found = json.loads(
            text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_real, parse_int=_whole
        )
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except json.JSONDecodeError as exc:
        raise BadRequest(
            f"We could not parse the JSON body of your request: {exc.msg} at character {exc.pos}"
        ) from None
    if not isinstance(found, dict):
        raise BadRequest(f"the body must be a JSON object, not {kind_of(found)}")
    if _depth_exceeds(found, MAX_DEPTH):
        raise BadRequest(f"the body is nested deeper than {MAX_DEPTH} levels")
    return found


def read_answer(body: bytes | str) -> dict[str, Any]:
    """Read the JSON object that a provider answered.

    Raises:
        NotUnderstood: It is none.
    """
    try:
        found = msgspec.json.decode(body)
    except (ValueError, RecursionError) as exc:  # msgspec's errors are ValueErrors
        raise NotUnderstood(f"no JSON: {str(exc)[:80]}") from None
    if not isinstance(found, dict):
        raise NotUnderstood(f"{kind_of(found)} where an object is expected")
    return found


def kind_of(value: object) -> str:
    """Return the name of a JSON value's type with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    for kind, name in ((str, "a string"), (int, "an integer"), (float, "a number"), (list, "an array")):
        if isinstance(value, kind):
            return name
    return "an object"


def zeroed(value: Any) -> Any:
    """Return usage with every number in it at 0: a hit costs nothing."""
    if isinstance(value, dict):
        return {name: zeroed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [zeroed(item) for item in value]
    return 0 if isinstance(value, int | float) and not isinstance(value, bool) else value


def pieces(text: str) -> list[str]:
    """Cut a text for a stream: some 64 characters each, at most 256 pieces."""
    size = max(64, -(-len(text) // 256))
    return [text[at : at + size] for at in range(0, len(text), size)]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRequest(f"the name {twice[:40]!r} is given twice in one object")
    return found


def _no_number(name: str) -> Any:
    raise BadRequest(f"{name} is no JSON number")


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BadRequest(f"the number {text[:20]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise BadRequest(f"the number {text[:20]}... is too large")
    return int(text)


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [
            item
            for each in level
            for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True
