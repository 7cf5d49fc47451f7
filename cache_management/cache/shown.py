"""An answer as one text: what people see, and what is compared when an answer is computed again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping


def shown(text: str, calls: Iterable[Mapping[str, object]]) -> str:
    """Return a text with the calls of tools in a line of JSON behind it; see `semantic/comparing.py`.

    Args:
        calls: Each with its `name` and its `args`, as values or as JSON; their ids are others each time.
    """
    named = [{"name": each.get("name"), "args": _value(each.get("args"))} for each in calls]
    return "\n".join(filter(None, (text, json.dumps(named, sort_keys=True, default=str) if named else "")))


def _value(arguments: object) -> object:
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(arguments)
    return arguments
