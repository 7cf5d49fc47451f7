from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.clock import version_at
from cache_management.cache.config import CacheConfig, SimilarityConfig
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.errors import BackendUnavailable, InvalidInput
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.cache.semantic.matcher import SimilarityMatcher
from cache_management.cache.values import CachedResponse
from cache_management.cache.warm_items import WarmItem
from cache_management.cache.warmer import CacheWarmer
from tests.contracts.broken import BreakableBackend
from tests.contracts.clock import ManualClock


def item(prompt: str = "p", response: str | None = "r", **more: Any) -> WarmItem:
    return WarmItem(prompt=prompt, response=response, **more)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> LLMCache:
    return LLMCache(CacheConfig(), backend=MemoryBackend(max_size=10_000, clock=clock), clock=clock)


@pytest.fixture
def warmer(cache: LLMCache, clock: ManualClock) -> CacheWarmer:
    return CacheWarmer(CacheManager(cache), clock=clock)


async def test_all_items_are_stored_and_counted(warmer: CacheWarmer, cache: LLMCache) -> None:
    report = await warmer.warm([item(f"p{at}", f"r{at}") for at in range(95)])

    found = await cache.get_many([f"p{at}" for at in range(95)])
    assert {key: value.response for key, value in found.items()} == {f"p{at}": f"r{at}" for at in range(95)}
    assert (report.stored, report.skipped, report.failed, report.duplicates, report.total) == (95, 0, 0, 0, 95)


async def test_responses_of_a_program_are_taken(warmer: CacheWarmer, cache: LLMCache) -> None:
    value = CachedResponse(
        prompt="p", response="r", model="m", timestamp=datetime.now(UTC), token_count=4, metadata={"a": 1}
    )

    await warmer.warm([value])

    found = await cache.get("p")
    assert found is not None
    assert found == value


async def test_last_of_equal_prompts_wins_and_the_others_are_counted(warmer: CacheWarmer, cache: LLMCache) -> None:
    report = await warmer.warm([item("p", "first"), item("q"), item("p", "second"), item("x", "third", key="p")])

    found = await cache.get("p")
    assert found is not None
    assert found.response == "third"
    assert (report.stored, report.duplicates) == (2, 2)


async def test_nothing_is_stored_when_one_item_cannot_be_read(warmer: CacheWarmer, cache: LLMCache) -> None:
    with pytest.raises(InvalidInput, match="item 1"):
        await warmer.warm([item("p"), item("q", response=None)])

    assert await cache.list_keys() == []


async def test_warming_again_stores_nothing_new(warmer: CacheWarmer, clock: ManualClock) -> None:
    await warmer.warm([item("p"), item("q")])
    clock.advance(1)

    report = await warmer.warm([item("p"), item("q")])

    assert (report.stored, report.skipped) == (0, 2)


async def test_changed_answer_replaces_the_old_one(warmer: CacheWarmer, cache: LLMCache, clock: ManualClock) -> None:
    await warmer.warm([item("p", "old"), item("q")])
    clock.advance(1)

    report = await warmer.warm([item("p", "new"), item("q")])

    found = await cache.get("p")
    assert found is not None
    assert (found.response, report.stored, report.skipped) == ("new", 1, 1)


@pytest.mark.parametrize(
    "changed",
    [{"model": "other"}, {"token_count": 9}, {"metadata": {"a": 1}}, {"prompt": "another prompt", "key": "p"}],
)
async def test_entry_that_differs_in_any_field_is_stored(
    warmer: CacheWarmer, clock: ManualClock, changed: dict[str, Any]
) -> None:
    await warmer.warm([item("p")])
    clock.advance(1)

    report = await warmer.warm([item("p").model_copy(update=changed)])

    assert report.stored == 1


@pytest.mark.parametrize(("seconds", "reason"), [(1, "fresh"), (50, "fresh"), (51, None), (99, None), (101, None)])
async def test_equal_entry_is_left_alone_while_half_its_life_is_before_it(
    warmer: CacheWarmer, clock: ManualClock, seconds: float, reason: str | None
) -> None:
    await warmer.store([item(ttl_seconds=100)], version=version_at(clock.now))
    clock.advance(seconds)

    (outcome,) = await warmer.store([item(ttl_seconds=100)], version=version_at(clock.now))

    assert (outcome.state, outcome.reason) == ("done" if reason is None else "skipped", reason)


@pytest.mark.parametrize(
    ("held", "wanted", "state"),
    [(-1, -1, "skipped"), (-1, 100, "done"), (100, -1, "done"), (201, 100, "done"), (200, 100, "skipped")],
)
async def test_equal_entry_with_quite_another_life_is_stored(
    warmer: CacheWarmer, clock: ManualClock, held: int, wanted: int, state: str
) -> None:
    version = version_at(clock.now)
    await warmer.store([item(ttl_seconds=held)], version=version)

    (outcome,) = await warmer.store([item(ttl_seconds=wanted)], version=version + 1)

    assert outcome.state == state


