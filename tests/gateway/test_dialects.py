from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.admission import may_store
from cache_management.cache.compute import Computed
from cache_management.gateway.bodies import pieces, zeroed
from cache_management.gateway.calls import NotUnderstood
from cache_management.gateway.dialects import dialect_of
from cache_management.gateway.dialects.base import has_media
from cache_management.gateway.dialects.chat import Chat, ChatCollector, merge
from cache_management.gateway.dialects.messages import Messages
from cache_management.gateway.dialects.responses import Responses
from cache_management.gateway.sse import Event


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/v1/chat/completions", "chat"),
        ("POST", "/openai/deployments/mine/chat/completions?api-version=1", "chat"),
        ("post", "/v1/responses", "responses"),
        ("POST", "/v1/embeddings", "embeddings"),
        ("POST", "/v1/messages?beta=true", "messages"),
        ("GET", "/v1/chat/completions", None),
        ("POST", "/v1/messages/count_tokens", None),
        ("POST", "/v1/threads/thread_1/messages", None),
        ("POST", "/v1/responses/resp_1/cancel", None),
        ("POST", "/v1/completions", None),
    ],
)
def test_a_path_says_which_api_is_asked(method: str, path: str, name: str | None) -> None:
    found = dialect_of(method, path)

    assert (None if found is None else found.name) == name


def kept(computed: Computed) -> bool:
    return (
        may_store(
            computed.response,
            size_bytes=0,
            limit_bytes=1,
            finish_reason=computed.finish_reason,
            refusal=computed.refusal,
            has_tool_calls=computed.has_tool_calls,
        )
        is None
    )


def choice(reason: str | None = "stop", **message: Any) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": "yes", **message}, "finish_reason": reason}


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("choices", "good"),
    [
        ([choice()], True),
        ([choice("tool_calls", content=None, tool_calls=[CALL])], True),
        ([choice("length")], False),
        ([choice(), choice("length")], False),
        ([choice(None)], False),
        ([choice("something new")], False),
        ([choice(content=None)], False),
        ([choice(content=None, refusal="No.")], False),
        ([choice(), choice(content="I'm sorry, but I can't help with that.")], False),
        ([choice(content=[{"type": "text", "text": "parts"}])], True),
        ([choice(content=None, audio={"id": "a", "transcript": "yes"})], True),
    ],
)
def test_which_chat_completions_are_kept(choices: list[Any], good: bool) -> None:
    assert kept(Chat().finished({"choices": choices})) == good


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": [4]}, {"choices": [{}]}, {"choices": "x"}])
def test_what_is_no_chat_completion_is_not_understood(body: dict[str, Any]) -> None:
    with pytest.raises(NotUnderstood):
        Chat().finished(body)


@pytest.mark.parametrize(
    ("content", "good"),
    [
        ([{"type": "output_text", "text": "yes"}], True),
        ([{"type": "refusal", "refusal": "No."}], False),
        ([{"type": "output_text", "text": "yes"}, {"type": "refusal"}], False),
    ],
)
def test_which_responses_are_kept(content: list[Any], good: bool) -> None:
    body = {"status": "completed", "output": [{"type": "message", "content": content}]}

    assert kept(Responses().finished(body)) == good
    assert not kept(Responses().finished({**body, "status": "in_progress"}))


def test_pictures_sound_and_files_are_seen() -> None:
    assert has_media([{"content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}, {"content": "x"}])
    assert has_media([{"content": [{"type": "document", "source": {}}]}])
    assert not has_media([{"content": [{"type": "text", "text": "x"}, {"type": "tool_result"}]}, {}])


@pytest.mark.parametrize("api", [Chat(), Responses(), Messages()])
def test_a_turn_with_a_picture_is_found_exactly_only(api: Any) -> None:
    turn = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image", "source": {}}]}

    reading = api.read({"model": "m", "messages": [turn], "input": [turn]})

    assert len(reading.history[-1]) > 2


# streams of chat completions that are unlike OpenAI's own


def collected(*chunks: dict[str, Any]) -> dict[str, Any]:
    import json

    collector = ChatCollector()
    for chunk in chunks:
        collector.take(Event(json.dumps(chunk)))
    collector.take(Event("[DONE]"))
    assert collector.has_ended
    return collector.body()


def delta(index: int = 0, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "1", "choices": [{"index": index, "delta": more, "finish_reason": reason}]}


def test_reasoning_is_put_together_and_replayed() -> None:
    body = collected(
        delta(role="assistant", reasoning_content="Let "),
        delta(reasoning_content="me see."),
        delta(content="Yes."),
        delta(reason="stop"),
        {"choices": [], "usage": {"completion_tokens": 3}, "x_groq": {"id": "g"}},
    )

    message = body["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Let me see.", "Yes.")
    assert body["usage"] == {"completion_tokens": 3}
    events = list(Chat().events(body, includes_usage=True))
    collector = ChatCollector()
    for event in events:
        collector.take(event)
    assert collector.body()["choices"][0]["message"] == message
    assert collector.body()["x_groq"] == {"id": "g"}


def test_an_old_function_call_is_put_together() -> None:
    body = collected(
        delta(role="assistant", content=None, function_call={"name": "f", "arguments": ""}),
        delta(function_call={"arguments": '{"a"'}),
        delta(function_call={"arguments": ": 1}"}),
        delta(reason="function_call"),
    )

    assert body["choices"][0]["message"]["function_call"] == {"name": "f", "arguments": '{"a": 1}'}


@pytest.mark.parametrize(
    "data", ["{", "[]", '{"choices": 4}', '{"choices": [{"index": "x"}]}', '{"choices": [{"delta": 4}]}']
)
def test_what_is_no_chunk_is_not_understood(data: str) -> None:
    with pytest.raises(NotUnderstood):
        ChatCollector().take(Event(data))


def test_a_value_does_not_change_its_type() -> None:
    with pytest.raises(NotUnderstood, match="content"):
        merge({"content": "text"}, {"content": ["parts"]})


@given(st.text(max_size=2000))
def test_pieces_make_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text
    assert len(pieces(text)) <= 256


def test_usage_is_zeroed_whatever_stands_in_it() -> None:
    assert zeroed({"a": 4, "b": {"c": 0.5, "d": None}, "e": [1], "f": True, "g": "tier"}) == {
        "a": 0,
        "b": {"c": 0, "d": None},
        "e": [0],
        "f": True,
        "g": "tier",
    }
