"""The exchange with a provider in this process: answers that nobody reads, that are late, or too large."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from cache_management.cache.config import CacheConfig
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.gateway.calls import BrokenStream, Call, Headers, Reply, header, read_all, whole
from cache_management.gateway.exchange import Exchange
from tests.contracts.clock import ManualClock
from tests.waiting import eventually

JSON: Headers = (("content-type", "application/json"),)
EVENTS: Headers = (("content-type", "text/event-stream"),)


def call(text: str = "hello", **more: Any) -> Call:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **more}
    return Call(method="POST", path="/chat/completions", body=json.dumps(body).encode())


def chunk(text: str | None, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": reason}
    return b"data: " + json.dumps({"id": "1", "choices": [choice]}).encode() + b"\n\n"


WHOLE = [chunk("Y"), chunk("es."), chunk(None, "stop"), b"data: [DONE]\n\n"]


class Provider:
    """Answers with the parts it is given; before the one at `waits_at` it waits for `gate`."""

    def __init__(self, parts: list[bytes], headers: Headers = EVENTS, *, waits_at: int | None = None) -> None:
        self.parts, self.headers, self.waits_at = parts, headers, waits_at
        self.gate = asyncio.Event()
        self.asked = 0
        self.closed = 0
        self.sent = 0

    async def __call__(self, _: Call) -> Reply:
        self.asked += 1
        return Reply(200, self.headers, self._body())

    async def _body(self) -> AsyncIterator[bytes]:
        try:
            for at, part in enumerate(self.parts):
                if at == self.waits_at:
                    await self.gate.wait()
                self.sent += len(part)
                yield part
        finally:
            self.closed += 1


async def text_of(reply: Reply) -> str:
    return (await read_all(reply.body, 10**9)).decode()


def label(reply: Reply) -> str | None:
    return header(reply.headers, "x-cache")


async def until(predicate: Callable[[], object]) -> None:
    async def look() -> object:
        return predicate()

    await eventually(look)


async def test_bytes_come_as_they_are_sent(manager: CacheManager) -> None:
    provider = Provider(WHOLE, waits_at=2)
    exchange = Exchange(manager)

    reply = await exchange.send(call(stream=True), provider)
    first = [await anext(reply.body), await anext(reply.body)]
    provider.gate.set()
    rest = [part async for part in reply.body]

    assert [*first, *rest] == WHOLE
    assert label(await exchange.send(call(stream=True), provider)) == "hit-exact"
    assert (provider.asked, provider.closed) == (1, 1)


async def test_the_end_of_a_stream_waits_until_it_is_kept(
    manager: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_store = asyncio.Event()
    store = manager.llm_cache.store_computed

    async def late(*given: Any) -> Any:
        await may_store.wait()
        return await store(*given)

    monkeypatch.setattr(manager.llm_cache, "store_computed", late)
    reply = await Exchange(manager).send(call(stream=True), Provider(WHOLE))
    parts = [await anext(reply.body) for _ in WHOLE]
    ending = asyncio.create_task(text_of(reply))
    done, _ = await asyncio.wait({ending}, timeout=0.05)
    may_store.set()

    assert parts == WHOLE
    assert done == set()
    assert await ending == ""
    found = await manager.lookup("hello", model="m")
    assert found.response is not None
    assert found.response.response == "Yes."


async def test_a_caller_that_is_cancelled_before_its_stream_begins_holds_up_nobody(manager: CacheManager) -> None:
    provider = Provider([chunk("x" * 1_000_000)] * 20 + WHOLE)
    began = asyncio.Event()

    async def slowly(sent: Call) -> Reply:
        await began.wait()
        return await provider(sent)

    exchange = Exchange(manager)
    asking = asyncio.create_task(exchange.send(call(stream=True), slowly))
    await until(lambda: exchange.under_way)
    asking.cancel()
    began.set()

    await until(lambda: not exchange.under_way)
    assert provider.closed == 1
    assert label(await exchange.send(call(), provider)) == "hit-exact"


async def test_a_reader_that_takes_nothing_is_waited_for_within_bounds(manager: CacheManager) -> None:
    provider = Provider([chunk("x" * 1_000_000)] * 40 + WHOLE)
    exchange = Exchange(manager, limit_seconds=0.3)

    reply = await exchange.send(call(stream=True), provider)
    await until(lambda: not exchange.under_way)

    assert provider.sent < 20_000_000
    assert provider.closed == 1
    with pytest.raises(TimeoutError):
        await text_of(reply)
    assert label(await exchange.send(call(), Provider(WHOLE, JSON))) == "miss"


async def test_an_answer_that_is_late_is_an_error_and_not_kept(manager: CacheManager) -> None:
    provider = Provider(WHOLE, waits_at=1)
    exchange = Exchange(manager, limit_seconds=0.1)

    reply = await exchange.send(call(stream=True), provider)

    with pytest.raises(TimeoutError):
        await text_of(reply)
    with pytest.raises(TimeoutError):
        await exchange.send(call("plain"), Provider([b"{}"], JSON, waits_at=0))
    assert provider.closed == 1


async def test_a_stream_is_refreshed_in_the_background_for_nobody() -> None:
    clock = ManualClock()
    config = CacheConfig(url="memory://", ttl_seconds=10, stale_while_revalidate_seconds=100)
    async with CacheManager(LLMCache(config, clock=clock)) as manager:
        exchange = Exchange(manager)
        provider = Provider(WHOLE)
        await text_of(await exchange.send(call(stream=True), provider))
        clock.advance(20)

        stale = await exchange.send(call(stream=True), provider)
        said = await text_of(stale)
        await until(lambda: provider.closed == 2)

        assert label(stale) == "hit-exact"
        assert "cache_hit" in said
        assert provider.asked == 2


async def test_an_answer_beyond_all_bounds_is_passed_on_as_a_stream_and_not_kept(manager: CacheManager) -> None:
    exchange = Exchange(manager, limit_bytes=1000)
    parts = [chunk("x" * 100)] * 20 + WHOLE

    said = await text_of(await exchange.send(call(stream=True), Provider(parts)))

    assert said.encode() == b"".join(parts)
    assert label(await exchange.send(call(stream=True), Provider(WHOLE))) == "miss"


async def test_a_plain_answer_beyond_all_bounds_is_passed_on_and_not_kept(manager: CacheManager) -> None:
    exchange = Exchange(manager, limit_bytes=1000)
    parts = [b"x" * 400] * 10
    provider = Provider(parts, JSON)

    reply = await exchange.send(call(), provider)

    assert await read_all(reply.body, 10**6) == b"".join(parts)
    assert (reply.status, provider.asked) == (200, 1)
    assert label(await exchange.send(call(), Provider(WHOLE, JSON))) == "miss"


async def test_a_stream_that_is_read_is_not_cut_while_it_goes_on(manager: CacheManager) -> None:
    class Slow(Provider):
        async def _body(self) -> AsyncIterator[bytes]:
            for part in self.parts:
                await asyncio.sleep(0.05)  # the provider's own time
                yield part

    exchange = Exchange(manager, limit_seconds=0.2)
    provider = Slow([chunk("x")] * 10 + WHOLE)

    said = await text_of(await exchange.send(call(stream=True), provider))

    assert said.encode() == b"".join(provider.parts)
    assert label(await exchange.send(call(stream=True), provider)) == "hit-exact"


async def test_a_last_line_without_the_empty_one_behind_it_is_an_end(manager: CacheManager) -> None:
    exchange = Exchange(manager)
    provider = Provider([*WHOLE[:-1], b"data: [DONE]\n"])

    await text_of(await exchange.send(call(stream=True), provider))

    assert label(await exchange.send(call(stream=True), provider)) == "hit-exact"


async def test_half_a_character_beside_our_field_is_passed_on(manager: CacheManager) -> None:
    body = b'{"model": "m", "cache": {"ttl": 5}, "messages": [{"role": "user", "content": "\\ud83d"}]}'
    seen: list[bytes] = []

    async def provider(given: Call) -> Reply:
        seen.append(given.body)
        return whole(400, JSON, b"{}")

    reply = await Exchange(manager).send(Call(method="POST", path="/chat/completions", body=body), provider)

    assert reply.status == 400
    assert json.loads(seen[0])["messages"][0]["content"] == "\ud83d"


async def test_a_refresh_that_nobody_waits_for_is_counted() -> None:
    clock = ManualClock()
    config = CacheConfig(url="memory://", ttl_seconds=10, stale_while_revalidate_seconds=100)
    async with CacheManager(LLMCache(config, clock=clock)) as manager:
        exchange = Exchange(manager)
        await text_of(await exchange.send(call(stream=True), Provider(WHOLE)))
        clock.advance(20)
        provider = Provider(WHOLE, waits_at=1)

        await text_of(await exchange.send(call(stream=True), provider))
        await until(lambda: provider.asked == 1)
        counted = exchange.under_way
        provider.gate.set()

        assert counted == 1
        await until(lambda: not exchange.under_way)


async def test_who_waits_while_it_is_closed_is_told_so_and_not_cancelled(manager: CacheManager) -> None:
    provider = Provider([b"{}"], JSON, waits_at=0)
    exchange = Exchange(manager)
    waiting = asyncio.create_task(exchange.send(call(), provider))
    await until(lambda: provider.asked == 1)

    await exchange.aclose()

    with pytest.raises(BrokenStream, match="closed"):
        await waiting


async def test_an_error_of_somebody_else_s_comes_without_the_headers_that_are_theirs(manager: CacheManager) -> None:
    exchange = Exchange(manager)
    gate = asyncio.Event()
    asked = []

    async def provider(given: Call) -> Reply:
        asked.append(given)
        await gate.wait()
        return whole(429, (*JSON, ("set-cookie", "s=1"), ("retry-after", "3")), b"{}")

    waiting = [asyncio.create_task(exchange.send(call(), provider)) for _ in range(2)]
    await until(lambda: len(asked) == 1)
    gate.set()
    first, second = await asyncio.gather(*waiting)

    assert len(asked) == 1
    assert header(first.headers, "set-cookie") == "s=1"
    assert header(second.headers, "set-cookie") is None
    assert header(second.headers, "retry-after") == "3"


async def test_what_is_compressed_against_our_wish_is_passed_on(manager: CacheManager) -> None:
    provider = Provider([b"\x1f\x8b"], (*JSON, ("content-encoding", "gzip")))

    reply = await Exchange(manager).send(call(), provider)

    assert header(reply.headers, "content-encoding") == "gzip"
    assert await read_all(reply.body, 100) == b"\x1f\x8b"


async def test_closing_gives_up_what_is_under_way(manager: CacheManager) -> None:
    provider = Provider(WHOLE, waits_at=1)
    exchange = Exchange(manager)
    reply = await exchange.send(call(stream=True), provider)

    await exchange.aclose()

    with pytest.raises(TimeoutError):
        await text_of(reply)
    assert exchange.under_way == 0
    assert provider.closed == 1


async def test_a_large_body_is_read_beside_the_loop(manager: CacheManager) -> None:
    provider = Provider(WHOLE)
    exchange = Exchange(manager)

    for expected in ("miss", "hit-exact"):
        reply = await exchange.send(call("x" * 1_000_000, stream=True), provider)
        await text_of(reply)
        assert label(reply) == expected
