"""What is not to be kept goes, on every store, and what was stored after the work began stays."""

from __future__ import annotations

import asyncio
import string
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache_management.cache.backends.disk import DiskBackend
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.backends.redis import RedisBackend
from cache_management.cache.backends.wrapped import FullBackend, WrappedBackend
from cache_management.cache.config import CacheConfig, SimilarityConfig
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.errors import ConfigurationError, InvalidInput
from cache_management.cache.events import Event, RemoveEvent
from cache_management.cache.invalidation import Selection
from cache_management.cache.llm import LLMCache
from cache_management.cache.records import Indexable
from cache_management.cache.semantic.matcher import SimilarityMatcher
from cache_management.cache.sweeping import Place, Sweeping, Wanted, summary_of
from cache_management.cache.values import CachedResponse
from tests.contracts.clock import ManualClock, remove_expired

LONG = "a long prompt " * 40


def answer(model: str = "gpt-4") -> CachedResponse:
    return CachedResponse(prompt="p", response="r", model=model, timestamp=datetime.now(UTC))


class Store:
    """A cache on one store, with a clock that stands still."""

    def __init__(self, backend: FullBackend, clock: ManualClock, *, redis_url: str = "", **config: Any) -> None:
        self.redis_url = redis_url
        self.samples: dict[str, list[str]] = {}
        self.heard: list[Event] = []
        self.clock = clock
        self.backend = backend
        self.cache = LLMCache(CacheConfig(**config), backend=backend, clock=clock, listener=self.heard.append)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        if self.redis_url:
            remove_expired(self.redis_url, self.clock)

    def with_config(self, **config: Any) -> Store:
        return Store(self.backend, self.clock, **config)

    async def sweep(
        self,
        wanted: Wanted,
        *,
        dry: bool = False,
        limit: int = 7,
        between: Callable[[Place], Awaitable[None]] | None = None,
    ) -> Place:
        """Do the work in small pages; every place goes through JSON, as a job's does."""
        doing = Sweeping(self.cache, dry=dry, sleep=self._pass)
        place = doing.begin(wanted)
        while place.step != "done":
            place = msgspec.json.decode(
                msgspec.json.encode(await doing.advance(place, wanted, limit=limit)), type=Place
            )
            if between is not None:
                await between(place)
        self.samples = doing.samples
        return place

    async def _pass(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def removed(self) -> int:
        return sum(event.count for event in self.heard if isinstance(event, RemoveEvent))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "disk", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    backend: FullBackend
    url = ""
    if request.param == "memory":
        backend = MemoryBackend(max_size=1000, clock=clock)
    elif request.param == "disk":
        backend = DiskBackend(tmp_path, max_size=1000, size_limit_bytes=10**9, timeout_seconds=5, clock=clock)
    else:
        url = request.getfixturevalue("redis_url")
        backend = RedisBackend(CacheConfig(url=url, timeout_seconds=20), clock=clock)
    yield Store(backend, clock, redis_url=url)
    await backend.aclose()


async def fill(store: Store) -> None:
    cache = store.cache
    await cache.set("user_1_a", answer(), tags=["news", "user 1"])
    await cache.set("user_1_b", answer("claude"), tags=["news"])
    store.clock.advance(100)
    await cache.set("user_2_a", answer())
    await cache.set(LONG, answer("claude"), tags=["user 1"])
    store.clock.advance(1)


@pytest.mark.parametrize(
    ("selection", "goes"),
    [
        (Selection(pattern="user_1_*"), {"user_1_a", "user_1_b"}),
        (Selection(pattern="*prompt*"), {LONG}),
        (Selection(regex=r"_\d_a$"), {"user_1_a", "user_2_a"}),
        (Selection(older_than_seconds=50), {"user_1_a", "user_1_b"}),
        (Selection(tag="news"), {"user_1_a", "user_1_b"}),
        (Selection(tag="user 1", model="claude"), {LONG}),
        (Selection(model="claude", older_than_seconds=50), {"user_1_b"}),
        (Selection(tag="unknown"), set()),
        (Selection(everything=True), {"user_1_a", "user_1_b", "user_2_a", LONG}),
    ],
)
async def test_a_plan_counts_what_the_work_then_removes(store: Store, selection: Selection, goes: set[str]) -> None:
    await fill(store)
    everything = set(await store.cache.list_keys())

    plan = await store.sweep(Wanted(selection=selection), dry=True)
    sample = set(store.samples.get("chosen", ()))
    assert set(await store.cache.list_keys()) == everything
    done = await store.sweep(Wanted(selection=selection))

    assert set(await store.cache.list_keys()) == everything - goes
    assert (plan.total.entries, done.total.entries) == (len(goes), len(goes))
    assert plan.total.size_bytes == done.total.size_bytes
    assert (plan.total.size_bytes > 0) == bool(goes)
    assert sample == goes
    assert store.removed() == len(goes)
    if selection.tag is not None or selection.model is not None:  # else their tags were not read
        noted = await store.backend.tagged("cm1:tag:default:news")
        assert len(noted) == len({"user_1_a", "user_1_b"} - goes)


async def test_what_is_stored_or_written_anew_meanwhile_stays_and_is_counted(store: Store) -> None:
    for at in range(40):
        await store.cache.set(f"old {at}", answer(), tags=["t"])
    store.clock.advance(1)
    wanted = Wanted(selection=Selection(tag="t"), before=None)
    first = Sweeping(store.cache).begin(wanted)
    wanted = msgspec.structs.replace(wanted, before=first.before)
    store.clock.advance(1)

    async def write(place: Place) -> None:
        if place.looked and not await store.cache.exists("new"):
            await store.cache.set("new", answer(), tags=["t"])

    await store.cache.set("old 3", answer("newer"), tags=["t"])
    done = await store.sweep(wanted, between=write)

    assert sorted(await store.cache.list_keys()) == ["new", "old 3"]
    assert done.total.entries == 39
    assert 1 <= done.kept <= 2
    assert sorted(await store.backend.tagged("cm1:tag:default:t")) == ["cm1:llm:default:knew", "cm1:llm:default:kold 3"]


class Hasty(WrappedBackend):
    """Lets somebody write in the moment before entries are deleted."""

    def __init__(self, inner: FullBackend, write: Callable[[], Awaitable[None]]) -> None:
        super().__init__(inner)
        self.write = write

    async def delete_older(self, keys: Sequence[str], version: int) -> list[str]:
        await self.write()
        return await self.inner.delete_older(keys, version)


async def test_an_entry_that_is_written_between_the_look_and_the_deletion_stays(store: Store) -> None:
    await store.cache.set("a", answer("old"))
    await store.cache.set("b", answer("old"))

    async def write() -> None:
        store.clock.advance(5)
        await store.cache.set("a", answer("new"))

    hasty = Store(Hasty(store.backend, write), store.clock)
    done = await hasty.sweep(Wanted(selection=Selection(everything=True)))

    found = await store.cache.get("a")
    assert found is not None
    assert found.model == "new"
    assert (done.total.entries, done.kept) == (1, 1)
    assert await store.cache.list_keys() == ["a"]


async def test_what_is_computed_while_a_selection_goes_is_not_stored(store: Store) -> None:
    started, may_end = asyncio.Event(), asyncio.Event()

    async def compute() -> str:
        started.set()
        await may_end.wait()
        return "computed from what was there before"

    asking = asyncio.create_task(store.cache.get_or_compute("user_1_c", compute, tags=["news"]))
    await started.wait()
    await store.sweep(Wanted(selection=Selection(tag="news")))
    may_end.set()

    assert (await asking).response == "computed from what was there before"
    assert not await store.cache.exists("user_1_c")


async def test_expired_entries_that_the_store_still_holds_go(store: Store) -> None:
    for at in range(30):
        await store.cache.set(f"short {at}", answer(), 10)
        await store.cache.set(f"long {at}", answer(), 1000)
    store.pass_time(20)

    plan = await store.sweep(Wanted(expired=True), dry=True)
    done = await store.sweep(Wanted(expired=True))

    held = 0 if isinstance(store.backend, RedisBackend) else 30  # that server drops them by itself
    assert (plan.total.entries, done.total.entries) == (held, held)
    assert len(await store.cache.list_keys()) == 30


async def test_stale_entries_go_when_they_are_kept_longer_than_is_asked_for_now(store: Store) -> None:
    generous = store.with_config(stale_if_error_seconds=1000)
    for name in ("early", LONG):
        await generous.cache.set(name, answer(), 10)
    store.clock.advance(60)
    await generous.cache.set("late", answer(), 10)
    await generous.cache.set("lasting", answer(), 5000)
    store.clock.advance(20)

    as_configured = await generous.sweep(Wanted(leftovers=True))
    stricter = await store.with_config(stale_while_revalidate_seconds=30).sweep(Wanted(leftovers=True))
    plan = await generous.sweep(Wanted(stale=True), dry=True)
    by_force = await generous.sweep(Wanted(stale=True))

    assert as_configured.total.entries == 0
    assert summary_of(stricter)["stale"] == 2
    assert (plan.total.entries, by_force.total.entries) == (1, 1)
    assert await store.cache.list_keys() == ["lasting"]


@pytest.mark.keeps_keys
async def test_names_under_tags_go_when_their_entry_is_gone_at_two_looks(store: Store) -> None:
    for at in range(30):
        await store.cache.set(f"entry {at}", answer(), -1, tags=["common", f"own {at}"])
    for at in range(0, 30, 2):
        await store.cache.delete(f"entry {at}")
    # A writer that has noted the tag, and stores the entry a moment later.
    await store.backend.add_tags({"cm1:tag:default:common": {"cm1:llm:default:kcoming": None}})

    async def store_it(seconds: float) -> None:
        await store.cache.set("coming", answer(), -1, tags=["common"])

    plan = await store.sweep(Wanted(leftovers=True), dry=True)
    doing = Sweeping(store.cache, sleep=store_it)
    wanted = Wanted(leftovers=True)
    place = doing.begin(wanted)
    while place.step != "done":
        place = await doing.advance(place, wanted, limit=1000)

    assert (plan.names, place.names) == (31, 30)
    left = await store.backend.tagged("cm1:tag:default:common")
    assert len(left) == 16
    assert "cm1:llm:default:kcoming" in left
    tags, _ = await store.backend.tags_page("cm1:tag:default:", "", 1000)
    assert len(set(tags)) == 16
    await store.cache.delete_pattern("*")


@pytest.mark.keeps_keys
async def test_vectors_go_when_their_entry_is_gone_and_readers_are_told(store: Store) -> None:
    matcher = SimilarityMatcher(SimilarityConfig(model="hashing"), backend=store.backend, embedder=HashingEmbedder(64))
    for at in range(20):
        await matcher.index_entry(f"question number {at}", "r")
    names = [f"of an entry {at}" for at in range(5)]
    for name in names:
        await store.cache.set(name, answer())
    report = await matcher.index_entries([Indexable(name, name, store.clock() + 3600) for name in names])
    assert report.added == 5
    for at in range(3):
        await store.cache.delete(f"of an entry {at}")
    before = await store.backend.tail("cm1:log:default:vectors")
    store.clock.advance(60)  # the matcher has a clock of its own

    plan = await store.sweep(Wanted(leftovers=True), dry=True)
    done = await store.sweep(Wanted(leftovers=True))

    assert (plan.found["vectors"].entries, done.found["vectors"].entries) == (3, 3)
    told, _ = await store.backend.read_after("cm1:log:default:vectors", before, limit=100)
    assert len(told) == 3
    assert await store.backend.count("cm1:vec:default:") == 22, "what stands alone has no entry and stays"
    await matcher.aclose()


async def test_a_slow_regular_expression_removes_nothing_in_a_plan(store: Store) -> None:
    await store.cache.set("a" * 40 + "!", answer())

    with pytest.raises(InvalidInput, match="takes too long"):
        await store.sweep(Wanted(selection=Selection(regex=r"(a|aa|a?)+$")), dry=True)

    assert len(await store.cache.list_keys()) == 1


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(selection=Selection()), Wanted(selection=Selection(regex="("))])
async def test_what_says_nothing_is_refused(wanted: Wanted) -> None:
    cache = LLMCache(CacheConfig(url="memory://"))

    with pytest.raises(InvalidInput):
        Sweeping(cache).begin(wanted)


