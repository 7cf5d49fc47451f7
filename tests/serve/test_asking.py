"""How the proxy asks a provider: what it sends and hands on, and that nothing stays behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from cache_management.gateway.calls import Call, close, read_all
from cache_management.serve.asking import Asking
from cache_management.services.provider import free_port
from tests.gateway.upstream import Act, LocalUpstream


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    made = Asking(timeout_seconds=2, connections=1)
    yield made
    await made.aclose()


def call_of(upstream: LocalUpstream, *headers: tuple[str, str], **more: Any) -> Call:
    body = {"model": "gpt-x", "messages": [{"role": "user", "content": "hello"}], **more}
    return Call(
        method="POST", path="/chat/completions", base=upstream.url, headers=headers, body=msgspec.json.encode(body)
    )


async def test_headers_that_are_not_ascii_pass(asking: Asking, upstream: LocalUpstream) -> None:
    upstream.act = lambda _: Act(headers=(("openai-organization", "café"),))
    as_bytes = "café".encode().decode("latin-1")  # a byte is a character here

    reply = await asking.send(call_of(upstream, ("x-title", as_bytes)))
    await read_all(reply.body, 10_000)

    assert reply.status == 200
    assert ("openai-organization", as_bytes) in reply.headers
    assert upstream.seen[0].headers["x-title"] == "café"


async def test_an_answer_that_nobody_began_to_read_leaves_its_connection(
    asking: Asking, upstream: LocalUpstream
) -> None:
    upstream.act = lambda _: Act(waits=1)
    upstream.hold()

    for _ in range(3):
        reply = await asking.send(call_of(upstream, stream=True))
        assert reply.status == 200
        await close(reply.body)


async def test_the_operator_hears_once_that_a_provider_is_away_and_once_that_it_is_back(
    asking: Asking, upstream: LocalUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    address = upstream.url.replace("://", "://user:secret@")
    away = msgspec.structs.replace(call_of(upstream), base=address.replace(str(upstream.port), str(free_port())))

    replies = [await asking.send(away) for _ in range(3)]

    assert [reply.status for reply in replies] == [502, 502, 502]
    (told,) = caplog.messages
    assert "does not answer: ConnectError" in told
    assert "127.0.0.1" in told
    assert "secret" not in told
    asking._away.add(upstream.url)
    await close((await asking.send(call_of(upstream))).body)
    assert caplog.messages[1:] == [f"the provider at {upstream.url} answers again"]
