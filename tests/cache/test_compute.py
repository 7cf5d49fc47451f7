"""get_or_compute and stream_or_compute."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from cache_management.cache.backends.base import Backend
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.compute import Computed, Held
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendRefused, BackendUnavailable, InvalidInput
from cache_management.cache.events import ComputeEvent, Event, HitEvent, MissEvent, RefusedEvent, StaleEvent, StoreEvent
from cache_management.cache.invalidation import Selection
from cache_management.cache.llm import LLMCache
from cache_management.cache.records import Record
from tests.contracts.broken import BreakableBackend
from tests.contracts.clock import ManualClock
from tests.waiting import eventually, wait_until


class Model:
    """A language model that counts its calls."""

    def __init__(self, answer: Any = "an answer") -> None:
        self.answer = answer
        self.calls = 0

    async def __call__(self) -> Any:
        self.calls += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Bench:
    """A cache in memory with a clock and a notebook of events."""

    def __init__(self, **config: Any) -> None:
        self.clock = ManualClock()
        self.events: list[Event] = []
        backend = MemoryBackend(max_size=1000, clock=self.clock)
        self.cache = LLMCache(CacheConfig(**config), backend=backend, clock=self.clock, listener=self.events.append)

    def heard(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


async def test_the_answer_is_computed_once_and_served_after() -> None:
    bench, model = Bench(), Model()

    first = await bench.cache.get_or_compute("q", model, model="gpt-4")
    second = await bench.cache.get_or_compute("q", model)

    assert (first.response, first.model, first.prompt) == ("an answer", "gpt-4", "q")
    assert second == first
    assert model.calls == 1
    assert await bench.cache.get("q") == first


async def test_a_plain_function_computes_too() -> None:
    bench = Bench()

    assert (await bench.cache.get_or_compute("q", lambda: "plain")).response == "plain"


async def test_any_number_of_plain_functions_compute_at_once() -> None:
    bench, number = Bench(), 64
    together = threading.Barrier(number)

    def compute() -> str:
        together.wait(timeout=10)
        return "plain"

    answers = await asyncio.gather(*(bench.cache.get_or_compute(f"q{at}", compute) for at in range(number)))

    assert {answer.response for answer in answers} == {"plain"}
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 5) == "free"


async def test_a_plain_function_sees_the_context_of_its_caller_and_its_errors_reach_them() -> None:
    bench = Bench()
    whose = ContextVar("whose", default="nobody's")
    whose.set("the caller's")

    def fail() -> str:
        raise KeyError("provider")

    assert (await bench.cache.get_or_compute("q", whose.get)).response == "the caller's"
    with pytest.raises(KeyError, match="provider"):
        await bench.cache.get_or_compute("q2", fail)


async def test_a_plain_function_that_runs_out_of_answers_is_an_error_as_in_a_coroutine() -> None:
    answers = iter(list[str]())

    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(Bench().cache.get_or_compute("q", lambda: next(answers)), 5)


@pytest.mark.parametrize("leave", ["cancelled", "closed"])
def test_a_plain_function_that_nobody_waits_for_any_more_harms_nobody(leave: str) -> None:
    go, began, ended = threading.Event(), threading.Event(), threading.Event()

    def compute() -> str:
        began.set()
        go.wait(10)
        threading.current_thread().name = "ends"
        ended.set()
        return "late"

    async def ask() -> None:
        asking = asyncio.create_task(Bench().cache.get_or_compute("q", compute))
        await asyncio.to_thread(began.wait)
        asking.cancel()
        await asyncio.wait([asking])
        if leave == "cancelled":
            go.set()
            await asyncio.to_thread(ended.wait)

    asyncio.run(ask())
    go.set()
    wait_until(lambda: all(thread.name != "ends" for thread in threading.enumerate()))


async def test_a_function_that_returns_an_awaitable_computes_too() -> None:
    bench, model = Bench(), Model("awaited")

    assert (await bench.cache.get_or_compute("q", lambda: model())).response == "awaited"


async def test_a_store_that_is_down_is_not_told_as_an_absent_entry() -> None:
    heard: list[Event] = []
    store = BreakableBackend()
    cache = LLMCache(CacheConfig(), backend=store, listener=heard.append)

    answer = await cache.get_or_compute("q", Model())
    pieces = [piece async for piece in cache.stream_or_compute("q", lambda: _stream("an answer"))]
    store.up = True
    await cache.get_or_compute("q", Model())

    assert (answer.response, pieces) == ("an answer", ["an answer"])
    assert [event.reason for event in heard if isinstance(event, MissEvent)] == ["degraded", "degraded", "absent"]


async def _stream(text: str) -> AsyncIterator[str]:
    yield text


async def test_many_callers_cause_one_computation() -> None:
    bench, model = Bench(), Model()

    answers = await asyncio.gather(*(bench.cache.get_or_compute("q", model) for _ in range(100)))

    assert {answer.response for answer in answers} == {"an answer"}
    assert model.calls == 1


async def test_a_computation_sees_the_context_of_its_caller_and_keeps_its_own_changes() -> None:
    bench = Bench()
    whose = ContextVar("whose", default="nobody's")
    whose.set("the caller's")

    async def compute() -> str:
        seen = whose.get()
        whose.set("the computation's")
        return seen

    assert (await bench.cache.get_or_compute("q", compute)).response == "the caller's"
    assert whose.get() == "the caller's"


async def test_what_happens_is_told_in_order() -> None:
    bench = Bench()

    await bench.cache.get_or_compute("q", Model())
    await bench.cache.get_or_compute("q", Model())

    assert [type(event) for event in bench.events] == [MissEvent, ComputeEvent, StoreEvent, HitEvent]


async def test_what_nobody_listens_to_is_counted_all_the_same() -> None:
    cache = LLMCache(CacheConfig(url="memory://"))

    await cache.get_or_compute("q", Model())
    await cache.get_or_compute("q", Model())

    assert (cache.stats.misses, cache.stats.stores, cache.stats.hits) == (1, 1, 1)


async def test_a_timeout_inside_the_computation_works_after_its_first_caller_left() -> None:
    bench = Bench()
    started = asyncio.Event()

    async def compute() -> str:
        try:
            async with asyncio.timeout(0.05):
                started.set()
                await asyncio.Event().wait()
        except TimeoutError:
            return "gave up"
        raise AssertionError

    first, second = (asyncio.create_task(bench.cache.get_or_compute("q", compute)) for _ in range(2))
    await started.wait()
    first.cancel()

    assert (await asyncio.wait_for(second, 5)).response == "gave up"


async def test_an_exception_reaches_the_caller_and_nothing_is_stored() -> None:
    bench = Bench()

    with pytest.raises(KeyError):
        await bench.cache.get_or_compute("q", Model(KeyError("provider")))

    assert await bench.cache.get("q") is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty"),
        ("   ", "empty"),
        (Computed(response="cut off in the mid", finish_reason="length"), "truncated"),
        (Computed(response="x", finish_reason="content_filter"), "content_filter"),
        (Computed(response="x", status=500), "non_success"),
        (Computed(response="No.", refusal="No."), "refusal"),
        (Computed(response="Dear Alice", personalised=True), "personalised"),
    ],
)
async def test_what_should_not_be_stored_is_returned_and_refused_by_name(answer: Any, reason: str) -> None:
    bench, model = Bench(), Model(answer)

    await bench.cache.get_or_compute("q", model)
    await bench.cache.get_or_compute("q", model)

    assert model.calls == 2
    assert [event.reason for event in bench.heard(RefusedEvent)] == [reason, reason]


async def test_an_answer_over_the_limit_is_returned_and_refused() -> None:
    bench = Bench(max_entry_bytes=1000)

    found = await bench.cache.get_or_compute("q", Model("x" * 2000))

    assert len(found.response) == 2000
    assert [event.reason for event in bench.heard(RefusedEvent)] == ["oversize"]


async def test_a_store_that_is_down_computes_each_time_and_never_raises() -> None:
    cache, model = LLMCache(CacheConfig(), backend=BreakableBackend()), Model()

    for _ in range(3):
        assert (await cache.get_or_compute("q", model)).response == "an answer"

    assert model.calls == 3


async def test_controls_bypass_reading_and_storing() -> None:
    bench, model = Bench(), Model()
    await bench.cache.get_or_compute("q", model, controls={"no-store": True})
    assert await bench.cache.get("q") is None

    await bench.cache.get_or_compute("q", model)
    await bench.cache.get_or_compute("q", model, controls={"no-cache": True})

    assert model.calls == 3


async def test_the_ttl_of_a_request_wins() -> None:
    bench, model = Bench(ttl_seconds=1000), Model()

    await bench.cache.get_or_compute("q", model, controls={"ttl": 10})
    bench.clock.advance(11)
    await bench.cache.get_or_compute("q", model)

    assert model.calls == 2


async def test_an_answer_older_than_s_maxage_is_not_served() -> None:
    bench, model = Bench(), Model()
    await bench.cache.get_or_compute("q", model)
    bench.clock.advance(60)

    await bench.cache.get_or_compute("q", model, controls={"s-maxage": 100})
    assert model.calls == 1
    await bench.cache.get_or_compute("q", model, controls={"s-maxage": 50})

    assert model.calls == 2


async def test_unknown_controls_and_wrong_tags_are_errors() -> None:
    bench = Bench()

    with pytest.raises(InvalidInput, match="did you mean 'ttl'"):
        await bench.cache.get_or_compute("q", Model(), controls={"tll": 3})
    with pytest.raises(InvalidInput, match="list of texts"):
        await bench.cache.get_or_compute("q", Model(), tags="news")
    with pytest.raises(InvalidInput, match="namespace"):
        await bench.cache.get_or_compute("q", Model(), controls={"namespace": "other"})


async def test_a_stale_answer_is_served_while_it_is_computed_again() -> None:
    bench, model = Bench(ttl_seconds=100, stale_while_revalidate_seconds=50), Model("old")
    await bench.cache.get_or_compute("q", model)
    bench.clock.advance(120)
    model.answer = "new"

    assert await bench.cache.get("q") is None, "a plain get never serves a stale answer"
    assert not await bench.cache.exists("q")
    assert (await bench.cache.get_or_compute("q", model)).response == "old"

    await eventually(lambda: _response_is(bench.cache, "new"))
    assert [event.reason for event in bench.heard(StaleEvent)] == ["revalidate"]
    assert bench.heard(ComputeEvent)[-1].background


@pytest.mark.parametrize("answer", [ConnectionError("provider is down"), Computed(response="x", status=500)])
async def test_a_refresh_that_brings_nothing_is_not_repeated_at_every_hit(answer: Any) -> None:
    bench, model = Bench(ttl_seconds=100, stale_while_revalidate_seconds=50), Model("old")
    await bench.cache.get_or_compute("q", model)
    bench.clock.advance(120)
    model.answer = answer

    for _ in range(50):
        assert (await bench.cache.get_or_compute("q", model)).response == "old"
        await bench.cache._computing.finish()
    assert model.calls == 2

    model.answer = "new"
    bench.clock.advance(6)
    await bench.cache.get_or_compute("q", model)
    await bench.cache._computing.finish()
    assert await _response_is(bench.cache, "new")


def test_the_keys_that_are_left_alone_are_bounded() -> None:
    computing = Bench().cache._computing

    for at in range(1100):
        computing._rest(f"q{at}")

    assert len(computing._resting) == 1000
    assert not computing._rests("q0")
    assert computing._rests("q1099")


async def _response_is(cache: LLMCache, text: str) -> bool:
    found = await cache.get("q")
    return found is not None and found.response == text


async def test_past_the_stale_window_the_caller_waits() -> None:
    bench, model = Bench(ttl_seconds=100, stale_while_revalidate_seconds=50), Model("old")
    await bench.cache.get_or_compute("q", model)
    bench.clock.advance(151)
    model.answer = "new"

    assert (await bench.cache.get_or_compute("q", model)).response == "new"


async def test_a_stale_answer_is_served_when_computing_fails() -> None:
    bench, model = Bench(ttl_seconds=100, stale_if_error_seconds=1000), Model("old")
    await bench.cache.get_or_compute("q", model)
    bench.clock.advance(500)
    model.answer = ConnectionError("provider is down")

    assert (await bench.cache.get_or_compute("q", model)).response == "old"
    assert [event.reason for event in bench.heard(StaleEvent)] == ["error"]

    bench.clock.advance(700)
    with pytest.raises(ConnectionError):
        await bench.cache.get_or_compute("q", model)


async def test_an_answer_near_its_end_is_refreshed_early_by_chance() -> None:
    bench, model = Bench(ttl_seconds=100), Model("old")
    bench.cache._computing._rng = lambda: 1e-4  # computing took 5 s, so up to 46 s early
    await bench.cache.get_or_compute("q", model)
    held = await bench.cache.load("q")
    assert isinstance(held, Held)
    slow = held.stored.facts.__class__(compute_seconds=5.0)
    await bench.cache.store("q", held.stored.response, slow, None)
    model.answer = "new"

    assert (await bench.cache.get_or_compute("q", model)).response == "old"
    await bench.cache._computing.finish()
    assert model.calls == 1, "100 seconds before its end is not near, even for this chance"

    bench.clock.advance(60)
    assert (await bench.cache.get_or_compute("q", model)).response == "old"
    await bench.cache._computing.finish()
    assert (await bench.cache.get_or_compute("q", model)).response == "new"


Removal = Callable[[LLMCache], Awaitable[Any]]

REMOVALS: dict[str, Removal] = {
    "delete": lambda cache: cache.delete("q"),
    "delete_many": lambda cache: cache.delete_many(["other", "q"]),
    "delete of very many": lambda cache: cache.delete_many([*map(str, range(1000)), "q"]),
    "delete_pattern": lambda cache: cache.delete_pattern("q*"),
    "invalidate a tag": lambda cache: cache.invalidate(Selection(tag="news")),
    "invalidate everything": lambda cache: cache.invalidate(Selection(everything=True)),
}


class Slow:
    """A model that has read its facts and is still writing."""

    def __init__(self, answer: str = "old") -> None:
        self.answer = answer
        self.started, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> str:
        self.started.set()
        await self.go.wait()
        return self.answer

    async def pieces(self) -> AsyncIterator[str]:
        yield await self()


async def _get(cache: LLMCache, model: Slow) -> str:
    return (await cache.get_or_compute("q", model, tags=["news"])).response


async def _stream_all(cache: LLMCache, model: Slow) -> str:
    return "".join([piece async for piece in cache.stream_or_compute("q", model.pieces, tags=["news"])])


@pytest.mark.parametrize("ask", [_get, _stream_all])
@pytest.mark.parametrize("removal", REMOVALS.values(), ids=list(REMOVALS))
async def test_what_is_removed_while_it_is_computed_does_not_come_back(removal: Removal, ask: Any) -> None:
    bench, model = Bench(), Slow()
    elsewhere = LLMCache(CacheConfig(), backend=bench.cache.backend, clock=bench.clock)
    asking = asyncio.create_task(ask(bench.cache, model))
    await model.started.wait()

    await removal(elsewhere)
    model.go.set()

    assert await asking == "old", "its caller gets what was computed"
    assert await bench.cache.get("q") is None
    assert [event.reason for event in bench.heard(RefusedEvent)] == ["removed_meanwhile"]


@pytest.mark.parametrize("removal", REMOVALS.values(), ids=list(REMOVALS))
async def test_who_asks_after_a_removal_gets_nothing_from_before_it(removal: Removal) -> None:
    bench, model = Bench(), Slow()
    before = asyncio.create_task(_get(bench.cache, model))
    await model.started.wait()

    await removal(bench.cache)
    after = asyncio.create_task(bench.cache.get_or_compute("q", lambda: "new"))
    model.go.set()

    assert await before == "old"
    assert (await after).response == "new"
    assert await _response_is(bench.cache, "new")


async def test_what_is_removed_while_it_is_refreshed_in_the_background_does_not_come_back() -> None:
    bench, model = Bench(ttl_seconds=100, stale_while_revalidate_seconds=50), Slow()
    await bench.cache.get_or_compute("q", lambda: "oldest")
    bench.clock.advance(120)
    await bench.cache.get_or_compute("q", model)
    await model.started.wait()

    await bench.cache.delete("q")
    model.go.set()
    await bench.cache.aclose()

    assert await bench.cache.get("q") is None


@pytest.mark.parametrize("key", ["q", "other"])
async def test_what_is_removed_as_it_is_stored_is_taken_back(key: str) -> None:
    bench, model = Bench(), Model()
    put = bench.cache.backend.put

    async def put_after_removal(storage_key: str, record: Record) -> None:
        await bench.cache.delete(key)  # after the look at the notes, before the write
        await put(storage_key, record)

    bench.cache.backend.put = put_after_removal  # type: ignore[method-assign,assignment]
    await bench.cache.get_or_compute("q", model)

    assert (await bench.cache.get("q") is None) == (key == "q")


async def test_what_is_set_while_an_older_answer_is_computed_stays() -> None:
    bench, model = Bench(), Slow()
    asking = asyncio.create_task(_get(bench.cache, model))
    await model.started.wait()

    await bench.cache.set("q", (await bench.cache.get_or_compute("other", lambda: "by hand")))
    model.go.set()

    assert await asking == "old"
    assert await _response_is(bench.cache, "by hand")
    assert [event.reason for event in bench.heard(RefusedEvent)] == ["newer_stored"]


async def test_other_removals_meanwhile_leave_a_computed_answer_alone() -> None:
    bench, model = Bench(), Slow()
    asking = asyncio.create_task(_get(bench.cache, model))
    await model.started.wait()

    await bench.cache.delete("other")
    await bench.cache.invalidate(Selection(tag="sports"))
    await bench.cache.invalidate(Selection(everything=True), dry_run=True)
    model.go.set()
    await asking

    assert await _response_is(bench.cache, "old")


async def test_a_journal_that_lost_notes_counts_as_a_removal() -> None:
    bench, model = Bench(), Slow()
    await bench.cache.delete("other")
    asking = asyncio.create_task(_get(bench.cache, model))
    await model.started.wait()

    bench.cache.backend._streams.clear()  # type: ignore[attr-defined]
    model.go.set()
    await asking

    assert await bench.cache.get("q") is None


class Plain(Backend):
    """A store with nothing but records."""

    name = "plain"

    def __init__(self) -> None:
        self.inner = MemoryBackend(max_size=10)
        for name in ("get_many", "put_many", "delete_many", "scan", "ping", "aclose"):
            setattr(self, name, getattr(self.inner, name))

    get_many = put_many = delete_many = scan = ping = aclose = None  # type: ignore[assignment]


async def test_a_store_without_a_journal_tells_of_removals_by_the_same_cache() -> None:
    cache, model = LLMCache(CacheConfig(), backend=Plain()), Slow()
    asking = asyncio.create_task(cache.get_or_compute("q", model))
    await model.started.wait()

    await cache.delete("q")
    model.go.set()
    await asking

    assert await cache.get("q") is None


async def test_a_removal_that_cannot_be_noted_removes_and_raises() -> None:
    bench = Bench()
    await bench.cache.get_or_compute("q", Model())
    await bench.cache.get_or_compute("q2", Model())

    async def silent(stream: str, items: Sequence[bytes]) -> str:
        raise BackendUnavailable("memory", "no answer")

    bench.cache.backend.append = silent  # type: ignore[attr-defined]

    with pytest.raises(BackendUnavailable):
        await bench.cache.delete("q")
    assert await bench.cache.get("q") is None
    with pytest.raises(BackendUnavailable):
        await bench.cache.delete_pattern("*")
    assert await bench.cache.list_keys() == []


async def test_a_full_store_removes_without_a_note() -> None:
    bench = Bench()
    await bench.cache.get_or_compute("q", Model())

    async def full(stream: str, items: Sequence[bytes]) -> str:
        raise BackendRefused("memory", "it is full")

    bench.cache.backend.append = full  # type: ignore[attr-defined]

    assert await bench.cache.delete("q")
    assert await bench.cache.get("q") is None


async def stream(*pieces: str | Exception) -> AsyncIterator[str]:
    for piece in pieces:
        if isinstance(piece, Exception):
            raise piece
        yield piece


async def collect(pieces: AsyncIterator[str]) -> list[str]:
    return [piece async for piece in pieces]


async def test_a_stream_is_passed_on_as_it_comes_and_replayed_after() -> None:
    bench = Bench()

    first = await collect(bench.cache.stream_or_compute("q", lambda: stream("Hello", " ", "world")))
    second = await collect(bench.cache.stream_or_compute("q", lambda: stream("never asked")))

    assert first == ["Hello", " ", "world"]
    assert "".join(second) == "Hello world"
    assert bench.cache.stats.hits == 1


async def test_a_stale_answer_is_not_streamed_but_computed_again() -> None:
    bench = Bench(ttl_seconds=100, stale_while_revalidate_seconds=50)
    await collect(bench.cache.stream_or_compute("q", lambda: stream("old")))
    bench.clock.advance(120)

    assert await collect(bench.cache.stream_or_compute("q", lambda: stream("new"))) == ["new"]


async def test_a_stream_that_fails_is_not_stored() -> None:
    bench = Bench()

    with pytest.raises(ConnectionError):
        await collect(bench.cache.stream_or_compute("q", lambda: stream("Hel", ConnectionError())))

    assert await bench.cache.get("q") is None


async def test_a_stream_that_its_reader_left_is_not_stored_and_the_next_reader_goes_on() -> None:
    bench = Bench()
    pieces = bench.cache.stream_or_compute("q", lambda: stream("Hello", " world"))
    async for _ in pieces:
        break
    await pieces.aclose()  # type: ignore[attr-defined]  # an async generator

    assert await bench.cache.get("q") is None
    assert await collect(bench.cache.stream_or_compute("q", lambda: stream("again"))) == ["again"]


async def test_a_reader_that_takes_no_more_keeps_nobody_from_computing() -> None:
    cache = LLMCache(CacheConfig(), backend=MemoryBackend(max_size=10))
    cache._computing._flights._lease_seconds = 0.2
    stalled = cache.stream_or_compute("q", lambda: stream("Hello", " ", "world"))
    assert await anext(stalled) == "Hello"

    found = await asyncio.wait_for(cache.get_or_compute("q", lambda: "another"), 5)

    assert found.response == "another"
    assert "".join(await collect(stalled)) == " world"
    assert await _response_is(cache, "another"), "the stalled stream is not stored"


async def test_a_stream_with_slow_pieces_or_a_slow_reader_keeps_its_lease() -> None:
    cache = LLMCache(CacheConfig(), backend=MemoryBackend(max_size=10))
    cache._computing._flights._lease_seconds = 0.3

    async def slow() -> AsyncIterator[str]:
        yield "Hello"
        await asyncio.sleep(0.6)  # a provider that thinks
        yield " world"
        yield " again"
        yield "."

    read = []
    async for piece in cache.stream_or_compute("q", slow):
        read.append(piece)
        await asyncio.sleep(0.1)

    assert read == ["Hello", " world", " again", "."]
    assert await _response_is(cache, "Hello world again.")


async def test_an_answer_of_another_kind_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="not int"):
        await Bench().cache.get_or_compute("q", lambda: 7)  # type: ignore[arg-type,return-value]


async def test_closing_waits_for_nothing_that_another_loop_left_in_the_background() -> None:
    bench, model = Bench(ttl_seconds=100, stale_while_revalidate_seconds=50), Slow()
    await bench.cache.get_or_compute("q", lambda: "old")
    bench.clock.advance(120)
    await bench.cache.get_or_compute("q", model)
    await model.started.wait()

    await asyncio.to_thread(lambda: asyncio.run(asyncio.wait_for(bench.cache.aclose(), 5)))
    model.go.set()
    await bench.cache.aclose()

    assert await _response_is(bench.cache, "old")


async def test_closing_waits_for_what_is_computed_in_the_background(tmp_path: Path) -> None:
    bench, model = Bench(ttl_seconds=100, stale_while_revalidate_seconds=50), Model("old")
    await bench.cache.get_or_compute("q", model)
    bench.clock.advance(120)
    model.answer = "new"
    await bench.cache.get_or_compute("q", model)

    await bench.cache.aclose()

    assert await _response_is(bench.cache, "new")
