from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from cache_management.cache.backends import disk_tables, memory
from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.backends.disk import DiskBackend
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.backends.redis import RedisBackend
from cache_management.cache.config import CacheConfig, SimilarityConfig
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.errors import BackendUnavailable, ConfigurationError, InvalidInput
from cache_management.cache.events import CorruptEvent, Event, RemoveEvent, UnavailableEvent, VetoEvent
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.cache.records import Record
from cache_management.cache.semantic import follow
from cache_management.cache.semantic.matcher import Indexable, SimilarityMatcher
from cache_management.cache.semantic.stored_vectors import journal_name
from cache_management.cache.values import CachedResponse
from tests.contracts.broken import BreakableBackend
from tests.contracts.clock import ManualClock

PATIENT_SECONDS = 20.0
DAY = 24 * 3600
QUESTION = "how do I reset my password"
REPHRASED = "reset my password, how do I"

WORDS = ["alpha", "beta", "gamma", "delta", "kappa", "omega", "sigma"]


class ShortSighted(HashingEmbedder):
    """Reads forty characters, as a real model reads some hundred words."""

    def fits(self, text: str) -> bool:
        return len(text) <= 40


def response(prompt: str, text: str) -> CachedResponse:
    return CachedResponse(prompt=prompt, response=text, model="gpt-4", timestamp=datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def heard() -> list[Event]:
    return []


@pytest.fixture(autouse=True)
def look_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_EVERY_SECONDS", 0.0)


@pytest.fixture
def backend(clock: ManualClock) -> MemoryBackend:
    return MemoryBackend(max_size=10_000, clock=clock)


def matcher_on(backend: Backend, *, dims: int = 64, **options: Any) -> SimilarityMatcher:
    config = SimilarityConfig(**options.pop("config", {}))
    return SimilarityMatcher(config, backend=backend, embedder=HashingEmbedder(dims), **options)


def manager_on(backend: Backend, clock: ManualClock | None = None, **options: Any) -> CacheManager:
    timing = {} if clock is None else {"clock": clock}
    cache = LLMCache(CacheConfig(ttl_seconds=DAY), backend=backend, **timing)
    return CacheManager(cache, matcher_on(backend, **timing, **options))


async def found_by(matcher: SimilarityMatcher | CacheManager, query: str = REPHRASED, **options: Any) -> list[str]:
    return [match.response for match in await matcher.find_similar(query, **options)]


# a writer and a reader, each with a backend of its own


@pytest.fixture(params=["memory", "disk", "redis"])
async def open_store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[Callable[[], Backend]]:
    opened: list[Backend] = []
    shared = MemoryBackend(max_size=10_000, clock=clock)
    url = request.getfixturevalue("redis_url") if request.param == "redis" else ""

    def open_it() -> Backend:
        backend: Backend
        if request.param == "memory":
            backend = shared
        elif request.param == "disk":
            backend = DiskBackend(
                tmp_path, max_size=10_000, size_limit_bytes=10**9, timeout_seconds=PATIENT_SECONDS, clock=clock
            )
        else:
            backend = RedisBackend(CacheConfig(url=url, timeout_seconds=PATIENT_SECONDS), clock=clock)
        opened.append(backend)
        return backend

    yield open_it
    for backend in opened:
        await backend.aclose()


@pytest.fixture
def writer(open_store: Callable[[], Backend], clock: ManualClock) -> CacheManager:
    return manager_on(open_store(), clock)


@pytest.fixture
def reader(open_store: Callable[[], Backend], clock: ManualClock) -> CacheManager:
    return manager_on(open_store(), clock)


async def test_reader_finds_what_another_writes_meanwhile(writer: CacheManager, reader: CacheManager) -> None:
    before = await found_by(reader)

    await writer.set_llm_cache("key", response(QUESTION, "like this"))
    (match,) = await reader.find_similar(REPHRASED)

    assert before == []
    assert (match.response, match.prompt, match.key, match.vetoes) == ("like this", QUESTION, "key", ())
    assert match.score == pytest.approx(1.0, abs=1e-6)


async def test_reader_that_starts_later_finds_what_was_there(
    writer: CacheManager, open_store: Callable[[], Backend], clock: ManualClock
) -> None:
    for at in range(20):
        await writer.set_llm_cache(f"key{at}", response(f"{QUESTION} {chr(97 + at)}{chr(97 + at)}", str(at)))

    late = manager_on(open_store(), clock)

    assert await late.similarity_matcher.size() == 20  # type: ignore[union-attr]


async def test_deleted_entry_is_never_returned(writer: CacheManager, reader: CacheManager) -> None:
    await writer.set_llm_cache("key", response(QUESTION, "like this"))
    assert await found_by(reader) == ["like this"]

    await writer.llm_cache.delete("key")

    assert await found_by(reader) == []
    assert await found_by(writer) == []


async def test_expired_entry_is_never_returned(writer: CacheManager, reader: CacheManager, clock: ManualClock) -> None:
    await writer.set_llm_cache("key", response(QUESTION, "like this"), ttl_seconds=60)
    assert await found_by(reader) == ["like this"]

    clock.advance(60)

    assert await found_by(reader) == []


async def test_replaced_entry_is_found_with_its_new_answer(writer: CacheManager, reader: CacheManager) -> None:
    await writer.set_llm_cache("key", response(QUESTION, "old"))
    assert await found_by(reader) == ["old"]

    await writer.set_llm_cache("key", response(QUESTION, "new"))

    assert await found_by(reader) == ["new"]


async def test_answer_to_another_prompt_is_not_found_by_the_old_one(writer: CacheManager, reader: CacheManager) -> None:
    await writer.set_llm_cache("key", response(QUESTION, "about passwords"))
    assert await found_by(reader) == ["about passwords"]

    # Without its vector being renewed, as by an application that writes to the LLMCache alone.
    await writer.llm_cache.set("key", response("where are my invoices", "about invoices"))

    assert await found_by(reader) == []


async def test_moved_expiry_moves_for_the_vector_too(
    writer: CacheManager, reader: CacheManager, clock: ManualClock
) -> None:
    await writer.set_llm_cache("key", response(QUESTION, "like this"), ttl_seconds=60)
    await writer.set_llm_cache("key", response(QUESTION, "like this"), ttl_seconds=600)

    clock.advance(120)

    assert await found_by(reader) == ["like this"]


async def test_removed_vector_is_forgotten_by_every_reader(writer: CacheManager, reader: CacheManager) -> None:
    await writer.set_llm_cache("key", response(QUESTION, "like this"))
    assert await found_by(reader) == ["like this"]
    assert writer.similarity_matcher is not None

    assert await writer.similarity_matcher.remove_entry("key") is True

    assert reader.similarity_matcher is not None
    assert await reader.similarity_matcher.size() == 0
    assert await found_by(reader) == []
    assert await writer.similarity_matcher.remove_entry("key") is False
    assert await writer.get_llm_cache("key") is not None


async def test_cleared_index_is_empty_for_every_reader(writer: CacheManager, reader: CacheManager) -> None:
    await writer.set_llm_cache("key", response(QUESTION, "like this"))
    assert await found_by(reader) == ["like this"]
    assert writer.similarity_matcher is not None

    assert await writer.similarity_matcher.clear_index() == 1

    assert await found_by(reader) == []
    assert await writer.similarity_matcher.clear_index() == 0


async def test_reader_after_a_journal_gap_reads_everything_again(
    writer: CacheManager,
    reader: CacheManager,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setattr(disk_tables, "NOTES_KEPT", 5)
    await writer.set_llm_cache("first", response("a first question", "1"))
    assert await found_by(reader, "a first question") == ["1"]
    backend = writer.llm_cache.backend
    assert isinstance(backend, Journal)

    await writer.set_llm_cache("key", response(QUESTION, "like this"))
    stream = journal_name("default")
    if backend.name == "memory":
        monkeypatch.setattr(memory, "_JOURNAL_LENGTH", 5)
        short = memory._Stream()
        short.add(backend._streams[stream].items)  # type: ignore[attr-defined]
        backend._streams[stream] = short  # type: ignore[attr-defined]
    await backend.append(stream, [b"another namespace's key"] * 20)
    if backend.name == "redis":
        with redis.Redis.from_url(request.getfixturevalue("redis_url")) as client:
            client.xtrim(stream, maxlen=1, approximate=False)

    assert await found_by(reader) == ["like this"]
    assert await found_by(reader, "a first question") == ["1"]


async def test_reader_after_a_lost_store_forgets_what_is_gone(
    writer: CacheManager, reader: CacheManager, clock: ManualClock, request: pytest.FixtureRequest
) -> None:
    await writer.set_llm_cache("key", response(QUESTION, "like this"))
    assert await found_by(reader) == ["like this"]
    backend = writer.llm_cache.backend

    await backend.delete_many([key async for key in backend.scan()])

    assert await found_by(reader) == []


# what is stored, and what is not


async def test_vectors_of_another_model_are_never_compared(backend: MemoryBackend) -> None:
    await matcher_on(backend, dims=64).index_entry(QUESTION, "of the small model")
    await matcher_on(backend, dims=128).index_entry(QUESTION, "of the large model")

    assert await found_by(matcher_on(backend, dims=64)) == ["of the small model"]
    assert await found_by(matcher_on(backend, dims=128)) == ["of the large model"]
    assert await found_by(matcher_on(backend, dims=32)) == []


async def test_namespaces_never_match_each_other(backend: MemoryBackend) -> None:
    await matcher_on(backend, config={"namespace": "ours"}).index_entry(QUESTION, "ours")

    assert await found_by(matcher_on(backend, config={"namespace": "our"})) == []
    assert await found_by(matcher_on(backend, config={"namespace": "ours"})) == ["ours"]


async def test_entry_that_stands_alone_needs_no_cache() -> None:
    matcher = matcher_on(MemoryBackend(max_size=10))

    await matcher.index_entry(QUESTION, "like this")
    await matcher.index_entry(QUESTION, "or like this", key="other")

    assert sorted(await found_by(matcher)) == ["like this", "or like this"]


async def test_entry_indexed_again_is_replaced(backend: MemoryBackend) -> None:
    matcher = matcher_on(backend)

    await matcher.index_entry(QUESTION, "old")
    await matcher.index_entry(QUESTION, "new")

    assert await found_by(matcher) == ["new"]
    assert await matcher.size() == 1


async def test_entry_that_stands_alone_expires(backend: MemoryBackend, clock: ManualClock) -> None:
    matcher = matcher_on(backend, clock=clock)
    await matcher.index_entry(QUESTION, "like this", ttl_seconds=60)
    await matcher.index_entry(QUESTION + " please", "for ever", ttl_seconds=-1)

    clock.advance(60)

    assert await found_by(matcher) == ["for ever"]


@pytest.mark.parametrize("ttl", [0, -5])
async def test_ttl_that_means_nothing_is_refused(backend: MemoryBackend, ttl: int) -> None:
    with pytest.raises(InvalidInput, match="ttl_seconds"):
        await matcher_on(backend).index_entry(QUESTION, "like this", ttl_seconds=ttl)


@pytest.mark.parametrize("prompt", ["", "  \n"])
async def test_empty_prompt_cannot_be_indexed_and_finds_nothing(backend: MemoryBackend, prompt: str) -> None:
    matcher = matcher_on(backend)
    await matcher.index_entry(QUESTION, "like this")

    with pytest.raises(InvalidInput, match="empty prompt"):
        await matcher.index_entry(prompt, "nothing")
    assert await matcher.find_similar(prompt, threshold=-1) == []


async def test_text_that_the_model_cannot_read_whole_is_exact_only(backend: MemoryBackend) -> None:
    long = QUESTION * 5
    matcher = SimilarityMatcher(backend=backend, embedder=ShortSighted())
    cache = LLMCache(backend=backend)
    await cache.set_many({"long": response(long, "long"), "short": response(QUESTION, "short")})

    report = await CacheManager(cache, matcher).index(["long", "short"])

    assert (report.added, report.unchanged, report.too_long) == (1, 0, 1)
    assert await matcher.find_similar(long, threshold=-1) == []
    assert await found_by(matcher) == ["short"]
    with pytest.raises(InvalidInput, match="longer than hashing reads"):
        await matcher.index_entry(long, "long")


async def test_known_texts_are_not_embedded_again(backend: MemoryBackend) -> None:
    matcher = matcher_on(backend)
    entries = [Indexable("a", "question a", None), Indexable("b", "question b", None)]

    first = await matcher.index_entries(entries)
    again = await matcher.index_entries([*entries, Indexable("c", "question c", None)])
    changed = await matcher.index_entries([Indexable("a", "another question", None)])

    assert [(each.added, each.unchanged) for each in (first, again, changed)] == [(2, 0), (1, 2), (1, 0)]


# thresholds and limits


async def test_identical_text_reaches_threshold_one(backend: MemoryBackend) -> None:
    matcher = matcher_on(backend)
    texts = [
        f"question about {word} and {word[::-1]}"
        for word in ["alpha", "beta", "gamma", "delta", "kappa", "omega", "sigma"]
    ]
    for text in texts:
        await matcher.index_entry(text, text)

    for text in texts:
        assert await found_by(matcher, text, threshold=1) == [text]


async def test_thresholds_are_taken_literally(backend: MemoryBackend) -> None:
    matcher = matcher_on(backend, config={"threshold": 1.0})
    vectors = {"same": 1.0, "near": 0.5, "right angle": 0.25, "away": -0.5, "opposite": -1.0}
    (query,) = await HashingEmbedder().embed([QUESTION])
    other = np.roll(query, 1) - query * float(np.roll(query, 1) @ query)
    other /= np.linalg.norm(other)
    for name, cosine in vectors.items():
        row = (cosine * query + (1 - cosine**2) ** 0.5 * other).astype(np.float32)
        await matcher._put([Indexable(name, name, None)], row[None, :], response=name)

    assert await found_by(matcher, QUESTION) == ["same"]
    assert await found_by(matcher, QUESTION, threshold=0) == ["same", "near", "right angle"]
    assert await found_by(matcher, QUESTION, threshold=-1) == list(vectors)
    assert await found_by(matcher, QUESTION, threshold=-1, limit=2) == ["same", "near"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"threshold": 1.5}, "threshold 1.5"),
        ({"threshold": -1.5}, "threshold -1.5"),
        ({"threshold": float("nan")}, "threshold nan"),
        ({"limit": 0}, "limit 0 is below 1"),
    ],
)
async def test_meaningless_arguments_are_refused(backend: MemoryBackend, options: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        await matcher_on(backend).find_similar(QUESTION, **options)


async def test_best_matches_come_first_and_no_more_than_asked(backend: MemoryBackend) -> None:
    matcher = matcher_on(backend)
    for extra in range(30):
        await matcher.index_entry(f"{QUESTION}{' please' * extra}", str(extra))

    matches = await matcher.find_similar(QUESTION, threshold=0, limit=7)

    scores = [match.score for match in matches]
    assert len(matches) == 7
    assert scores == sorted(scores, reverse=True)
    assert matches[0].response == "0"


async def test_vanished_entries_do_not_hide_those_behind_them(backend: MemoryBackend) -> None:
    manager = manager_on(backend)
    for at in range(40):
        await manager.set_llm_cache(f"near{at}", response(f"{QUESTION} {'x' * at}", "near"))
    await manager.set_llm_cache("far", response("reset my other password", "far"))
    await manager.llm_cache.delete_many([f"near{at}" for at in range(40)])

    assert await found_by(manager, QUESTION, threshold=0.2, limit=1) == ["far"]


# vetoes


async def test_refused_candidates_are_listed_with_their_vetoes(backend: MemoryBackend, heard: list[Event]) -> None:
    matcher = matcher_on(backend, listener=heard.append)
    await matcher.index_entry("hotels within 10 miles of the station", "near ones")

    (match,) = await matcher.find_similar("hotels not within 100 miles of the station", threshold=0.5)

    assert match.vetoes == ("number", "polarity")
    assert heard == [VetoEvent("number", "default"), VetoEvent("polarity", "default")]


# failures


async def test_corrupt_vector_is_skipped_with_an_event(backend: MemoryBackend, heard: list[Event]) -> None:
    writer = matcher_on(backend)
    await writer.index_entry(QUESTION, "like this")
    await writer.index_entry(QUESTION + " please", "or this")
    bad = await anext(aiter(backend.scan("cm1:vec:")))
    await backend.put(bad, Record(value=b"garbage", expires_at=None, version=9))

    found = await found_by(matcher_on(backend, listener=heard.append))

    assert len(found) == 1
    assert {event.storage_key for event in heard if isinstance(event, CorruptEvent)} == {bad}


async def test_corrupt_entry_is_not_served(backend: MemoryBackend, heard: list[Event]) -> None:
    manager = manager_on(backend, listener=heard.append)
    await manager.set_llm_cache("key", response(QUESTION, "like this"))
    await backend.put("cm1:llm:default:kkey", Record(value=b"\x00garbage", expires_at=None, version=9))

    assert await found_by(manager) == []
    assert CorruptEvent in [type(event) for event in heard]


async def test_store_that_is_down_finds_nothing_and_tells(heard: list[Event]) -> None:
    backend = BreakableBackend(up=True)
    matcher = matcher_on(backend, listener=heard.append)
    await matcher.index_entry(QUESTION, "like this")
    backend.up = False

    assert await found_by(matcher) == []
    with pytest.raises(BackendUnavailable):
        await matcher.index_entry(QUESTION, "like this")

    assert heard == [UnavailableEvent("breakable", "find_similar", "a test broke it")]
    backend.up = True
    assert await found_by(matcher) == ["like this"]


async def test_clearing_tells_how_many_went(backend: MemoryBackend, heard: list[Event]) -> None:
    matcher = matcher_on(backend, listener=heard.append)
    await matcher.index_entry(QUESTION, "like this")

    await matcher.clear_index()

    assert heard == [RemoveEvent("delete", "default", 1, of_entries=False)]


async def test_backend_without_a_journal_is_refused() -> None:
    class NoJournal(Backend):
        name = "plain"
        get_many = put_many = delete_many = ping = aclose = scan = None  # type: ignore[assignment]

    with pytest.raises(ConfigurationError, match="plain backend keeps no journal"):
        SimilarityMatcher(backend=NoJournal(), embedder=HashingEmbedder())


async def test_closed_matcher_can_be_used_again(backend: MemoryBackend) -> None:
    matcher = matcher_on(backend)
    await matcher.index_entry(QUESTION, "like this")

    await matcher.aclose()

    assert await found_by(matcher) == ["like this"]


@pytest.mark.parametrize(("cache_embeddings", "runs"), [(True, 1), (False, 2)])
async def test_embeddings_are_cached_unless_told_otherwise(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch, cache_embeddings: bool, runs: int
) -> None:
    seen: list[str] = []
    embed = HashingEmbedder.embed

    async def counted(self: HashingEmbedder, texts: Sequence[str]) -> Any:
        seen.extend(texts)
        return await embed(self, texts)

    monkeypatch.setattr(HashingEmbedder, "embed", counted)
    matcher = matcher_on(backend, config={"cache_embeddings": cache_embeddings})
    for _ in range(2):
        await matcher.find_similar(QUESTION)

    assert len(seen) == runs


async def test_journal_is_not_read_at_every_search(backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_EVERY_SECONDS", 3600.0)
    reader = matcher_on(backend)
    assert await found_by(reader) == []

    await matcher_on(backend).index_entry(QUESTION, "like this")

    assert await found_by(reader) == []


async def test_an_answer_replaced_behind_the_index_is_scored_by_its_new_prompt(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_EVERY_SECONDS", 3600.0)
    writer, reader = matcher_on(backend), matcher_on(backend)
    await writer.index_entry(QUESTION, "Use the link.", key="k")
    assert await found_by(reader) == ["Use the link."]

    await writer.index_entry("what is the capital of France", "Paris", key="k")

    assert await found_by(reader) == []


class Interruptible(MemoryBackend):
    """Stops at a note until it may go on."""

    def __init__(self) -> None:
        super().__init__(max_size=100)
        self.reached, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def append(self, stream: str, items: Sequence[bytes]) -> str:
        self.reached.set()
        await self.may_go_on.wait()
        return await super().append(stream, items)


async def test_a_writer_cancelled_between_vector_and_note_tells_the_readers_all_the_same() -> None:
    backend = Interruptible()
    reader, writer = matcher_on(backend), matcher_on(backend)
    assert await found_by(reader) == []
    writing = asyncio.create_task(writer.index_entry(QUESTION, "Use the link."))
    await backend.reached.wait()

    writing.cancel()
    await asyncio.sleep(0)
    backend.may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing

    assert await found_by(reader) == ["Use the link."]


async def test_a_process_that_only_writes_keeps_no_vectors(backend: MemoryBackend) -> None:
    writer = matcher_on(backend)

    await writer.index_entry(QUESTION, "r")

    assert await writer.index.size() == 0
    assert await found_by(writer) == ["r"]


async def test_vectors_of_expired_entries_do_not_pile_up(
    backend: MemoryBackend, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_SLACK", 50)
    matcher = matcher_on(backend, clock=clock)
    for at in range(500):
        await matcher.index_entry(f"{WORDS[at % 7]} number {at}", "r", ttl_seconds=60)
        await matcher.find_similar("nothing like it", threshold=0.999)
        clock.advance(10)

    assert await matcher.index.size() < 120


@pytest.mark.parametrize("text", ["half a face \ud83d"])
async def test_text_that_is_no_unicode_is_invalid_input(backend: MemoryBackend, text: str) -> None:
    with pytest.raises(InvalidInput, match="not valid Unicode"):
        await matcher_on(backend).index_entry(text, "r")


async def test_a_listener_that_raises_harms_no_search(backend: MemoryBackend) -> None:
    def broken(event: Event) -> None:
        raise KeyError(event)

    matcher = matcher_on(backend, listener=broken)
    await matcher.index_entry("is it safe here", "yes")

    (match,) = await matcher.find_similar("is it not safe here", threshold=0.5)

    assert match.vetoes == ("polarity",)
