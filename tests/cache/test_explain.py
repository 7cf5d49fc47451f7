from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given

from cache_management.cache.explain import ABSENT, HIDDEN, SHOWN_CHARACTERS, Difference, explain
from cache_management.cache.requests import fingerprint, make_request
from tests.cache.test_requests import CHANGES, REQUESTS, made


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, str, str]]:
    found = explain(make_request("p", **one), make_request("p", **other))
    return [(difference.field, difference.a, difference.b) for difference in found]


@given(one=REQUESTS, other=REQUESTS)
@example(one={"prompt": "p", "params": {"x": [True]}}, other={"prompt": "p", "params": {"x": [1]}})
@example(one={"prompt": "p", "params": {"x": [10**30]}}, other={"prompt": "p", "params": {"x": [10**30 + 1]}})
@example(one={"prompt": "p", "params": {"x": [{}]}}, other={"prompt": "p", "params": {"x": [[]]}})
@example(one={"prompt": "p", "params": {"x": {"a": None}}}, other={"prompt": "p", "params": {"x": {}}})
@example(one={"prompt": "p", "params": {"x": [{}]}}, other={"prompt": "p", "params": {"x": []}})
@example(one={"prompt": "p", "params": {"x": 1.0}}, other={"prompt": "p", "params": {"x": 1}})
def test_nothing_differs_exactly_when_the_fingerprints_are_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    a, b = make_request(**one), make_request(**other)

    assert (explain(a, b) == []) == (fingerprint(a) == fingerprint(b))
    assert explain(a, a) == []


@given(one=REQUESTS, other=REQUESTS)
def test_the_other_way_round_shows_the_same_fields(one: dict[str, Any], other: dict[str, Any]) -> None:
    a, b = make_request(**one), make_request(**other)

    assert [Difference(d.field, d.b, d.a) for d in explain(b, a)] == explain(a, b)


@pytest.mark.parametrize(("name", "changes"), CHANGES, ids=[name for name, _ in CHANGES])
def test_each_changed_field_is_named(name: str, changes: dict[str, Any]) -> None:
    fields = {difference.field for difference in explain(made(), made(**changes))}

    (field,) = changes
    if field == "params":
        assert all(item.startswith(("params.", "tools", "tool_choice", "response_format")) for item in fields)
    elif field in {"history", "system"}:
        assert all(item.startswith("messages[") for item in fields)
    else:
        assert fields == {field}
    assert fields


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (
            {"params": {"temperature": 0}},
            {"params": {"temperature": 0.7}},
            [("params.temperature", "0", "0.7")],
        ),
        ({}, {"params": {"seed": 7}}, [("params.seed", ABSENT, "7")]),
        ({"params": {"seed": 7, "x": 1}}, {"params": {"x": 1}}, [("params.seed", "7", ABSENT)]),
        ({"model": "a"}, {"model": None}, [("model", '"a"', ABSENT)]),
        (
            {"system": "s", "history": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            {"system": "s", "history": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]},
            [("messages[2].content", '"b"', '"c"')],
        ),
        ({"params": {"x": [2**64 + 1]}}, {"params": {"x": [0]}}, [("params.x[0]", "18446744073709551617", "0")]),
        ({"params": {"x": [True]}}, {"params": {"x": [1]}}, [("params.x[0]", "true", "1")]),
        (
            {"params": {"tools": [{"type": "function", "function": {"name": "a"}}]}},
            {"params": {"tools": [{"type": "function", "function": {"name": "b"}}]}},
            [("tools[0].function.name", '"a"', '"b"')],
        ),
    ],
)
def test_fields_and_values(one: dict[str, Any], other: dict[str, Any], expected: list[tuple[str, str, str]]) -> None:
    assert differences(one, other) == expected


def test_long_values_are_shown_around_the_first_difference() -> None:
    same = "The quick brown fox jumps over the lazy dog. " * 20

    ((field, one, other),) = differences({"system": same + "Red." + same}, {"system": same + "Blue." + same})

    assert field == "messages[0].content"
    assert "Red." in one
    assert "Blue." in other
    assert max(len(one), len(other)) <= SHOWN_CHARACTERS + 2


def test_secrets_are_hidden_at_any_depth() -> None:
    def asked(secret: str) -> dict[str, Any]:
        return {
            "params": {
                "webhook_secret": secret,
                "extra_headers": {"cookie": secret},
                "tools": [{"type": "mcp", "authorization": secret, "headers": {"X-Api-Key": {"v": secret}}}],
                "base_url": f"https://user:{secret}@example.org/v1",
            }
        }

    found = differences(asked("first-secret"), asked("other-secret"))
    added = differences({}, asked("first-secret"))

    assert len(found) == 5
    assert "-secret" not in str([item[1:] for item in found + added])
    assert ("tools[0].authorization", HIDDEN, HIDDEN) in found
