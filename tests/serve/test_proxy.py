"""The proxy on a loopback port, with the real client of OpenAI in front and a provider behind it."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import random
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests.conftest import OwnRedisFactory
from tests.gateway.upstream import BROKEN, Act, LocalUpstream, answer_to, vector
from tests.serve.conftest import MakeProxy, RunningProxy
from tests.waiting import eventually


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-x", "messages": [{"role": "user", "content": text}], **more}


def of_openai(proxy: RunningProxy, key: str = "sk-1", **more: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=key, base_url=proxy.url, max_retries=0, **more)


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient() as client:
        yield client


async def text_of(client: openai.AsyncOpenAI, text: str) -> str:
    parts = [part async for part in await client.chat.completions.create(**ask(text, stream=True))]
    return "".join(part.choices[0].delta.content or "" for part in parts)


async def test_one_changed_line_is_enough(proxy: RunningProxy, upstream: LocalUpstream) -> None:
    async with of_openai(proxy) as client:
        first = await client.chat.completions.with_raw_response.create(**ask("hello"))
        second = await client.chat.completions.with_raw_response.create(**ask("hello"))
        streamed = await text_of(client, "hello")

    assert [first.headers["x-cache"], second.headers["x-cache"]] == ["miss", "hit-exact"]
    assert first.headers["x-request-id"] == "req_1"
    assert first.parse().choices == second.parse().choices
    assert streamed == answer_to("hello")
    assert len(upstream.seen) == 1
    assert upstream.seen[0].headers["authorization"] == "Bearer sk-1"


async def test_the_other_apis_go_through_too(proxy: RunningProxy, upstream: LocalUpstream) -> None:
    claude: Any = {"model": "claude-x", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
    async with of_openai(proxy) as client, anthropic.AsyncAnthropic(api_key="sk-1", base_url=proxy.root) as other:
        for _ in range(2):
            said = await client.responses.create(model="gpt-x", input="hello")
            vectors = await client.embeddings.create(model="e", input=["a", "b"])
            async with other.messages.stream(**claude) as stream:
                text = await stream.get_final_text()
        with pytest.raises(anthropic.BadRequestError):
            await other.messages.create(**{**claude, "messages": []})

    assert said.output_text == answer_to("hello")
    assert [each.embedding for each in vectors.data] == [vector('"a"', 8), vector('"b"', 8)]
    assert text == answer_to("hello")
    assert sorted(seen.path for seen in upstream.seen) == ["/v1/embeddings", "/v1/messages", "/v1/responses"]


async def test_answers_are_found_by_meaning_once_the_model_is_there(
    make_proxy: MakeProxy, upstream: LocalUpstream
) -> None:
    proxy = make_proxy(by_meaning=True)
    async with of_openai(proxy) as client:
        await client.models.list()
        future = asyncio.run_coroutine_threadsafe(proxy.application.wait_for_model(), proxy.loop)
        await asyncio.wrap_future(future)
        await client.chat.completions.create(**ask("How many transfers are free each month?"))
        found = await client.chat.completions.with_raw_response.create(**ask("how many transfers are free each month"))

    assert found.headers["x-cache"] == "hit-semantic"
    assert 0.6 <= float(found.headers["x-cache-similarity"]) <= 1
    assert len(upstream.seen) == 2


async def test_other_addresses_are_passed_on(
    proxy: RunningProxy, upstream: LocalUpstream, http: httpx2.AsyncClient
) -> None:
    for _ in range(2):
        found = await http.post(f"{proxy.url}/files/a%2Fb?x=1", content=b"{}", headers={"X-Cache-TTL": "1"})
        assert found.json() == {"object": "list", "data": []}

    assert [seen.path for seen in upstream.seen] == ["/v1/files/a/b"] * 2
    assert "x-cache-ttl" not in upstream.seen[0].headers
    listed = await http.get(f"{proxy.url}/models")
    assert (listed.status_code, listed.headers["x-cache"]) == (200, "bypass")


async def test_nothing_else_is_reached(proxy: RunningProxy, upstream: LocalUpstream) -> None:
    climbing = ("/v1/../admin", "/v1/%2e%2e/admin", "/v1/..%2fadmin", "/v1/x%2f..%2f..%5cadmin", "/v1/%252e%252e/admin")
    for path in (*climbing, "/v1/./chat/completions", "/v1/..%5Cadmin", "/v2/models", "/"):
        said = await raw(proxy, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())

        assert said.startswith(b"HTTP/1.1 404"), path
        assert b'"code":"unknown_url"' in said
    assert upstream.seen == []


async def raw(proxy: RunningProxy, data: bytes) -> bytes:
    """Send bytes as they are and return all that comes back."""
    host, port = proxy.root.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    await writer.drain()
    said = await reader.read()
    writer.close()
    return said


# tenants


async def test_two_keys_never_share(proxy: RunningProxy, upstream: LocalUpstream) -> None:
    for key in ("sk-1", "sk-2", "sk-1"):
        async with of_openai(proxy, key) as client:
            await client.chat.completions.create(**ask("hello"))

    assert [seen.headers["authorization"] for seen in upstream.seen] == ["Bearer sk-1", "Bearer sk-2"]


@pytest.mark.parametrize("name", ["ocp-apim-subscription-key", "x-goog-api-key", "cookie", "x-auth-request-user"])
async def test_callers_that_prove_themselves_otherwise_do_not_share_either(
    proxy: RunningProxy, upstream: LocalUpstream, http: httpx2.AsyncClient, name: str
) -> None:
    labels = []
    for headers in ({name: "alice"}, {name: "bob"}, {}, {name: "alice"}):
        found = await http.post(f"{proxy.url}/chat/completions", json=ask("hello"), headers=headers)
        labels.append(found.headers["x-cache"])

    assert labels == ["miss", "miss", "miss", "hit-exact"]


async def test_keys_of_one_tenant_share_its_namespace(make_proxy: MakeProxy, upstream: LocalUpstream) -> None:
    table = {hashlib.sha256(key.encode()).hexdigest(): "team" for key in ("sk-1", "sk-2")}
    proxy = make_proxy(tenants=table)

    for key in ("sk-1", "sk-2", "sk-3"):
        async with of_openai(proxy, key) as client:
            await client.chat.completions.create(**ask("hello"))

    assert len(upstream.seen) == 2


async def test_a_wrong_key_is_the_provider_s_to_refuse(proxy: RunningProxy, upstream: LocalUpstream) -> None:
    upstream.keys = {"sk-good"}
    async with of_openai(proxy, "sk-good") as client:
        await client.chat.completions.create(**ask("hello"))
    async with of_openai(proxy, "sk-bad") as client:
        for _ in range(2):
            with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
                await client.chat.completions.create(**ask("hello"))

    assert len(upstream.seen) == 3


async def test_a_key_of_the_proxy_s_own_is_sent_for_known_callers_only(
    make_proxy: MakeProxy, upstream: LocalUpstream
) -> None:
    table = {hashlib.sha256(b"sk-1").hexdigest(): "team"}
    proxy = make_proxy(tenants=table, upstream_key="sk-own")

    async with of_openai(proxy, "sk-1") as client:
        await client.chat.completions.create(**ask("hello"))
        await client.models.list()
    async with of_openai(proxy, "sk-2") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(**ask("hello"))

    assert [seen.headers["authorization"] for seen in upstream.seen] == ["Bearer sk-own"] * 2


async def test_a_namespace_is_chosen_within_one_s_own_and_only_where_allowed(
    make_proxy: MakeProxy, proxy: RunningProxy, upstream: LocalUpstream
) -> None:
    chosen = {"X-Cache-Namespace": "mine"}
    async with of_openai(proxy) as client:
        with pytest.raises(openai.PermissionDeniedError):
            await client.chat.completions.create(**ask("hello"), extra_headers=chosen)

    allowing = make_proxy(allow_namespaces=True)
    for key in ("sk-1", "sk-2", "sk-1"):
        async with of_openai(allowing, key) as client:
            await client.chat.completions.create(**ask("hello"), extra_headers=chosen)

    assert len(upstream.seen) == 2


# what is refused


BAD_BODIES = [
    (b"{", None, "invalid_request_body"),
    (b"", None, "invalid_request_body"),
    (b"[]", None, "invalid_request_body"),
    (b'{"messages": "\xff"}', None, "invalid_request_body"),
    (b"[" * 100_000, None, "invalid_request_body"),
    (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", None, "invalid_request_body"),
    (b'{"messages": [{"role": "user", "content": "a"}], "seed": 1e999}', None, "invalid_request_body"),
    (b'{"seed": ' + b"9" * 5000 + b"}", None, "invalid_request_body"),
    (b'{"seed": NaN}', None, "invalid_request_body"),
    (b'{"model": "a", "model": "b"}', None, "invalid_request_body"),
    (b"{}", "messages", "missing_required_parameter"),
    (b'{"messages": {}}', "messages", "invalid_type"),
    (b'{"messages": []}', "messages", "empty_array"),
    (b'{"messages": [4]}', "messages[0]", "invalid_type"),
    (b'{"model": 4, "messages": [{}]}', "model", "invalid_type"),
    (b'{"stream": "yes", "messages": [{}]}', "stream", "invalid_type"),
    (b'{"stream_options": 1, "messages": [{}]}', "stream_options", "invalid_type"),
]


async def test_a_body_that_cannot_be_read_is_answered_as_openai_does(
    proxy: RunningProxy, http: httpx2.AsyncClient, upstream: LocalUpstream
) -> None:
    for body, param, code in BAD_BODIES:
        found = await http.post(f"{proxy.url}/chat/completions", content=body)

        error = found.json()["error"]
        assert found.status_code == 400, body[:40]
        assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code), body[:40]
        assert error["message"]
    assert upstream.seen == []


async def test_what_only_the_provider_can_judge_is_passed_on(
    proxy: RunningProxy, http: httpx2.AsyncClient, upstream: LocalUpstream
) -> None:
    odd = {"model": "gpt-x", "messages": [{"role": "narrator", "content": "hello"}]}

    found = await http.post(f"{proxy.url}/chat/completions", json=odd)

    assert found.headers["x-cache"] == "bypass"
    assert json.loads(upstream.seen[0].raw) == odd


async def test_a_page_of_another_name_that_leads_here_is_not_answered(
    make_proxy: MakeProxy, upstream: LocalUpstream, http: httpx2.AsyncClient
) -> None:
    proxy, named = make_proxy(), make_proxy(hosts=["Cache.Example"])

    async def ask_as(where: RunningProxy, host: str) -> httpx2.Response:
        return await http.post(f"{where.url}/chat/completions", json=ask("hello"), headers={"host": host})

    refused = await ask_as(proxy, "evil.example:8800")

    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "unknown_host")
    assert "serve.hosts" in refused.json()["error"]["message"]
    for host in ("localhost", "127.0.0.1:1", "[::1]:8800"):
        assert (await ask_as(proxy, host)).status_code == 200
    assert (await ask_as(named, "cache.example:80")).status_code == 200
    assert (await ask_as(named, "evil.example")).status_code == 403


async def test_errors_are_told_in_the_words_of_the_api_that_was_asked(
    proxy: RunningProxy, upstream: LocalUpstream, http: httpx2.AsyncClient
) -> None:
    anthropic = {"anthropic-version": "2023-06-01"}
    for path, headers in (("/messages/count_tokens", {}), ("/models", anthropic)):
        found = await http.get(f"{proxy.url}{path}/../x".replace("/../", "/%2e%2e/"), headers=headers)
        assert found.json()["type"] == "error", path
    assert "type" not in (await http.get(f"{proxy.url}/models/%2e%2e/x")).json()


async def test_a_header_in_any_letters_is_passed_on(
    proxy: RunningProxy, upstream: LocalUpstream, http: httpx2.AsyncClient
) -> None:
    for method, path in (("GET", "/models"), ("POST", "/chat/completions")):
        sent = {"json": ask("hello")} if method == "POST" else {}
        found = await http.request(method, proxy.url + path, headers=[(b"x-title", "Café".encode())], **sent)
        assert found.status_code == 200
    assert upstream.seen[-1].headers["x-title"] == "Café"


async def test_a_fault_of_the_proxy_s_own_is_an_answer_and_a_line_in_the_log(
    proxy: RunningProxy,
    http: httpx2.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> str:
        raise ZeroDivisionError("private words")

    monkeypatch.setattr(proxy.application.proxy._tenants, "namespace", broken)

    found = await http.get(f"{proxy.url}/models")

    assert (found.status_code, found.json()["error"]["code"]) == (500, "proxy_error")
    assert "ZeroDivisionError" in caplog.text
    assert "private words" not in caplog.text


@pytest.mark.parametrize("form", ["gzip", "br, gzip"])
async def test_a_compressed_body_is_refused_and_the_way_out_is_said(
    proxy: RunningProxy, upstream: LocalUpstream, http: httpx2.AsyncClient, form: str
) -> None:
    body = gzip.compress(json.dumps(ask("hello")).encode())

    found = await http.post(f"{proxy.url}/chat/completions", content=body, headers={"content-encoding": form})
    plain = await http.post(
        f"{proxy.url}/chat/completions", json=ask("hello"), headers={"content-encoding": "identity"}
    )
    passed = await http.post(f"{proxy.url}/files", content=body, headers={"content-encoding": form})

    error = found.json()["error"]
    assert (found.status_code, error["code"]) == (415, "unsupported_content_encoding")
    assert f"content-encoding {form!r}" in error["message"]
    assert "send it uncompressed" in error["message"]
    assert (plain.status_code, passed.status_code) == (200, 200)
    assert [seen.raw for seen in upstream.seen][1:] == [body]


@pytest.mark.parametrize("method", ["TRACE", "BREW"])
async def test_a_method_that_is_none_is_refused_in_the_words_of_the_api(
    proxy: RunningProxy, upstream: LocalUpstream, http: httpx2.AsyncClient, method: str
) -> None:
    for path in ("/models", "/chat/completions"):
        found = await http.request(method, proxy.url + path)

        assert (found.status_code, found.json()["error"]["code"]) == (405, "method_not_allowed"), path
        assert "POST" in found.headers["allow"]
    anthropic = await http.request(method, f"{proxy.url}/messages")
    assert anthropic.json()["type"] == "error"
    assert upstream.seen == []


@pytest.mark.parametrize("path", ["", "?x=1"])
async def test_the_root_alone_is_nothing(proxy: RunningProxy, http: httpx2.AsyncClient, path: str) -> None:
    found = await http.post(proxy.url + path, json={})

    assert (found.status_code, found.json()["error"]["code"]) == (404, "unknown_url")


async def test_what_tells_of_the_provider_s_server_is_told_of_the_proxy_s(
    proxy: RunningProxy, upstream: LocalUpstream, http: httpx2.AsyncClient
) -> None:
    theirs = (("server", "theirs"), ("date", "Thu, 01 Jan 1970 00:00:00 GMT"))
    upstream.act = lambda _: Act(headers=theirs)

    passed = await http.get(f"{proxy.url}/models")
    plain = await http.post(f"{proxy.url}/chat/completions", json=ask("hello"))
    streamed = await http.post(f"{proxy.url}/chat/completions", json=ask("other", stream=True))
    vectors = await http.post(f"{proxy.url}/embeddings", json={"model": "e", "input": "a"})

    for found in (passed, plain, streamed, vectors):
        assert "server" not in found.headers
        (date,) = found.headers.get_list("date")
        assert "1970" not in date
        assert found.headers["x-request-id"] == "req_1"


async def test_fifty_megabytes_are_refused(proxy: RunningProxy, upstream: LocalUpstream) -> None:
    async with of_openai(proxy, timeout=60) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(**ask("x" * 50_000_000))

    assert caught.value.status_code == 413
    assert caught.value.code == "request_too_large"
    assert upstream.seen == []


async def test_a_large_body_without_its_length_is_refused_too(
    make_proxy: MakeProxy, http: httpx2.AsyncClient, upstream: LocalUpstream
) -> None:
    proxy = make_proxy(body_limit=1000)

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    found = await http.post(f"{proxy.url}/chat/completions", content=parts())

    assert found.status_code == 413


async def test_too_many_at_once_are_told_to_come_back(make_proxy: MakeProxy, upstream: LocalUpstream) -> None:
    proxy = make_proxy(concurrency=2)
    upstream.act = lambda _: Act(waits=0)
    upstream.hold()
    async with of_openai(proxy) as client:
        under_way = [asyncio.create_task(client.chat.completions.create(**ask(text))) for text in "ab"]

        async def both_came() -> bool:
            return len(upstream.seen) == 2

        await eventually(both_came)
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(**ask("c"))
        upstream.release()
        await asyncio.gather(*under_way)

    assert caught.value.response.headers["retry-after"] == "1"
    assert caught.value.code == "too_many_requests"


async def test_a_provider_that_is_silent_or_away(make_proxy: MakeProxy, upstream: LocalUpstream) -> None:
    upstream.act = lambda _: Act(waits=0)
    upstream.hold()
    async with of_openai(make_proxy(timeout_seconds=0.2)) as client:
        with pytest.raises(openai.APIStatusError) as silent:
            await client.chat.completions.create(**ask("hello"))
    upstream.release()
    async with of_openai(make_proxy(upstream="http://127.0.0.1:1")) as client:
        with pytest.raises(openai.APIStatusError) as away:
            await client.chat.completions.create(**ask("hello"))

    assert (silent.value.status_code, silent.value.code) == (504, "upstream_timeout")
    assert (away.value.status_code, away.value.code) == (502, "upstream_unavailable")


async def test_headers_of_one_connection_stay_there_and_none_is_smuggled(
    proxy: RunningProxy, upstream: LocalUpstream
) -> None:
    body = json.dumps(ask("hello")).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:1\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\n"
        f"Keep-Alive: 5\r\nTE: trailers\r\nContent-Length: {len(body)}\r\n"
    )

    good = await raw(proxy, f"{head}\r\n".encode() + body)
    bad = await raw(proxy, f"{head}X-Bad: a\x00b\r\n\r\n".encode() + body)
    both = await raw(proxy, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + body)

    assert good.startswith(b"HTTP/1.1 200")
    assert bad.startswith(b"HTTP/1.1 400")
    assert not both.startswith(b"HTTP/1.1 200")
    (seen,) = upstream.seen
    assert not {"x-secret", "keep-alive", "te", "proxy-authorization"} & seen.headers.keys()
    assert seen.headers["host"] == f"127.0.0.1:{upstream.port}"


async def test_what_the_provider_sets_for_one_caller_is_not_sent_for_others(
    proxy: RunningProxy, http: httpx2.AsyncClient, upstream: LocalUpstream
) -> None:
    upstream.act = lambda _: Act(headers=(("set-cookie", "session=1; Path=/"),))

    first = await http.post(f"{proxy.url}/chat/completions", json=ask("one"))
    http.cookies.clear()
    await http.post(f"{proxy.url}/chat/completions", json=ask("two"))

    assert first.headers["set-cookie"].startswith("session=1")
    assert "cookie" not in upstream.seen[1].headers


# streams


async def test_a_stream_that_breaks_is_seen_to_break(proxy: RunningProxy, upstream: LocalUpstream) -> None:
    upstream.act = lambda _: Act(dies_after=4)
    async with of_openai(proxy) as client:
        with pytest.raises(BROKEN):
            await text_of(client, "hello")
        upstream.act = lambda _: Act()
        assert await text_of(client, "hello") == answer_to("hello")


async def test_a_caller_that_hangs_up_leaves_a_whole_answer(proxy: RunningProxy, upstream: LocalUpstream) -> None:
    upstream.act = lambda _: Act(waits=3)
    upstream.hold()
    async with of_openai(proxy) as client:
        stream = await client.chat.completions.create(**ask("hello", stream=True))
        await anext(stream)
    async with of_openai(proxy) as client:
        waiting = asyncio.create_task(text_of(client, "hello"))
        await asyncio.wait({waiting}, timeout=0.05)
        upstream.release()

        assert await waiting == answer_to("hello")
    assert len(upstream.seen) == 1


async def test_two_hundred_streams_of_twenty_prompts_at_a_provider_that_fails(
    proxy: RunningProxy, upstream: LocalUpstream
) -> None:
    rng = random.Random(5)
    good: Counter[str] = Counter()

    def act(seen: Any) -> Act:
        if rng.random() < 0.1:
            return rng.choice([Act(status=500, raw=b'{"error": {"message": "no"}}'), Act(dies_after=5), Act(raw=b"<")])
        good[seen.text] += 1
        return Act()

    upstream.act = act

    async def insist(client: openai.AsyncOpenAI, text: str) -> str:
        while True:
            try:
                parts = [part async for part in await client.chat.completions.create(**ask(text, stream=True))]
            except (*BROKEN, ValueError):
                continue
            if parts and parts[-1].choices[0].finish_reason == "stop":
                return "".join(part.choices[0].delta.content or "" for part in parts)

    texts = [f"question {number % 20}" for number in range(200)]
    async with of_openai(proxy) as client:
        answers = await asyncio.gather(*(insist(client, text) for text in texts))
        again = await asyncio.gather(*(insist(client, text) for text in texts[:20]))

    assert answers == [answer_to(text) for text in texts]
    assert again == answers[:20]
    assert set(good.values()) == {1}


# a store that is down


async def test_a_store_that_is_down_is_told_and_keeps_nobody_from_an_answer(
    make_proxy: MakeProxy, upstream: LocalUpstream, own_redis: OwnRedisFactory, http: httpx2.AsyncClient
) -> None:
    server = own_redis()
    proxy = make_proxy(url=server.url)
    async with of_openai(proxy) as client:
        await client.chat.completions.create(**ask("before"))
        hit = await client.chat.completions.with_raw_response.create(**ask("before"))
        server.kill()
        for text in ("before", "after"):
            found = await client.chat.completions.create(**ask(text))
            assert found.choices[0].message.content == answer_to(text)
            assert await text_of(client, text) == answer_to(text)
        vectors = await client.embeddings.create(model="e", input="a")

    ready = await http.get(f"{proxy.root}/readyz")
    assert hit.headers["x-cache"] == "hit-exact"
    assert vectors.data[0].embedding == vector('"a"', 8)
    assert (ready.status_code, ready.json()["parts"][0]["level"]) == (200, "warn")


# what operators ask


async def test_operators_are_told(proxy: RunningProxy, http: httpx2.AsyncClient) -> None:
    async with of_openai(proxy) as client:
        for _ in range(2):
            await client.chat.completions.create(**ask("hello"))

    assert (await http.get(f"{proxy.root}/healthz")).json() == {"status": "ok"}
    assert (await http.get(f"{proxy.root}/readyz")).json()["status"] == "ok"
    told = (await http.get(f"{proxy.root}/metrics")).text
    assert re.search(r"^cache_hits_total(\{[^}]*\})? 1\.0$", told, flags=re.MULTILINE), told[:2000]
    assert (await http.get(f"{proxy.root}/openapi.json")).json()["openapi"] == "3.1.0"
    assert (await http.post(f"{proxy.root}/healthz")).status_code == 405


async def test_told_to_stop_it_finishes_streams_and_takes_no_new_ones(
    proxy: RunningProxy, http: httpx2.AsyncClient, upstream: LocalUpstream
) -> None:
    upstream.act = lambda _: Act(waits=3)
    upstream.hold()
    async with of_openai(proxy) as client, of_openai(proxy) as other:
        stream = await client.chat.completions.create(**ask("hello", stream=True))
        await anext(stream)
        await http.get(f"{proxy.root}/healthz")
        proxy.tell_to_stop()

        async def is_draining() -> bool:
            return (await http.get(f"{proxy.root}/readyz")).status_code == 503

        await eventually(is_draining)
        with pytest.raises(openai.APIStatusError) as caught:
            await other.chat.completions.create(**ask("other"))
        upstream.release()
        rest = [part.choices[0].delta.content or "" async for part in stream]
    proxy.wait()

    assert caught.value.status_code == 503
    assert "".join(rest).endswith(answer_to("hello")[-20:])
    with pytest.raises(ConnectionError), socket.create_connection(("127.0.0.1", int(proxy.root.rpartition(":")[2]))):
        pass


async def test_a_drain_has_an_end(make_proxy: MakeProxy, upstream: LocalUpstream) -> None:
    proxy = make_proxy(drain_seconds=0.1)
    upstream.act = lambda _: Act(waits=3)
    upstream.hold()
    async with of_openai(proxy) as client:
        stream = await client.chat.completions.create(**ask("hello", stream=True))
        await anext(stream)
        proxy.tell_to_stop()
        proxy.tell_to_stop()
        with pytest.raises(BROKEN):
            [part async for part in stream]
    upstream.release()
    proxy.wait()


async def test_pages_are_shown_on_this_machine_alone(make_proxy: MakeProxy, http: httpx2.AsyncClient) -> None:
    proxy = make_proxy(by_meaning=True)
    proxy.application.show({"/": lambda: (200, "text/html", b"<h1>page</h1>")})
    await eventually(lambda: _has_its_model(proxy))
    async with of_openai(proxy) as client:
        await client.chat.completions.create(**ask("how do I reset my password"))
        await client.chat.completions.create(**ask("how do I not reset my password"))

    here = await http.get(f"{proxy.root}/")
    elsewhere = await http.get(f"{proxy.root}/", headers={"host": "evil.example"})

    assert (here.status_code, here.text) == (200, "<h1>page</h1>")
    assert (elsewhere.status_code, "page" in elsewhere.text) == (403, False)
    for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"):
        assert (await http.get(f"{proxy.root}/", headers={name: "1.2.3.4"})).status_code == 403
    (refused,) = proxy.application.near_misses()
    assert (refused.asked, refused.vetoes) == ("how do I not reset my password", ("polarity",))


async def _has_its_model(proxy: RunningProxy) -> bool:
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(proxy.application.wait_for_model(), proxy.loop))
    return True
