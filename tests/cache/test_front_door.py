"""lookup, store and get_or_compute: whole requests, exactly and by meaning."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cache_management import CacheConfig, CachedResponse, CacheManager, Computed, LLMCache, SimilarityConfig
from cache_management.cache.config import GATE_NAMES
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.errors import (
    BackendUnavailable,
    ConfigurationError,
    EmbedderUnavailable,
    InvalidInput,
    InvalidKey,
)
from cache_management.cache.events import Event, HitEvent, MissEvent, StaleEvent, UnavailableEvent, VetoEvent
from cache_management.cache.records import Record
from cache_management.cache.requests import entry_key, make_request
from cache_management.cache.semantic import finding, follow
from cache_management.cache.semantic import matcher as matcher_module
from cache_management.cache.semantic.embedding_cache import CachingEmbedder
from cache_management.cache.semantic.matcher import SimilarityMatcher
from cache_management.cache.vectors.base import VectorIndex
from cache_management.cache.vectors.flat import FlatIndex
from tests.contracts.broken import BreakableBackend
from tests.contracts.clock import ManualClock

ASKED = "how do I reset my password"
REWORDED = "my password, how do I reset"
CONTEXT: dict[str, Any] = {
    "model": "gpt-4",
    "system": "Be brief.",
    "params": {"temperature": 0, "tools": [{"name": "t"}]},
}


class Door:
    """A manager in memory, with what it told. Words in another order mean the same to its model."""

    def __init__(
        self,
        *,
        embedder: Any = None,
        backend: BreakableBackend | None = None,
        index: VectorIndex | None = None,
        cache: dict[str, Any] | None = None,
        **similarity: Any,
    ) -> None:
        self.clock = ManualClock()
        self.events: list[Event] = []
        self.backend = backend or BreakableBackend(up=True, clock=self.clock)
        llm_cache = LLMCache(
            CacheConfig(**cache or {}), backend=self.backend, clock=self.clock, listener=self.events.append
        )
        matcher = SimilarityMatcher(
            SimilarityConfig(**{"threshold": 0.8, "cache_embeddings": False, **similarity}),
            backend=self.backend,
            embedder=embedder or HashingEmbedder(),
            index=index,
            clock=self.clock,
            listener=llm_cache.tell,
        )
        self.manager = CacheManager(llm_cache, matcher)
        self.lookup = self.manager.lookup
        self.store = self.manager.store
        self.get_or_compute = self.manager.get_or_compute

    def heard(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


async def test_the_same_request_is_an_exact_hit() -> None:
    door = Door()
    await door.store(ASKED, "On the login page.", **CONTEXT)
    door.clock.advance(60)

    found = await door.lookup(ASKED, **CONTEXT)

    assert found
    assert (found.kind, found.reason, found.similarity, found.age_seconds) == ("exact", "exact", 1.0, 60)
    assert found.response is not None
    assert (found.response.prompt, found.response.response, found.response.model) == (
        ASKED,
        "On the login page.",
        "gpt-4",
    )
    assert [event.kind for event in door.heard(HitEvent)] == ["exact"]


@pytest.mark.parametrize("context", [{}, CONTEXT], ids=["bare", "with context"])
async def test_a_paraphrase_in_the_same_context_is_a_semantic_hit(context: dict[str, Any]) -> None:
    door = Door()
    key = await door.store(ASKED, "On the login page.", **context)
    door.clock.advance(5)

    found = await door.lookup(REWORDED, **context)

    assert found.hit
    assert (found.kind, found.key, found.age_seconds, found.vetoes) == ("semantic", key, 5, ())
    assert found.similarity == pytest.approx(1.0)
    assert found.response is not None
    assert found.response.response == "On the login page."
    assert [(event.kind, event.key) for event in door.heard(HitEvent)] == [("semantic", key)]
    assert {"exact", "embed", "search"} <= found.timings_ms.keys()


@pytest.mark.parametrize(
    "other",
    [
        {"model": "gpt-5"},
        {"model": None},
        {"system": "Be long."},
        {"system": None},
        {"params": {"temperature": 1, "tools": [{"name": "t"}]}},
        {"params": {"temperature": 0, "tools": [{"name": "u"}]}},
        {"params": {"temperature": 0, "tools": [{"name": "t"}], "response_format": {"type": "json_object"}}},
        {"params": {"temperature": 0, "tools": [{"name": "t"}], "unknown": 1}},
        {"history": [user("hello"), assistant("hi")]},
        {"namespace": "elsewhere"},
    ],
    ids=str,
)
async def test_another_context_is_neither_an_exact_nor_a_semantic_hit(other: dict[str, Any]) -> None:
    door = Door()
    await door.store(ASKED, "r", **CONTEXT)

    for prompt in (ASKED, REWORDED):
        found = await door.lookup(prompt, **{**CONTEXT, **other})
        assert (found.hit, found.reason) == (False, "no_candidate")
        assert found.nearest is None


async def test_a_plain_entry_is_found_by_a_request_with_nothing_but_the_prompt() -> None:
    door = Door()
    answer = CachedResponse(prompt=ASKED, response="r", model="gpt-4", timestamp=datetime(2026, 1, 1, tzinfo=UTC))
    await door.manager.set_llm_cache(ASKED, answer)

    assert (await door.lookup(ASKED)).response == answer
    assert (await door.lookup(REWORDED)).response == answer
    assert not await door.lookup(ASKED, model="gpt-4")


async def test_an_entry_under_a_key_of_its_own_is_found_by_its_prompt_and_not_by_its_key() -> None:
    door = Door()
    answer = CachedResponse(prompt=ASKED, response="r", model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC))
    await door.manager.set_llm_cache("key 7", answer)

    assert not await door.lookup("key 7")
    assert (await door.lookup(ASKED)).key == "key 7"


async def test_a_plain_entry_under_the_name_of_a_request_is_not_that_requests_answer() -> None:
    door = Door()
    name = entry_key(make_request(ASKED, **CONTEXT))
    forged = CachedResponse(prompt=ASKED, response="forged", model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC))
    await door.manager.set_llm_cache(name, forged)

    assert not await door.lookup(ASKED, **CONTEXT)
    assert not await door.lookup(ASKED), "nor is it found by meaning"
    assert (await door.get_or_compute(ASKED, lambda: "computed", **CONTEXT)).response == "computed"


async def test_a_refused_candidate_is_named_with_its_gate() -> None:
    door = Door()
    await door.store("fee for 10 transfers", "1 EUR")

    found = await door.lookup("fee for 12 transfers", threshold=0.3)

    assert (found.hit, found.reason, found.vetoes) == (False, "vetoed", ("number",))
    assert found.nearest is not None
    assert found.nearest.prompt == "fee for 10 transfers"
    assert "refused by number" in found.explain()
    assert [event.gate for event in door.heard(VetoEvent)] == ["number"]
    assert [event.reason for event in door.heard(MissEvent)] == ["vetoed"]


async def test_the_best_candidate_that_no_gate_refuses_is_served() -> None:
    door = Door()
    await door.store("the fee for 10 transfers", "refused")
    await door.store("what is the fee for transfers", "served")

    found = await door.lookup("the fee for 12 transfers", threshold=0.1)

    assert found.response is not None
    assert found.response.response == "served"
    assert found.nearest is not None
    assert found.nearest.vetoes == ("number",)


async def test_what_is_close_and_not_close_enough_is_shown() -> None:
    door = Door()
    await door.store("how do I reset my old password", "r")

    found = await door.lookup("how do I reset my password", threshold=1)

    assert (found.hit, found.reason) == (False, "below_threshold")
    assert found.nearest is not None
    assert found.nearest.score < 1
    assert "below the threshold" in found.explain()


@pytest.mark.parametrize(
    ("prompt", "history"),
    [
        (" ", []),
        (None, [user("q"), assistant("a"), {"role": "tool", "content": "42", "tool_call_id": "c"}]),
        ([{"type": "image_url", "image_url": {"url": "u"}}], []),
    ],
    ids=["blank", "tool turn", "image"],
)
async def test_turns_without_text_are_found_exactly_only(prompt: Any, history: list[dict[str, Any]]) -> None:
    door = Door()
    assert (await door.lookup(prompt, history=history)).reason == "ineligible_turn"
    await door.store(prompt, "r", history=history)

    assert (await door.lookup(prompt, history=history)).kind == "exact"
    assert not await door.lookup("r", history=history)
    assert door.manager.similarity_matcher is not None
    assert await door.manager.similarity_matcher.size() == 0


async def test_an_expired_entry_is_no_hit_of_either_kind() -> None:
    door = Door()
    await door.store(ASKED, "r", ttl_seconds=10)
    door.clock.advance(11)

    assert not await door.lookup(ASKED)
    assert not await door.lookup(REWORDED)


async def test_a_deleted_entry_is_no_hit_of_either_kind() -> None:
    door = Door()
    key = await door.store(ASKED, "r", **CONTEXT)
    await door.manager.llm_cache.delete(key)

    assert not await door.lookup(ASKED, **CONTEXT)
    assert not await door.lookup(REWORDED, **CONTEXT)


async def test_namespaces_are_apart_and_served_by_one_manager() -> None:
    door = Door()
    await door.store(ASKED, "of a", namespace="a")
    await door.store(ASKED, "of b", namespace="b")

    for prompt in (ASKED, REWORDED):
        assert not await door.lookup(prompt)
        for name in ("a", "b"):
            found = await door.lookup(prompt, namespace=name)
            assert found.response is not None
            assert (found.response.response, found.namespace) == (f"of {name}", name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, "threshold 1.5"),
        ({"threshold": float("nan")}, "threshold nan"),
        ({"history": "hello"}, "history must be a list"),
        ({"params": {"x": object()}}, "params.x"),
    ],
)
async def test_what_cannot_be_asked_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        await Door().lookup(ASKED, **arguments)


async def test_a_namespace_that_cannot_be_used_is_named() -> None:
    with pytest.raises(InvalidKey, match="namespace 'a:b'"):
        await Door().lookup(ASKED, namespace="a:b")


async def test_a_response_that_cannot_be_stored_is_named() -> None:
    with pytest.raises(InvalidInput, match="text or a CachedResponse, not int"):
        await Door().store(ASKED, 7)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="metadata"):
        await Door().store(ASKED, "r", metadata={"x": object()})


async def test_a_response_is_filed_under_the_text_that_was_asked() -> None:
    door = Door()
    other = CachedResponse(
        prompt="another text", response="r", model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC), metadata={"a": 1}
    )

    await door.store(ASKED, other, metadata={"b": 2})

    found = (await door.lookup(REWORDED)).response
    assert found is not None
    assert (found.prompt, found.metadata, found.model) == (ASKED, {"a": 1, "b": 2}, "m")
    assert not await door.lookup("another text")


# Computing


async def test_a_miss_is_computed_once_stored_and_found_by_meaning() -> None:
    door = Door()
    calls: list[int] = []

    async def compute() -> str:
        calls.append(1)
        await asyncio.sleep(0)
        return "computed"

    answers = await asyncio.gather(*(door.get_or_compute(ASKED, compute, **CONTEXT) for _ in range(20)))

    assert {answer.response for answer in answers} == {"computed"}
    assert (await door.get_or_compute(REWORDED, compute, **CONTEXT)).response == "computed"
    assert len(calls) == 1
    assert (await door.lookup(REWORDED, **CONTEXT)).kind == "semantic"


async def test_a_hit_by_meaning_computes_nothing() -> None:
    door = Door()
    await door.store(ASKED, "stored")

    def never() -> str:
        raise AssertionError

    assert (await door.get_or_compute(REWORDED, never)).response == "stored"


async def test_what_is_no_good_answer_is_found_by_nobody() -> None:
    door = Door()
    await door.get_or_compute(ASKED, lambda: Computed(response="cut", finish_reason="length"))

    assert not await door.lookup(ASKED)
    assert not await door.lookup(REWORDED)


async def test_an_answer_that_names_another_prompt_is_filed_under_what_was_asked() -> None:
    door = Door()
    other = CachedResponse(prompt="another", response="r", model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC))

    await door.get_or_compute(ASKED, lambda: other)

    assert (await door.lookup(ASKED)).kind == "exact"
    assert (await door.lookup(REWORDED)).kind == "semantic"
    assert not await door.lookup("another")


async def test_controls_hold_for_answers_by_meaning_too() -> None:
    door = Door()
    await door.store(ASKED, "stored")
    door.clock.advance(60)

    async def ask(controls: dict[str, object]) -> str:
        return (
            await door.get_or_compute(REWORDED, lambda: "computed", controls={**controls, "no-store": True})
        ).response

    assert await ask({}) == "stored"
    assert await ask({"s-maxage": 30}) == "computed"
    assert await ask({"no-cache": True}) == "computed"
    assert await ask({"namespace": "elsewhere"}) == "computed"


async def test_an_answer_too_old_for_the_caller_is_no_hit_and_says_so() -> None:
    door = Door()
    await door.store(ASKED, "stored")
    door.clock.advance(60)

    await door.get_or_compute(REWORDED, lambda: "computed", controls={"s-maxage": 30})

    assert door.heard(HitEvent) == []
    assert [event.reason for event in door.heard(MissEvent)] == ["expired"]


async def test_an_old_answer_hides_no_younger_one_that_is_farther_away() -> None:
    door = Door(threshold=0.5)
    for at in range(10):
        await door.store(f"{ASKED} {'x' * at}", f"old {at}")
    door.clock.advance(60)
    await door.store("how do I reset my old password", "young")

    found = await door.get_or_compute(REWORDED, lambda: "computed", controls={"s-maxage": 30})

    assert found.response == "young"
    assert [event.kind for event in door.heard(HitEvent)] == ["semantic"]


async def test_an_expired_entry_kept_for_bad_times_hides_no_fresh_answer_by_meaning() -> None:
    door = Door(cache={"stale_if_error_seconds": 600})
    await door.store(REWORDED, "expired", ttl_seconds=10)
    door.clock.advance(11)
    await door.store(ASKED, "fresh")

    def never() -> str:
        raise AssertionError

    assert (await door.get_or_compute(REWORDED, never)).response == "fresh"


async def test_an_expired_entry_is_the_last_resort_when_computing_fails() -> None:
    door = Door(cache={"stale_if_error_seconds": 600})
    await door.store(ASKED, "expired", ttl_seconds=10)
    door.clock.advance(11)

    def fail() -> str:
        raise OSError

    assert (await door.get_or_compute(ASKED, fail)).response == "expired"
    assert [event.reason for event in door.heard(MissEvent)] == ["expired"]
    assert [event.reason for event in door.heard(StaleEvent)] == ["error"]


# Conversations


OPENING, OPENING_REWORDED = "tell me about the city of Paris", "about the city of Paris, tell me"
FOLLOW_UP, FOLLOW_UP_REWORDED = "how many people live there", "there live how many people"


async def conversation(door: Door) -> None:
    await door.store(OPENING, "It is in France.")
    await door.store(FOLLOW_UP, "Two million.", history=[user(OPENING), assistant("It is in France.")])


@pytest.mark.parametrize("opening", [OPENING, OPENING_REWORDED])
@pytest.mark.parametrize("asked", [FOLLOW_UP, FOLLOW_UP_REWORDED])
async def test_a_follow_up_is_found_when_the_same_entry_answered_its_opening(opening: str, asked: str) -> None:
    door = Door()
    await conversation(door)

    found = await door.lookup(asked, history=[user(opening), assistant("It is in France.")])

    assert found.response is not None
    assert found.response.response == "Two million."
    assert found.kind == ("exact" if (opening, asked) == (OPENING, FOLLOW_UP) else "semantic")


@pytest.mark.parametrize(
    "history",
    [
        [],
        [user("tell me about the city of Rome"), assistant("It is in Italy.")],
        [user(OPENING), assistant("It is in Texas.")],
        [user(OPENING)],
        [user("hello"), user(OPENING), assistant("It is in France.")],
        [assistant("It is in France."), user(OPENING)],
    ],
    ids=["none", "another opening", "another reply", "no reply", "one turn more", "another order"],
)
async def test_a_follow_up_is_not_found_under_another_parent(history: list[dict[str, str]]) -> None:
    door = Door()
    await conversation(door)

    for asked in (FOLLOW_UP, FOLLOW_UP_REWORDED):
        assert not await door.lookup(asked, history=history)


async def test_the_threshold_of_the_caller_holds_for_earlier_turns_too() -> None:
    door = Door(threshold=0.3)
    reply = assistant("It is in France.")
    await door.store("tell me about the old city of Paris", "r")
    await door.store(FOLLOW_UP, "Two million.", history=[user("tell me about the old city of Paris"), reply])
    history = [user(OPENING), reply]

    assert (await door.lookup(FOLLOW_UP_REWORDED, history=history)).kind == "semantic"
    assert not await door.lookup(FOLLOW_UP_REWORDED, history=history, threshold=0.999)
    assert (await door.lookup(FOLLOW_UP_REWORDED, history=history)).kind == "semantic"


async def test_what_is_computed_is_found_again_by_who_asks_with_the_same_threshold() -> None:
    door = Door(threshold=0.3)
    await door.store("tell me about the old city of Paris", "r")
    history = [user(OPENING), assistant("It is in France.")]

    await door.get_or_compute(FOLLOW_UP, lambda: "computed", history=history, threshold=0.999)

    assert (await door.lookup(FOLLOW_UP_REWORDED, history=history, threshold=0.999)).kind == "semantic"


async def test_strict_conversations_are_compared_word_by_word() -> None:
    door = Door(conversations="strict")
    await conversation(door)
    reply = assistant("It is in France.")

    assert await door.lookup(FOLLOW_UP_REWORDED, history=[user(OPENING), reply])
    assert not await door.lookup(FOLLOW_UP, history=[user(OPENING_REWORDED), reply])


async def test_with_conversations_off_a_follow_up_is_found_exactly_only() -> None:
    door = Door(conversations="off")
    await conversation(door)
    history = [user(OPENING), assistant("It is in France.")]

    assert (await door.lookup(FOLLOW_UP, history=history)).kind == "exact"
    assert (await door.lookup(FOLLOW_UP_REWORDED, history=history)).reason == "ineligible_turn"


async def test_a_refused_opening_leads_into_another_conversation() -> None:
    door = Door()
    await door.store("tell me about the 2 oldest bridges", "r")
    await door.store("which is longer", "the first", history=[user("tell me about the 2 oldest bridges")])

    assert not await door.lookup("which is longer", history=[user("tell me about the 3 oldest bridges")])


class Counted(HashingEmbedder):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += texts
        return await super().embed(texts)


async def test_a_long_conversation_costs_one_reading_and_no_vectors_that_cannot_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embedder = Counted()
    door = Door(embedder=embedder)
    history = [turn for at in range(50) for turn in (user(f"question {at}"), assistant(f"answer {at}"))]
    for at in range(0, 100, 4):  # every other turn has an entry
        await door.store(history[at]["content"], "r", history=history[:at], model="m")
    await door.lookup("last", history=history, model="m")
    embedder.texts.clear()
    reads: list[int] = []
    get_many = door.backend.get_many

    async def counted(keys: Sequence[str]) -> dict[str, Record]:
        reads.append(len(keys))
        return await get_many(keys)

    monkeypatch.setattr(door.backend, "get_many", counted)

    await door.lookup("last", history=history, model="m")

    assert reads[0] == 50, "all turns at once"
    assert embedder.texts == ["last"], "where nothing is stored nothing is compared"


@pytest.mark.parametrize("gone", ["deleted", "replaced", "expired"])
async def test_a_link_to_an_entry_that_is_gone_is_made_anew(gone: str) -> None:
    door = Door()
    await door.store(OPENING, "It is in France.", ttl_seconds=10 if gone == "expired" else None)
    reply = assistant("It is in France.")
    await door.store(FOLLOW_UP, "Two million.", history=[user(OPENING), reply])
    history = [user(OPENING_REWORDED), reply]
    assert await door.lookup(FOLLOW_UP_REWORDED, history=history)

    if gone == "deleted":
        await door.manager.llm_cache.delete(OPENING)
    elif gone == "expired":
        door.clock.advance(11)
    else:
        other = CachedResponse(prompt="another", response="r", model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC))
        await door.manager.llm_cache.set(OPENING, other)
    lost = await door.lookup(FOLLOW_UP_REWORDED, history=history)
    await door.store(OPENING, "It is in France.")
    found = await door.lookup(FOLLOW_UP_REWORDED, history=history)

    assert (lost.hit, found.kind) == (False, "semantic")


async def test_a_turn_that_gets_an_entry_of_its_own_needs_its_link_no_more() -> None:
    door = Door()
    await conversation(door)
    history = [user(OPENING_REWORDED), assistant("It is in France.")]
    assert await door.lookup(FOLLOW_UP_REWORDED, history=history)

    await door.store(OPENING_REWORDED, "It is in France.")

    assert not await door.lookup(FOLLOW_UP_REWORDED, history=history), "a conversation of its own begins"


async def test_a_judged_answer_links_no_conversations() -> None:
    door = Door()
    await conversation(door)
    history = [user(OPENING_REWORDED), assistant("It is in France.")]
    assert await door.lookup(FOLLOW_UP_REWORDED, history=history)

    await door.manager.feedback(await door.lookup(OPENING_REWORDED), correct=False)

    assert not await door.lookup(FOLLOW_UP_REWORDED, history=history)


# Trouble


class Broken(HashingEmbedder):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def load(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    "error", [EmbedderUnavailable("no weights"), ImportError("no library")], ids=["model", "extra"]
)
async def test_without_a_model_exact_answers_go_on(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    door = Door(embedder=Broken(error))

    await door.store(ASKED, "r")
    found = [await door.lookup(ASKED), await door.lookup(REWORDED)]
    computed = await door.get_or_compute(REWORDED, lambda: "computed")

    assert [each.reason for each in found] == ["exact", "degraded"]
    assert computed.response == "computed"
    assert (await door.lookup(REWORDED)).kind == "exact"
    assert {event.backend for event in door.heard(UnavailableEvent)} == {"embedder"}
    assert len([line for line in caplog.messages if "exactly only" in line]) == 1


class Late(HashingEmbedder):
    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_model_that_is_late_costs_its_time_and_no_more() -> None:
    door = Door(embedder=Late(), embed_timeout_seconds=0.01)

    found = await door.lookup(ASKED)

    assert found.reason == "degraded"
    assert [event.reason for event in door.heard(UnavailableEvent)] == ["no vector in time"]


@pytest.mark.parametrize("conversation", [False, True], ids=["question", "conversation"])
async def test_a_late_model_keeps_nobody_from_storing_and_computing(
    conversation: bool, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door(embedder=Late(), embed_timeout_seconds=0.01)
    turns = [turn for at in range(20) for turn in (user(f"question {at}"), assistant("r"))]
    context: dict[str, Any] = {"history": turns} if conversation else {}

    await door.store(ASKED, "stored", **context)
    computed = await door.get_or_compute(REWORDED, lambda: "computed", **context)

    assert computed.response == "computed"
    assert [(await door.lookup(asked, **context)).kind for asked in (ASKED, REWORDED)] == ["exact", "exact"]
    assert {event.reason for event in door.heard(UnavailableEvent)} == {"no vector in time"}
    assert len([line for line in caplog.messages if "exactly only" in line]) == 1


class Unhurried(BreakableBackend):
    """Takes longer for a note than a vector may take."""

    async def append(self, stream: str, items: Sequence[bytes]) -> str:
        await asyncio.sleep(0.3)
        return await super().append(stream, items)


async def test_the_deadline_of_a_vector_does_not_cut_off_the_note_that_tells_of_it() -> None:
    backend = Unhurried(up=True)
    reader, writer = Door(backend=backend), Door(backend=backend, embed_timeout_seconds=0.2)
    assert not await reader.lookup(REWORDED)

    await writer.store(ASKED, "stored")

    assert writer.heard(UnavailableEvent) == []
    assert (await reader.lookup(REWORDED)).kind == "semantic"


class Slow(HashingEmbedder):
    """Takes 60 ms of a clock that only it moves."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.texts: list[str] = []

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += texts
        await asyncio.sleep(0)
        self.now += 0.06
        return await super().embed(texts)


