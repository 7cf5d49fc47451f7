"""The real clients of OpenAI over the transport, against a provider on a loopback port."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import httpx2
import openai
import pytest
from pydantic import BaseModel

from cache_management import sync
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendUnavailable, InvalidInput
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.gateway.clients import cached_openai
from cache_management.gateway.transport import CachingTransport
from tests.gateway.upstream import BROKEN, Act, LocalUpstream, answer_to
from tests.waiting import eventually

TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "strict": True, "parameters": {"type": "object"}}},
]


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-x", "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture
async def client(upstream: LocalUpstream, manager: CacheManager) -> AsyncIterator[openai.AsyncOpenAI]:
    http = httpx2.AsyncClient(transport=CachingTransport(manager))
    async with openai.AsyncOpenAI(api_key="sk-1", base_url=upstream.url, http_client=http, max_retries=0) as made:
        yield made


async def streamed(client: openai.AsyncOpenAI, **asked: Any) -> Any:
    """Return what the SDK makes of a stream, without what a hit marks."""
    async with client.chat.completions.stream(**asked) as stream:
        async for _ in stream:
            pass
        return compared(await stream.get_final_completion())


def compared(completion: Any) -> Any:
    return {key: value for key, value in completion.to_dict().items() if key not in {"usage", "cache_hit"}}


# hits


async def test_the_second_answer_is_a_hit_with_nothing_to_be_billed(
    client: openai.AsyncOpenAI, upstream: LocalUpstream
) -> None:
    first = await client.chat.completions.with_raw_response.create(**ask("hello"))
    second = await client.chat.completions.with_raw_response.create(**ask("hello"))

    assert [first.headers["x-cache"], second.headers["x-cache"]] == ["miss", "hit-exact"]
    assert first.headers["x-cache-key"] == second.headers["x-cache-key"]
    assert "hello" not in second.headers["x-cache-key"]
    assert second.headers["age"] == "0"
    assert compared(first.parse()) == compared(second.parse())
    assert second.parse().cache_hit is True
    assert first.parse().usage.total_tokens == 18
    assert second.parse().usage.to_dict() == {
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "total_tokens": 0,
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert len(upstream.seen) == 1


async def test_the_provider_sees_the_request_as_it_was(client: openai.AsyncOpenAI, upstream: LocalUpstream) -> None:
    headers = {"X-Cache-TTL": "60", "X-Own": "kept"}

    await client.chat.completions.create(
        **ask("hello", seed=4), extra_headers=headers, extra_body={"cache": {"ttl": 5}}
    )

    (seen,) = upstream.seen
    assert seen.body == ask("hello", seed=4)
    assert seen.headers["authorization"] == "Bearer sk-1"
    assert seen.headers["x-own"] == "kept"
    assert not [name for name in seen.headers if name.startswith("x-cache")]


@pytest.mark.parametrize(
    "other",
    [
        {"model": "gpt-y"},
        {"seed": 1},
        {"temperature": 0.5},
        {"n": 2},
        {"tools": TOOLS},
        {"response_format": {"type": "json_object"}},
        {"extra_body": {"unknown_to_us": 1}},
        {"extra_headers": {"OpenAI-Organization": "another"}},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]},
        {"extra_query": {"api-version": "2"}},
    ],
)
async def test_whatever_else_is_asked_is_another_request(
    client: openai.AsyncOpenAI, upstream: LocalUpstream, other: dict[str, Any]
) -> None:
    await client.chat.completions.create(**ask("hello"))
    await client.chat.completions.create(**{**ask("hello"), **other})

    assert len(upstream.seen) == 2


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 3},
        {"logprobs": True},
        {"stream_options": {"include_usage": True}},
        {"tools": TOOLS},
        {"tools": TOOLS, "n": 2},
    ],
)
async def test_a_replayed_stream_is_the_first_stream(
    client: openai.AsyncOpenAI, upstream: LocalUpstream, more: dict[str, Any]
) -> None:
    upstream.tool_call = {"name": "weather", "arguments": {"city": "Zürich", "days": [1, 2, 3], "unit": "c"}}

    first = await streamed(client, **ask("hello", **more))
    second = await streamed(client, **ask("hello", **more))

    assert first == second
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("more", [{}, {"n": 2, "logprobs": True}, {"tools": TOOLS}])
async def test_plain_and_streamed_requests_share_an_entry(
    client: openai.AsyncOpenAI, upstream: LocalUpstream, more: dict[str, Any]
) -> None:
    upstream.tool_call = {"name": "weather", "arguments": {"city": "Bern"}}

    plain = compared(await client.chat.completions.create(**ask("plain first", **more)))
    assert compared_stream(await streamed(client, **ask("plain first", **more))) == compared_stream(plain)
    as_stream = await streamed(client, **ask("stream first", **more))
    again = compared(await client.chat.completions.create(**ask("stream first", **more)))

    assert compared_stream(again) == compared_stream(as_stream)
    assert len(upstream.seen) == 2


def compared_stream(value: Any) -> Any:
    """Leave out what the SDK's own helper adds to, or leaves out of, what it has read of a stream."""
    if isinstance(value, list):
        return [compared_stream(item) for item in value]
    if not isinstance(value, dict):
        return value
    added = {"parsed", "parsed_arguments"} | ({"index"} if "function" in value else set())
    return {name: compared_stream(item) for name, item in value.items() if name not in added and item is not None}


