"""Warm jobs that ask a provider: its pace, its outages, its costs, and what they find to ask."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cache_management import CachedResponse, CacheManager, Computed, LLMCache
from cache_management.cache.errors import (
    BackendUnavailable,
    MetadataUnavailable,
    ProviderBusy,
    ProviderRefused,
    ProviderStuck,
)
from cache_management.cache.invalidation import Selection
from cache_management.cache.warm_items import WarmItem, check_item
from cache_management.models.store.results import JobView
from cache_management.workers import asking
from tests.workers.inline import Inline


class Model:
    """A provider in this process that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.errors: dict[str, list[Exception]] = {}
        self.answer: dict[str, Any] = {"token_count": 10, "cost_usd": 0.01}
        self.meanwhile: Callable[[str], Any] | None = None

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(question)
        prompt = question["prompt"]
        if self.errors.get(prompt):
            raise self.errors[prompt].pop(0)
        if self.meanwhile is not None:
            await self.meanwhile(prompt)
        return {"response": f"answer to {prompt}", **self.answer}

    @property
    def prompts(self) -> list[str]:
        return [question["prompt"] for question in self.asked]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    made = Model()
    monkeypatch.setitem(sys.modules, "their_model", SimpleNamespace(ask=made.ask))
    return made


@pytest.fixture
def inline(make_inline: Callable[..., Inline], model: Model, tmp_path: Path) -> Inline:
    return make_inline(
        CACHE_URL=f"disk://{tmp_path}/store",
        CACHE_PROVIDER__CALLABLE="their_model:ask",
        CACHE_PROVIDER__CONCURRENCY="2",
    )


def prompts(count: int) -> list[WarmItem]:
    return [WarmItem(prompt=f"q{at}") for at in range(count)]


def warm(inline: Inline, items: list[WarmItem], **options: Any) -> JobView:
    return inline.finish(inline.client.submit_warm(items, **options).job_id)


def stored(inline: Inline, key: str) -> str | None:
    found = inline.do(inline.platform.llm_cache.get(key))
    return None if found is None else found.response


def test_prompts_without_a_response_are_asked_and_stored(inline: Inline, model: Model) -> None:
    items = [*prompts(3), WarmItem(prompt="given", response="as given"), *prompts(5)[3:]]

    job = warm(inline, items)

    assert (job.state, job.total, job.done, job.failed) == ("succeeded", 6, 6, 0)
    assert sorted(model.prompts) == ["q0", "q1", "q2", "q3", "q4"]
    assert {"prompt": "q0", "model": "gpt-4"} in model.asked
    assert [stored(inline, key) for key in ("q0", "given", "q4")] == ["answer to q0", "as given", "answer to q4"]
    assert job.cost_micro == 50_000
    assert job.embedded == 6


def test_what_has_an_answer_is_not_asked(inline: Inline, model: Model) -> None:
    warm(inline, prompts(2))

    job = warm(inline, prompts(3))

    assert (job.done, job.skipped, job.cost_micro) == (1, 2, 10_000)
    assert model.prompts.count("q0") == 1


def test_an_outage_makes_the_shard_wait_and_blames_no_item(inline: Inline, model: Model) -> None:
    model.errors["q1"] = [ProviderBusy("429", retry_after_seconds=7), ProviderBusy("503")]
    job_id = inline.client.submit_warm(prompts(3), shards=1).job_id

    waits = []
    for _ in range(20):
        while inline.rung:
            inline.answer(inline.rung.pop(0))
        job = inline.client.get(job_id)
        if job.ended:
            break
        waits.append([delay for delay in inline.delays if delay])
        shard = job.shards[1]
        assert (job.state, shard.deliveries, shard.lease_owner) == ("running", 0, None)
        inline.pass_time(400)
        inline.rung += inline.stores.jobs.reconcile()

    assert (job.state, job.done, job.failed) == ("succeeded", 3, 0)
    assert model.prompts.count("q1") == 3
    assert model.prompts.count("q0") == 1, "what was answered beside it is not asked again"
    assert job.cost_micro == 30_000
    assert waits[0] == [pytest.approx(7, abs=0.5)]


