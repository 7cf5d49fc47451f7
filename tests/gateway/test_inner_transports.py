"""What asks the provider: one transport for each kind of client, by the proxies that the environment names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import pytest

from cache_management import sync
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import InvalidInput
from cache_management.cache.llm import LLMCache
from cache_management.gateway.transport import CachingTransport
from tests.gateway.upstream import LocalUpstream

ASKED = {"model": "gpt-x", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def manager() -> Iterator[sync.CacheManager]:
    with sync.CacheManager(LLMCache(CacheConfig(url="memory://"))) as made:
        yield made


async def test_one_transport_serves_both_kinds_of_client_and_both_libraries(
    manager: sync.CacheManager, upstream: LocalUpstream
) -> None:
    transport = CachingTransport(manager)
    url, labels = f"{upstream.url}/chat/completions", []

    with httpx2.Client(transport=transport) as client, httpx.Client(transport=transport) as older:
        labels += [each.post(url, json=ASKED).headers["x-cache"] for each in (client, older)]
        async with httpx2.AsyncClient(transport=transport) as other:
            labels.append((await other.post(url, json=ASKED)).headers["x-cache"])
            asked_anew = await other.post(url, json={**ASKED, "seed": 1})
        labels.append(client.post(url, json={**ASKED, "seed": 2}).headers["x-cache"])

    assert labels == ["miss", "hit-exact", "hit-exact", "miss"]
    assert asked_anew.headers["x-cache"] == "miss"


async def test_a_given_transport_of_the_other_kind_is_refused(
    manager: sync.CacheManager, upstream: LocalUpstream
) -> None:
    with (
        httpx2.Client(transport=CachingTransport(manager, httpx2.AsyncHTTPTransport())) as client,
        pytest.raises(InvalidInput, match=r"AsyncHTTPTransport.*a CachingTransport of its own"),
    ):
        client.post(f"{upstream.url}/chat/completions", json=ASKED)

    async with httpx2.AsyncClient(transport=CachingTransport(manager, httpx2.HTTPTransport())) as other:
        with pytest.raises(InvalidInput, match="HTTPTransport"):
            await other.post(f"{upstream.url}/chat/completions", json=ASKED)


@pytest.fixture
def proxied(upstream: LocalUpstream, monkeypatch: pytest.MonkeyPatch) -> LocalUpstream:
    """A provider that is reached by a proxy of the environment: no other address than the proxy's exists."""
    for name in ("ALL_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("http_proxy", upstream.url.removesuffix("/v1"))
    return upstream


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_proxies_of_the_environment_are_used(
    manager: sync.CacheManager, proxied: LocalUpstream, library: Any
) -> None:
    url = "http://provider.example/v1/chat/completions"

    with library.Client(transport=CachingTransport(manager)) as client:
        found = [client.post(url, json=ASKED), client.post(url, json={**ASKED, "store": True})]
        others = client.get("http://provider.example/v1/models")
    async with library.AsyncClient(transport=CachingTransport(manager)) as other:
        found += [await other.post(url, json={**ASKED, "seed": 1}), await other.post(url, json=ASKED)]

    assert [each.headers["x-cache"] for each in found] == ["miss", "bypass", "miss", "hit-exact"]
    assert others.status_code == 200
    assert [seen.headers["host"] for seen in proxied.seen] == ["provider.example"] * 4


def test_hosts_that_need_no_proxy_are_asked_directly(
    manager: sync.CacheManager, upstream: LocalUpstream, proxied: LocalUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    with httpx2.Client(transport=CachingTransport(manager)) as client:
        found = client.post(f"{upstream.url}/chat/completions", json=ASKED)

    assert found.status_code == 200


def test_a_proxy_changes_nothing_of_a_request(manager: sync.CacheManager, proxied: LocalUpstream) -> None:
    url = "http://user:word@provider.example/v1/chat/completions"

    with httpx2.Client(transport=CachingTransport(manager), auth=lambda request: signed(request)) as client:
        client.post(url, json=ASKED, headers={"x-own": "1"})

    (seen,) = proxied.seen
    assert (seen.headers["authorization"], seen.headers["x-own"]) == ("Signed", "1")


def signed(request: httpx2.Request) -> httpx2.Request:
    request.headers["authorization"] = "Signed"
    return request


def test_a_given_transport_is_asked_whatever_the_environment_says(
    manager: sync.CacheManager, upstream: LocalUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    with httpx2.Client(transport=CachingTransport(manager, httpx2.HTTPTransport())) as client:
        assert client.post(f"{upstream.url}/chat/completions", json=ASKED).status_code == 200


def test_a_transport_can_be_used_again_when_one_of_its_clients_is_closed(
    manager: sync.CacheManager, proxied: LocalUpstream
) -> None:
    transport = CachingTransport(manager)

    for number in range(2):
        with httpx2.Client(transport=transport) as client:
            found = client.post("http://provider.example/v1/chat/completions", json={**ASKED, "seed": number})
            assert found.headers["x-cache"] == "miss"
