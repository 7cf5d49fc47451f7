"""Anthropic's Messages API through its real client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest

from cache_management import sync
from cache_management.cache.config import CacheConfig
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.gateway.clients import cached_anthropic
from tests.gateway.upstream import Act, LocalUpstream, answer_to

TOOLS: Any = [{"name": "weather", "input_schema": {"type": "object"}}]


def ask(text: str = "hello", **more: Any) -> Any:
    return {"model": "claude-x", "max_tokens": 100, "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture
async def client(upstream: LocalUpstream, manager: CacheManager) -> AsyncIterator[anthropic.AsyncAnthropic]:
    given = anthropic.AsyncAnthropic(api_key="sk-1", base_url=upstream.url.removesuffix("/v1"), max_retries=0)
    async with cached_anthropic(given, manager) as made:
        yield made


async def streamed(client: anthropic.AsyncAnthropic, **more: Any) -> Any:
    """Return the message that the SDK makes of a stream."""
    async with client.messages.stream(**ask(**more)) as stream:
        return compared(await stream.get_final_message())


def compared(message: Any) -> Any:
    found = {name: value for name, value in message.to_dict().items() if name not in {"usage", "cache_hit"}}
    return {name: value for name, value in found.items() if value is not None}


async def test_the_second_answer_is_a_hit(client: anthropic.AsyncAnthropic, upstream: LocalUpstream) -> None:
    first = await client.messages.with_raw_response.create(**ask())
    second = await client.messages.with_raw_response.create(**ask())

    assert second.headers["x-cache"] == "hit-exact"
    found = await second.parse()
    assert compared(await first.parse()) == compared(found)
    assert compared(found)["content"][1]["text"] == answer_to("hello")
    assert (found.usage.input_tokens, found.usage.output_tokens, found.usage.service_tier) == (0, 0, "standard")
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("more", [{}, {"tools": TOOLS}])
async def test_plain_and_streamed_requests_share_an_entry(
    client: anthropic.AsyncAnthropic, upstream: LocalUpstream, more: dict[str, Any]
) -> None:
    upstream.tool_call = {"name": "weather", "arguments": {"city": "Zürich", "days": [1, 2], "deep": {"a": None}}}

    first = await streamed(client, **more)
    second = await streamed(client, **more)
    plain = compared(await client.messages.create(**ask(**more)))

    assert first == second
    assert plain == {name: value for name, value in first.items() if name != "parsed_output"}
    assert len(upstream.seen) == 1


async def test_a_tool_without_arguments_has_none(client: anthropic.AsyncAnthropic, upstream: LocalUpstream) -> None:
    upstream.tool_call = {"name": "weather", "arguments": {}}

    found = [await streamed(client, tools=TOOLS) for _ in range(2)]

    assert [each["content"][2]["input"] for each in found] == [{}, {}]


@pytest.mark.parametrize(
    "other",
    [
        {"system": "Be brief."},
        {"max_tokens": 101},
        {"tools": TOOLS},
        {"thinking": {"type": "enabled", "budget_tokens": 50}},
        {"extra_headers": {"anthropic-beta": "something-2026"}},
        {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "It"}]},
    ],
)
async def test_whatever_else_is_asked_is_another_request(
    client: anthropic.AsyncAnthropic, upstream: LocalUpstream, other: dict[str, Any]
) -> None:
    for more in ({}, other, other):
        await client.messages.create(**ask(**more))

    assert len(upstream.seen) == 2


@pytest.mark.parametrize(
    "more", [{"tools": [{"type": "web_search_20260209", "name": "web_search"}]}, {"extra_body": {"container": "c"}}]
)
async def test_what_the_provider_keeps_or_does_is_not_for_the_cache(
    client: anthropic.AsyncAnthropic, upstream: LocalUpstream, more: dict[str, Any]
) -> None:
    for _ in range(2):
        found = await client.messages.with_raw_response.create(**ask(**more))
        assert found.headers["x-cache"] == "bypass"

    assert len(upstream.seen) == 2


@pytest.mark.parametrize(
    "act",
    [
        Act(finish_reason="length"),
        Act(finish_reason="refusal"),
        Act(finish_reason="pause_turn"),
        Act(ends_after=7),
        Act(ends_after=-1),
    ],
)
async def test_what_is_no_good_answer_is_not_kept(
    client: anthropic.AsyncAnthropic, upstream: LocalUpstream, act: Act
) -> None:
    upstream.act = lambda _: act
    for _ in range(2):
        [event async for event in await client.messages.create(**ask(stream=True))]

    assert len(upstream.seen) == 2


async def test_an_error_within_a_stream_is_not_kept(client: anthropic.AsyncAnthropic, upstream: LocalUpstream) -> None:
    said = b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}\n\n'
    upstream.act = lambda _: Act(raw=said, kind="text/event-stream")
    with pytest.raises(anthropic.APIStatusError):
        await streamed(client)

    upstream.act = lambda _: Act()
    assert (await streamed(client))["content"][1]["text"] == answer_to("hello")


async def test_a_wish_that_cannot_be_read_is_an_error_of_anthropic_s_kind(client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        await client.messages.create(**ask(), extra_headers={"X-Cache-TTL": "soon"})

    assert caught.value.body == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "x-cache-ttl must be a whole number of seconds, or -1 for ever",
        },
    }


async def test_an_answer_that_was_stored_by_hand_is_a_message(
    client: anthropic.AsyncAnthropic, manager: CacheManager, upstream: LocalUpstream
) -> None:
    params = {
        "base_url": upstream.url,
        "api": "messages",
        "max_tokens": 100,
        "headers": {"anthropic-version": "2023-06-01"},
    }
    await manager.store("hello", "By hand.", model="claude-x", params=params)

    found = await streamed(client, extra_headers={"anthropic-version": "2023-06-01"})

    assert found["content"][0]["text"] == "By hand."
    assert upstream.seen == []


def test_a_plain_client_is_cached_too(upstream: LocalUpstream) -> None:
    with sync.CacheManager(LLMCache(CacheConfig(url="memory://"))) as manager:
        given = anthropic.Anthropic(api_key="sk-1", base_url=upstream.url.removesuffix("/v1"), max_retries=0)
        with cached_anthropic(given, manager) as client:
            for _ in range(2):
                with client.messages.stream(**ask()) as stream:
                    assert stream.get_final_text().endswith(answer_to("hello"))

    assert len(upstream.seen) == 1