def test_a_prompt_that_is_never_answered_keeps_nobody_and_dies_after_some_tries(inline: Inline, model: Model) -> None:
    model.errors["q1"] = [ProviderStuck("it gave no answer within 60 s") for _ in range(100)]
    started = inline.stores.now()
    job_id = inline.client.submit_warm(prompts(6), shards=1).job_id

    for _ in range(100):
        while inline.rung:
            inline.answer(inline.rung.pop(0))
        if inline.client.get(job_id).ended:
            break
        assert inline.stores.operations.take_tokens(asking.BUCKET, rate_per_second=0, burst=1) == 0, "others may ask"
        inline.pass_time(20)
        inline.rung += inline.stores.jobs.reconcile()
    job = inline.client.get(job_id)

    assert (job.state, job.done, job.failed) == ("partial", 5, 1)
    (dead,) = inline.stores.jobs.dead_items(job.id)
    assert dead.reason == "it gave no answer within 60 s in the last of 3 tries"
    assert model.prompts.count("q1") <= 8, "each may be paid for"
    assert inline.stores.now() - started > timedelta(minutes=12), "an outage of some minutes must not kill it"


def test_a_prompt_that_is_refused_is_a_dead_letter_and_the_others_go_on(inline: Inline, model: Model) -> None:
    model.errors["q1"] = [ProviderRefused("too long (400)")]

    job = warm(inline, prompts(4))

    assert (job.state, job.done, job.failed) == ("partial", 3, 1)
    (dead,) = inline.stores.jobs.dead_items(job.id)
    assert dead.reason == "too long (400)"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"finish_reason": "length"}, "truncated"),
        ({"response": ""}, "empty"),
        ({"response": "I'm sorry, but I can't help with that."}, "refusal"),
    ],
)
def test_an_answer_that_may_not_be_kept_is_a_dead_letter(
    inline: Inline, model: Model, said: dict[str, Any], reason: str
) -> None:
    model.answer |= said

    job = warm(inline, prompts(1))

    (dead,) = inline.stores.jobs.dead_items(job.id)
    assert reason in (dead.reason or "")
    assert job.cost_micro == 10_000, "it was paid for"
    assert stored(inline, "q0") is None


@pytest.mark.parametrize(
    "said",
    [
        Computed(response="secret answer", token_count=-1),
        Computed(response="secret \ud800 answer"),
        Computed(response="secret answer", metadata={"a": object()}),
        Computed(response="secret answer " + "ü" * 90_000),
    ],
)
def test_why_an_answer_cannot_be_stored_quotes_neither_it_nor_its_prompt(
    make_inline: Callable[..., Inline], monkeypatch: pytest.MonkeyPatch, said: Computed
) -> None:
    monkeypatch.setitem(sys.modules, "their_model", SimpleNamespace(ask=lambda question: said))
    inline = make_inline(CACHE_PROVIDER__CALLABLE="their_model:ask", CACHE_MAX_ENTRY_BYTES="100000")

    job = warm(inline, [WarmItem(prompt="secret question")])

    (dead,) = inline.stores.jobs.dead_items(job.id)
    assert dead.reason
    assert "secret" not in dead.reason


def test_what_is_removed_while_it_is_asked_stays_away(inline: Inline, model: Model) -> None:
    async def remove(prompt: str) -> None:
        await inline.platform.llm_cache.delete(prompt)

    model.meanwhile = remove

    job = warm(inline, prompts(1))

    assert (job.done, job.skipped) == (0, 1)
    assert stored(inline, "q0") is None


def test_what_was_stored_before_a_crash_is_counted_and_not_paid_for_again(inline: Inline, model: Model) -> None:
    job_id = inline.client.submit_warm(prompts(1), shards=1).job_id
    inline.answer(inline.rung.pop(0))
    ring = inline.rung.pop(0)
    crash = inline.stores.jobs.commit
    inline.stores.jobs.commit = lambda *_, **__: None  # type: ignore[method-assign]  # the worker dies before it
    inline.answer(ring)
    inline.stores.jobs.commit = crash  # type: ignore[method-assign]
    inline.pass_time(120)
    inline.rung = inline.stores.jobs.reconcile()

    job = inline.finish(job_id)

    assert (job.state, job.done, job.cost_micro) == ("succeeded", 1, 10_000)
    assert model.prompts == ["q0"]


