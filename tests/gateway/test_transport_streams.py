"""Streams that are read slowly, left, dropped or never begun leave no memory, thread or connection behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from cache_management import sync
from cache_management.cache.config import CacheConfig
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.gateway import transport
from cache_management.gateway.transport import CachingTransport
from tests.gateway.upstream import Act, LocalUpstream, answer_to
from tests.waiting import wait_until

MIB = 2**20
ASKED = {"model": "gpt-x", "messages": [{"role": "user", "content": "hello"}], "stream": True}
PASSED_ON = {**ASKED, "store": True}
MakeClient = Callable[..., httpx2.Client]


class Flood(httpx2.BaseTransport):
    """A provider that sends 64 MiB, as fast as they are taken."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.is_closed = False

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=FloodBody(self))


class FloodBody(httpx2.SyncByteStream):
    def __init__(self, flood: Flood) -> None:
        self._flood = flood

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(64):
            self._flood.sent_bytes += MIB
            yield b"x" * MIB

    def close(self) -> None:
        self._flood.is_closed = True


@pytest.fixture
def make_client() -> Iterator[MakeClient]:
    """A function that makes a plain client with a cache; takes the transport behind it."""
    with ExitStack() as stack:

        def make(inner: Any = None) -> httpx2.Client:
            manager = stack.enter_context(sync.CacheManager(LLMCache(CacheConfig(url="memory://"))))
            return stack.enter_context(httpx2.Client(transport=CachingTransport(manager, inner), timeout=None))

        yield make


def readers() -> list[threading.Thread]:
    """Return the threads that read answers."""
    return [thread for thread in threading.enumerate() if thread.name == "cache-upstream"]


@pytest.mark.parametrize(("asked", "ahead"), [(ASKED, 20 * MIB), (PASSED_ON, 4 * MIB)])
def test_a_provider_waits_for_a_plain_reader(make_client: MakeClient, asked: dict[str, Any], ahead: int) -> None:
    flood, read = Flood(), 0

    with make_client(flood).stream("POST", "http://provider/v1/chat/completions", json=asked) as response:
        for part in response.iter_raw():
            read += len(part)
            assert flood.sent_bytes - read <= ahead

    assert read == 64 * MIB


@pytest.mark.parametrize("asked", [ASKED, PASSED_ON])
def test_a_plain_reader_that_leaves_is_not_waited_for(make_client: MakeClient, asked: dict[str, Any]) -> None:
    flood = Flood()

    with make_client(flood).stream("POST", "http://provider/v1/chat/completions", json=asked) as response:
        next(response.iter_raw())

    wait_until(lambda: flood.is_closed and not readers())


def test_a_plain_reader_that_is_dropped_is_not_waited_for(make_client: MakeClient) -> None:
    flood = Flood()
    client = make_client(flood)

    response = client.send(client.build_request("POST", "http://p/v1/chat/completions", json=PASSED_ON), stream=True)
    assert response.status_code == 200
    del response
    gc.collect()

    wait_until(lambda: flood.is_closed and not readers())


def test_an_answer_that_is_passed_on_and_closed_unread_is_not_read(make_client: MakeClient) -> None:
    flood = Flood()

    with make_client(flood).stream("POST", "http://provider/v1/chat/completions", json=PASSED_ON) as response:
        assert response.headers["x-cache"] == "bypass"

    wait_until(lambda: flood.is_closed and not readers())
    assert flood.sent_bytes <= 4 * MIB


async def test_an_answer_that_is_passed_on_and_closed_unread_leaves_its_connection(
    manager: CacheManager, upstream: LocalUpstream
) -> None:
    upstream.act = lambda _: Act(waits=1)
    upstream.hold()
    inner = httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_connections=1))

    async with httpx2.AsyncClient(transport=CachingTransport(manager, inner), timeout=2) as client:
        for _ in range(3):
            async with client.stream("POST", f"{upstream.url}/chat/completions", json=PASSED_ON) as response:
                assert response.headers["x-cache"] == "bypass"


def test_a_left_stream_of_a_silent_provider_frees_its_thread(make_client: MakeClient, upstream: LocalUpstream) -> None:
    upstream.act = lambda _: Act(waits=1)
    upstream.hold()

    with make_client().stream("POST", f"{upstream.url}/chat/completions", json=PASSED_ON) as response:
        parts = response.iter_raw()  # closes the response when it is dropped
        next(parts)
        assert readers()

    wait_until(lambda: not readers())


def test_closing_a_plain_client_ends_the_streams_that_were_left(
    make_client: MakeClient, upstream: LocalUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_CLOSE_SECONDS", 600.0)
    upstream.act = lambda _: Act(waits=1)
    upstream.hold()
    client = make_client()
    for number in range(3):
        asked = {**ASKED, "seed": number}
        with client.stream("POST", f"{upstream.url}/chat/completions", json=asked) as response:
            next(response.iter_raw())
    wait_until(lambda: len(readers()) == 3)

    client.close()

    wait_until(lambda: not readers())


def test_closing_a_plain_client_waits_for_who_still_reads(
    make_client: MakeClient, upstream: LocalUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_CLOSE_SECONDS", 600.0)
    upstream.act = lambda _: Act(waits=0)
    upstream.hold()
    client, found = make_client(), list[httpx2.Response]()
    asked = {**ASKED, "stream": False}
    asking = threading.Thread(
        target=lambda: found.append(client.post(f"{upstream.url}/chat/completions", json=asked)), daemon=True
    )
    closing = threading.Thread(target=client.close, daemon=True)

    asking.start()
    wait_until(lambda: upstream.seen)
    closing.start()
    upstream.release()
    asking.join(10)
    closing.join(10)

    assert found[0].json()["choices"][0]["message"]["content"] == answer_to("hello")
    assert not closing.is_alive()
