"""An answer as one text."""

from __future__ import annotations

from cache_management.cache.shown import shown


def test_tool_calls_are_shown_behind_the_text() -> None:
    calls = [{"name": "f", "args": {"b": 1, "a": 2}, "id": "call_1"}]

    assert shown("text", []) == "text"
    assert shown("", calls) == '[{"args": {"a": 2, "b": 1}, "name": "f"}]'
    assert shown("text", calls).startswith("text\n[")


def test_arguments_as_json_are_the_values_that_they_say() -> None:
    spaced, broken = ({"name": "f", "args": args} for args in ('{"a":  2}', "{not json"))

    assert shown("", [spaced]) == shown("", [{"name": "f", "args": {"a": 2}}])
    assert "{not json" in shown("", [broken])
