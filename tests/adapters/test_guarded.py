"""What adapters share."""

from __future__ import annotations

from cache_management.adapters.guarded import shown


def test_tool_calls_are_shown_behind_the_text() -> None:
    calls = [{"name": "f", "args": {"b": 1, "a": 2}, "id": "call_1"}]

    assert shown("text", []) == "text"
    assert shown("", calls) == '[{"args": {"a": 2, "b": 1}, "name": "f"}]'
    assert shown("text", calls).startswith("text\n[")
