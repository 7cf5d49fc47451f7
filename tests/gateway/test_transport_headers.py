"""What a caller and a provider say in headers and addresses reaches the other as it was, byte by byte."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest

from cache_management import sync
from cache_management.cache.config import CacheConfig
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.gateway.calls import Call, Reply, whole
from cache_management.gateway.exchange import Exchange
from cache_management.gateway.transport import CachingTransport
from tests.gateway.upstream import Act, LocalUpstream

ASKED = {"model": "gpt-x", "messages": [{"role": "user", "content": "hello"}]}
UTF_8 = "café".encode()


@pytest.fixture
async def client(manager: CacheManager) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=CachingTransport(manager)) as made:
        yield made


@pytest.fixture
def plain_client() -> Iterator[httpx2.Client]:
    with (
        sync.CacheManager(LLMCache(CacheConfig(url="memory://"))) as manager,
        httpx2.Client(transport=CachingTransport(manager)) as made,
    ):
        yield made


async def test_headers_that_are_not_ascii_pass(client: httpx2.AsyncClient, upstream: LocalUpstream) -> None:
    upstream.act = lambda _: Act(headers=(("openai-organization", "café"),))

    for label in ("miss", "hit-exact"):
        found = await client.post(f"{upstream.url}/chat/completions", json=ASKED, headers=[(b"x-title", UTF_8)])
        assert (found.status_code, found.headers["x-cache"]) == (200, label)
        if label == "miss":
            assert (b"openai-organization", UTF_8) in found.headers.raw

    assert [seen.headers["x-title"] for seen in upstream.seen] == ["café"]


def test_headers_that_are_not_ascii_pass_a_plain_client(plain_client: httpx2.Client, upstream: LocalUpstream) -> None:
    upstream.act = lambda _: Act(headers=(("openai-organization", "café"),))

    found = plain_client.post(f"{upstream.url}/chat/completions", json=ASKED, headers=[(b"x-title", UTF_8)])

    assert found.headers["x-cache"] == "miss"
    assert (b"openai-organization", UTF_8) in found.headers.raw
    assert [seen.headers["x-title"] for seen in upstream.seen] == ["café"]


async def test_an_address_with_escapes_is_no_error(client: httpx2.AsyncClient, upstream: LocalUpstream) -> None:
    found = await client.post(f"{upstream.url}/chat%2Fcompletions", json=ASKED)

    assert found.status_code == 200
    assert "x-cache" not in found.headers


async def test_a_fault_of_the_cache_costs_no_answer(
    client: httpx2.AsyncClient, upstream: LocalUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exchange, "send", fail)

    found = await client.post(f"{upstream.url}/chat/completions", json=ASKED, headers={"x-cache-ttl": "5"})

    assert (found.status_code, found.headers["x-cache"]) == (200, "bypass")
    assert "x-cache-ttl" not in upstream.seen[0].headers


def test_a_fault_of_the_cache_costs_a_plain_client_no_answer(
    plain_client: httpx2.Client, upstream: LocalUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exchange, "send", fail)

    found = plain_client.post(f"{upstream.url}/chat/completions", json=ASKED)

    assert (found.status_code, found.headers["x-cache"]) == (200, "bypass")
    assert found.json()["object"] == "chat.completion"


async def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a fault of ours")


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"store": True}])
async def test_the_provider_sees_the_host_that_the_application_names(
    client: httpx2.AsyncClient, plain_client: httpx2.Client, upstream: LocalUpstream, more: dict[str, Any]
) -> None:
    url, headers = f"{upstream.url}/chat/completions", {"Host": "tenant-a.example"}

    await client.post(url, json={**ASKED, **more}, headers=headers)
    plain_client.post(url, json={**ASKED, **more}, headers=headers)
    await client.post(url, json={**ASKED, **more, "seed": 1})

    own = f"127.0.0.1:{upstream.port}"
    assert [seen.headers["host"] for seen in upstream.seen] == ["tenant-a.example", "tenant-a.example", own]


@pytest.mark.parametrize(
    ("url", "host", "told"),
    [
        ("https://provider/v1", None, None),
        ("https://provider/v1", "PROVIDER", None),
        ("https://provider/v1", "provider:443", None),
        ("http://[::1]:8000/v1", "[::1]:8000", None),
        ("https://provider/v1", "Tenant-A.example", "tenant-a.example"),
        ("https://provider/v1", "provider:80", "provider:80"),
        ("http://provider:8000/v1", "provider", "provider"),
        ("http://provider:8000/v1", "", ""),
    ],
)
async def test_a_host_that_is_not_the_address_s_own_is_told_to_the_exchange(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, url: str, host: str | None, told: str | None
) -> None:
    seen: list[Call] = []

    async def send(_: Exchange, call: Call, *__: Any, **___: Any) -> Reply:
        seen.append(call)
        return whole(200, (), b"")

    monkeypatch.setattr(Exchange, "send", send)

    await client.post(f"{url}/chat/completions", json=ASKED, headers={} if host is None else {"Host": host})

    assert [call.host for call in seen] == [told]
