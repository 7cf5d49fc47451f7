"""What LangChain's two texts are as a request. Needs no LangChain."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cache_management.adapters.guarded import MARK
from cache_management.adapters.langchain_identity import ask_of
from cache_management.cache.requests import fingerprint, make_request, searchable_text


def message(kind: str, content: Any, **more: Any) -> dict[str, Any]:
    path = ["langchain", "schema", "messages", kind]
    return {"lc": 1, "type": "constructor", "id": path, "kwargs": {"content": content, **more}}


def name_of(*messages: Any, llm: str = "llm") -> str:
    return fingerprint(make_request(**ask_of(json.dumps(messages), llm).arguments()))


def searched(*messages: Any) -> str | None:
    return searchable_text(make_request(**ask_of(json.dumps(messages), "llm").arguments()))


def test_only_the_last_turn_of_the_user_is_searched() -> None:
    assert searched(message("SystemMessage", "s"), message("HumanMessage", "q", type="human")) == "q"
    assert searched(message("HumanMessage", [{"type": "text", "text": "q"}])) == "q"
    assert searched(message("HumanMessage", "q"), message("AIMessage", "a")) is None
    assert searched(message("HumanMessage", "q"), message("ToolMessage", "r", tool_call_id="1")) is None


@pytest.mark.parametrize(
    "odd",
    [
        message("ChatMessage", "q", role="robot"),
        message("HumanMessage", 5),
        message("HumanMessage", [5]),
        {**message("HumanMessage", "q"), "id": ["elsewhere", "HumanMessage"]},
        {**message("HumanMessage", "q"), "more": 1},
        {"lc": 1, "type": "not_implemented", "id": ["langchain", "schema", "messages", "HumanMessage"], "repr": "q"},
        5,
        None,
    ],
)
def test_what_is_not_understood_counts_whole_and_is_found_exactly_only(odd: Any) -> None:
    first, other = [message("HumanMessage", "q"), odd], [message("HumanMessage", "q"), odd, odd]

    assert searched(*first) is None
    assert name_of(*first) == name_of(*first)
    assert name_of(*first) != name_of(*other)


def test_what_langchain_changes_on_a_hit_does_not_count() -> None:
    plain = message("AIMessage", "a", response_metadata={"finish_reason": "stop"}, tool_calls=[])
    marked = message(
        "AIMessage",
        "a",
        id="run-1",
        usage_metadata={"input_tokens": 1, "total_cost": 0},
        response_metadata={"finish_reason": "stop", MARK: {"kind": "exact"}},
    )
    only_marked = message("AIMessage", "a", response_metadata={MARK: {}})
    end = message("HumanMessage", "q")

    assert name_of(plain, end) == name_of(marked, end)
    assert name_of(message("AIMessage", "a"), end) == name_of(only_marked, end)


@pytest.mark.parametrize(
    "changed",
    [
        {"response_metadata": {"id": "resp_2"}},
        {"tool_calls": [{"name": "f", "args": {}, "id": "1"}]},
        {"additional_kwargs": {"thinking": "hm"}},
        {"name": "ann"},
        {"artifact": 5},
    ],
)
def test_everything_else_of_a_message_counts(changed: dict[str, Any]) -> None:
    end = message("HumanMessage", "q")

    assert name_of(message("AIMessage", "a", **changed), end) != name_of(message("AIMessage", "a"), end)


def test_a_text_is_not_the_message_that_says_the_same() -> None:
    text = fingerprint(make_request(**ask_of("q", "llm").arguments()))

    assert text != name_of(message("HumanMessage", "q"))
    assert name_of(message("HumanMessageChunk", "q")) != name_of(message("HumanMessage", "q"))


@pytest.mark.parametrize(
    ("llm", "model"),
    [
        ('{"kwargs": {"model_name": "gpt-4"}, "lc": 1}---[(\'stop\', None)]', "gpt-4"),
        ("[('model', 'gpt-4'), ('stop', None)]", "gpt-4"),
        ("[('stop', None)]", None),
        ('{"kwargs": 5}', None),
        ('{"kwargs"', None),
        ("{" * 100_000, None),
        ("", None),
    ],
)
def test_the_model_is_named_and_the_whole_description_counts(llm: str, model: str | None) -> None:
    assert ask_of("q", llm).model == model
    assert name_of(message("HumanMessage", "q"), llm=llm) != name_of(message("HumanMessage", "q"), llm=llm + " ")
