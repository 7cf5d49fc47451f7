"""The page and its numbers over HTTP, for the endpoint of metrics or another server."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import msgspec

from cache_management.cache.readiness import Answer, Routes

PAGE_PATH, STATE_PATH = "/", "/api/state"
_MARK = "/*STATE*/null"


def page(state: dict[str, Any] | None = None) -> str:
    """Return the page: one that asks for its numbers again and again, or with a state one that shows just these."""
    text = files("cache_management.dashboard").joinpath("page.html").read_text(encoding="utf-8")
    if state is None:
        return text
    # In a script element: what could end it is written so that it cannot.
    told = (
        msgspec.json.encode(state)
        .decode()
        .replace("<", "\\u003c")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )
    return text.replace(_MARK, told, 1)


def routes(state: Callable[[], dict[str, Any]]) -> Routes:
    """Return the answers to the page's paths."""
    shown = page().encode()

    def numbers() -> Answer:
        return 200, "application/json", msgspec.json.encode(state())

    return {PAGE_PATH: lambda: (200, "text/html; charset=utf-8", shown), STATE_PATH: numbers}