async def test_same_version_repeated_is_done_again(warmer: CacheWarmer, clock: ManualClock) -> None:
    version = version_at(clock.now)
    first = await warmer.store([item("p"), item("q")], version=version)
    clock.advance(30)

    second = await warmer.store([item("p"), item("q")], version=version)

    assert [outcome.state for outcome in first] == [outcome.state for outcome in second] == ["done", "done"]


async def test_newer_entry_is_kept(warmer: CacheWarmer, cache: LLMCache, clock: ManualClock) -> None:
    await cache.set("p", CachedResponse(prompt="p", response="newer", model="m", timestamp=datetime.now(UTC)))

    (outcome,) = await warmer.store([item("p", "older")], version=version_at(clock.now - 60))

    found = await cache.get("p")
    assert found is not None
    assert (outcome.state, outcome.reason, found.response) == ("skipped", "newer", "newer")


async def test_one_bad_item_is_dead_and_the_others_are_stored(cache: LLMCache, clock: ManualClock) -> None:
    small = LLMCache(CacheConfig(max_entry_bytes=1000), backend=cache.backend, clock=clock)
    warmer = CacheWarmer(CacheManager(small), batch_size=10, clock=clock)

    report = await warmer.warm([item("a"), item("huge", "x" * 5000), item("b")])

    assert (report.stored, report.failed) == (2, 1)
    assert report.errors == [error for error in report.errors if "huge" in error]
    assert await cache.list_keys() == ["a", "b"]


async def test_outcomes_stand_in_the_order_of_the_items(warmer: CacheWarmer, clock: ManualClock) -> None:
    items = [item(name) for name in ("c", "a", "b")] + [item("d", response=None)]

    outcomes = await warmer.store(items, version=version_at(clock.now))

    assert [(outcome.key, outcome.state) for outcome in outcomes] == [
        ("c", "done"),
        ("a", "done"),
        ("b", "done"),
        ("d", "dead"),
    ]
    assert all(outcome.size_bytes > 0 for outcome in outcomes[:3])


async def test_store_that_is_down_raises_its_own_error() -> None:
    warmer = CacheWarmer(CacheManager(LLMCache(CacheConfig(), backend=BreakableBackend())))

    with pytest.raises(BackendUnavailable):
        await warmer.warm([item(str(at)) for at in range(100)])
    with pytest.raises(BackendUnavailable):
        await warmer.store([item()], version=1)


async def test_store_that_fails_midway_keeps_what_was_stored_and_can_be_repeated(clock: ManualClock) -> None:
    backend = BreakableBackend(up=True)
    cache = LLMCache(CacheConfig(), backend=backend)
    warmer = CacheWarmer(CacheManager(cache), workers=1, batch_size=10)

    def break_it(finished: int) -> None:
        backend.up = False

    with pytest.raises(BackendUnavailable):
        await warmer.warm([item(str(at)) for at in range(30)], on_progress=break_it)
    backend.up = True
    report = await warmer.warm([item(str(at)) for at in range(30)])

    assert (report.stored, report.skipped) == (20, 10)


async def test_progress_adds_up(warmer: CacheWarmer) -> None:
    finished: list[int] = []

    await warmer.warm([item(str(at)) for at in range(25)], on_progress=finished.append)

    assert sum(finished) == 25
    assert max(finished) <= 10


async def test_warmed_entries_are_found_by_meaning(clock: ManualClock) -> None:
    backend = MemoryBackend(max_size=1000, clock=clock)
    matcher = SimilarityMatcher(
        SimilarityConfig(model="hashing"), backend=backend, embedder=HashingEmbedder(), clock=clock
    )
    manager = CacheManager(LLMCache(CacheConfig(), backend=backend, clock=clock), matcher)

    await CacheWarmer(manager, clock=clock).warm([item("how do I reset my password", "like this")])

    (match,) = await manager.find_similar("reset my password how do I")
    assert match.response == "like this"


async def test_skipped_entries_get_the_vector_that_they_lack(clock: ManualClock) -> None:
    backend = MemoryBackend(max_size=1000, clock=clock)
    cache = LLMCache(CacheConfig(), backend=backend, clock=clock)
    await CacheWarmer(CacheManager(cache), clock=clock).warm([item("how do I reset my password")])
    clock.advance(1)
    matcher = SimilarityMatcher(SimilarityConfig(), backend=backend, embedder=HashingEmbedder(), clock=clock)

    report = await CacheWarmer(CacheManager(cache, matcher), clock=clock).warm([item("how do I reset my password")])

    assert report.skipped == 1
    assert await matcher.size() == 1


@pytest.mark.parametrize("given", [{"batch_size": "x"}, {"workers": 1.5}, {"workers": True}])
def test_what_is_no_number_is_refused(cache: LLMCache, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"is no whole number from 1"):
        CacheWarmer(CacheManager(cache), **given)


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 10), (4, 0), (-1, 1)])
def test_numbers_below_one_are_refused(cache: LLMCache, workers: int, batch_size: int) -> None:
    with pytest.raises(InvalidInput, match="below 1"):
        CacheWarmer(CacheManager(cache), workers=workers, batch_size=batch_size)


async def test_nothing_to_warm_is_nothing_done(warmer: CacheWarmer) -> None:
    assert (await warmer.warm([])).total == 0
