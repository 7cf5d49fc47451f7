"""The real LangChain, with models that count their calls; nothing of an app changes but the one line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("langchain_core")

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.language_models.llms import BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    ChatResult,
    Generation,
    GenerationChunk,
    LLMResult,
)
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from pydantic import Field

from cache_management import sync
from cache_management.adapters.langchain import ManagedCache
from cache_management.adapters.langchain_identity import ask_of
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendUnavailable, InvalidInput
from cache_management.cache.events import CorruptEvent, Event, RefusedEvent, UnavailableEvent
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.cache.payloads import DSPY_RECORD, GATEWAY, LANGCHAIN, LITELLM
from tests.adapters.making import ASKED, OPPOSITE, REWORDED, manager_on, store_with_payload
from tests.contracts.broken import BreakableBackend


class Counting(BaseChatModel):
    """A provider that says how often it was asked."""

    model: str = "gpt-4"
    temperature: float = 0.0
    finish_reason: str = "stop"
    calls: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "counting"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "temperature": self.temperature}

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[{"name": each.name, "description": each.description} for each in tools], **kwargs)

    def _answer(self, kwargs: dict[str, Any]) -> AIMessage:
        self.calls.append(1)
        called = kwargs.get("tools")
        return AIMessage(
            content="" if called else f"answer {len(self.calls)}",
            tool_calls=[{"name": called[0]["name"], "args": {"city": "Oslo"}, "id": "call_1"}] if called else [],
            id="chatcmpl-1",
            usage_metadata={"input_tokens": 7, "output_tokens": 5, "total_tokens": 12},
            response_metadata={"finish_reason": self.finish_reason, "model_name": self.model},
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        count = kwargs.get("n", 1)
        return ChatResult(generations=[ChatGeneration(message=self._answer(kwargs)) for _ in range(count)])


class Streaming(Counting):
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        self.calls.append(1)
        for piece in ("an", "swer"):
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))


class Broken(BaseChatModel):
    """A model whose stream may end in the middle, as when a provider closes the connection between two pieces."""

    streaming: bool = False
    last: dict[str, Any] | None = None
    message_id: str | None = None
    calls: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "broken"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        self.calls.append(1)
        yield ChatGenerationChunk(message=AIMessageChunk("You must never ", id=self.message_id))
        if self.last is not None:
            yield ChatGenerationChunk(message=AIMessageChunk("not do it.", response_metadata=self.last))


class Plain(BaseLLM):
    """A model without messages."""

    calls: list[str] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "plain"

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        self.calls.extend(prompts)
        return LLMResult(generations=[[Generation(text=f"on {prompt}")] for prompt in prompts])


@tool
def weather(city: str) -> str:
    """Say what the weather is."""
    return city


@tool
def clock(city: str) -> str:
    """Say what time it is."""
    return city


@pytest.fixture(autouse=True)
def _no_cache_is_left() -> Iterator[None]:
    yield
    set_llm_cache(None)


def use(manager: CacheManager, **options: Any) -> ManagedCache:
    cache = ManagedCache(manager, **options)
    set_llm_cache(cache)
    return cache


async def test_an_app_gets_hits_after_one_line() -> None:
    chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{question}")]) | (
        model := Counting(calls=[])
    )
    set_llm_cache(ManagedCache(manager_on()))

    first = await chain.ainvoke({"question": "What is Python?"})
    again = await chain.ainvoke({"question": "What is Python?"})
    blocking = chain.invoke({"question": "What is Python?"})

    assert len(model.calls) == 1
    assert first.content == again.content == blocking.content == "answer 1"


async def test_an_answer_comes_back_as_it_was_and_says_where_from() -> None:
    use(manager_on())
    model = Counting(calls=[])

    given = await model.ainvoke("What is Python?")
    found = await model.ainvoke("What is Python?")

    assert type(found) is type(given)
    mark = found.response_metadata.pop("cache_management")
    assert (mark["kind"], mark["similarity"]) == ("exact", 1.0)
    assert found.response_metadata == given.response_metadata
    # As LangChain marks every hit: counted, and at no cost.
    assert found.usage_metadata == {**(given.usage_metadata or {}), "total_cost": 0}
    assert (given.id, found.id) == ("chatcmpl-1", None)
    assert "cache_management" not in given.response_metadata


@pytest.mark.parametrize(
    "given",
    [
        [Generation(text="an answer", generation_info={"reason": "test"})],
        [Generation(text="an answer"), Generation(text="another one")],
        [ChatGeneration(message=AIMessage("an answer", response_metadata={"finish_reason": "stop"}))],
        [ChatGeneration(message=AIMessage("an answer"))],
    ],
)
async def test_what_is_found_equals_what_was_stored(given: list[Generation]) -> None:
    """As the tests that LangChain publishes for caches ask."""
    cache = ManagedCache(manager_on())

    cache.update("a prompt", "any description of a model", given)
    await cache.aupdate("another prompt", "any description of a model", given)

    assert cache.lookup("a prompt", "any description of a model") == given
    assert given == await cache.alookup("another prompt", "any description of a model")
    assert cache.lookup("a prompt", "another description") is None


async def test_the_mark_of_a_hit_hides_no_other_difference() -> None:
    cache = ManagedCache(manager_on())
    given = [ChatGeneration(message=AIMessage("an answer", response_metadata={"finish_reason": "stop"}))]
    cache.update("a prompt", "a model", given)
    (found,) = cache.lookup("a prompt", "a model") or []
    assert isinstance(found, ChatGeneration)

    assert "cache_management" in found.message.response_metadata
    assert found.message.response_metadata == {"finish_reason": "stop"}
    assert found.message.response_metadata != {"finish_reason": "length"}
    assert found.message.response_metadata != {}


@pytest.mark.parametrize(
    "other",
    [
        lambda model: model.model_copy(update={"model": "gpt-3"}).invoke([SystemMessage("s"), HumanMessage(ASKED)]),
        lambda model: model.model_copy(update={"temperature": 1.0}).invoke([SystemMessage("s"), HumanMessage(ASKED)]),
        lambda model: model.invoke([SystemMessage("t"), HumanMessage(ASKED)]),
        lambda model: model.invoke([HumanMessage(ASKED)]),
        lambda model: model.invoke([SystemMessage("s"), HumanMessage(ASKED)], stop=["x"]),
        lambda model: model.invoke([SystemMessage("s"), HumanMessage(ASKED)], seed=1),
        lambda model: model.bind_tools([weather]).invoke([SystemMessage("s"), HumanMessage(ASKED)]),
        lambda model: model.invoke([SystemMessage("s"), HumanMessage(ASKED, name="ann")]),
        lambda model: model.invoke([SystemMessage("s"), HumanMessage(ASKED), AIMessage("So"), HumanMessage(ASKED)]),
        lambda model: model.invoke([SystemMessage("s"), HumanMessage(OPPOSITE)]),
        lambda model: model.invoke(
            [
                SystemMessage("s"),
                HumanMessage([{"type": "text", "text": ASKED}, {"type": "image_url", "image_url": {"url": "data:,"}}]),
            ]
        ),
    ],
)
def test_another_request_is_no_hit_not_even_by_meaning(other: Any) -> None:
    use(manager_on(by_meaning=True))
    model = Counting(calls=[])
    model.invoke([SystemMessage("s"), HumanMessage(ASKED)])

    other(model)
    model.invoke([SystemMessage("s"), HumanMessage(ASKED)])

    assert len(model.calls) == 2


def test_the_same_question_in_other_words_is_a_hit_by_meaning() -> None:
    use(manager_on(by_meaning=True))
    model = Counting(calls=[])
    model.invoke([SystemMessage("s"), HumanMessage(ASKED)])

    found = model.invoke([SystemMessage("s"), HumanMessage(REWORDED)])

    assert len(model.calls) == 1
    assert found.response_metadata["cache_management"]["kind"] == "semantic"


def test_without_a_matcher_nothing_is_found_by_meaning() -> None:
    use(manager_on())
    model = Counting(calls=[])

    model.invoke(ASKED)
    model.invoke(REWORDED)

    assert len(model.calls) == 2


def test_a_conversation_asked_again_is_hits_all_along() -> None:
    use(manager_on())
    model = Counting(calls=[])

    for _ in range(3):
        told: list[BaseMessage] = [HumanMessage("Hello")]
        told.append(model.invoke(told))  # from the model once, then from the cache, which marks it
        told.append(HumanMessage("And now?"))
        told.append(model.invoke(told))

    assert len(model.calls) == 2


def test_a_follow_up_in_other_words_is_found_under_the_same_opening() -> None:
    use(manager_on(by_meaning=True))
    model = Counting(calls=[])
    opening = [HumanMessage("Hello, I bank with you"), AIMessage("Welcome.")]
    model.invoke([*opening, HumanMessage(ASKED)])

    model.invoke([*opening, HumanMessage(REWORDED)])
    model.invoke([HumanMessage("Hello, I do not"), AIMessage("Welcome."), HumanMessage(REWORDED)])

    assert len(model.calls) == 2


def test_tool_calls_and_their_answers_are_kept() -> None:
    use(manager_on())
    model = Counting(calls=[])
    with_tools = model.bind_tools([weather])
    called = with_tools.invoke("What is the weather in Oslo?")
    turns = [HumanMessage("What is the weather in Oslo?"), called, ToolMessage("rain", tool_call_id="call_1")]
    model.invoke(turns)

    again = with_tools.invoke("What is the weather in Oslo?")
    model.invoke(turns)
    model.invoke([*turns[:2], ToolMessage("sun", tool_call_id="call_1")])
    model.bind_tools([clock]).invoke("What is the weather in Oslo?")

    assert again.tool_calls == called.tool_calls
    assert [call["args"] for call in again.tool_calls] == [{"city": "Oslo"}]
    assert len(model.calls) == 4


def test_several_generations_are_kept_together() -> None:
    use(manager_on())
    model = Counting(calls=[])

    first = model.generate([[HumanMessage("Dice?")]], n=3)
    again = model.generate([[HumanMessage("Dice?")]], n=3)

    assert [each.text for each in again.generations[0]] == [each.text for each in first.generations[0]]
    assert len(again.generations[0]) == len(model.calls) == 3


def test_plain_models_are_cached_prompt_by_prompt() -> None:
    use(manager_on(by_meaning=True))
    model = Plain(calls=[])
    model.invoke(ASKED)

    found = model.generate([ASKED, "What is a loan?", REWORDED])

    assert model.calls == [ASKED, "What is a loan?"]
    assert [each[0].text for each in found.generations] == [f"on {ASKED}", "on What is a loan?", f"on {ASKED}"]


async def test_a_stream_is_langchain_s_own_business() -> None:
    """LangChain streams past its caches, unless the model has no stream of its own: then the whole is one piece."""
    use(manager_on())
    streaming, whole = Streaming(calls=[]), Counting(calls=[])

    for _ in range(2):
        assert [piece.content for piece in streaming.stream("Hello") if piece.content] == ["an", "swer"]
    pieces = [[piece.content async for piece in whole.astream("Hello")] for _ in range(2)]

    assert len(streaming.calls) == 2
    assert len(whole.calls) == 1
    assert pieces[0] == pieces[1]


@pytest.mark.parametrize("message_id", [None, "msg_1"])
@pytest.mark.parametrize("asked", [{"stream": True}, {}])
def test_what_was_streamed_is_kept_only_when_it_says_why_it_ended(asked: Any, message_id: str | None) -> None:
    heard: list[Event] = []
    use(manager_on(heard=heard))
    streaming: dict[str, Any] = {} if asked else {"streaming": True}
    broken = Broken(calls=[], message_id=message_id, **streaming)
    whole = Broken(calls=[], last={"finish_reason": "stop"}, **streaming)

    assert [broken.invoke("What?", **asked).content for _ in range(2)] == ["You must never "] * 2
    assert [whole.invoke("So?", **asked).content for _ in range(2)] == ["You must never not do it."] * 2

    assert (len(broken.calls), len(whole.calls)) == (2, 1)
    assert [each.reason for each in heard if isinstance(each, RefusedEvent)] == ["aborted_stream"] * 2


async def test_what_is_streamed_only_because_somebody_listens_is_no_exception() -> None:
    """As in LangGraph, which shows the pieces of each answer while it comes."""
    use(manager_on())
    model = Broken(calls=[])
    chain = RunnableLambda(lambda text: model.invoke(str(text)))

    for _ in range(2):
        assert [event async for event in chain.astream_events("What?", version="v2")]

    assert len(model.calls) == 2


@pytest.mark.parametrize(
    ("last", "calls"),
    [
        ({"stopReason": "end_turn"}, 1),  # Bedrock
        ({"stopReason": "max_tokens"}, 2),
        ({"object": "response", "status": "completed"}, 1),  # OpenAI's responses
        ({"object": "response", "status": "incomplete"}, 2),
        ({"status": "completed"}, 2),  # of something else
    ],
)
def test_a_stream_says_why_it_ended_in_the_words_of_its_provider(last: dict[str, Any], calls: int) -> None:
    use(manager_on())
    model = Broken(calls=[], last=last, streaming=True)

    model.invoke("What?")
    model.invoke("What?")

    assert len(model.calls) == calls


@pytest.mark.parametrize(
    ("generation", "llm_string", "is_kept"),
    [
        (Generation(text="a"), "llm", True),
        (Generation(text="a", generation_info={"logprobs": None}), "llm", True),
        (Generation(text="a", generation_info={"finish_reason": "stop"}), "[('streaming', True)]", True),
        (Generation(text="a"), "[('streaming', False)]", True),
        (Generation(text="a"), "[('streaming', True)]", False),
        (Generation(text="a"), '{"kwargs": {"streaming": true}}', False),
        (Generation(text="a", generation_info={"finish_reason": None}), "llm", False),
        (GenerationChunk(text="a"), "llm", False),
        (GenerationChunk(text="a", generation_info={"done_reason": "stop"}), "llm", True),
        (ChatGeneration(message=AIMessage("a", id="1")), "llm", True),
        (ChatGeneration(message=AIMessageChunk("a")), "llm", False),
        (ChatGenerationChunk(message=AIMessageChunk("a")), "llm", False),
        (ChatGeneration(message=AIMessage("a", response_metadata={"finish_reason": None})), "llm", False),
    ],
)
async def test_without_a_word_of_its_end_only_what_came_whole_is_kept(
    generation: Generation, llm_string: str, is_kept: bool
) -> None:
    cache = ManagedCache(manager_on())

    await cache.aupdate("p", llm_string, [generation])

    assert (await cache.alookup("p", llm_string) is not None) is is_kept


def test_a_model_that_never_says_why_it_ended_is_cached() -> None:
    use(manager_on())
    model = FakeListChatModel(responses=["first", "second"])

    assert [model.invoke("What?").content for _ in range(2)] == ["first", "first"]


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_what_is_no_good_answer_is_given_and_not_stored(reason: str) -> None:
    heard: list[Event] = []
    use(manager_on(heard=heard))
    model = Counting(calls=[], finish_reason=reason)

    assert model.invoke("Tell me all").content == "answer 1"
    assert model.invoke("Tell me all").content == "answer 2"

    assert [type(each) for each in heard if isinstance(each, RefusedEvent)] == [RefusedEvent] * 2


def test_threads_may_ask_while_a_loop_runs() -> None:
    use(manager_on())
    model = Counting(calls=[])

    async def work() -> list[str]:
        model.invoke("warm")  # blocking, inside a running loop
        with ThreadPoolExecutor(16) as pool:
            found = await asyncio.gather(
                *(
                    asyncio.get_running_loop().run_in_executor(pool, lambda at=at: model.invoke(f"q{at % 8}").text)
                    for at in range(64)
                ),
                *(model.ainvoke(f"q{at % 8}") for at in range(64)),
            )
        return [each if isinstance(each, str) else each.text for each in found]

    found = asyncio.run(work())

    assert len(found) == 128
    before = len(model.calls)
    assert {model.invoke(f"q{at}").text for at in range(8)} <= set(found)
    assert len(model.calls) == before


def test_a_blocking_call_on_the_loop_of_the_blocking_caches_asks_the_model() -> None:
    use(manager_on())
    model = Counting(calls=[])

    async def work() -> str:
        return model.invoke("Hello").text

    assert [sync.run(work()) for _ in range(2)] == ["answer 1", "answer 2"]


def test_one_redis_serves_both_faces(redis_url: str) -> None:
    with sync.CacheManager(sync.LLMCache(CacheConfig(url=redis_url, ttl_seconds=60))) as manager:
        use(manager)
        model = Counting(calls=[])

        model.invoke("What is Python?")
        model.invoke("What is Python?")

        assert len(model.calls) == 1


async def test_one_manager_on_redis_serves_tasks_and_threads(redis_url: str) -> None:
    manager = CacheManager(LLMCache(CacheConfig(url=redis_url, ttl_seconds=60)))
    use(manager)
    model = Counting(calls=[])

    await model.ainvoke("What is Python?")
    found = await asyncio.gather(
        *(model.ainvoke("What is Python?") for _ in range(20)),
        *(asyncio.to_thread(model.invoke, "What is Python?") for _ in range(20)),
    )
    blocking = model.invoke("What is Python?")
    await manager.aclose()

    assert {each.text for each in [*found, blocking]} == {"answer 1"}
    assert len(model.calls) == 1


def test_clearing_leaves_other_namespaces_alone() -> None:
    manager = manager_on()
    mine, theirs = ManagedCache(manager, namespace="mine"), ManagedCache(manager, namespace="theirs")
    for cache in (mine, theirs):
        cache.update("p", "llm", [Generation(text="a")])

    mine.clear()

    assert mine.lookup("p", "llm") is None
    assert [each.text for each in theirs.lookup("p", "llm") or []] == ["a"]


async def test_a_broken_store_does_not_break_the_app() -> None:
    heard: list[Event] = []
    cache = use(manager_on(BreakableBackend(up=False), heard=heard))
    model = Counting(calls=[])

    assert model.invoke("Hello").content == "answer 1"
    assert (await model.ainvoke("Hello")).content == "answer 2"

    assert any(isinstance(each, UnavailableEvent) for each in heard)
    with pytest.raises(BackendUnavailable):  # what is believed gone must be gone
        await cache.aclear()


async def test_with_strict_a_broken_store_is_told() -> None:
    use(manager_on(BreakableBackend(up=False), strict=True))

    with pytest.raises(BackendUnavailable):
        await Counting(calls=[]).ainvoke("Hello")


async def test_a_bug_in_the_cache_does_not_break_the_app(caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(BreakableBackend):
        async def get_many(self, keys: Any) -> Any:
            raise ZeroDivisionError

        get = get_many

        def peek(self, key: str) -> Any:
            return None

    use(manager_on(Buggy(up=True)))

    assert (await Counting(calls=[]).ainvoke("Hello")).content == "answer 1"
    assert caplog.text.count("goes on without the cache, lookup failed") == 1


@pytest.mark.parametrize(
    ("text", "calls"),
    [("\ud800", 2), ("", 1), ("[" * 5000, 1), ('[{"lc":' + "[" * 100_000, 1), ('[{"lc": 1}]', 1), ('[{"lc": NaN}]', 1)],
)
def test_an_odd_text_is_a_request_unless_it_is_no_unicode(text: str, calls: int) -> None:
    use(manager_on())
    model = Plain(calls=[])

    model.invoke(text)
    model.invoke(text)

    assert len(model.calls) == calls


HARMFUL = {
    "lc": 1,
    "type": "constructor",
    "id": ["langchain", "prompts", "prompt", "PromptTemplate"],
    "kwargs": {"template": "{a}", "input_variables": ["a"]},
}


def made(path: list[str], **kwargs: Any) -> str:
    return json.dumps([{"lc": 1, "type": "constructor", "id": path, "kwargs": kwargs}])


@pytest.mark.parametrize(
    "payload",
    [
        5,
        "",
        "no json",
        "[]",
        "{}",
        '["text"]',
        "[" * 100_000,
        made(["langchain", "schema", "messages", "AIMessage"], content="no generation"),
        made(["langchain", "schema", "output", "Generation"]),
        made(["langchain", "prompts", "prompt", "PromptTemplate"], template="{a}", input_variables=["a"]),
        made(["langchain_core", "prompts", "image", "ImagePromptTemplate"], template={"path": "/etc/passwd"}),
        made(["langchain", "chat_models", "openai", "ChatOpenAI"], base_url="http://127.0.0.1:1"),
        made(["os", "system"], command="true"),
        made(["builtins", "eval"], source="1"),
        json.dumps([{"lc": 1, "type": "not_implemented", "id": ["a"], "repr": "a"}]),
        made(["langchain", "schema", "output", "Generation"], text="a", generation_info={"x": HARMFUL}),
    ],
)
async def test_a_hostile_value_is_refused(payload: Any) -> None:
    heard: list[Event] = []
    manager = manager_on(heard=heard)
    await store_with_payload(manager, {LANGCHAIN: payload}, **ask_of("p", "llm").arguments())

    assert await ManagedCache(manager).alookup("p", "llm") is None
    assert any(isinstance(each, CorruptEvent) for each in heard)


async def test_a_secret_that_a_value_asks_for_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "the key")
    manager = manager_on()
    secret = {"lc": 1, "type": "secret", "id": ["SOME_KEY"]}
    payload = made(["langchain", "schema", "output", "Generation"], text="a", generation_info={"x": secret})
    await store_with_payload(manager, {LANGCHAIN: payload}, **ask_of("p", "llm").arguments())

    found = await ManagedCache(manager).alookup("p", "llm")

    assert found is not None
    assert "the key" not in repr(found)


async def test_a_text_that_somebody_else_stored_is_an_answer() -> None:
    manager = manager_on()
    await manager.store(response="text", **ask_of("p", "llm").arguments())

    found = await ManagedCache(manager).alookup("p", "llm")

    assert [each.text for each in found or []] == ["text"]


@pytest.mark.parametrize("kept", [{GATEWAY: {"api": "chat", "body": {}}}, {LITELLM: "{}"}, {DSPY_RECORD: "{}"}])
async def test_an_entry_of_which_somebody_else_keeps_more_than_its_text_is_a_miss(kept: dict[str, Any]) -> None:
    """Its text leaves out tool calls and further choices."""
    heard: list[Event] = []
    manager = manager_on(heard=heard)
    await store_with_payload(manager, kept, **ask_of("p", "llm").arguments())

    assert await ManagedCache(manager).alookup("p", "llm") is None
    assert not any(isinstance(each, CorruptEvent) for each in heard)


async def test_what_looks_like_a_langchain_object_in_an_answer_stays_what_it_is() -> None:
    cache = ManagedCache(manager_on())
    info = {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", "AIMessage"], "kwargs": {}}

    await cache.aupdate("p", "llm", [Generation(text="a", generation_info={"given": info})])

    found = await cache.alookup("p", "llm")
    assert found is not None
    assert (found[0].generation_info or {})["given"] == info


async def test_what_could_not_be_read_back_is_not_stored() -> None:
    cache = ManagedCache(manager_on())

    await cache.aupdate("p", "llm", [Generation(text="a", generation_info={"when": object()})])

    assert await cache.alookup("p", "llm") is None


def test_the_options_are_checked() -> None:
    with pytest.raises(InvalidInput, match="CacheManager"):
        ManagedCache("memory://")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="threshold"):
        ManagedCache(manager_on(), threshold=2)
    with pytest.raises(InvalidInput, match="ttl_seconds"):
        ManagedCache(manager_on(), ttl_seconds=0)
    with pytest.raises(InvalidInput):
        ManagedCache(manager_on(), namespace="")


async def test_entries_live_as_long_as_asked_and_carry_the_tags() -> None:
    manager = manager_on()
    await ManagedCache(manager, ttl_seconds=60, tags=["faq"]).aupdate("p", "llm", [Generation(text="a")])

    (entry,) = await manager.export_entries()

    assert entry["tags"] == ["faq"]
    assert entry["expires_at"] > 0


async def test_keys_of_a_provider_do_not_reach_the_store() -> None:
    manager = manager_on()
    await ManagedCache(manager).aupdate(
        "p", "[('api_key', 'sk-very-secret'), ('model', 'gpt-4')]", [Generation(text="a")]
    )

    (entry,) = await manager.export_entries()

    assert "sk-very-secret" not in json.dumps(entry, default=str)
    assert entry["model"] == "gpt-4"