async def test_a_store_of_ones_own_says_that_it_cannot_be_swept() -> None:
    class Own(MemoryBackend):
        pass

    class Foreign:
        name = "foreign"

    with pytest.raises(ConfigurationError, match="foreign"):
        Sweeping(LLMCache(CacheConfig(url="memory://"), backend=Foreign()))  # type: ignore[arg-type]
    Sweeping(LLMCache(CacheConfig(url="memory://"), backend=Own(max_size=1)))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_work_that_dies_anywhere_and_is_repeated_removes_the_same(tmp_path: Path, data: st.DataObject) -> None:
    """A model: every step may happen and its note be lost; writers store meanwhile."""
    clock = ManualClock()
    store = Store(MemoryBackend(max_size=1000, clock=clock), clock)
    old = {f"{data.draw(st.sampled_from(string.ascii_lowercase))}{at}" for at in range(data.draw(st.integers(0, 40)))}
    for key in old:
        await store.cache.set(key, answer())
    clock.advance(1)
    wanted = Wanted(selection=Selection(pattern="[a-m]*"))
    doing = Sweeping(store.cache, sleep=store._pass)
    place = doing.begin(wanted)
    clock.advance(1)
    new: set[str] = set()
    for _ in range(1000):
        if place.step == "done":
            break
        behind = await doing.advance(place, wanted, limit=data.draw(st.integers(1, 9)))
        if data.draw(st.booleans()):
            key = f"{data.draw(st.sampled_from('akz'))}{data.draw(st.integers(0, 40))}"
            await store.cache.set(key, answer())
            new.add(key)
        if data.draw(st.integers(0, 3)) < 3:
            place = behind

    assert set(await store.cache.list_keys()) == {key for key in old if key[0] > "m"} | new
    assert place.total.entries <= len(old)
