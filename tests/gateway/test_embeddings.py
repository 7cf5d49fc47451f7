"""Embeddings through the real client of OpenAI: input by input."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from cache_management.cache.manager import CacheManager
from cache_management.gateway.calls import Call, Reply
from cache_management.gateway.clients import cached_openai
from cache_management.gateway.exchange import Exchange
from tests.gateway.upstream import Act, LocalUpstream, Seen, packed, vector


@pytest.fixture
async def client(upstream: LocalUpstream, manager: CacheManager) -> AsyncIterator[openai.AsyncOpenAI]:
    given = openai.AsyncOpenAI(api_key="sk-1", base_url=upstream.url, max_retries=0)
    async with cached_openai(given, manager) as made:
        yield made


def right(given: Any, width: int = 8) -> list[float]:
    return vector(json.dumps(given), width)


async def test_only_what_is_missing_is_asked_for_and_all_stand_in_their_order(
    client: openai.AsyncOpenAI, upstream: LocalUpstream
) -> None:
    await client.embeddings.create(model="e", input=["b", "d"])

    found = await client.embeddings.with_raw_response.create(model="e", input=["a", "b", "c", "a", "d"])

    body = found.parse()
    assert [each.embedding for each in body.data] == [right(text) for text in "abcad"]
    assert [each.index for each in body.data] == [0, 1, 2, 3, 4]
    assert upstream.seen[1].body["input"] == ["a", "c"]
    assert body.usage.total_tokens == 6
    assert (found.headers["x-cache"], found.headers["x-cache-hits"]) == ("miss", "2/4")


async def test_what_the_provider_says_beside_the_vectors_that_were_missing_is_told(
    client: openai.AsyncOpenAI, upstream: LocalUpstream
) -> None:
    await client.embeddings.create(model="e", input="b")
    upstream.act = lambda _: Act(headers=(("x-ratelimit-remaining-requests", "7"), ("etag", "w"), ("digest", "d")))

    found = await client.embeddings.with_raw_response.create(model="e", input=["a", "b"])

    assert [each.embedding for each in found.parse().data] == [right("a"), right("b")]
    assert (found.headers["x-request-id"], found.headers["x-ratelimit-remaining-requests"]) == ("req_1", "7")
    assert found.headers["content-length"] == str(len(found.http_response.content))
    assert {"etag", "digest"}.isdisjoint(found.headers)


async def test_who_wants_nothing_from_the_cache_is_told_that_it_had_no_part(client: openai.AsyncOpenAI) -> None:
    await client.embeddings.create(model="e", input="a")

    found = await client.embeddings.with_raw_response.create(
        model="e", input="a", extra_headers={"Cache-Control": "no-cache"}
    )

    assert (found.headers["x-cache"], found.headers["x-cache-hits"]) == ("bypass", "0/1")


async def test_a_hit_costs_nothing(client: openai.AsyncOpenAI, upstream: LocalUpstream) -> None:
    for _ in range(2):
        found = await client.embeddings.with_raw_response.create(model="e", input="a")

    assert found.headers["x-cache"] == "hit-exact"
    assert found.parse().usage.total_tokens == 0
    assert found.parse().model == "e-2026"
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("first", ["float", "base64"])
async def test_both_encodings_are_served_from_one_entry(
    client: openai.AsyncOpenAI, upstream: LocalUpstream, first: Any
) -> None:
    found = {}
    for form in (first, "float", "base64"):
        raw = await client.embeddings.with_raw_response.create(model="e", input="a", encoding_format=form)
        found[form] = raw.http_response.json()["data"][0]["embedding"]

    assert found == {"float": right("a"), "base64": packed(right("a"))}
    assert len(upstream.seen) == 1


async def test_conditions_count_and_tokens_are_inputs_too(client: openai.AsyncOpenAI, upstream: LocalUpstream) -> None:
    for given in ("[1, 2]", [1, 2], [[1, 2], [3]]):
        found = await client.embeddings.create(model="e", input=given)  # type: ignore[arg-type]
    small = await client.embeddings.create(model="e", input="[1, 2]", dimensions=4)
    await client.embeddings.create(model="f", input="[1, 2]")

    assert [each.embedding for each in found.data] == [right([1, 2]), right([3])]
    assert small.data[0].embedding == right("[1, 2]", 4)
    assert [seen.body["input"] for seen in upstream.seen] == [["[1, 2]"], [[1, 2]], [[3]], ["[1, 2]"], ["[1, 2]"]]


async def test_who_asks_meanwhile_waits_for_the_one_answer(client: openai.AsyncOpenAI, upstream: LocalUpstream) -> None:
    upstream.act = lambda _: Act(waits=0)
    upstream.hold()
    asking = [asyncio.create_task(client.embeddings.create(model="e", input=["a", text])) for text in "bcb"]
    await asyncio.wait(asking, timeout=0.1)
    upstream.release()

    found = await asyncio.gather(*asking)

    assert [[each.embedding for each in one.data] for one in found] == [[right("a"), right(text)] for text in "bcb"]
    assert sorted(text for seen in upstream.seen for text in seen.body["input"]) == ["a", "b", "c"]


async def test_errors_are_passed_on_and_nothing_is_kept(client: openai.AsyncOpenAI, upstream: LocalUpstream) -> None:
    upstream.act = lambda _: Act(status=429, raw=b'{"error": {"message": "slow down"}}')
    with pytest.raises(openai.RateLimitError, match="slow down"):
        await client.embeddings.create(model="e", input="a")
    upstream.act = lambda _: Act(raw=b'{"data": [{"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": ["x"]}]}')
    raw = await client.embeddings.with_raw_response.create(model="e", input=["a", "b"])
    upstream.act = lambda _: Act()

    found = await client.embeddings.create(model="e", input=["a", "b"])

    assert b'"x"' in raw.http_response.content
    assert [each.embedding for each in found.data] == [right("a"), right("b")]
    assert len(upstream.seen) == 3


async def test_wishes_hold_for_vectors_too(client: openai.AsyncOpenAI, upstream: LocalUpstream) -> None:
    for wish in ("no-store", "no-store", "no-cache", "no-cache", "max-age=100"):
        await client.embeddings.create(model="e", input="a", extra_headers={"Cache-Control": wish})

    assert len(upstream.seen) == 4


@pytest.mark.parametrize("form", ["int8", "float"])
async def test_vectors_of_whole_numbers_stay_so(client: openai.AsyncOpenAI, upstream: LocalUpstream, form: Any) -> None:
    upstream.act = lambda _: Act(raw=b'{"data": [{"index": 0, "embedding": [1, -2, 0.5]}], "model": "e"}')

    for _ in range(2):
        raw = await client.embeddings.with_raw_response.create(model="e", input="a", encoding_format=form)
        assert raw.http_response.json()["data"][0]["embedding"] == [1, -2, 0.5]

    assert len(upstream.seen) == (2 if form == "int8" else 1)


async def test_a_cache_that_fails_is_as_if_it_were_not_there(
    client: openai.AsyncOpenAI, manager: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(manager, "store", fail)
    one = await client.embeddings.create(model="e", input="a")
    monkeypatch.setattr(manager, "lookup", fail)
    two = await client.embeddings.create(model="e", input="a")

    assert one.data[0].embedding == two.data[0].embedding == right("a")


@pytest.mark.parametrize("more", [{"output_dtype": "int8"}, {"embedding_type": "base64"}])
async def test_numbers_in_a_form_of_the_provider_s_own_are_not_converted(
    client: openai.AsyncOpenAI, upstream: LocalUpstream, more: dict[str, str]
) -> None:
    forms: dict[Any, Any] = {"base64": "AQID", "float": [1, 2, 3]}

    def act(seen: Seen) -> Act:
        item = {"index": 0, "embedding": forms[seen.body["encoding_format"]]}
        return Act(raw=json.dumps({"data": [item], "model": "e"}).encode())

    upstream.act = act
    for _ in range(2):
        for form, expected in forms.items():
            raw = await client.embeddings.with_raw_response.create(
                model="e", input="a", encoding_format=form, extra_body=more
            )
            assert json.loads(raw.http_response.content)["data"][0]["embedding"] == expected

    assert len(upstream.seen) == 2


async def test_a_first_answer_is_the_provider_s_own(client: openai.AsyncOpenAI, upstream: LocalUpstream) -> None:
    said = b'{"data": [{"index": 0, "embedding": [0.5], "sparse": 1}], "provider": "x", "usage": {"total_tokens": 3}}'
    upstream.act = lambda _: Act(raw=said, headers=(("x-ratelimit-remaining", "7"),))

    raw = await client.embeddings.with_raw_response.create(model="e", input="a", encoding_format="float")

    assert raw.http_response.content == said
    assert raw.headers["x-ratelimit-remaining"] == "7"
    assert (raw.headers["x-cache"], raw.headers["x-cache-hits"]) == ("miss", "0/1")


async def test_two_spellings_of_one_character_are_two_inputs(
    client: openai.AsyncOpenAI, upstream: LocalUpstream
) -> None:
    await client.embeddings.create(model="e", input=["\u00e9", "e\u0301"])

    assert upstream.seen[0].body["input"] == ["\u00e9", "e\u0301"]


async def test_who_waits_for_an_input_is_let_go_when_its_task_ends_before_it_begins(manager: CacheManager) -> None:
    async def never(_: Call) -> Reply:
        raise AssertionError("closed before")

    exchange = Exchange(manager)
    call = Call(method="POST", path="/embeddings", body=b'{"model": "e", "input": "a"}')
    waiting = asyncio.create_task(exchange.send(call, never))
    while not exchange.under_way:
        await asyncio.sleep(0)

    await exchange.aclose()
    await asyncio.wait({waiting})

    assert exchange._vectors._flights == {}