def test_nothing_is_asked_once_the_ceiling_is_reached(inline: Inline, model: Model) -> None:
    job = warm(inline, prompts(10), max_cost_usd=0.035, shards=1)

    # Two at once: the fourth went out while the third did.
    assert (job.done, job.skipped, job.failed) == (4, 6, 0)
    assert len(model.asked) == 4
    reasons = {item.reason for item in inline.stores.jobs.items_of(job.id, states=("skipped",))}
    assert reasons == {asking.CEILING}


@pytest.mark.parametrize(
    ("said", "prices", "cost"),
    [
        ({"cost_usd": 0}, {}, 0),
        ({"cost_usd": 1e-9}, {}, 2),
        ({"token_count": 1}, {"gpt-4": 0.15}, 2),
        ({"token_count": 3}, {"gpt-4": 30}, 180),
        ({"token_count": 3}, {"gpt-4": 0}, 0),
        ({}, {"gpt-4": 0}, 0),
    ],
)
def test_a_cost_that_is_small_or_nothing_is_a_cost_that_is_known(
    make_inline: Callable[..., Inline], model: Model, said: dict[str, Any], prices: dict[str, float], cost: int
) -> None:
    inline = make_inline(CACHE_PROVIDER__CALLABLE="their_model:ask", CACHE_PRICES=json.dumps(prices))
    model.answer = said

    job = warm(inline, prompts(2), max_cost_usd=1)

    assert (job.state, job.done, job.cost_micro) == ("succeeded", 2, cost)


def test_a_ceiling_that_cannot_be_kept_ends_the_job(inline: Inline, model: Model) -> None:
    model.answer = {}

    job = warm(inline, prompts(10), max_cost_usd=1, shards=1)

    assert job.state == "failed"
    assert "does not say what an answer costs" in (job.last_error or "")
    assert len(model.asked) <= 2


def test_without_a_provider_the_items_are_kept_for_a_retry(make_inline: Callable[..., Inline]) -> None:
    inline = make_inline()

    job = warm(inline, prompts(2))

    assert job.state == "failed"
    assert "provider.command" in (job.last_error or "")
    assert inline.client.retry(job.id).created


def test_a_command_that_is_not_there_ends_the_job_at_once(make_inline: Callable[..., Inline]) -> None:
    inline = make_inline(CACHE_PROVIDER__COMMAND="/no/such/program")

    job = warm(inline, prompts(20), shards=1)

    assert (job.state, job.failed) == ("failed", 20)
    assert "/no/such/program cannot be started" in (job.last_error or "")
    assert inline.delays == [0.0] * len(inline.delays)


@pytest.mark.parametrize(("fails", "asked"), [("store", ["q0", "q0", "q1"]), ("database", ["q0", "q1"])])
def test_what_is_asked_already_is_stored_when_another_cannot_go_on(
    inline: Inline, model: Model, monkeypatch: pytest.MonkeyPatch, fails: str, asked: list[str]
) -> None:
    """It is paid for. One of two fails once, when the other is under way and takes longer."""
    under_way, failed = threading.Event(), asyncio.Event()
    cache, operations = inline.platform.llm_cache, inline.stores.operations
    put, take = cache.backend.put, operations.take_tokens
    taken: list[int] = []

    async def put_or_fail(key: str, record: Any) -> None:
        if fails == "store" and "q0" in key and not failed.is_set():
            failed.set()
            raise BackendUnavailable("disk", "gone")
        await put(key, record)

    def take_or_fail(*args: Any, **options: Any) -> float:
        taken.append(1)
        if fails == "database" and len(taken) == 1:
            assert under_way.wait(20)
            inline.runtime._loop.call_soon_threadsafe(failed.set)
            raise MetadataUnavailable("gone")
        return take(*args, **options)

    async def answer_late(prompt: str) -> None:
        if fails == "store" and prompt == "q0":
            while not under_way.is_set():
                await asyncio.sleep(0.01)
            return
        under_way.set()
        await failed.wait()
        await asyncio.sleep(0.05)

    monkeypatch.setattr(cache.backend, "put", put_or_fail)
    monkeypatch.setattr(operations, "take_tokens", take_or_fail)
    model.meanwhile = answer_late
    job_id = inline.client.submit_warm(prompts(2), shards=1).job_id

    for _ in range(10):
        while inline.rung:
            inline.answer(inline.rung.pop(0))
        inline.pass_time(60)
        inline.rung += inline.stores.jobs.reconcile()

    assert inline.client.get(job_id).state == "succeeded"
    assert sorted(model.prompts) == asked


