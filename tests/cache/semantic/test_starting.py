"""A new process finds what an older one indexed: from a snapshot and the journal, or from a shared index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache_management import CacheConfig, CacheManager, LLMCache, SimilarityConfig
from cache_management.cache.backends.disk import DiskBackend
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.events import CorruptEvent, Event
from cache_management.cache.records import Record
from cache_management.cache.semantic.matcher import SimilarityMatcher
from cache_management.cache.semantic.stored_vectors import encode_vector

MANY = 1_100  # more than the changes that are worth a snapshot
HISTORY = [{"role": "user", "content": "tell me about the old mill"}]


def open_manager(folder: Path, events: list[Event] | None = None, **similarity: Any) -> CacheManager:
    """Open what a new process would."""
    cache = LLMCache(CacheConfig(disk_path=folder / "store"), listener=None if events is None else events.append)
    matcher = SimilarityMatcher(
        SimilarityConfig(**{"threshold": 0.9, "model": "hashing", "folder": folder / "vectors", **similarity}),
        backend=cache.backend,
        listener=cache.tell,
    )
    return CacheManager(cache, matcher)


async def fill(folder: Path, **similarity: Any) -> None:
    async with open_manager(folder, **similarity) as manager:
        vectors = manager.similarity_matcher
        assert vectors is not None
        await manager.lookup("wakes the follower")
        await manager.store("who owns it today in town", "the town", history=HISTORY)
        for start in range(0, MANY, 100):
            keys = [f"question {at} about thing{at}" for at in range(start, start + 100)]
            answers = {key: _answer(key) for key in keys}
            await manager.llm_cache.set_many(answers)
            await manager.index(keys)
        await manager.lookup("a last look")


def _answer(key: str) -> Any:
    from tests.cache.test_manager import response

    return response(key)


async def found(manager: CacheManager, prompt: str, **request: Any) -> str | None:
    lookup = await manager.lookup(prompt, **request)
    return lookup.kind


def forbid_reading_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(*_: object) -> None:
        raise AssertionError("everything was read")

    monkeypatch.setattr(DiskBackend, "scan", scan)


async def test_a_start_from_a_snapshot_knows_what_a_rebuilt_one_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path)
    async with open_manager(tmp_path) as writer:
        await writer.store("written after the snapshot was made", "r")
        await writer.llm_cache.delete("question 7 about thing7")
        assert writer.similarity_matcher is not None
        await writer.similarity_matcher.remove_entry("question 8 about thing8")

    forbid_reading_all(monkeypatch)
    async with open_manager(tmp_path) as manager:
        assert await found(manager, "about thing5 question 5") == "semantic"
        assert await found(manager, "after the snapshot was made, written") == "semantic"
        assert await found(manager, "about thing7 question 7") is None
        assert await found(manager, "about thing8 question 8") is None
        assert await found(manager, "today in town, who owns it", history=HISTORY) == "semantic"
        assert await found(manager, "today in town, who owns it") is None


async def test_a_torn_snapshot_is_not_trusted(tmp_path: Path) -> None:
    await fill(tmp_path)
    (file,) = (tmp_path / "vectors" / "indexes").glob("*.index")
    file.write_bytes(file.read_bytes()[:-100])

    async with open_manager(tmp_path) as manager:
        assert await found(manager, "about thing5 question 5") == "semantic"
        assert manager.similarity_matcher is not None
        assert await manager.similarity_matcher.size() == MANY + 1


async def test_a_snapshot_of_another_store_is_not_trusted(tmp_path: Path) -> None:
    await fill(tmp_path)
    (tmp_path / "store").rename(tmp_path / "older store")

    async with open_manager(tmp_path) as manager:
        assert await found(manager, "about thing5 question 5") is None
        assert manager.similarity_matcher is not None
        assert await manager.similarity_matcher.size() == 0


async def test_a_folder_that_cannot_be_written_costs_a_slower_start_only(tmp_path: Path) -> None:
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors" / "indexes").write_text("in the way")

    await fill(tmp_path)

    async with open_manager(tmp_path) as manager:
        assert await found(manager, "about thing5 question 5") == "semantic"


@pytest.mark.parametrize("fill_with", [float("nan"), 0.0, 3.0])
async def test_a_vector_that_cannot_be_compared_is_told_and_passed_over(tmp_path: Path, fill_with: float) -> None:
    events: list[Event] = []
    async with open_manager(tmp_path, events) as manager:
        await manager.store("a good question", "r")
        matcher = manager.similarity_matcher
        assert matcher is not None
        row = np.full(HashingEmbedder().dims, fill_with, dtype=np.float32)
        value = encode_vector("bad", "bad", "bad", row)
        await matcher.backend.put(matcher._vectors.id_of("bad"), Record(value, None, 1))

        assert await found(manager, "question, a good") == "semantic"

    assert any(isinstance(event, CorruptEvent) for event in events)


async def test_processes_share_one_index_in_postgresql(tmp_path: Path, postgres_url: str) -> None:
    """Each of them finds at once what the other one stored, and follows no journal."""
    from cache_management.cache.vectors.pgvector import PgVectorIndex

    here, there = (open_manager(tmp_path, index_url=postgres_url) for _ in range(2))
    try:
        await here.store("how do I reset my password", "r")
        await here.store("who owns it today in town", "the town", history=HISTORY)

        assert await found(there, "my password, how do I reset") == "semantic"
        assert await found(there, "today in town, who owns it", history=HISTORY) == "semantic"
        assert await found(there, "today in town, who owns it") is None
        assert there.similarity_matcher is not None
        assert isinstance(there.similarity_matcher.index, PgVectorIndex)

        await there.llm_cache.delete("how do I reset my password")
        assert await found(here, "my password, how do I reset") is None, "no ghost is served"
        assert here.similarity_matcher is not None
        assert await here.similarity_matcher.clear_index() == 2
        assert await found(there, "today in town, who owns it", history=HISTORY) is None
    finally:
        assert here.similarity_matcher is not None
        await here.similarity_matcher.index.drop()
        await here.aclose()
        await there.aclose()


async def test_a_shared_index_that_is_away_leaves_exact_answers(tmp_path: Path) -> None:
    async with open_manager(tmp_path, index_url="postgresql://nobody@127.0.0.1:1/none") as manager:
        await manager.store("q", "r")

        assert await found(manager, "q") == "exact"
        assert (await manager.lookup("another")).reason == "degraded"
