"""The Responses API through the real client of OpenAI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from cache_management.cache.manager import CacheManager
from cache_management.gateway.clients import cached_openai
from tests.gateway.upstream import Act, LocalUpstream, answer_to

TOOLS: Any = [{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}]


@pytest.fixture
async def client(upstream: LocalUpstream, manager: CacheManager) -> AsyncIterator[openai.AsyncOpenAI]:
    given = openai.AsyncOpenAI(api_key="sk-1", base_url=upstream.url, max_retries=0)
    async with cached_openai(given, manager) as made:
        yield made


async def streamed(client: openai.AsyncOpenAI, **asked: Any) -> tuple[Any, list[str]]:
    """Return the response that the SDK makes of a stream, and the kinds of its events."""
    async with client.responses.stream(model="gpt-x", **asked) as stream:
        kinds = [event.type async for event in stream]
        return compared(await stream.get_final_response()), list(dict.fromkeys(kinds))


def compared(response: Any) -> Any:
    return {name: value for name, value in response.to_dict().items() if name not in {"usage", "cache_hit"}}


async def test_the_second_answer_is_a_hit(client: openai.AsyncOpenAI, upstream: LocalUpstream) -> None:
    first = await client.responses.create(model="gpt-x", input="hello")
    second = await client.responses.create(model="gpt-x", input=[{"role": "user", "content": "hello"}])

    assert second.output_text == answer_to("hello")
    assert compared(first) == compared(second)
    assert second.usage is not None
    assert second.usage.total_tokens == 0
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("more", [{}, {"tools": TOOLS}])
async def test_plain_and_streamed_requests_share_an_entry(
    client: openai.AsyncOpenAI, upstream: LocalUpstream, more: dict[str, Any]
) -> None:
    upstream.tool_call = {"name": "weather", "arguments": {"city": "Zürich", "days": [1, 2]}}

    first, kinds = await streamed(client, input="hello", **more)
    second, again = await streamed(client, input="hello", **more)
    plain = compared(await client.responses.create(model="gpt-x", input="hello", **more))

    assert first == second
    assert kinds == again
    assert plain["output"][0] == first["output"][0]
    assert len(upstream.seen) == 1


async def test_structured_answers_are_parsed_from_a_hit(client: openai.AsyncOpenAI, upstream: LocalUpstream) -> None:
    class Said(BaseModel):
        answer: str
        sure: bool

    for _ in range(2):
        found = await client.responses.parse(model="gpt-x", input="hello", text_format=Said)
        assert found.output_parsed == Said(answer=answer_to("hello"), sure=True)

    assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"instructions": "Be brief."},
        {"input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]},
        {"max_output_tokens": 5},
        {"tools": TOOLS},
        {"input": [{"role": "user", "content": "hello"}, {"type": "function_call_output", "output": "4"}]},
    ],
)
async def test_whatever_else_is_asked_is_another_request(
    client: openai.AsyncOpenAI, upstream: LocalUpstream, other: dict[str, Any]
) -> None:
    for more in ({}, other, other):
        await client.responses.create(**{"model": "gpt-x", "input": "hello", **more})

    assert len(upstream.seen) == 2


@pytest.mark.parametrize(
    "more",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"background": True},
        {"store": True},
        {"prompt": {"id": "pmpt_1"}},
        {"tools": [{"type": "web_search"}]},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
    ],
)
async def test_what_the_provider_keeps_or_does_is_not_for_the_cache(
    client: openai.AsyncOpenAI, upstream: LocalUpstream, more: dict[str, Any]
) -> None:
    for _ in range(2):
        found = await client.responses.with_raw_response.create(**{"model": "gpt-x", "input": "hello", **more})
        assert found.headers["x-cache"] == "bypass"

    assert len(upstream.seen) == 2


@pytest.mark.parametrize("act", [Act(finish_reason="max_output_tokens"), Act(finish_reason="content_filter")])
async def test_an_incomplete_answer_is_not_kept(client: openai.AsyncOpenAI, upstream: LocalUpstream, act: Act) -> None:
    upstream.act = lambda _: act
    for _ in range(2):
        await client.responses.create(model="gpt-x", input="hello")
        stream = await client.responses.create(model="gpt-x", input="hello", stream=True)
        kinds = [event.type async for event in stream]
        assert kinds[-1] == "response.incomplete"

    assert len(upstream.seen) == 4


@pytest.mark.parametrize("act", [Act(ends_after=6), Act(raw=b'data: {"type":"error"}\n\n', kind="text/event-stream")])
async def test_a_stream_without_its_last_event_is_not_kept(
    client: openai.AsyncOpenAI, upstream: LocalUpstream, act: Act
) -> None:
    upstream.act = lambda _: act
    for _ in range(2):
        [event async for event in await client.responses.create(model="gpt-x", input="hello", stream=True)]

    assert len(upstream.seen) == 2


async def test_an_answer_that_was_stored_by_hand_is_a_response(
    client: openai.AsyncOpenAI, manager: CacheManager, upstream: LocalUpstream
) -> None:
    params = {"base_url": upstream.url, "api": "responses"}
    await manager.store("hello", "By hand.", model="gpt-x", params=params)

    found = await client.responses.create(model="gpt-x", input="hello")
    stream, _ = await streamed(client, input="hello")

    assert found.output_text == "By hand."
    assert stream["output"][0]["content"][0]["text"] == "By hand."
    assert upstream.seen == []