async def test_the_texts_of_one_request_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Slow()
    monkeypatch.setattr(finding, "perf_counter", lambda: embedder.now)
    door = Door(embedder=embedder, embed_timeout_seconds=0.1)
    history: list[dict[str, str]] = []
    reworded: list[dict[str, str]] = []
    for at in range(10):
        await door.store(f"question number {at}", "r", history=history)
        history += [user(f"question number {at}"), assistant("r")]
        reworded += [user(f"number {at} question"), assistant("r")]
    embedder.texts.clear()

    found = await door.lookup("last", history=reworded)

    assert found.reason == "degraded"
    assert len(embedder.texts) <= 3, "60 ms, 60 ms, and then the time is up"


class Failing(HashingEmbedder):
    """Raises what no embedder promised."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    async def load(self) -> None:
        if self.at == "load":
            raise RuntimeError("the device is lost")

    def fits(self, text: str) -> bool:
        if self.at == "fits":
            raise RuntimeError("the tokeniser is lost")
        return True

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise ZeroDivisionError("the model is lost")


@pytest.mark.parametrize("at", ["load", "fits", "embed"])
async def test_a_model_that_fails_in_its_own_way_leaves_exact_answers(
    at: str, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door(embedder=Failing(at))

    await door.store(ASKED, "r")
    found = [await door.lookup(ASKED), await door.lookup(REWORDED)]
    computed = await door.get_or_compute(REWORDED, lambda: "computed")

    assert [each.reason for each in found] == ["exact", "degraded"]
    assert computed.response == "computed"
    assert len([line for line in caplog.messages if "exactly only" in line]) == 1
    assert "is lost" in caplog.text
    with pytest.raises(EmbedderUnavailable, match="is lost"):
        await door.manager.find_similar(ASKED)


async def test_a_store_that_is_down_is_a_miss_with_a_reason() -> None:
    door = Door()
    await door.store(ASKED, "r")
    door.backend.up = False

    assert (await door.lookup(ASKED)).reason == "degraded"
    assert (await door.get_or_compute(ASKED, lambda: "computed")).response == "computed"
    await door.store(ASKED, "new")


async def test_a_strict_manager_raises_when_the_store_is_down() -> None:
    door = Door(cache={"strict": True})
    door.backend.up = False

    with pytest.raises(BackendUnavailable):
        await door.lookup(ASKED)


async def test_without_a_matcher_only_exact_answers_are_found() -> None:
    manager = CacheManager(LLMCache(backend=BreakableBackend(up=True)))
    await manager.store(ASKED, "r", **CONTEXT)

    assert (await manager.lookup(ASKED, **CONTEXT)).kind == "exact"
    assert (await manager.lookup(REWORDED, **CONTEXT)).reason == "no_candidate"


async def test_entries_of_requests_are_indexed_anew_in_their_own_context() -> None:
    door = Door()
    await door.store(ASKED, "r", **CONTEXT)
    assert door.manager.similarity_matcher is not None
    await door.manager.similarity_matcher.clear_index()

    assert await door.manager.index_missing(limit=10) == 0

    assert (await door.lookup(REWORDED, **CONTEXT)).kind == "semantic"
    assert not await door.lookup(REWORDED)


class UnusableIndex(FlatIndex):
    """What a PostgreSQL without pgvector is."""

    is_shared = True

    async def add(self, *_: Any) -> None:
        raise ConfigurationError("the server lacks the extension")

    async def search(self, *_: Any, **__: Any) -> list[Any]:
        raise ConfigurationError("the server lacks the extension")


async def test_an_index_that_is_not_set_up_leaves_exact_answers(caplog: pytest.LogCaptureFixture) -> None:
    door = Door(index=UnusableIndex())

    await door.store(ASKED, "stored")
    computed = await door.get_or_compute("another one", lambda: "computed")

    assert computed.response == "computed"
    assert (await door.lookup(ASKED)).kind == "exact"
    assert (await door.lookup(REWORDED)).reason == "degraded"
    assert {event.backend for event in door.heard(UnavailableEvent)} == {"index"}
    assert len([line for line in caplog.messages if "lacks the extension" in line]) == 1


# Another model


async def test_after_a_change_of_the_model_nothing_is_lost_while_entries_are_embedded_anew() -> None:
    before = Door()
    for at in range(5):
        await before.store(f"{ASKED} {at}", f"r{at}", **CONTEXT)
    cache = LLMCache(CacheConfig(), backend=before.backend, clock=before.clock)
    config = SimilarityConfig(model="hashing", previous_model="hashing", threshold=0.8)
    matcher = SimilarityMatcher(
        config, backend=before.backend, embedder=HashingEmbedder(dims=32), clock=before.clock, listener=cache.tell
    )
    after = CacheManager(cache, matcher)

    for left in (5, 3, 1, 0, 0):
        for at in range(5):
            found = await after.lookup(f"{at} {REWORDED}", **CONTEXT)
            assert found.response is not None
            assert found.response.response == f"r{at}"
            assert len({match.key for match in found.candidates}) == len(found.candidates), "each entry once"
        missing = await matcher.without_vector(await cache.list_keys())
        assert len(missing) == left
        await after.index_missing(limit=2)


async def test_what_the_model_before_embedded_is_listed_too() -> None:
    before = Door()
    await before.store(ASKED, "old", **CONTEXT)
    after = Door(backend=before.backend, embedder=HashingEmbedder(dims=32), model="hashing", previous_model="hashing")
    await after.store(f"{ASKED} ?", "new", **CONTEXT)

    listed = await after.manager.find_similar(REWORDED, 0.5)

    assert sorted(match.response for match in listed) == ["new", "old"]
    assert len(await after.manager.find_similar(REWORDED, 0.5, limit=1)) == 1


class Angles(HashingEmbedder):
    """Gives each text a direction of the plane, so that a test says how near two are."""

    def __init__(self, model: str, **angles: float) -> None:
        super().__init__(dims=2)
        self.model = model
        self.angles = angles

    @property
    def space(self) -> str:
        return self.model

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        angles = np.array([self.angles[text] for text in texts], dtype=np.float32)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.fixture
def two_models(monkeypatch: pytest.MonkeyPatch) -> tuple[Door, Callable[[], Door]]:
    """One who stores by the model before, and what opens one who asks both; they disagree on what is near."""
    before = Angles("before", asked=0.1, near=0.0, far=2.5)
    monkeypatch.setattr(matcher_module, "open_embedder", lambda model, **_: before)
    old = Door(embedder=before, gates_off=GATE_NAMES)

    def both(**angles: float) -> Door:
        return Door(
            backend=old.backend,
            embedder=Angles("now", **angles),
            model="now",
            previous_model="before",
            gates_off=GATE_NAMES,
        )

    return old, both


async def test_the_model_before_does_not_serve_what_the_new_one_finds_far_away(
    two_models: tuple[Door, Callable[..., Door]],
) -> None:
    old, both = two_models
    for prompt in ("near", "far"):
        await old.store(prompt, f"answer to {prompt}")
    door = both(asked=1.2, near=0.0, far=2.0)
    while_it_is_the_only_one = await door.lookup("asked")

    await door.manager.index(["near", "far"])
    both_know = await door.lookup("asked")
    listed = await door.manager.find_similar("asked", 0.3)

    assert (while_it_is_the_only_one.kind, while_it_is_the_only_one.key) == ("semantic", "near")
    assert (both_know.kind, both_know.reason) == (None, "below_threshold")
    assert [(match.key, round(match.score, 2)) for match in listed] == [("far", 0.7), ("near", 0.36)]


async def test_what_is_embedded_anew_is_found_before_its_note_is_read_with_the_score_of_the_new_model(
    two_models: tuple[Door, Callable[..., Door]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_EVERY_SECONDS", 3600.0)
    old, both = two_models
    await old.store("near", "answer")
    reader, writer = both(asked=0.3, near=0.0), both(near=0.0)
    assert (await reader.lookup("asked")).similarity == pytest.approx(np.cos(0.1))

    await writer.manager.index(["near"])

    assert (await reader.lookup("asked")).similarity == pytest.approx(np.cos(0.3))
    assert [match.score for match in await reader.manager.find_similar("asked")] == [pytest.approx(np.cos(0.3))]


async def test_the_model_before_is_loaded_once_for_all_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def counting(model: str, **_: Any) -> HashingEmbedder:
        opened.append(model)
        return HashingEmbedder()

    monkeypatch.setattr(matcher_module, "open_embedder", counting)
    before = Door()
    for name in ("default", "one", "two"):
        await before.store(ASKED, name, namespace=name)
    after = Door(backend=before.backend, embedder=HashingEmbedder(dims=32), model="hashing", previous_model="before")

    for name in ("default", "one", "two"):
        assert (await after.lookup(REWORDED, namespace=name)).kind == "semantic"

    assert opened == ["before"]


async def test_a_neighbour_that_is_closed_leaves_the_model_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(CachingEmbedder, "close", lambda each: closed.append(each.model))
    monkeypatch.setattr(matcher_module, "open_embedder", lambda model, **_: HashingEmbedder())
    door = Door(previous_model="hashing")
    assert door.manager.similarity_matcher is not None

    neighbour = door.manager.similarity_matcher.in_namespace("other")
    await neighbour.aclose()
    by_neighbour = list(closed)
    await door.manager.aclose()

    assert (by_neighbour, closed) == ([], ["hashing", "hashing"])


async def test_without_the_model_before_its_entries_are_found_exactly_only() -> None:
    before = Door()
    await before.store(ASKED, "r")
    cache = LLMCache(CacheConfig(), backend=before.backend, clock=before.clock)
    config = SimilarityConfig(model="hashing", previous_model="/no/such/folder", threshold=0.8)
    after = CacheManager(
        cache, SimilarityMatcher(config, backend=before.backend, embedder=HashingEmbedder(dims=32), clock=before.clock)
    )

    assert (await after.lookup(ASKED)).kind == "exact"
    assert not await after.lookup(REWORDED)
    await after.store("another one", "r")
    assert (await after.lookup("one another")).kind == "semantic"


async def test_what_is_set_under_the_key_of_a_request_answers_no_request() -> None:
    door = Door()
    key = await door.store(ASKED, "On the login page.", **CONTEXT)
    planted = CachedResponse(
        prompt=ASKED,
        response="Somewhere else.",
        model="gpt-4",
        timestamp=datetime(2026, 1, 1, tzinfo=UTC),
        token_count=2,
    )
    await door.manager.llm_cache.set(key, planted)

    exact = await door.lookup(ASKED, **CONTEXT)
    reworded = await door.lookup(REWORDED, **CONTEXT)

    assert (exact.hit, reworded.hit) == (False, False)


class HalfPrecision(HashingEmbedder):
    """Rows a few thousandths longer than 1, as models in half precision give them."""

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return await super().embed(texts) * np.float32(1.004)


async def test_rows_that_are_a_little_too_long_are_cut_to_length() -> None:
    door = Door(embedder=HalfPrecision())
    await door.store(ASKED, "On the login page.")

    found = await door.lookup(REWORDED)

    assert (found.hit, found.similarity) == (True, pytest.approx(1.0, abs=1e-5))


async def test_the_loop_goes_on_while_a_large_index_is_read() -> None:
    door = Door()
    for at in range(1_000):
        await door.store(f"question number {at}", "x")
    reader = Door(backend=door.backend)
    asking = asyncio.create_task(reader.lookup("which question was that"))

    turns = 0
    while not asking.done():
        turns += 1
        await asyncio.sleep(0)

    assert turns > 5  # one for each page of 200 at least


async def test_prompts_that_show_nothing_are_found_exactly_only() -> None:
    door = Door()
    await door.store("\u200b", "x")

    assert (await door.lookup("\u200b")).kind == "exact"
    assert (await door.lookup("\ufeff")).reason == "ineligible_turn"


class Lists(HashingEmbedder):
    """Forgets to make an array of its rows."""

    def __init__(self, rows: Any) -> None:
        super().__init__()
        self._rows = rows

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        made: NDArray[np.float32] = self._rows(await super().embed(texts))
        return made


@pytest.mark.parametrize(("rows", "kind"), [(lambda rows: rows.tolist(), "semantic"), (lambda _: None, None)])
async def test_what_an_embedder_gives_is_taken_as_an_array_or_not_at_all(rows: Any, kind: str | None) -> None:
    door = Door(embedder=Lists(rows))
    await door.store(ASKED, "On the login page.")

    assert (await door.lookup(REWORDED)).kind == kind
    assert (await door.lookup(ASKED)).kind == "exact"
