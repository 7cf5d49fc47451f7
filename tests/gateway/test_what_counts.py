"""What makes a request another one beside its messages: path, headers, parameters; and what does not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from cache_management.cache.manager import CacheManager
from cache_management.cache.payloads import LITELLM
from cache_management.cache.values import CachedResponse
from cache_management.gateway.calls import Call, Reply, header, read_all, whole
from cache_management.gateway.exchange import Exchange
from cache_management.gateway.headers import is_credential

HOME = "https://api.openai.com/v1"


class Telling:
    """A provider whose answer is a digest of all that it was sent, so that a wrong one shows."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, call: Call) -> Reply:
        self.asked += 1
        seen = json.dumps([call.base, call.path, sorted(call.headers), call.body.decode()])
        message = {"role": "assistant", "content": hashlib.sha256(seen.encode()).hexdigest()}
        body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        return whole(200, (("content-type", "application/json"),), json.dumps(body).encode())


def chat(
    path: str = "/chat/completions", base: str = HOME, headers: Mapping[str, str] | None = None, **more: Any
) -> Call:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **more}
    return Call(
        method="POST", path=path, base=base, headers=tuple((headers or {}).items()), body=json.dumps(body).encode()
    )


async def label(exchange: Exchange, call: Call, provider: Telling) -> str | None:
    reply = await exchange.send(call, provider)
    await read_all(reply.body, 10**6)
    return header(reply.headers, "x-cache")


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (chat("/a/chat/completions"), chat("/b/chat/completions")),
        (chat(), chat("/deployments/x/chat/completions")),
        (chat(headers={"x-portkey-config": "a"}), chat(headers={"x-portkey-config": "b"})),
        (chat(headers={"Helicone-Target-Url": "a"}), chat()),
        (chat("/chat/completions?x=1", query="A"), chat("/chat/completions?x=1", query="B")),
        (chat(base="http://own/v1", base_url="A"), chat(base="http://own/v1", base_url="B")),
        (chat(api="A"), chat(api="B")),
        (chat(), msgspec.structs.replace(chat(), host="tenant-a.example")),
    ],
)
async def test_other_requests_are_never_answered_alike(manager: CacheManager, one: Call, another: Call) -> None:
    exchange, provider = Exchange(manager), Telling()
    try:
        labels = [await label(exchange, each, provider) for each in (one, another, one, another)]
    finally:
        await exchange.aclose()

    assert labels == ["miss", "miss", "hit-exact", "hit-exact"]


@pytest.mark.parametrize("name", ["headers", "api", "query", "base_url"])
@pytest.mark.parametrize("path", ["/messages", "/responses"])
async def test_a_field_with_a_name_of_ours_counts(manager: CacheManager, name: str, path: str) -> None:
    exchange, keys = Exchange(manager), set()
    for value in "AB":
        body = {"model": "m", "messages": [{"role": "user", "content": "q"}], "input": "q", name: value}
        call = Call(method="POST", path=f"{path}?x=1", headers=(("openai-beta", "x"),), body=json.dumps(body).encode())
        keys.add(header((await exchange.send(call, Telling())).headers, "x-cache-key"))
    await exchange.aclose()

    assert len(keys) == 2
    assert None not in keys


async def test_what_traces_a_request_or_says_who_asks_makes_it_no_other(manager: CacheManager) -> None:
    exchange, provider = Exchange(manager, ignored_headers=["x-our-sidecar"]), Telling()
    plain = {"user-agent": "a", "traceparent": "b", "x-stainless-retry-count": "1", "authorization": "Bearer k"}
    noise = {"x-forwarded-for": "1.2.3.4", "cookie": "c", "x-request-id": "r", "x-our-sidecar": "s"}

    labels = [await label(exchange, chat(headers=headers), provider) for headers in (plain, noise, {})]
    await exchange.aclose()

    assert labels == ["miss", "hit-exact", "hit-exact"]


def test_credentials_are_known_by_their_names() -> None:
    known = (
        *("authorization", "api-key", "x-api-key", "x-goog-api-key", "ocp-apim-subscription-key", "cookie"),
        *("x-auth-request-user", "x-amz-security-token", "x-session", "x-user-token", "x-forwarded-user"),
    )
    assert all(map(is_credential, known))
    assert not any(
        map(
            is_credential,
            ("idempotency-key", "x-idempotency-key", "x-portkey-config", "openai-organization", "x-title"),
        )
    )


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "builtin_function", "function": {"name": "$web_search"}}]},
        {"plugins": [{"id": "web"}]},
        {"search_parameters": {"mode": "auto"}},
        {"enable_search": True},
    ],
)
async def test_what_the_provider_looks_up_now_is_not_for_the_cache(manager: CacheManager, more: Any) -> None:
    exchange, provider = Exchange(manager), Telling()

    labels = [await label(exchange, chat(**more), provider) for _ in range(2)]
    await exchange.aclose()

    assert labels == ["bypass", "bypass"]


async def test_an_answer_that_an_adapter_keeps_whole_is_not_served_as_its_text(manager: CacheManager) -> None:
    exchange, provider = Exchange(manager), Telling()
    message = {"role": "user", "content": "hello"}
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    kept = CachedResponse(prompt="", response="its text", model="m", timestamp=moment, metadata={LITELLM: {}})
    await manager.store(None, kept, model="m", history=[message])

    labels = [await label(exchange, chat(), provider) for _ in range(2)]
    await exchange.aclose()

    assert labels == ["miss", "hit-exact"]
    assert provider.asked == 1
