from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.admission import may_store
from cache_management.cache.compute import Computed
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.errors import InvalidInput
from cache_management.cache.semantic.comparing import compare
from cache_management.gateway.bodies import pieces, zeroed
from cache_management.gateway.calls import BadRequest, NotUnderstood
from cache_management.gateway.dialects import dialect_of
from cache_management.gateway.dialects.base import has_media
from cache_management.gateway.dialects.chat import Chat, ChatCollector, merge
from cache_management.gateway.dialects.embeddings import Embeddings
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


@pytest.mark.parametrize(
    ("wanted", "choices", "good"),
    [
        (2, [choice(), choice(content="another")], True),
        (2, [choice(), choice(content="")], False),
        (2, [choice()], False),
        (1, [choice(), choice()], False),
    ],
)
def test_every_choice_that_was_asked_for_has_to_be_there(wanted: int, choices: list[Any], good: bool) -> None:
    assert kept(Chat().finished({"choices": choices}, choices=wanted)) == good
    assert Chat().read({"messages": [{"role": "user", "content": "q"}], "n": wanted}).choices == wanted


def tool_call(arguments: str, of_id: str = "1") -> dict[str, Any]:
    return {"id": of_id, "type": "function", "function": {"name": "weather", "arguments": arguments}}


def as_chat(arguments: str) -> Computed:
    return Chat().finished(
        {"choices": [choice("tool_calls", content=None, tool_calls=[tool_call(arguments, arguments)])]}
    )


def as_responses(arguments: str) -> Computed:
    item = {"type": "function_call", "id": arguments, "call_id": arguments, "name": "weather", "arguments": arguments}
    return Responses().finished({"status": "completed", "output": [item]})


def as_messages(arguments: str) -> Computed:
    block = {"type": "tool_use", "id": arguments, "name": "weather", "input": json.loads(arguments)}
    return Messages().finished({"type": "message", "stop_reason": "tool_use", "content": [block]})


@pytest.mark.parametrize("answer", [as_chat, as_responses, as_messages])
async def test_calls_of_tools_are_compared_by_what_they_say(answer: Callable[[str], Computed]) -> None:
    paris, spaced, london = map(answer, ('{"city":"Paris"}', '{"city": "Paris"}', '{"city":"London"}'))

    async def compared(one: Computed, another: Computed) -> str:
        return await compare("weather?", one.response or "", another.response or "", embedder=HashingEmbedder())

    assert kept(paris)
    assert await compared(paris, spaced) == "same"
    assert await compared(paris, london) == "different"


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


WORDS = st.sampled_from(
    [
        *("model", "input", "messages", "tools", "type", "role", "content", "text", "image", "n", "stream", "store"),
        *("choices", "message", "delta", "output", "status", "index", "tool_calls", "function", "arguments", "name"),
        *("finish_reason", "stop_reason", "usage", "data", "embedding", "audio", "refusal", "summary", "id", "error"),
    ]
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(allow_nan=False) | WORDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("api", [Chat(), Responses(), Embeddings(), Messages()])
@given(body=st.dictionaries(WORDS | st.just("encoding_format"), ANY_JSON, max_size=5))
def test_whatever_a_request_holds_it_is_read_or_said_to_be_wrong(api: Any, body: dict[str, Any]) -> None:
    with suppress(InvalidInput):
        api.read({"model": "m", "messages": [{"role": "user", "content": "q"}], "input": "q", **body})


GOOD_ANSWERS: dict[Any, dict[str, Any]] = {
    Chat: {"choices": [choice()]},
    Responses: {"status": "completed", "output": [{"type": "message", "content": []}]},
    Messages: {"type": "message", "stop_reason": "end_turn", "content": [{"type": "text", "text": "a"}]},
}


@pytest.mark.parametrize("api", list(GOOD_ANSWERS))
@given(body=st.dictionaries(WORDS, ANY_JSON, max_size=4), item=st.dictionaries(WORDS, ANY_JSON, max_size=4))
def test_whatever_an_answer_holds_it_is_kept_or_not_understood(api: Any, body: dict[str, Any], item: Any) -> None:
    part = {Chat: "choices", Responses: "output", Messages: "content"}[api]
    good = GOOD_ANSWERS[api]
    with suppress(NotUnderstood):
        api().finished({**good, part: [{**good[part][0], **item}], **body})


@pytest.mark.parametrize("api", list(GOOD_ANSWERS))
@given(events=st.lists(st.dictionaries(WORDS, ANY_JSON, max_size=4), max_size=4))
def test_whatever_a_stream_holds_it_is_put_together_or_not_understood(api: Any, events: list[Any]) -> None:
    collector = api().collector()
    with suppress(NotUnderstood):
        for event in events:
            collector.take(Event(json.dumps(event)))
        collector.body()


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


def test_sound_in_pieces_is_not_put_together() -> None:
    collector = Chat().collector()
    delta = {"audio": {"id": "a", "data": "YWJj"}}

    with pytest.raises(NotUnderstood):
        collector.take(Event(json.dumps({"choices": [{"index": 0, "delta": delta}]})))


def test_thoughts_of_a_response_are_replayed_in_pieces() -> None:
    thought = {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    body = {"id": "r", "status": "completed", "output": [thought]}

    said = [json.loads(event.data) for event in Responses().events(body, includes_usage=False)]

    assert [each["delta"] for each in said if each["type"] == "response.reasoning_text.delta"] == ["hm"]
    (added,) = [each["item"] for each in said if each["type"] == "response.output_item.added"]
    assert added["content"] == []


def test_a_long_answer_in_small_pieces_is_put_together() -> None:
    collector = Chat().collector()
    for _ in range(20_000):
        collector.take(Event(json.dumps({"choices": [{"index": 0, "delta": {"content": "ab"}}]})))

    (found,) = collector.body()["choices"]
    assert found["message"]["content"] == "ab" * 20_000


@pytest.mark.parametrize(
    ("body", "goes_on"),
    [
        ({"model": "e", "messages": []}, True),
        ({"model": "e", "input": "q", "encoding_format": ["float"]}, True),
        ({"model": "e", "input": "q", "encoding_format": "int8"}, True),
        ({"model": "e", "input": ["q"] * 2049}, True),
        ({"model": "e", "input": ["q"] * 2048}, False),
        ({"model": "e", "input": [1] * 5000}, False),
    ],
)
def test_embeddings_that_are_the_provider_s_to_judge(body: dict[str, Any], goes_on: bool) -> None:
    assert (Embeddings().read(body).bypass is not None) == goes_on


def test_inputs_that_are_no_texts_are_the_provider_s_to_judge() -> None:
    with pytest.raises(InvalidInput) as caught:
        Embeddings().read({"model": "e", "input": [{"image": "x"}]})
    assert not isinstance(caught.value, BadRequest)
    assert Responses().read({"previous_response_id": "r", "input": []}).bypass is not None


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
