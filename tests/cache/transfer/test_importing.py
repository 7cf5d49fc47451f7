"""What becomes of each entry, what may come in, and that a death at any moment leaves nothing by half."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cache_management import CacheManager, LLMCache, Selection, SimilarityConfig, SimilarityMatcher
from cache_management.cache.backends.base import Backend
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.backends.wrapped import FullBackend, WrappedBackend
from cache_management.cache.clock import version_at
from cache_management.cache.codec import NO_FACTS
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.errors import BackendUnavailable, ConfigurationError, InvalidInput
from cache_management.cache.records import Record
from cache_management.cache.transfer import importing, replacing
from cache_management.cache.transfer.importing import FileChanged, ImportPlace
from cache_management.cache.transfer.replacing import ImportUnderWay, StageLost
from tests.cache.transfer.shelves import (
    answer,
    contents,
    export_to,
    fill,
    import_from,
    importer_of,
    line,
    open_cache,
    write_stream,
)
from tests.contracts.clock import ManualClock

SOON = version_at(time.time())


async def texts(cache: LLMCache) -> dict[str, str]:
    return {key: entry["response"] for key, entry in (await contents(cache)).items()}


# merging


async def test_merging_writes_what_is_absent_or_older_and_leaves_what_is_newer(cache: LLMCache, tmp_path: Path) -> None:
    await cache.put_records(
        {
            "older": cache.encode("older", answer("old"), version=4),
            "equal": cache.encode("equal", answer("as it is"), version=5),
            "newer": cache.encode("newer", answer("new"), version=6),
            "stranger": cache.encode("stranger", answer("stays"), version=1),
        }
    )
    entries = [
        line(key, "from the file", version=5, expires_at=time.time() + 900)
        for key in ("older", "equal", "newer", "absent")
    ]
    file = write_stream(tmp_path / "x.jsonl", [*entries, line("dead", expires_at=time.time() - 1)])

    tally = (await import_from(file, cache)).tally

    assert await texts(cache) == {
        "older": "from the file",
        "equal": "as it is",
        "newer": "new",
        "absent": "from the file",
        "stranger": "stays",
    }
    assert (tally.added, tally.updated, tally.present, tally.newer, tally.expired) == (1, 1, 1, 1, 1)
    assert tally.settled == tally.entries == 5


async def test_what_the_store_cannot_read_is_restored_by_a_merge(tmp_path: Path, redis_url: str) -> None:
    import redis

    cache = open_cache(url=redis_url)
    await fill(cache, 3)
    await export_to(tmp_path / "x.jsonl", cache)
    with redis.Redis.from_url(redis_url) as client:
        client.set("cm1:llm:default:kquestion 1", b"rubbish", ex=60)

    tally = (await import_from(tmp_path / "x.jsonl", cache)).tally

    assert (tally.added, tally.present) == (1, 2)
    assert await cache.get("question 1") is not None
    await cache.aclose()


async def test_of_equal_keys_the_later_line_wins_and_the_other_is_counted(tmp_path: Path) -> None:
    file = write_stream(tmp_path / "x.jsonl", [line("q", "first"), line("q", "second"), line("other")])

    for replace in (False, True):
        cache = open_cache()
        tally = (await import_from(file, cache, replace=replace)).tally
        assert await texts(cache) == {"q": "second", "other": "r"}
        assert (tally.added, tally.duplicates, tally.settled) == (2, 1, 3)


async def test_a_version_from_the_future_does_not_stand_above_what_is_stored_later(tmp_path: Path) -> None:
    clock = ManualClock()
    cache = open_cache(clock=clock)
    file = write_stream(tmp_path / "x.jsonl", [line("q", "from the file", version=2**63 - 1)])
    await import_from(file, cache)
    clock.advance(1)

    refused = await cache.store_computed("q", answer("computed later"), NO_FACTS, None, await cache.start())

    assert refused is None
    assert await texts(cache) == {"q": "computed later"}


async def test_entries_that_say_no_version_or_life_get_the_timestamp_s_and_the_cache_s(tmp_path: Path) -> None:
    cache = open_cache(ttl_seconds=100)
    file = write_stream(
        tmp_path / "x.jsonl",
        [line("q", version=None, expires_at=msgspec.UNSET), line("for ever")],
    )

    await import_from(file, cache)

    found = await contents(cache)
    assert found["q"]["version"] == version_at(line("q").timestamp.timestamp())
    assert 90 < found["q"]["expires_at"] - time.time() <= 100
    assert found["for ever"]["expires_at"] is None


# namespaces


@pytest.mark.parametrize("replace", [False, True])
async def test_another_namespace_comes_in_only_when_it_is_named(tmp_path: Path, replace: bool) -> None:
    cache = open_cache()
    await fill(cache, 2)
    before = await contents(cache)
    file = write_stream(tmp_path / "x.jsonl", [line("q")], namespace="other")

    with pytest.raises(InvalidInput, match=r"namespace 'other'.*'default'.*--from-namespace other"):
        await import_from(file, cache, replace=replace)
    with pytest.raises(InvalidInput, match=r"namespace 'other', not 'third'"):
        await import_from(file, cache, replace=replace, from_namespace="third")
    assert await contents(cache) == before

    await import_from(file, cache, replace=replace, from_namespace="other")

    assert "q" in await contents(cache)
    assert len(await contents(cache)) == (1 if replace else 3)


async def test_replacing_touches_its_own_namespace_only(cache: LLMCache, tmp_path: Path) -> None:
    other = LLMCache(cache.config.model_copy(update={"namespace": "other"}), backend=cache.backend)
    await fill(cache, 3)
    await fill(other, 3)
    file = write_stream(tmp_path / "x.jsonl", [line("q", expires_at=time.time() + 600)])

    await import_from(file, cache, replace=True)

    assert (len(await contents(cache)), len(await contents(other))) == (1, 3)


# replacing


async def test_replacing_leaves_exactly_what_the_file_holds(
    cache: LLMCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacing, "_PAGE", 50)
    monkeypatch.setattr(replacing, "_NAMES_AT_ONCE", 120)  # three turns
    there = open_cache()
    await fill(there, 300, text="theirs")
    await export_to(tmp_path / "x.jsonl.zst", there)
    await fill(cache, 200, start=200, text="ours")
    await cache.set("tagged", answer("goes"), tags=["news"])

    tally = (await import_from(tmp_path / "x.jsonl.zst", cache, replace=True)).tally

    assert await contents(cache) == await contents(there)
    assert (tally.added, tally.updated, tally.removed, tally.kept) == (200, 100, 101, 0)
    assert await cache.backend.tagged("cm1:tag:default:news") == []
    again = (await import_from(tmp_path / "x.jsonl.zst", cache, replace=True)).tally
    assert (again.present, again.removed) == (300, 0)


async def test_what_the_application_stores_while_a_swap_is_under_way_stays(tmp_path: Path) -> None:
    clock = ManualClock()
    cache = open_cache(clock=clock)
    await fill(cache, 3)
    file = write_stream(tmp_path / "x.jsonl", [line("in the file", "from the file"), line("question 1")])
    importer = importer_of(cache, file, replace=True)
    place = importer.begin()
    while place.step != "swap":
        place = await importer.advance(place)

    clock.advance(0.001)
    await cache.set("in the file", answer("stored since"))
    await cache.set("new", answer("stored since"))
    while place.step != "done":
        place = await importer.advance(place)
    importer.close()

    assert await texts(cache) == {"in the file": "stored since", "new": "stored since", "question 1": "r"}
    assert (place.tally.newer, place.tally.kept, place.tally.updated, place.tally.removed) == (1, 1, 1, 2)


async def test_an_entry_from_a_clock_far_ahead_does_not_outlive_a_replace(tmp_path: Path) -> None:
    cache = open_cache()
    ahead = version_at(time.time() + 86_400)
    await cache.put_records({"q": cache.encode("q", answer("from tomorrow"), version=ahead)})

    await import_from(write_stream(tmp_path / "x.jsonl", [line("other")]), cache, replace=True)

    assert list(await contents(cache)) == ["other"]


async def test_an_answer_that_is_being_computed_is_not_stored_into_a_replaced_cache(tmp_path: Path) -> None:
    cache = open_cache()
    file = write_stream(tmp_path / "x.jsonl", [line("other")])

    async def compute() -> str:
        await import_from(file, cache, replace=True)
        return "from before"

    assert (await cache.get_or_compute("q", compute)).response == "from before"
    assert list(await contents(cache)) == ["other"]


async def test_vectors_follow(tmp_path: Path) -> None:
    cache = open_cache()
    matcher = SimilarityMatcher(SimilarityConfig(threshold=0.9), backend=cache.backend, embedder=HashingEmbedder())
    manager = CacheManager(cache, matcher)
    for key in ("how do I reset my password", "where is my invoice"):
        await manager.set_llm_cache(key, answer("a", prompt=key))
    kept = await manager.export_entries("how*")
    new = {**kept[0], "key": "what is the opening hour", "prompt": "what is the opening hour"}

    report = await manager.import_entries([*kept, new], merge=False)

    found = {
        key: [match.key for match in await manager.find_similar(key)]
        for key in ("how do I reset my password", "where is my invoice", "what is the opening hour")
    }
    assert found == {
        "how do I reset my password": ["how do I reset my password"],
        "where is my invoice": [],
        "what is the opening hour": ["what is the opening hour"],
    }
    assert (report.present, report.added, report.removed) == (1, 1, 1)


async def test_a_store_without_a_stash_merges_and_says_why_it_cannot_replace(tmp_path: Path) -> None:
    class Plain(Backend):
        """Only what every backend has."""

        name = "plain"

        def __init__(self) -> None:
            self._inner = MemoryBackend(max_size=100)
            for method in ("get_many", "put_many", "delete_many", "scan", "ping", "aclose"):
                setattr(self, method, getattr(self._inner, method))

        get_many = put_many = delete_many = scan = ping = aclose = None  # type: ignore[assignment]

    Plain.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    cache = open_cache(Plain())
    file = write_stream(tmp_path / "x.jsonl", [line("q")])

    assert (await import_from(file, cache)).tally.added == 1
    with pytest.raises(ConfigurationError, match="plain backend"):
        await import_from(file, cache, replace=True)


# deaths


class Dies(WrappedBackend):
    """Fails at one call that changes something, before or after it did; then it is alive again."""

    def __init__(self, inner: FullBackend) -> None:
        super().__init__(inner)
        self.calls = 0
        self.dies_at: int | None = None
        self.after = False
        self.seen: list[str] = []

    async def _once(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        self.calls += 1
        self.seen.append(name)
        now = self.calls == self.dies_at
        if now and not self.after:
            raise BackendUnavailable("test", "died before")
        found = await call()
        if now:
            raise BackendUnavailable("test", "died after")
        return found

    async def put_many(self, records: Mapping[str, Record]) -> None:
        await self._once("put", lambda: self.inner.put_many(records))

    async def delete_many(self, keys: Sequence[str]) -> int:
        return int(await self._once("delete", lambda: self.inner.delete_many(keys)))

    async def delete_older(self, keys: Sequence[str], version: int) -> list[str]:
        found: list[str] = await self._once("delete", lambda: self.inner.delete_older(keys, version))
        return found

    async def append(self, stream: str, items: Sequence[bytes]) -> str:
        return str(await self._once("note", lambda: self.inner.append(stream, items)))

    async def add_tags(self, tags: Mapping[str, Mapping[str, float | None]]) -> None:
        await self._once("tag", lambda: self.inner.add_tags(tags))

    async def stash(self, name: str, piece: bytes, *, ttl_seconds: float) -> None:
        await self._once("stash", lambda: self.inner.stash(name, piece, ttl_seconds=ttl_seconds))

    async def drop_stashed(self, names: Sequence[str]) -> None:
        await self._once("drop", lambda: self.inner.drop_stashed(names))


class World:
    """A store with entries of its own, and a file of others; a runner that may die and be run again."""

    def __init__(self, folder: Path) -> None:
        self.store = Dies(MemoryBackend(max_size=1_000))
        self.cache = open_cache(self.store)
        parts = [[line(f"new {part} {at}", tags=("t",)) for at in range(3)] for part in range(4)]
        self.file = write_stream(folder / "x.jsonl", *parts, [line("question 1", "from the file")])
        self.names = {f"new {part} {at}" for part in range(4) for at in range(3)}

    async def prepare(self) -> None:
        await fill(self.cache, 4)
        await self.cache.set("tagged", answer("t"), tags=["old"])

    async def run(self, place: ImportPlace | None, *, replace: bool) -> ImportPlace:
        """Go on from a place, as a worker does that was started anew; return the last one that was committed."""
        importer = importer_of(self.cache, self.file, replace=replace)
        place = place or importer.begin()
        try:
            while place.step != "done":
                place = await importer.advance(place)
        except (BackendUnavailable, ImportUnderWay):
            # The lease of a dead one ends by itself.
            await self.store.inner.release("cm1:lease:import:default", owner=importer._replacing._me)
        finally:
            importer.close()
        return place


async def calls_of_a_whole_run(folder: Path, *, replace: bool) -> int:
    world = World(folder)
    await world.prepare()
    world.store.calls = 0
    await world.run(None, replace=replace)
    return world.store.calls


@pytest.mark.parametrize("resumes", ["job", "next import"])
@pytest.mark.parametrize("after", [False, True])
async def test_a_replace_that_dies_at_any_call_is_completed_or_never_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool, resumes: str
) -> None:
    monkeypatch.setattr(importing, "PARTS_AT_ONCE", 2)
    monkeypatch.setattr(replacing, "_DROPPED_AT_ONCE", 2)
    monkeypatch.setattr(replacing, "_PAGE", 3)
    calls = await calls_of_a_whole_run(tmp_path, replace=True)
    untouched = completed = 0
    for dies_at in range(1, calls + 1):
        world = World(tmp_path)
        await world.prepare()
        before = await contents(world.cache)
        world.store.calls, world.store.dies_at, world.store.after = 0, dies_at, after

        place = await world.run(None, replace=True)

        began = any(name in ("put", "delete") for name in world.store.seen[-world.store.calls :])
        if not began:
            untouched += 1
            assert await contents(world.cache) == before, "staging touches nothing that is live"
        if resumes == "job":
            place = await world.run(place, replace=True)
            assert place.step == "done"
        else:
            other = write_stream(tmp_path / "other.jsonl", [line("new 0 0", "merged later", version=SOON)])
            await import_from(other, world.cache)
            swap = await world.store.stashed("cm1:stash:default:swap")
            if swap is None:
                assert set(before) < set(await contents(world.cache)), "the swap was never decided"
                continue
        completed += 1
        left = await contents(world.cache)
        assert set(left) == {*world.names, "question 1"}
        assert left["question 1"]["response"] == "from the file"
        assert len(await world.store.tagged("cm1:tag:default:t")) == len(world.names)
        assert await world.cache.invalidate(Selection(tag="old")) == 0
        if resumes == "job":
            assert place.tally.settled == place.tally.entries == 13
        pieces = [name for name in world.store.inner._pieces if not name.endswith(":swap")]  # type: ignore[attr-defined]
        assert pieces == [], "the stage is gone"
    assert untouched >= 5
    assert completed >= 10


@pytest.mark.parametrize("after", [False, True])
async def test_a_merge_that_dies_at_any_call_goes_on_and_nothing_is_lost_or_doubled(
    tmp_path: Path, after: bool
) -> None:
    calls = await calls_of_a_whole_run(tmp_path, replace=False)
    for dies_at in range(1, calls + 1):
        world = World(tmp_path)
        await world.prepare()
        world.store.calls, world.store.dies_at, world.store.after = 0, dies_at, after

        place = await world.run(None, replace=False)
        place = await world.run(place, replace=False)

        assert set(await contents(world.cache)) == {*world.names, *(f"question {at}" for at in range(4)), "tagged"}
        assert place.tally.settled == place.tally.entries == 13
    assert calls > 5


async def test_a_swap_waits_while_another_is_at_work_and_a_later_one_has_the_last_word(tmp_path: Path) -> None:
    cache = open_cache()
    first = importer_of(cache, write_stream(tmp_path / "1.jsonl", [line("one")], [line("two")]), replace=True)
    place = first.begin()
    while place.step != "swap":
        place = await first.advance(place)
    await cache.backend.acquire("cm1:lease:import:default", owner="somebody", ttl_seconds=60)

    with pytest.raises(ImportUnderWay):
        await first.advance(place)
    with pytest.raises(ImportUnderWay):
        await import_from(write_stream(tmp_path / "2.jsonl", [line("three")]), cache, replace=True)
    await cache.backend.release("cm1:lease:import:default", owner="somebody")
    second = await import_from(tmp_path / "2.jsonl", cache, replace=True)
    place = await first.advance(place)
    first.close()

    assert place.step == "done", "somebody else completed it"
    assert list(await contents(cache)) == ["three"]
    assert second.tally.removed == 2


async def test_a_stage_that_is_lost_removes_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "PARTS_AT_ONCE", 1)
    cache = open_cache()
    await fill(cache, 2)
    importer = importer_of(cache, write_stream(tmp_path / "x.jsonl", [line("one")], [line("two")]), replace=True)
    place = importer.begin()
    while place.step != "swap":
        place = await importer.advance(place)
    await cache.backend.drop_stashed([f"cm1:stash:default:{place.id}:2"])

    place = await importer.advance(place)
    place = await importer.advance(place)
    with pytest.raises(StageLost, match=r"of 2 entries 1 are live, and nothing was removed"):
        await importer.advance(place)
    importer.close()

    assert set(await contents(cache)) == {"question 0", "question 1", "one"}
    await import_from(tmp_path / "x.jsonl", cache, replace=True)
    assert set(await contents(cache)) == {"one", "two"}


# files that change


async def test_a_file_that_changes_while_it_is_verified_imports_nothing(tmp_path: Path) -> None:
    cache = open_cache()
    file = write_stream(tmp_path / "x.jsonl", *[[line(f"q{at}")] for at in range(20)])
    importer = importer_of(cache, file)
    place = await importer.advance(importer.begin())

    write_stream(file, *[[line(f"other{at}")] for at in range(20)])

    with pytest.raises(InvalidInput, match="changed while it was read; nothing was imported"):
        await importer.advance(place)
    importer.close()
    assert await contents(cache) == {}


@pytest.mark.parametrize("how", ["rewritten", "replaced", "resumed elsewhere"])
async def test_a_file_that_changes_between_verifying_and_merging_is_noticed(tmp_path: Path, how: str) -> None:
    cache = open_cache()
    file = write_stream(tmp_path / "x.jsonl", *[[line(f"q{at}")] for at in range(20)])
    importer = importer_of(cache, file)
    place = importer.begin()
    while place.step != "merge":
        place = await importer.advance(place)

    if how == "rewritten":
        write_stream(file, *[[line(f"x{at}")] for at in range(20)])
    else:
        write_stream(tmp_path / "new.jsonl", *[[line(f"x{at}")] for at in range(20)]).replace(file)
    if how == "resumed elsewhere":
        importer.close()
        importer = importer_of(cache, file)

    with pytest.raises(FileChanged, match="no longer the one that was verified"):
        await importer.advance(place)
    importer.close()
    assert await contents(cache) == {}


async def test_a_file_that_was_made_to_look_unchanged_is_noticed_at_its_end(tmp_path: Path) -> None:
    cache = open_cache()
    file = write_stream(tmp_path / "x.jsonl", [line("q", "true")])
    importer = importer_of(cache, file)
    place = importer.begin()
    while place.step != "merge":
        place = await importer.advance(place)
    looked = file.stat()

    write_stream(file, [line("q", "lies")])
    os.utime(file, ns=(looked.st_atime_ns, looked.st_mtime_ns))
    importer.close()
    importer = importer_of(cache, file)

    with pytest.raises(FileChanged, match="what was merged by now stays"):
        await importer.advance(place)
    importer.close()
