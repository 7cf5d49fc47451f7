"""Why two requests are not the same: the fields in which their canonical forms differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from cache_management.cache.requests import Request, big_integer, canonical, is_secret_name

ABSENT = "(absent)"
HIDDEN = "(hidden)"
SHOWN_CHARACTERS = 80
_LEAD = 20
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")


class _Missing:
    """What stands in the place of a value that one side lacks."""


_MISSING: Final = _Missing()


class Difference(msgspec.Struct, frozen=True):
    """One field, such as `params.temperature` or `messages[3].content`, and what each side has.

    Values are shown as JSON, long ones around the first character that differs.
    """

    field: str
    a: str
    b: str


def explain(a: Request, b: Request) -> list[Difference]:
    """Return the fields that make two requests different; empty exactly when the fingerprints are equal."""
    # Omitted params are shown one by one too.
    one, other = ({"params": {}, **canonical(request)} for request in (a, b))
    return list(_compare(one, other, "", hidden=False))


def _compare(a: Any, b: Any, field: str, *, hidden: bool) -> Iterator[Difference]:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in sorted(a.keys() | b.keys()):
            below = f"{field}.{name}" if field else name
            secret = hidden or is_secret_name(name)
            yield from _compare(a.get(name, _MISSING), b.get(name, _MISSING), below, hidden=secret)
    elif isinstance(a, list) and isinstance(b, list):
        for at in range(max(len(a), len(b))):
            one, other = (side[at] if at < len(side) else _MISSING for side in (a, b))
            yield from _compare(one, other, f"{field}[{at}]", hidden=hidden)
    # The class too, because for Python True is 1.
    elif a.__class__ is not b.__class__ or a != b:
        yield Difference(field, *_show(a, b, hidden=hidden))


def _show(a: Any, b: Any, *, hidden: bool) -> tuple[str, str]:
    texts = [ABSENT if side is _MISSING else HIDDEN if hidden else _to_json(side) for side in (a, b)]
    start = 0
    if max(map(len, texts)) > SHOWN_CHARACTERS and _MISSING not in (a, b):
        while start < min(map(len, texts)) and texts[0][start] == texts[1][start]:
            start += 1
        start = max(0, start - _LEAD)
    one, other = (_window(text, start) for text in texts)
    return one, other


def _window(text: str, start: int) -> str:
    shown = text[start : start + SHOWN_CHARACTERS]
    return ("…" if start else "") + shown + ("…" if start + len(shown) < len(text) else "")


def _to_json(value: Any) -> str:
    text = json.dumps(_without_secrets(value), ensure_ascii=False, sort_keys=True)
    return _URL_LOGIN.sub(HIDDEN, text)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: HIDDEN if is_secret_name(name) else _without_secrets(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    if isinstance(value, msgspec.msgpack.Ext):
        return big_integer(value)
    return value