def test_a_rate_is_shared_and_kept(inline: Inline) -> None:
    operations = inline.stores.operations

    def take() -> float:
        return operations.take_tokens("p", rate_per_second=2, burst=3)

    assert [take() for _ in range(3)] == [0, 0, 0]
    assert take() == pytest.approx(0.5, abs=0.1)
    inline.pass_time(1)
    assert [take() for _ in range(2)] == [0, 0]
    assert take() > 0
    operations.block_bucket("p", 60)
    operations.block_bucket("p", 5)
    inline.pass_time(10)
    assert take() == pytest.approx(50, abs=2)
    assert operations.take_tokens("other", rate_per_second=0, burst=1) == 0


# what a job finds itself


def used(inline: Inline, work: Callable[[CacheManager], Any]) -> None:
    """Do as an application does, and add its usage up."""

    async def run() -> None:
        async with CacheManager(LLMCache(inline.settings)) as manager:
            await work(manager)

    inline.run("stats")  # so that applications know that somebody adds up
    inline.do(run())
    assert inline.run("stats").done == 1


def test_the_questions_that_were_missed_most_are_asked_with_all_that_belongs_to_them(
    inline: Inline, model: Model
) -> None:
    context: dict[str, Any] = {"model": "big", "system": "Be brief.", "params": {"temperature": 0, "tools": [{"a": 1}]}}

    async def ask(manager: CacheManager) -> None:
        for prompt, times in (("often", 3), ("once", 1), ("twice", 2)):
            for _ in range(times):
                await manager.lookup(prompt, **context)
        for prompt in ("bare", "bare", "answered meanwhile", "answered meanwhile"):
            await manager.lookup(prompt)
        await manager.store("answered meanwhile", "yes")

    used(inline, ask)

    job = inline.run("warm", {"take": "misses", "top": 3})

    assert (job.state, job.total, job.done) == ("succeeded", 3, 3)
    assert sorted(model.prompts) == ["bare", "often", "twice"]
    assert next(q for q in model.asked if q["prompt"] == "often") == {
        "prompt": "often",
        "model": "big",
        "system": "Be brief.",
        "params": {"temperature": 0},
        "tools": [{"a": 1}],
    }

    async def hits() -> list[bool]:
        async with CacheManager(LLMCache(inline.settings)) as manager:
            found = [await manager.lookup(prompt, **context) for prompt in ("often", "twice", "once")]
            elsewhere = await manager.lookup("often", model="big")
        return [each.hit for each in (*found, elsewhere)]

    assert inline.do(hits()) == [True, True, False, False]
    assert inline.run("warm", {"take": "misses", "top": 3}).total == 1, "only what is still missing"


def test_what_failed_of_a_job_that_found_its_items_can_be_tried_again(inline: Inline, model: Model) -> None:
    async def ask(manager: CacheManager) -> None:
        for prompt in ("one", "two"):
            await manager.lookup(prompt)

    used(inline, ask)
    model.errors["two"] = [ProviderRefused("no")]
    first = inline.run("warm", {"take": "misses"})

    again = inline.client.retry(first.id, failed_only=True)
    second = inline.finish(again.job_id)

    assert (first.state, first.failed) == ("partial", 1)
    assert (second.state, second.total, second.done) == ("succeeded", 1, 1)
    assert stored(inline, "two") == "answer to two"


def test_a_job_that_did_not_come_to_find_its_items_looks_for_them_again(inline: Inline, model: Model) -> None:
    async def ask(manager: CacheManager) -> None:
        await manager.lookup("one")

    used(inline, ask)
    first = inline.client.submit("warm", {"take": "misses"}, deadline_seconds=1)
    inline.rung.clear()
    inline.pass_time(60)
    inline.stores.jobs.reconcile()

    again = inline.finish(inline.client.retry(first.job_id).job_id)

    assert inline.client.get(first.job_id).state == "failed"
    assert (again.state, again.done) == ("succeeded", 1)


def test_the_questions_of_yesterday_are_asked_after_midnight_too(inline: Inline, model: Model) -> None:
    async def ask(manager: CacheManager) -> None:
        await manager.lookup("missing")

    used(inline, ask)
    now = inline.stores.now()
    inline.pass_time((now.replace(hour=0, minute=10) + timedelta(days=1) - now).total_seconds())

    assert inline.run("warm", {"take": "misses"}).done == 1