async def test_a_stream_that_wants_its_usage_ends_with_none(client: openai.AsyncOpenAI) -> None:
    asked = ask("hello", stream=True, stream_options={"include_usage": True})
    for _ in range(2):
        chunks = [chunk async for chunk in await client.chat.completions.create(**asked)]

    assert chunks[-1].usage.total_tokens == 0
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


async def test_structured_answers_are_parsed_from_a_hit(client: openai.AsyncOpenAI, upstream: LocalUpstream) -> None:
    class Said(BaseModel):
        answer: str
        sure: bool

    for _ in range(2):
        found = await client.chat.completions.parse(**ask("hello"), response_format=Said)
        assert found.choices[0].message.parsed == Said(answer=answer_to("hello"), sure=True)

    assert len(upstream.seen) == 1


async def test_an_answer_that_was_stored_by_hand_is_a_chat_completion(
    client: openai.AsyncOpenAI, manager: CacheManager, upstream: LocalUpstream
) -> None:
    await manager.store("hello", "By hand.", model="gpt-x", params={"base_url": upstream.url})

    found = await client.chat.completions.create(**ask("hello"))

    assert found.choices[0].message.content == "By hand."
    assert (await streamed(client, **ask("hello")))["choices"][0]["message"]["content"] == "By hand."
    assert upstream.seen == []


# controls


@pytest.mark.parametrize(
    ("headers", "label"),
    [
        ({"Cache-Control": "no-cache"}, "bypass"),
        ({"Cache-Control": "max-age=100, private, s-maxage=x"}, "hit-exact"),
        ({"X-Cache-Namespace": "other"}, "miss"),
        ({"X-Cache-Threshold": "0.99"}, "hit-exact"),
    ],
)
async def test_headers_say_what_may_be_served(
    client: openai.AsyncOpenAI, headers: dict[str, str], label: str, upstream: LocalUpstream
) -> None:
    await client.chat.completions.create(**ask("hello"))

    found = await client.chat.completions.with_raw_response.create(**ask("hello"), extra_headers=headers)

    assert found.headers["x-cache"] == label


