"""Reasoning goes from cache to cache whole: steps, results, samples and who used which; nothing newer is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management import CacheConfig, ReasoningCache, ReasoningResult
from cache_management.cache.errors import InvalidInput
from cache_management.cache.identity import storage_prefix
from cache_management.cache.invalidation import Selection
from cache_management.cache.reasoning.book import Book
from cache_management.cache.reasoning.holdings import holdings_of
from cache_management.cache.reasoning.merging import merge
from cache_management.cache.reasoning_transfer import ReasoningShelf
from cache_management.cache.transfer.exporting import Exporter, ExportPlace, ExportWanted, new_export_id
from cache_management.cache.transfer.importing import Importer, ImportWanted
from cache_management.cache.transfer.stream_files import StreamReader
from cache_management.cache.transfer.tally import Tally
from tests.cache.reasoning.results import chain, results, small_tree
from tests.cache.reasoning.test_book import again, put, read
from tests.contracts.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def source(clock: ManualClock) -> AsyncIterator[ReasoningCache]:
    async with ReasoningCache(CacheConfig(url="memory://"), clock=clock) as cache:
        yield cache


@pytest.fixture
async def target(clock: ManualClock, redis_url: str) -> AsyncIterator[ReasoningCache]:
    async with ReasoningCache(CacheConfig(url=redis_url, ttl_seconds=3600), clock=clock) as cache:
        yield cache


async def export(cache: ReasoningCache, file: Path, pattern: str | None = None) -> ExportPlace:
    wanted = ExportWanted(file, "test", pattern=pattern)
    place = ExportPlace(new_export_id())
    exporter = Exporter(ReasoningShelf(cache), wanted, export_id=place.id)
    while place.step != "done":
        place = await exporter.advance(place)
    return place


async def bring_in(cache: ReasoningCache, file: Path, *, replace: bool = False) -> Tally:
    reader = StreamReader(file, entry_limit_bytes=cache.config.max_entry_bytes)
    importer = Importer(ReasoningShelf(cache), reader, ImportWanted(replace=replace), where=str(file))
    place = importer.begin()
    try:
        while place.step != "done":
            place = await importer.advance(place)
    finally:
        importer.close()
    return place.tally


async def test_all_that_is_known_comes_over(
    source: ReasoningCache, target: ReasoningCache, clock: ManualClock, tmp_path: Path
) -> None:
    await source.set("a chain", chain("a", "b", model="m"), ttl_seconds=600, tags=["t"])
    await source.set("a tree", small_tree(), ttl_seconds=600)
    root = source.root("a game", model="m")
    await source.append(root, ["by itself"], score=0.5, tokens=10, is_final=True, answer="42")
    taken = await source.take(root, 2, namespace="run")
    await source.offer(taken, ["x", "x"])
    file = tmp_path / "reasoning.jsonl.zst"
    clock.advance(10)

    written = await export(source, file)
    tally = await bring_in(target, file)

    assert (written.written.entries, tally.added, tally.unreadable_there) == (2, 2, 0)
    assert await target.get("a chain") == chain("a", "b", model="m")
    assert await target.get("a tree") == await source.get("a tree")
    assert await target.best_paths("a problem") == await source.best_paths("a problem")
    (loose, *_) = [each for each in await target.children(target.root("a game", model="m")) if each.score]
    assert (loose.thought, loose.is_final, loose.answer, loose.tokens) == ("by itself", True, "42", 10)
    assert (await target.take(root, 1, namespace="run")).missing == 1, "what was used stays used"
    assert (await target.take(root, 2, namespace="another")).samples == ("x", "x")
    assert await target.invalidate(Selection(tag="t")) == 1
    clock.advance(600)
    assert await target.get("a tree") is None, "it lives as long as it was to live"


async def test_what_is_newer_here_stays_and_the_rest_is_joined(
    source: ReasoningCache, target: ReasoningCache, clock: ManualClock, tmp_path: Path
) -> None:
    await source.set("both", chain("old"))
    await source.set("there", chain("a", "b"))
    clock.advance(10)
    await target.set("both", chain("new"))
    await target.set("here", chain("a", "c"))
    file = tmp_path / "reasoning.jsonl"
    await export(source, file)

    first = await bring_in(target, file)
    second = await bring_in(target, file)

    assert (first.updated, second.updated) == (1, 1)
    found = {key: await target.get(key) for key in ("both", "there", "here")}
    assert found == {"both": chain("new"), "there": chain("a", "b"), "here": chain("a", "c")}
    assert (await target.longest_prefix("a problem", ["old"])).matched == 0


async def test_a_pattern_chooses_results_by_their_keys(
    source: ReasoningCache, target: ReasoningCache, tmp_path: Path
) -> None:
    for key in ("team a/1", "team b/1"):
        await source.set(key, chain("shared", key))
    await source.append(source.root("a game"), ["by itself"])
    file = tmp_path / "reasoning.jsonl"

    assert (await export(source, file, "team a/*")).written.entries == 1
    await bring_in(target, file)

    assert await target.list_keys() == ["team a/1"]
    assert (await holdings_of(target)).steps == 2


async def test_what_is_no_reasoning_is_refused_and_nothing_changed(
    source: ReasoningCache, target: ReasoningCache, tmp_path: Path
) -> None:
    await source.set("k", chain("a"))
    file = tmp_path / "reasoning.jsonl"
    await export(source, file)
    with pytest.raises(InvalidInput, match="cannot replace"):
        await bring_in(target, file, replace=True)
    file.write_bytes(file.read_bytes().replace(b'\\"a problem\\"', b'\\"another one\\"'))
    with pytest.raises(InvalidInput, match="not what was written"):
        await bring_in(target, file)
    assert await target.list_keys() == []


@given(st.lists(results(), max_size=3), st.lists(results(), max_size=3))
def test_any_two_books_are_joined(ours: list[ReasoningResult], theirs: list[ReasoningResult]) -> None:
    into, other = Book("a problem", "n"), Book("a problem", "n")
    for at, result in enumerate(ours):
        put(into, f"ours {at}", result)
    for at, result in enumerate(theirs):
        put(other, f"theirs {at}", result)

    taken = merge(into, again(other), now=2.0)
    into.compact(2.0)
    joined = again(into)

    assert len(taken) == len(theirs)
    for at, result in enumerate(ours):
        assert read(joined, f"ours {at}") == result
    for at, result in enumerate(theirs):
        assert read(joined, f"theirs {at}") == result
    assert merge(joined, other, now=2.0) == [], "once more changes nothing"


async def test_a_newer_result_keeps_its_own_life_and_its_key(
    source: ReasoningCache, target: ReasoningCache, clock: ManualClock, tmp_path: Path
) -> None:
    await source.set("short", chain("old"), 60)
    await source.set("over", chain("old"), 15)
    await source.set("long", chain("old"), 600)
    file = tmp_path / "reasoning.jsonl"
    await export(source, file)
    clock.advance(10)
    for key in ("short", "over"):
        await target.set(key, chain("new"), 300, tags=["t"])
    clock.advance(10)

    await bring_in(target, file)
    clock.advance(100)

    assert await target.get("short") == await target.get("over") == chain("new")
    assert await target.invalidate(Selection(tag="t")) == 2


async def test_a_key_that_is_another_problems_now_stays_so(
    source: ReasoningCache, target: ReasoningCache, clock: ManualClock, tmp_path: Path
) -> None:
    await source.set("k", chain("old", problem="before"))
    file = tmp_path / "reasoning.jsonl"
    await export(source, file)
    clock.advance(10)
    await target.set("k", chain("new", problem="now"))

    await bring_in(target, file)

    assert await target.get("k") == chain("new", problem="now")
    assert await target.get_by_problem("before") is None
    assert await target.delete("k")
    assert await target.get_by_problem("now") is None


async def test_samples_that_nobody_had_generated_yet_are_the_next_ones_over_there(
    source: ReasoningCache, target: ReasoningCache, tmp_path: Path
) -> None:
    root = source.root("a game")
    await source.take(root, 2, namespace="run")
    file = tmp_path / "reasoning.jsonl"
    await export(source, file)

    await bring_in(target, file)
    taken = await target.take(root, 2, namespace="run")
    await target.offer(taken, ["a", "b"])

    assert (await target.take(root, 2, namespace="another")).samples == ("a", "b")


async def test_keys_that_an_import_which_died_left_out_are_stored_by_the_next(
    source: ReasoningCache, target: ReasoningCache, clock: ManualClock, tmp_path: Path
) -> None:
    await source.set("k", chain("a"))
    file = tmp_path / "reasoning.jsonl"
    await export(source, file)
    await bring_in(target, file)
    file = tmp_path / "as it stands there.jsonl"
    await export(target, file)
    async for name in target.backend.scan(storage_prefix("rsn", target.namespace)):
        await target.backend.delete(name)

    await bring_in(target, file)

    assert await target.get("k") == chain("a")