def test_only_what_is_known_as_a_question_of_everybody_is_asked(inline: Inline, model: Model) -> None:
    """A name that is no prompt, or a question without what belongs to it, would get a wrong answer, for everybody."""
    secret = {"params": {"extra_headers": {"x-session-token": "mine"}}}

    async def ask(manager: CacheManager) -> None:
        for _ in range(2):
            await manager.llm_cache.get("user:17:greeting")
            await manager.lookup("with my token", **secret)
            await manager.get_or_compute("not to be kept", lambda: "a", model="m", controls={"no-store": True})
            await manager.get_or_compute("my balance", lambda: Computed(response="a", personalised=True), model="m")
            await manager.lookup("my balance", model="m")
            await manager.lookup("x" * 65_000)
        await manager.lookup("everybody's")

    used(inline, ask)

    assert inline.run("warm", {"take": "misses"}).total == 2
    assert sorted(model.prompts, key=len) == ["everybody's", "x" * 65_000]


def expiring(inline: Inline, work: Callable[[CacheManager], Any], *, seconds: float) -> JobView:
    """Use the cache, and compute again what is popular when so many seconds went by."""
    used(inline, work)
    inline.platform.llm_cache.clock = lambda: time.time() + seconds
    return inline.run("warm", {"take": "expiring", "expire_within_seconds": 600})


def test_popular_entries_are_computed_again_before_they_expire(inline: Inline, model: Model) -> None:
    async def ask(manager: CacheManager) -> None:
        await manager.get_or_compute("soon", lambda: "old", model="m", ttl_seconds=300, tags=["product"])
        await manager.get_or_compute("late", lambda: "old", model="m", ttl_seconds=90_000)
        await manager.get_or_compute("unpopular", lambda: "old", model="m", ttl_seconds=300)
        for prompt in ("soon", "late"):
            await manager.lookup(prompt, model="m")

    job = expiring(inline, ask, seconds=100)
    again = inline.run("warm", {"take": "expiring", "expire_within_seconds": 600})

    assert (job.total, job.done) == (1, 1)
    assert again.total is None, "it has a short life, but nearly all of it before it"
    assert model.prompts == ["soon"]

    async def look() -> tuple[Any, Any, Any]:
        async with CacheManager(LLMCache(inline.settings)) as manager:
            found = await manager.lookup("soon", model="m")
            (entry,) = (await manager.llm_cache.load_entries([found.key])).values()
            await manager.llm_cache.invalidate(Selection(tag="product"))
            return found.response, entry.expires_at, await manager.lookup("soon", model="m")

    answer, expires_at, after = inline.do(look())
    assert answer.response == "answer to soon"
    assert expires_at == pytest.approx(time.time() + 400, abs=5), "it lives as long as the one before"
    assert not after.hit, "it carries the tag of the one before"


def test_of_plain_entries_those_are_computed_again_whose_key_is_their_prompt(inline: Inline, model: Model) -> None:
    async def ask(manager: CacheManager) -> None:
        cache = manager.llm_cache
        for key in ("what is it?", "geography:1"):
            said = CachedResponse(prompt="what is it?", response="it", model="own", timestamp=datetime.now(UTC))
            await cache.set(key, said, 300, tags=["t"])
            await cache.get(key)

    job = expiring(inline, ask, seconds=100)

    assert job.done == 1
    assert model.asked == [{"prompt": "what is it?", "model": "own"}]
    assert stored(inline, "geography:1") == "it"


def test_a_warm_job_stores_reasoning_beside_answers(inline: Inline) -> None:
    items = [
        WarmItem(prompt="q", response="r"),
        check_item({"problem": "2 + 2", "steps": ["add"], "final_answer": "4"}, where="here"),
        check_item({"problem": "broken", "nodes": [{"id": 1, "parent": 0, "text": "x"}]}, where="here"),
    ]

    job = inline.finish(inline.client.submit_warm(items, embed=False).job_id)

    assert (job.state, job.total, job.done, job.failed) == ("partial", 3, 2, 1)
    found = inline.do(inline.platform.reasoning.get("2 + 2"))
    assert found is not None
    assert found.final_answer == "4"