async def test_no_store_keeps_nothing(client: openai.AsyncOpenAI, upstream: LocalUpstream) -> None:
    for _ in range(2):
        await client.chat.completions.create(**ask("header"), extra_headers={"Cache-Control": "no-store"})
        await client.chat.completions.create(**ask("body"), extra_body={"cache": {"no-store": True}})

    assert len(upstream.seen) == 4


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({"X-Cache-TTL": "soon"}, {}, "x-cache-ttl"),
        ({"X-Cache-TTL": "0"}, {}, "x-cache-ttl"),
        ({"X-Cache-TTL": "-5"}, {}, "x-cache-ttl"),
        ({"X-Cache-TTL": "999999999999"}, {}, "x-cache-ttl"),
        ({"X-Cache-Threshold": "2"}, {}, "x-cache-threshold"),
        ({"X-Cache-Namespace": "a b"}, {}, "namespace"),
        ({}, {"cache": {"tll": 4}}, "ttl"),
        ({}, {"cache": {"ttl": 0}}, "ttl"),
    ],
)
async def test_a_wish_that_cannot_be_read_is_named(
    client: openai.AsyncOpenAI, upstream: LocalUpstream, headers: dict[str, str], body: dict[str, Any], said: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        await client.chat.completions.create(**ask("hello"), extra_headers=headers, extra_body=body)

    assert upstream.seen == []


# what is not kept


@pytest.mark.parametrize(
    "act",
    [
        Act(finish_reason="length"),
        Act(finish_reason="content_filter"),
        Act(raw=b'{"error": {"message": "no"}}'),
        Act(raw=b"<html>"),
        Act(raw=b'{"choices": []}'),
        Act(raw=b"[1, 2]"),
    ],
)
async def test_what_is_no_good_answer_is_passed_on_and_not_kept(
    client: openai.AsyncOpenAI, upstream: LocalUpstream, act: Act
) -> None:
    upstream.act = lambda _: act

    for _ in range(2):
        found = await client.chat.completions.with_raw_response.create(**ask("hello"))
        assert act.raw is None or found.http_response.content == act.raw
        assert found.headers["x-cache"] == "miss"

    assert len(upstream.seen) == 2


async def test_an_error_comes_as_the_provider_gave_it(client: openai.AsyncOpenAI, upstream: LocalUpstream) -> None:
    said = b'{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}'
    upstream.act = lambda _: Act(status=429, raw=said, headers=(("retry-after", "7"),))

    for more in ({}, {"stream": True}):
        with pytest.raises(openai.RateLimitError, match="slow down") as caught:
            await client.chat.completions.create(**ask("hello", **more))
        assert caught.value.response.headers["retry-after"] == "7"

    assert len(upstream.seen) == 2


async def test_a_request_that_the_provider_shall_record_is_not_for_the_cache(
    client: openai.AsyncOpenAI, upstream: LocalUpstream
) -> None:
    for more in ({"store": True}, {"web_search_options": {}}):
        for _ in range(2):
            found = await client.chat.completions.with_raw_response.create(**ask("hello", **more))
            assert found.headers["x-cache"] == "bypass"

    assert len(upstream.seen) == 4


async def test_other_paths_go_through_untouched(client: openai.AsyncOpenAI, upstream: LocalUpstream) -> None:
    found = await client.models.with_raw_response.list()

    assert "x-cache" not in found.headers
    assert upstream.seen[0].path == "/v1/models"


@pytest.mark.parametrize("act", [Act(dies_after=4), Act(ends_after=4), Act(ends_after=0), Act(dies_after=0)])
async def test_a_stream_that_breaks_is_not_kept(client: openai.AsyncOpenAI, upstream: LocalUpstream, act: Act) -> None:
    upstream.act = lambda _: act

    try:
        chunks = [chunk async for chunk in await client.chat.completions.create(**ask("hello", stream=True))]
    except BROKEN:
        chunks = []
    assert not [chunk for chunk in chunks if chunk.choices[0].finish_reason]

    upstream.act = lambda _: Act()
    found = await client.chat.completions.with_raw_response.create(**ask("hello"))
    assert found.headers["x-cache"] == "miss"
    assert found.parse().choices[0].message.content == answer_to("hello")


async def test_a_stream_that_lacks_only_its_last_word_is_not_kept(
    client: openai.AsyncOpenAI, upstream: LocalUpstream
) -> None:
    upstream.act = lambda _: Act(ends_after=-1)

    for _ in range(2):
        [chunk async for chunk in await client.chat.completions.create(**ask("hello", stream=True))]

    assert len(upstream.seen) == 2


async def test_an_error_within_a_stream_is_not_kept(client: openai.AsyncOpenAI, upstream: LocalUpstream) -> None:
    said = b'data: {"error": {"message": "overloaded"}}\n\ndata: [DONE]\n\n'
    upstream.act = lambda _: Act(raw=said, kind="text/event-stream")

    with pytest.raises(openai.APIError, match="overloaded"):
        [chunk async for chunk in await client.chat.completions.create(**ask("hello", stream=True))]

    upstream.act = lambda _: Act()
    assert (await client.chat.completions.create(**ask("hello"))).choices[0].message.content == answer_to("hello")


# together


async def test_who_asks_meanwhile_gets_the_one_answer_in_the_form_asked(
    client: openai.AsyncOpenAI, upstream: LocalUpstream
) -> None:
    upstream.act = lambda _: Act(waits=3)
    upstream.hold()
    first = await client.chat.completions.create(**ask("hello", stream=True))
    started = [await anext(first), await anext(first)]

    others = [asyncio.create_task(streamed(client, **ask("hello"))) for _ in range(3)]
    plain = asyncio.create_task(client.chat.completions.create(**ask("hello")))
    await asyncio.wait({plain}, timeout=0.05)
    upstream.release()
    text = "".join([part.choices[0].delta.content or "" async for part in first if part.choices])

    assert len(started) == 2
    assert text.endswith(answer_to("hello")[-10:])
    assert (await plain).choices[0].message.content == answer_to("hello")
    assert {(await other)["choices"][0]["message"]["content"] for other in others} == {answer_to("hello")}
    assert len(upstream.seen) == 1


async def test_who_hangs_up_neither_stops_the_answer_nor_leaves_half_of_it(
    client: openai.AsyncOpenAI, upstream: LocalUpstream
) -> None:
    upstream.act = lambda _: Act(waits=3)
    upstream.hold()
    first = await client.chat.completions.create(**ask("hello", stream=True))
    await anext(first)
    await first.close()
    waiting = asyncio.create_task(client.chat.completions.create(**ask("hello")))

    upstream.release()

    assert (await waiting).choices[0].message.content == answer_to("hello")
    assert len(upstream.seen) == 1


async def test_a_caller_that_is_cancelled_leaves_the_answer_to_the_next(
    client: openai.AsyncOpenAI, upstream: LocalUpstream
) -> None:
    upstream.act = lambda _: Act(waits=0)
    upstream.hold()
    first = asyncio.create_task(client.chat.completions.create(**ask("hello")))

    async def asked() -> bool:
        return len(upstream.seen) == 1

    await eventually(asked)
    first.cancel()
    second = asyncio.create_task(client.chat.completions.create(**ask("hello")))
    await asyncio.wait({first})
    upstream.release()

    assert (await second).choices[0].message.content == answer_to("hello")
    assert len(upstream.seen) == 1


async def test_two_hundred_streams_of_twenty_prompts_at_a_provider_that_fails(
    upstream: LocalUpstream, manager: CacheManager
) -> None:
    rng = random.Random(7)
    failing = [Act(status=503, raw=b'{"error": {"message": "busy"}}'), Act(dies_after=5), Act(ends_after=6)]
    good: Counter[str] = Counter()

    def act(seen: Any) -> Act:
        if rng.random() < 0.1:
            return rng.choice(failing)
        good[seen.text] += 1
        return Act()

    upstream.act = act
    http = httpx2.AsyncClient(transport=CachingTransport(manager), limits=httpx2.Limits(max_connections=300))
    client = openai.AsyncOpenAI(api_key="sk-1", base_url=upstream.url, http_client=http, max_retries=0)

    async def insist(text: str) -> str:
        while True:
            try:
                parts, ended = [], False
                async for chunk in await client.chat.completions.create(**ask(text, stream=True)):
                    parts.append(chunk.choices[0].delta.content or "")
                    ended = ended or chunk.choices[0].finish_reason == "stop"
                if ended:
                    return "".join(parts)
            except BROKEN:
                continue

    texts = [f"question {number % 20}" for number in range(200)]
    answers = await asyncio.gather(*map(insist, texts))
    await client.close()

    assert answers == [answer_to(text) for text in texts]
    assert set(good.values()) == {1}
    for text in set(texts):
        found = await manager.lookup(text, model="gpt-x", params={"base_url": upstream.url})
        assert found.response is not None
        assert found.response.response == answer_to(text)


# a cache that is broken


async def test_a_cache_that_fails_is_as_if_it_were_not_there(
    client: openai.AsyncOpenAI, manager: CacheManager, upstream: LocalUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> Any:
        raise BackendUnavailable("redis", "gone")

    monkeypatch.setattr(manager, "answer", fail)

    found = await client.chat.completions.with_raw_response.create(**ask("hello"))
    said = [part async for part in await client.chat.completions.create(**ask("hello", stream=True))]

    assert found.parse().choices[0].message.content == answer_to("hello")
    assert "".join(part.choices[0].delta.content or "" for part in said) == answer_to("hello")
    assert found.headers["x-cache"] == "bypass"


async def test_an_answer_that_cannot_be_stored_is_given_and_asked_for_once(
    client: openai.AsyncOpenAI, manager: CacheManager, upstream: LocalUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(manager.llm_cache, "store_computed", fail)

    found = await client.chat.completions.create(**ask("hello"))

    assert found.choices[0].message.content == answer_to("hello")
    assert len(upstream.seen) == 1


async def test_a_provider_that_is_away_raises_what_the_client_expects(manager: CacheManager) -> None:
    http = httpx2.AsyncClient(transport=CachingTransport(manager))
    client = openai.AsyncOpenAI(api_key="k", base_url="http://127.0.0.1:1/v1", http_client=http, max_retries=0)

    with pytest.raises(openai.APIConnectionError):
        await client.chat.completions.create(**ask("hello"))
    await client.close()


async def test_a_refused_key_is_not_everybody_s(upstream: LocalUpstream, manager: CacheManager) -> None:
    upstream.keys = {"sk-good"}
    made = [
        cached_openai(openai.AsyncOpenAI(api_key=key, base_url=upstream.url, max_retries=0), manager)
        for key in ("sk-bad", "sk-good")
    ]

    bad, good = await asyncio.gather(
        *(client.chat.completions.create(**ask("hello")) for client in made), return_exceptions=True
    )

    for client in made:
        await client.close()
    assert isinstance(bad, openai.AuthenticationError)
    assert not isinstance(good, BaseException)
    assert good.choices[0].message.content == answer_to("hello")


# in one line, and without asyncio


async def test_a_client_gets_its_cache_in_one_line(upstream: LocalUpstream, manager: CacheManager) -> None:
    given = openai.AsyncOpenAI(api_key="sk-9", base_url=upstream.url, default_headers={"x-own": "1"})

    client = cached_openai(given, manager)
    for _ in range(2):
        await client.chat.completions.create(**ask("hello"))
    await given.chat.completions.create(**ask("hello"))
    await client.close()

    assert [seen.headers["x-own"] for seen in upstream.seen] == ["1", "1"]
    assert given.is_closed()


def test_a_plain_client_is_cached_too(upstream: LocalUpstream) -> None:
    with sync.CacheManager(LLMCache(CacheConfig(url="memory://"))) as manager:
        given = openai.OpenAI(api_key="sk-9", base_url=upstream.url, max_retries=0)
        with cached_openai(given, manager) as client:
            text = ""
            for _ in range(2):
                with client.chat.completions.create(**ask("hello", stream=True)) as stream:
                    text = "".join(part.choices[0].delta.content or "" for part in stream)
            found = client.chat.completions.with_raw_response.create(**ask("hello"))
            client.models.list()
            upstream.act = lambda _: Act(dies_after=3)
            with pytest.raises(BROKEN):
                list(client.chat.completions.create(**ask("broken", stream=True)))
            with pytest.raises(openai.APIConnectionError):
                client.with_options(base_url="http://127.0.0.1:1/v1").chat.completions.create(**ask("away"))

    assert text == answer_to("hello")
    assert found.headers["x-cache"] == "hit-exact"
    assert len(upstream.seen) == 3


def test_clients_of_the_older_library_are_served(upstream: LocalUpstream) -> None:
    with sync.CacheManager(LLMCache(CacheConfig(url="memory://"))) as manager:
        transport = CachingTransport(manager, httpx.HTTPTransport())
        with httpx.Client(transport=transport) as client:
            found = [client.post(f"{upstream.url}/chat/completions", json=ask("hello")) for _ in range(2)]

    assert [each.headers["x-cache"] for each in found] == ["miss", "hit-exact"]
    assert found[1].json()["choices"] == found[0].json()["choices"]


async def test_what_is_no_client_is_refused(manager: CacheManager) -> None:
    with pytest.raises(InvalidInput, match="str"):
        cached_openai("client", manager)


async def test_a_client_that_is_wrapped_twice_asks_once(upstream: LocalUpstream, manager: CacheManager) -> None:
    given = openai.AsyncOpenAI(api_key="sk-1", base_url=upstream.url, max_retries=0, timeout=20)
    async with cached_openai(cached_openai(given, manager), manager) as client:
        for text in ("hello", "hello"):
            await client.chat.completions.create(**ask(text))
        first = await client.embeddings.create(model="e", input=["a"])
        assert await client.embeddings.create(model="e", input=["a"]) is not first

    assert len(upstream.seen) == 2


def test_a_plain_client_that_is_wrapped_twice_asks_once(upstream: LocalUpstream) -> None:
    given = openai.OpenAI(api_key="sk-1", base_url=upstream.url, max_retries=0, timeout=20)
    manager = sync.CacheManager(sync.LLMCache(CacheConfig(url="memory://")))
    with manager, cached_openai(cached_openai(given, manager), manager) as client:
        for text in ("hello", "hello"):
            client.chat.completions.create(**ask(text))

    assert len(upstream.seen) == 1


async def test_who_waits_for_somebody_else_s_answer_has_a_time_limit_too(
    client: openai.AsyncOpenAI, upstream: LocalUpstream
) -> None:
    upstream.act = lambda _: Act(waits=0)
    upstream.hold()
    first = asyncio.create_task(client.chat.completions.create(**ask("hello")))

    async def is_asked() -> bool:
        return len(upstream.seen) == 1

    await eventually(is_asked)

    with pytest.raises(openai.APITimeoutError):
        await client.chat.completions.create(**ask("hello"), timeout=0.1)
    upstream.release()

    assert (await first).choices[0].message.content == answer_to("hello")
    assert len(upstream.seen) == 1


class Trickling(httpx2.AsyncBaseTransport):
    """A provider that is never silent for long, and takes its time."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        async def parts() -> AsyncIterator[bytes]:
            for at in range(0, len(GOOD), 10):
                await asyncio.sleep(0.03)  # the provider's own time
                yield GOOD[at : at + 10]

        class Body(httpx2.AsyncByteStream):
            def __aiter__(self) -> AsyncIterator[bytes]:
                return parts()

        return httpx2.Response(200, headers={"content-type": "application/json"}, stream=Body())


GOOD = b'{"choices": [{"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}]}' + b" " * 60


async def test_an_answer_that_is_asked_for_has_the_time_limit_of_each_of_its_parts(
    manager: CacheManager,
) -> None:
    async with httpx2.AsyncClient(transport=CachingTransport(manager, Trickling()), timeout=0.2) as client:
        found = await client.post("http://p/v1/chat/completions", json=ask("hello"))

    assert found.content == GOOD, "it took longer than the limit, and none of its parts did"
