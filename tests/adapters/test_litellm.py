"""The real LiteLLM, with a provider that counts its calls; nothing of an app changes but the one line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

with pytest.MonkeyPatch.context() as patch:
    patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network for prices
    litellm = pytest.importorskip("litellm")

from litellm.caching import caching_handler

from cache_management import CachingTransport
from cache_management.adapters.litellm import ManagedCache
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendUnavailable, InvalidInput
from cache_management.cache.events import CorruptEvent, Event, RefusedEvent
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.cache.payloads import DSPY_RECORD, GATEWAY, LANGCHAIN, LITELLM
from tests.adapters.making import ASKED, OPPOSITE, REWORDED, manager_on, store_with_payload
from tests.contracts.broken import BreakableBackend
from tests.gateway.conftest import upstream as upstream  # noqa: PLC0414 - a fixture is passed on
from tests.gateway.conftest import upstream_server as upstream_server  # noqa: PLC0414
from tests.gateway.upstream import BROKEN, Act, LocalUpstream, answer_to
from tests.waiting import eventually

# LiteLLM's own: its types are newer than what pydantic warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Item .* on TypedDict class:UserWarning")

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
SYSTEM = {"role": "system", "content": "Be brief."}


class Provider(litellm.CustomLLM):  # type: ignore[misc, name-defined]
    """A provider that says how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []
        self.finish_reason = "stop"
        self.ends = True

    def completion(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(kwargs)
        called = (kwargs.get("optional_params") or {}).get("tools")
        found = kwargs["model_response"]
        message: dict[str, Any] = {"role": "assistant", "content": None if called else f"answer {len(self.calls)}"}
        if called:
            function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
            message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
        found.choices = [litellm.Choices(finish_reason=self.finish_reason, index=0, message=litellm.Message(**message))]
        found.model = "m"
        found.usage = litellm.Usage(prompt_tokens=7, completion_tokens=5, total_tokens=12)
        return found

    async def acompletion(self, *args: Any, **kwargs: Any) -> Any:
        return self.completion(*args, **kwargs)

    def streaming(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        self.calls.append(kwargs)
        for text, is_last in (("an", False), ("swer", True))[: 2 if self.ends else 1]:
            yield {
                "text": text,
                "is_finished": is_last,
                "finish_reason": "stop" if is_last else None,
                "index": 0,
                "tool_use": None,
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }

    async def astreaming(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        for piece in self.streaming(*args, **kwargs):
            yield piece


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    made = Provider()
    monkeypatch.setattr(litellm, "custom_provider_map", [{"provider": "fake", "custom_handler": made}])
    monkeypatch.setattr(litellm, "suppress_debug_info", True)
    yield made
    litellm.disable_cache()


def ask(text: str = ASKED, **more: Any) -> Any:
    given = {"model": "fake/m", "messages": [SYSTEM, {"role": "user", "content": text}], "temperature": 0, **more}
    return litellm.completion(**given)


def text_of(answer: Any) -> str:
    return str(answer.choices[0].message.content)


def is_hit(answer: Any) -> bool:
    return bool(answer._hidden_params.get("cache_hit"))


async def stored(manager: CacheManager, count: int = 1) -> None:
    """Wait until so many entries are there: LiteLLM stores behind the answer."""

    async def are_there() -> bool:
        return len(await manager.llm_cache.list_keys()) >= count

    await eventually(are_there)


def test_an_app_gets_hits_after_one_line(provider: Provider) -> None:
    litellm.cache = ManagedCache(manager_on())

    first, again = ask(), ask()

    assert len(provider.calls) == 1
    assert text_of(first) == text_of(again) == "answer 1"
    assert (is_hit(first), is_hit(again)) == (False, True)
    assert again.usage.total_tokens == 12
    assert again.choices[0].finish_reason == "stop"


async def test_async_calls_share_the_answers(provider: Provider) -> None:
    manager = manager_on()
    litellm.cache = ManagedCache(manager)
    messages = [{"role": "user", "content": ASKED}]

    first = await litellm.acompletion(model="fake/m", messages=messages)
    await stored(manager)
    again = await litellm.acompletion("fake/m", messages)
    blocking = litellm.completion(messages=messages, model="fake/m")

    assert len(provider.calls) == 1
    assert text_of(first) == text_of(again) == text_of(blocking)
    assert is_hit(again)
    assert is_hit(blocking)


async def test_streams_are_answered_as_plain_calls_are(provider: Provider) -> None:
    manager = manager_on()
    litellm.cache = ManagedCache(manager)
    call: dict[str, Any] = {"model": "fake/m", "messages": [{"role": "user", "content": "hi"}]}
    whole = await litellm.acompletion(**call)
    await stored(manager)

    again = await litellm.acompletion(**call, stream=True)
    text = "".join([piece.choices[0].delta.content or "" async for piece in again])
    pieces = [piece.choices[0].delta.content or "" for piece in litellm.completion(**call, stream=True)]

    assert len(provider.calls) == 1
    assert text == "".join(pieces) == text_of(whole) == "answer 1"


@pytest.mark.parametrize("ends", [True, False])
async def test_what_was_streamed_is_not_kept_as_its_end_cannot_be_known(provider: Provider, ends: bool) -> None:
    """LiteLLM says "stop" of a stream that its provider closed in the middle, too."""
    manager = manager_on()
    litellm.cache = ManagedCache(manager)
    provider.ends = ends
    call: dict[str, Any] = {"model": "fake/m", "messages": [{"role": "user", "content": "hi"}]}

    async for _ in await litellm.acompletion(**call, stream=True):
        pass
    list(litellm.completion(**call, stream=True))
    await litellm.acompletion(model="fake/m", messages=[{"role": "user", "content": "then"}])
    await stored(manager)

    assert len(await manager.llm_cache.list_keys()) == 1
    assert text_of(await litellm.acompletion(**call)) == "answer 4"


async def test_streams_are_stored_where_that_is_wanted(provider: Provider) -> None:
    manager = manager_on()
    litellm.cache = ManagedCache(manager, store_streams=True)
    call: dict[str, Any] = {"model": "fake/m", "messages": [{"role": "user", "content": "hi"}]}

    first = [piece.choices[0].delta.content or "" async for piece in await litellm.acompletion(**call, stream=True)]
    await stored(manager)
    again = [piece.choices[0].delta.content or "" async for piece in await litellm.acompletion(**call, stream=True)]
    plain = litellm.completion(**call)
    other = {**call, "messages": [{"role": "user", "content": "there"}]}
    list(litellm.completion(**other, stream=True))
    await stored(manager, 2)

    assert "".join(first) == "".join(again) == text_of(plain) == text_of(litellm.completion(**other)) == "answer"
    assert len(provider.calls) == 2


async def test_a_stream_whose_connection_breaks_is_not_stored(provider: Provider, upstream: LocalUpstream) -> None:
    manager = manager_on()
    litellm.cache = ManagedCache(manager, store_streams=True)
    here: dict[str, Any] = {"model": "openai/gpt-4", "api_base": upstream.url, "api_key": "k", "max_retries": 0}
    upstream.act = lambda seen: Act(dies_after=3) if seen.text == "break" else Act()

    broken = {**here, "messages": [{"role": "user", "content": "break"}]}
    with pytest.raises(BROKEN):
        async for _ in await litellm.acompletion(**broken, stream=True):
            pass
    with pytest.raises(BROKEN):
        list(litellm.completion(**broken, stream=True))
    list(litellm.completion(**here, messages=[{"role": "user", "content": "hold"}], stream=True))
    await stored(manager)

    assert len(await manager.llm_cache.list_keys()) == 1
    assert is_hit(litellm.completion(**here, messages=[{"role": "user", "content": "hold"}]))
    assert [seen.text for seen in upstream.seen] == ["break", "break", "hold"]


async def test_the_transport_stores_streams_that_came_to_their_end(
    monkeypatch: pytest.MonkeyPatch, upstream: LocalUpstream
) -> None:
    manager = manager_on()
    async with httpx.AsyncClient(transport=CachingTransport(manager)) as client:
        monkeypatch.setattr(litellm, "aclient_session", client)
        # It keeps the client that it makes, which no other test shall get.
        monkeypatch.setattr(litellm, "in_memory_llm_clients_cache", type(litellm.in_memory_llm_clients_cache)())
        upstream.act = lambda seen: Act(ends_after=2) if seen.text == "break" else Act()

        async def streamed(text: str) -> str:
            call: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "api_base": upstream.url}
            pieces = await litellm.acompletion(model="openai/gpt-4", api_key="k", stream=True, **call)
            return "".join([piece.choices[0].delta.content or "" async for piece in pieces])

        for text in ("break", "break", "hold"):
            await streamed(text)

        assert await streamed("hold") == answer_to("hold")
        assert [seen.text for seen in upstream.seen] == ["break", "break", "hold"]


class City(BaseModel):
    name: str


@pytest.mark.parametrize(
    "other",
    [
        {"model": "fake/n"},
        {"temperature": 1},
        {"top_k": 5},  # known to providers alone: LiteLLM's own key leaves it out
        {"extra_body": {"mode": "x"}},
        {"stop": ["x"]},
        {"user": "ann"},
        {"api_base": "http://127.0.0.1:1"},
        {"extra_headers": {"anthropic-beta": "x"}},
        {"tools": [TOOL]},
        {"response_format": City},
        {"messages": [{"role": "user", "content": ASKED}]},
        {"messages": [{"role": "system", "content": "Be long."}, {"role": "user", "content": ASKED}]},
        {"messages": [SYSTEM, {"role": "user", "content": ASKED, "name": "ann"}]},
        {"messages": [SYSTEM, {"role": "user", "content": OPPOSITE}]},
        {"messages": [SYSTEM, {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
    ],
)
def test_another_request_is_no_hit_not_even_by_meaning(provider: Provider, other: dict[str, Any]) -> None:
    litellm.cache = ManagedCache(manager_on(by_meaning=True))
    ask()

    assert not is_hit(ask(**other))
    assert is_hit(ask())


@pytest.mark.parametrize(
    "same",
    [
        {"api_key": "sk-2"},
        {"timeout": 5},
        {"num_retries": 1},
        {"metadata": {"trace": "x"}},
        {"n": 1},
        {"input_cost_per_token": 5},
        {"litellm_trace_id": "x"},
    ],
)
def test_what_cannot_change_the_answer_does_not_count(provider: Provider, same: dict[str, Any]) -> None:
    litellm.cache = ManagedCache(manager_on())
    ask()

    assert is_hit(ask(**same))


def test_the_same_question_in_other_words_is_a_hit_by_meaning(provider: Provider) -> None:
    litellm.cache = ManagedCache(manager_on(by_meaning=True))
    ask()
    metadata: dict[str, Any] = {"mine": 1}

    found = ask(REWORDED, metadata=metadata)

    assert is_hit(found)
    assert text_of(found) == "answer 1"
    assert len(provider.calls) == 1


def test_callers_behind_a_proxy_share_nothing(provider: Provider) -> None:
    litellm.cache = ManagedCache(manager_on(by_meaning=True))
    ask(metadata={"user_api_key": "one"})

    assert is_hit(ask(metadata={"user_api_key": "one"}))
    assert not is_hit(ask(metadata={"user_api_key": "other"}))
    assert not is_hit(ask(REWORDED, metadata={"user_api_key": "third"}))


def test_a_group_of_deployments_is_one_model(provider: Provider) -> None:
    litellm.cache = ManagedCache(manager_on())
    ask(metadata={"model_group": "chat"}, api_base="http://127.0.0.1:1")

    assert is_hit(ask(metadata={"model_group": "chat"}, api_base="http://127.0.0.1:2"))
    assert not is_hit(ask(metadata={"model_group": "other"}))
    assert not is_hit(ask(model="fake/chat"))


def test_tool_calls_are_kept(provider: Provider) -> None:
    litellm.cache = ManagedCache(manager_on())

    first, again = ask(tools=[TOOL]), ask(tools=[TOOL])

    assert is_hit(again)
    assert again.choices[0].message.tool_calls == first.choices[0].message.tool_calls
    assert again.choices[0].message.tool_calls[0].function.name == "weather"


def test_no_store_and_no_cache_are_honoured(provider: Provider) -> None:
    litellm.cache = ManagedCache(manager_on())

    ask(cache={"no-store": True})
    assert text_of(ask()) == "answer 2"
    assert text_of(ask(cache={"no-cache": True})) == "answer 3"
    assert text_of(ask()) == "answer 3"  # as LiteLLM does: what is asked anew is stored


def test_lives_ages_and_namespaces_are_honoured(provider: Provider) -> None:
    manager = manager_on()
    litellm.cache = ManagedCache(manager)

    ask(cache={"ttl": 60.0})
    (entry,) = asyncio.run(manager.export_entries())
    assert entry["expires_at"] > 0
    assert not is_hit(ask(cache={"s-maxage": 0}))
    assert is_hit(ask(cache={"s-max-age": 60}))
    assert not is_hit(ask(cache={"namespace": "other"}))
    assert is_hit(ask(cache={"namespace": "other"}))
    assert is_hit(ask(metadata={"redis_namespace": "other"}))
    assert len(asyncio.run(manager.export_entries(namespace="other"))) == 1


def test_controls_that_cannot_be_used_leave_the_call_alone(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    litellm.cache = ManagedCache(manager_on())

    ask(cache={"ttl": "soon"})

    assert not is_hit(ask(cache={"ttl": "soon"}))
    assert "cache control ttl" in caplog.text


def test_a_cache_that_is_off_by_default_is_asked_when_wanted(provider: Provider) -> None:
    litellm.cache = ManagedCache(manager_on(), mode=litellm.caching.caching.CacheMode.default_off)

    ask()
    assert not is_hit(ask())
    ask(cache={"use-cache": True})
    assert is_hit(ask(cache={"use-cache": True}))


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_what_is_no_good_answer_is_given_and_not_stored(provider: Provider, reason: str) -> None:
    heard: list[Event] = []
    litellm.cache = ManagedCache(manager_on(heard=heard))
    provider.finish_reason = reason

    ask()

    assert not is_hit(ask())
    assert len([each for each in heard if isinstance(each, RefusedEvent)]) == 2


def test_threads_may_ask_while_a_loop_runs(provider: Provider) -> None:
    manager = manager_on()
    litellm.cache = ManagedCache(manager)

    async def work() -> list[str]:
        ask("warm")  # blocking, inside a running loop
        with ThreadPoolExecutor(8) as pool:
            loop = asyncio.get_running_loop()
            found = await asyncio.gather(
                *(loop.run_in_executor(pool, ask, f"q{at % 4}") for at in range(32)),
                *(
                    litellm.acompletion(model="fake/m", messages=[{"role": "user", "content": f"q{at % 4}"}])
                    for at in range(32)
                ),
            )
        await stored(manager, 9)
        return [text_of(each) for each in found]

    assert len(asyncio.run(work())) == 64
    assert all(is_hit(ask(f"q{at}")) for at in range(4))


async def test_a_broken_store_does_not_break_the_app(provider: Provider) -> None:
    litellm.cache = ManagedCache(manager_on(BreakableBackend(up=False)))

    assert text_of(ask()) == "answer 1"
    assert text_of(await litellm.acompletion(model="fake/m", messages=[{"role": "user", "content": "q"}])) == "answer 2"
    with pytest.raises(BackendUnavailable):
        await litellm.cache.delete_cache_keys(["key"])


def made(**more: Any) -> str:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "a"}}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], **more})


@pytest.mark.parametrize(
    "payload",
    [
        5,
        "",
        "no json",
        "[]",
        "{}",
        "[" * 100_000,
        "__import__('os').system('true')",
        made(choices=[]),
        made(choices=5),
        made(choices=[{"message": 5}]),
        made(choices=[{"finish_reason": "stop"}]),
        made(choices=[{"message": {"content": "a", "tool_calls": "x"}}]),
        made(choices=[{"message": {"content": "a", "tool_calls": [{"function": 5}]}, "finish_reason": "stop"}]),
        made(choices=[{"message": {"content": "a", "role": 5}, "finish_reason": "stop"}]),
        made(choices=[{"message": {"content": "a", "reasoning_content": [5]}, "finish_reason": "stop"}]),
        made(usage=5),
        made(usage=None),
        made(usage={"prompt_tokens": "many"}),
        made(id=[5]),
        made(created="yesterday"),
        made(object="text_completion"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_hostile_value_is_refused(provider: Provider, payload: Any, stream: bool) -> None:
    heard: list[Event] = []
    manager = manager_on(heard=heard)
    cache = litellm.cache = ManagedCache(manager)
    call = {"model": "fake/m", "messages": [{"role": "user", "content": "q"}]}
    await store_with_payload(manager, {LITELLM: payload}, **cache._asked(call).arguments())

    answer = await litellm.acompletion(**call, stream=stream)

    if stream:
        assert [piece.choices[0].delta.content async for piece in answer][:2] == ["an", "swer"]
    else:
        assert text_of(answer) == "answer 1"
    assert any(isinstance(each, CorruptEvent) for each in heard)


async def test_a_value_that_breaks_streams_alone_is_refused_to_them(provider: Provider) -> None:
    manager = manager_on()
    cache = litellm.cache = ManagedCache(manager)
    call = {"model": "fake/m", "messages": [{"role": "user", "content": "q"}]}
    tool_call = {"id": "1", "type": 5, "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "a", "tool_calls": [tool_call]}
    payload = made(choices=[{"index": 0, "message": message, "finish_reason": "stop"}])
    await store_with_payload(manager, {LITELLM: payload}, **cache._asked(call).arguments())

    assert is_hit(await litellm.acompletion(**call))
    pieces = [piece.choices[0].delta.content for piece in litellm.completion(**call, stream=True)]

    assert pieces[:2] == ["an", "swer"]


async def test_a_text_that_somebody_else_stored_is_an_answer(provider: Provider) -> None:
    cache = LLMCache(CacheConfig(ttl_seconds=-1), backend=MemoryBackend(max_size=10), clock=lambda: 1e9)
    manager = CacheManager(cache)
    litellm.cache = ManagedCache(manager)
    await manager.store("q", "stored", model="fake/m")

    found = await litellm.acompletion(model="fake/m", messages=[{"role": "user", "content": "q"}])

    assert (text_of(found), found.created) == ("stored", 10**9)
    assert is_hit(found)


@pytest.mark.parametrize(
    "kept", [{GATEWAY: {"api": "chat", "body": {}}}, {LANGCHAIN: "[]"}, {DSPY_RECORD: "{}", "mine": 1}]
)
async def test_an_entry_of_which_somebody_else_keeps_more_than_its_text_is_a_miss(
    provider: Provider, kept: dict[str, Any]
) -> None:
    """Its text leaves out tool calls and further choices."""
    manager = manager_on()
    litellm.cache = ManagedCache(manager)
    await store_with_payload(manager, kept, prompt="q", model="fake/m")

    found = await litellm.acompletion(model="fake/m", messages=[{"role": "user", "content": "q"}])

    assert text_of(found) == "answer 1"


async def test_a_key_that_an_answer_names_can_be_deleted(provider: Provider) -> None:
    manager = manager_on()
    litellm.cache = ManagedCache(manager)
    call = {"model": "fake/m", "messages": [{"role": "user", "content": "q"}]}
    await litellm.acompletion(**call)
    await stored(manager)
    key = (await litellm.acompletion(**call))._hidden_params["cache_key"]

    assert await litellm.cache.delete_cache_keys([key]) == 1
    assert not is_hit(await litellm.acompletion(**call))


def test_what_cannot_be_known_again_is_asked_each_time(provider: Provider) -> None:
    litellm.cache = ManagedCache(manager_on())

    for _ in range(2):
        assert not is_hit(ask(extra_body={"when": object()}))


def test_a_release_that_breaks_on_hits_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*, cached_result: object) -> bool:
        raise ModuleNotFoundError("No module named 'fastapi'")

    monkeypatch.setattr(caching_handler, "_should_defer_streaming_cache_hit_callbacks", broken)

    with pytest.raises(ImportError, match=r"litellm<1.102"):
        ManagedCache(manager_on())


def test_the_options_are_checked() -> None:
    with pytest.raises(InvalidInput, match="CacheManager"):
        ManagedCache("memory://")  # type: ignore[arg-type]
