"""Entries embedded by another model are embedded anew, page by page, by processes that may die."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cache_management.cache.backends.disk import DiskBackend
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.codec import Facts
from cache_management.cache.config import SimilarityConfig
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.manager import CacheManager
from cache_management.cache.semantic import re_embedding
from cache_management.cache.semantic.matcher import SimilarityMatcher
from cache_management.cache.semantic.re_embedding import (
    CutOverRefused,
    Place,
    ReEmbedding,
    Tally,
    Wanted,
    behind_a_scan,
    refusal_of_cut_over,
)
from cache_management.cache.semantic.stored_vectors import decode_vector, encode_vector
from tests.cache.semantic.aging import Aging, response

PROMPTS = [f"what is thing number {at} good for" for at in range(70)]
AT_THE_END = Place("others", born=1, began=1)


@pytest.fixture(params=["memory", "disk"])
async def aging(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Aging]:
    disk = DiskBackend(tmp_path, max_size=10_000, size_limit_bytes=2**30) if request.param == "disk" else None
    made = Aging(disk)
    yield made
    await made.backend.aclose()


async def test_every_entry_is_embedded_once_and_found_by_the_new_model(aging: Aging) -> None:
    await aging.store(PROMPTS, by=aging.old)
    assert await aging.found(PROMPTS[:3], by=aging.new) == []

    place = await aging.run()

    assert sorted(aging.embedder.texts[3:]) == sorted(PROMPTS)
    assert await aging.found(PROMPTS, by=aging.new) == PROMPTS
    assert place.tally == Tally(entries=70, embedded=70, left=70)
    assert (place.turn, place.is_complete) == (2, True)


async def test_what_has_its_vector_is_neither_embedded_nor_written_again(aging: Aging) -> None:
    await aging.store(PROMPTS[:50], by=aging.new)
    await aging.store(PROMPTS[50:], by=aging.old)
    before = await aging.vectors()
    aging.embedder.texts.clear()

    place = await aging.run()

    assert sorted(aging.embedder.texts) == sorted(PROMPTS[50:])
    assert (place.tally.embedded, place.tally.present) == (20, 50)
    assert before.items() <= (await aging.vectors()).items()


async def test_a_page_that_is_repeated_after_a_death_embeds_nothing_twice(aging: Aging) -> None:
    await aging.store(PROMPTS, by=aging.old)
    wanted = Wanted(all=True)
    place = aging.begin(wanted)
    after = await aging.work.advance(place, wanted, limit=40)

    again = await aging.work.advance(place, wanted, limit=40)  # its commit was lost

    assert (after.tally.embedded, again.tally.embedded, again.tally.present) == (40, 0, 40)
    assert again.scan == after.scan
    assert len(aging.embedder.texts) == 40


async def test_a_place_survives_as_text(aging: Aging) -> None:
    await aging.store(PROMPTS, by=aging.old)
    place = await aging.work.advance(aging.begin(Wanted()), Wanted(), limit=40)

    assert msgspec.json.decode(msgspec.json.encode(place), type=Place) == place


async def test_all_makes_vectors_anew_whatever_is_kept_of_their_texts() -> None:
    aging = Aging()
    await aging.store(PROMPTS, by=aging.new)
    aging.embedder.texts.clear()

    place = await aging.run(Wanted(all=True))

    assert sorted(aging.embedder.texts) == sorted(PROMPTS)
    assert (place.tally.embedded, place.tally.present) == (70, 0)


async def test_a_moved_expiry_takes_the_vector_along_without_the_model() -> None:
    aging = Aging()
    await aging.store(["q"], by=aging.new)
    await aging.new.llm_cache.set("q", response("q"), 10 * 24 * 3600)
    aging.embedder.texts.clear()

    place = await aging.run()

    (vector,) = (await aging.vectors()).values()
    entry = (await aging.new.llm_cache.load_entries(["q"]))["q"]
    assert vector.expires_at == entry.expires_at
    assert (aging.embedder.texts, place.tally.present) == ([], 1)


async def test_entries_that_cannot_be_found_by_meaning_are_counted_not_failed() -> None:
    aging = Aging()
    long = "much too long " * 20
    await aging.store([long, "short"], by=aging.old)
    cache = aging.old.llm_cache
    await cache.store("unplaced", response("unplaced"), Facts(scope=None), None)
    aging.clock.advance(5)

    place = await aging.run(Wanted(drop_old=True))

    assert place.tally == Tally(entries=3, embedded=1, too_long=1, exact_only=1, dropped=2)


async def test_a_long_key_is_embedded_too() -> None:
    aging = Aging()
    await aging.old.llm_cache.store("k" * 300, response("short text"), Facts(), None)
    aging.clock.advance(5)

    assert (await aging.run()).tally.embedded == 1
    assert [match.key for match in await aging.new.find_similar("short text")] == ["k" * 300]


async def test_namespaces_are_left_to_their_own_work() -> None:
    aging = Aging()
    other = Aging(aging.backend, namespace="other")
    await other.store(["theirs"], by=other.old)
    await aging.store(["ours"], by=aging.old)

    place = await aging.run(Wanted(check=True, drop_old=True))

    assert (place.tally.entries, place.tally.dropped) == (1, 1)
    assert len(await other.vectors()) == 1


# The cut-over


async def test_vectors_of_other_models_go_when_everything_is_embedded_anew(aging: Aging) -> None:
    await aging.store(PROMPTS, by=aging.old)
    old = await aging.found(PROMPTS[:1], by=aging.old)

    place = await aging.run(Wanted(drop_old=True))

    assert place.tally == Tally(entries=70, embedded=70, dropped=70)
    assert len(await aging.vectors()) == 70
    assert await aging.found(PROMPTS, by=aging.new) == PROMPTS
    assert (old, await aging.found(PROMPTS, by=aging.old)) == (PROMPTS[:1], [])


async def test_an_answer_that_stands_alone_moves_to_the_new_model_with_its_expiry() -> None:
    aging = Aging()
    older = aging.old.similarity_matcher
    assert older is not None
    await older.index_entry("stands alone", "r", ttl_seconds=500)
    await older.index_entry("stands alone " * 20, "too long for the new one")
    (expiry,) = {record.expires_at for record in (await aging.vectors()).values()} - {None}

    place = await aging.run(Wanted(check=True, drop_old=True))

    (found,) = await aging.new.find_similar("stands alone")
    assert found.response == "r"
    assert {record.expires_at for record in (await aging.vectors()).values()} == {expiry, None}
    assert (place.tally.dropped, place.tally.left) == (1, 1)


async def test_an_answer_that_stands_alone_is_as_old_after_the_move() -> None:
    aging = Aging()
    assert aging.old.similarity_matcher is not None
    await aging.old.similarity_matcher.index_entry("what is the price today", "r")
    aging.clock.advance(30 * 86_400)

    await aging.run(Wanted(drop_old=True))

    (found,) = await aging.new.find_similar("what is the price today")
    assert found.age_seconds == pytest.approx(30 * 86_400, abs=60)
    assert found.vetoes == ("freshness",)


class Growing(Aging):
    """A process with the former model goes on storing: each page brings an entry that was there all along."""

    number = 0

    async def store_by_the_former_model(self) -> None:
        self.number += 1
        prompt = f"late {self.number}"
        now, self.clock.now = self.clock.now, self.clock.now - 1000
        await self.old.set_llm_cache(prompt, response(prompt))
        self.clock.now = now


async def test_while_entries_keep_coming_nothing_is_removed_and_the_reason_is_told() -> None:
    aging = Growing()
    await aging.store(PROMPTS, by=aging.old)
    wanted = Wanted(drop_old=True)
    place = aging.begin(wanted)
    while place.step == "entries":
        await aging.store_by_the_former_model()
        place = await aging.work.advance(place, wanted)
        aging.clock.advance(1)
    while place.step != "done":
        place = await aging.work.advance(place, wanted)

    with pytest.raises(CutOverRefused, match="after 5 turns"):
        await aging.work.advance(place, wanted)

    assert (place.turn, place.is_complete, place.tally.dropped) == (5, False, 0)
    assert place.tally.left == 70 + aging.number


def test_a_turn_with_finds_is_followed_by_another_up_to_a_bound() -> None:
    found = Place("entries", born=1, began=1, scan="x", added=True)

    second = behind_a_scan(found, 100.0)
    last = behind_a_scan(msgspec.structs.replace(found, turn=re_embedding.MOST_TURNS), 100.0)

    assert (second.step, second.turn, second.scan, second.added) == ("entries", 2, "", False)
    assert second.began > found.began
    assert (last.step, last.is_complete) == ("others", False)


def test_a_turn_without_finds_is_the_last() -> None:
    last = behind_a_scan(Place("entries", born=1, began=1, scan="x"), 100.0)

    assert (last.step, last.scan, last.is_complete) == ("others", "", True)
    assert behind_a_scan(last, 100.0).step == "done"


def test_a_store_that_cannot_be_read_keeps_its_old_vectors() -> None:
    place = msgspec.structs.replace(AT_THE_END, tally=Tally(entries=10, gone=6))

    assert "encryption keys" in (refusal_of_cut_over(place) or "")
    assert refusal_of_cut_over(msgspec.structs.replace(place, tally=Tally(entries=10, gone=5))) is None


async def test_an_index_that_all_share_loses_the_vectors_of_other_models_too(postgres_url: str) -> None:
    from cache_management.cache.vectors.pgvector import PgVectorIndex

    aging = Aging(index_url=postgres_url)
    await aging.store(PROMPTS[:5], by=aging.old)
    older = aging.old.similarity_matcher
    assert older is not None
    await older.index_entry("stands alone", "r")

    place = await aging.run(Wanted(check=True, drop_old=True))

    sizes = []
    for dims in (32, 64):
        index = PgVectorIndex(postgres_url, dims=dims)
        sizes.append(await index.size())
        await index.aclose()
    found = await aging.found([*PROMPTS[:5], "stands alone"], by=aging.new)
    await aging.new.aclose()
    await aging.old.aclose()
    assert (place.tally.embedded, place.tally.dropped) == (5, 6)
    assert sizes == [0, 6]
    assert found == [*PROMPTS[:5], "stands alone"]


@pytest.fixture
async def switched_on(postgres_url: str) -> AsyncIterator[Aging]:
    """A store of five entries and an answer that stands alone, whose readers have only now an index that all share."""
    before = Aging()
    await before.store(PROMPTS[:5], by=before.new)
    await before.matcher.index_entry("stands alone", "r")
    after = Aging(before.backend, index_url=postgres_url)
    after.clock.advance(300)
    yield after
    await after.new.aclose()
    await after.old.aclose()


@pytest.mark.parametrize("check", [False, True])
async def test_an_index_that_all_share_is_filled_from_the_store_without_the_model(
    switched_on: Aging, check: bool
) -> None:
    everything = [*PROMPTS[:5], "stands alone"]
    before = await switched_on.vectors()
    found = await switched_on.found(everything, by=switched_on.new)
    planned = await switched_on.work.census()
    switched_on.embedder.texts.clear()

    # A check compares with what the model gives; nothing else asks it.
    place = await switched_on.run(Wanted(check=check))
    embedded = list(switched_on.embedder.texts)

    assert (found, planned.missing, planned.unshared) == ([], 0, 5)
    assert (place.is_complete, place.turn) == (True, 2)
    assert (place.tally.embedded, place.tally.present, place.tally.shared) == (0, 5, 6)
    assert sorted(embedded) == (sorted(PROMPTS[:5]) if check else [])
    assert await switched_on.vectors() == before
    assert await switched_on.found(everything, by=switched_on.new) == everything
    assert (await switched_on.work.census()).unshared == 0


async def test_what_only_an_index_that_all_share_has_lost_is_put_back(switched_on: Aging) -> None:
    await switched_on.run()
    matcher = switched_on.matcher
    name = matcher._vectors.id_of(PROMPTS[3])
    await matcher.index.remove(matcher._vectors.prefix, [name])

    place = await switched_on.run()

    assert place.tally.shared == 1
    assert await switched_on.found(PROMPTS[:5], by=switched_on.new) == PROMPTS[:5]


# Reading by both models meanwhile


class Reader(SimilarityMatcher):
    """A matcher whose model before is a light one too."""

    former = HashingEmbedder(32)
    asked = 0

    def older(self) -> SimilarityMatcher | None:
        found = super().older()
        if found is None:
            return None
        made = Former(found.config, backend=self.backend, embedder=self.former, clock=self._clock)
        made._is_older = True
        return made


class Former(SimilarityMatcher):
    async def vector_of(self, text: str) -> np.ndarray | None:  # type: ignore[type-arg]
        Reader.asked += 1
        return await super().vector_of(text)


def reader(aging: Aging, *, previous: str | None = "hashing") -> CacheManager:
    matcher = Reader(
        SimilarityConfig(model="hashing", previous_model=previous, threshold=0.9),
        backend=aging.backend,
        embedder=HashingEmbedder(),
        clock=aging.clock,
    )
    return CacheManager(aging.new.llm_cache, matcher)


class LosingNotes(MemoryBackend):
    """Loses the next note about vectors: what a writer leaves behind that dies before it."""

    loses = False

    async def append(self, stream: str, items: Sequence[bytes]) -> str:
        if self.loses and stream.endswith(":vectors"):
            self.loses = False
            raise BackendUnavailable(self.name, "a test lost the note")
        return await super().append(stream, items)


class Interrupted(Aging):
    """A process reads by both models while a page of the job loses its note, and is repeated."""

    def __init__(self) -> None:
        self.losing = LosingNotes(max_size=1000)
        super().__init__(self.losing)
        self.reader = reader(self)

    async def run(self, wanted: Wanted = Wanted(), *, limit: int = 20) -> Place:  # noqa: B008 - frozen
        place = self.begin(wanted)
        self.losing.loses = True
        lost = 0
        while place.step != "done":
            try:
                place = await self.work.advance(place, wanted, limit=limit)
            except BackendUnavailable:
                lost += 1
            self.clock.advance(30)
        assert lost == 1
        return place

    async def is_found(self, prompt: str, **context: str) -> bool:
        """Tell whether the reader, which has been there all the time, finds a paraphrase."""
        for matcher in (self.reader.similarity_matcher, self.reader._door._older):
            assert matcher is not None
            matcher._follow()._next_look = 0  # type: ignore[union-attr]
        return (await self.reader.lookup(f"{prompt} ?", **context)).kind == "semantic"


async def test_a_reader_hears_of_a_page_whose_note_was_lost_before_the_old_vectors_go() -> None:
    aging = Interrupted()
    await aging.old.store("how do I reset it", "r", model="m")
    aging.clock.advance(120)
    before = await aging.is_found("how do I reset it", model="m")

    place = await aging.run(Wanted(drop_old=True))

    assert (before, await aging.is_found("how do I reset it", model="m")) == (True, True)
    assert (place.is_complete, place.tally.present, place.tally.dropped) == (True, 1, 1)
    assert place.added_at > 0, "the old vectors wait for who has only now heard of the new ones"


async def test_a_reader_hears_of_an_answer_that_stands_alone_and_whose_note_was_lost() -> None:
    aging = Interrupted()
    assert aging.old.similarity_matcher is not None
    await aging.old.similarity_matcher.index_entry("stands alone", "r")
    before = await aging.is_found("stands alone")

    place = await aging.run(Wanted(drop_old=True))

    assert (before, await aging.is_found("stands alone"), place.tally.dropped) == (True, True, 1)


async def test_a_reader_hears_of_a_vector_that_was_mended_and_whose_note_was_lost() -> None:
    aging = Interrupted()
    near = [f"how do I reset number {at} of them" for at in range(20)]
    await aging.store(["how do I reset it", *near], by=aging.new)
    name = aging.matcher._vectors.id_of("how do I reset it")
    record = (await aging.vectors())[name]
    wrong = msgspec.structs.replace(decode_vector(record.value, dims=64), vector=np.eye(1, 64, dtype="<f4").tobytes())
    value = encode_vector(wrong.key, wrong.prompt, None, wrong.as_array())
    await aging.losing.put(name, msgspec.structs.replace(record, value=value))
    before = await aging.is_found("how do I reset it")

    await aging.run(Wanted(check=True))

    assert (before, await aging.is_found("how do I reset it")) == (False, True)


async def test_readers_hear_once_of_what_nobody_interrupts() -> None:
    aging = Aging()
    await aging.store(PROMPTS, by=aging.old)
    stream = "cm1:log:default:vectors"
    cursor = await aging.backend.tail(stream)
    wanted = Wanted()
    place = aging.begin(wanted)

    while place.step != "done":
        place = await aging.work.advance(place, wanted, limit=40)
        aging.clock.advance(60)

    notes, _ = await aging.backend.read_after(stream, cursor, limit=1000)
    assert (place.turn, len(notes)) == (2, 70)


async def test_the_older_model_is_not_asked_any_more_when_nothing_is_left_of_it() -> None:
    aging = Aging()
    await aging.old.store("how do I reset it", "r", model="m")
    aging.clock.advance(120)
    both = reader(aging)
    found = [await both.lookup("how do I reset it ?", model="m")]
    asked, Reader.asked = Reader.asked, 0
    await aging.run(Wanted(drop_old=True))
    assert both._door._older is not None
    both._door._older._follow()._next_look = 0  # type: ignore[union-attr]
    both.similarity_matcher._follow()._next_look = 0  # type: ignore[union-attr]

    found += [await both.lookup("how do I reset it ?", model="m")]

    assert [each.kind for each in found] == ["semantic", "semantic"]
    assert (asked > 0, Reader.asked) == (True, 0)


@pytest.mark.parametrize("previous", ["hashing", None])
async def test_a_model_that_has_embedded_nothing_says_so_once(
    previous: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    aging = Aging()
    await aging.store(["q"], by=aging.old)
    manager = reader(aging, previous=previous)

    with caplog.at_level(logging.WARNING):
        await manager.find_similar("q")
        await manager.lookup("other question")
        aging.clock.advance(60)
        await manager.find_similar("q")

    (line,) = [line for line in caplog.messages if "cache-cli embed" in line]
    assert ("previous_model" in line) == (previous is None)
    assert "'default'" in line


async def test_an_empty_namespace_and_one_that_is_embedded_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    aging = Aging()
    with caplog.at_level(logging.WARNING):
        await aging.new.find_similar("q")
        await aging.store(["q"], by=aging.old)
        await aging.run(Wanted(drop_old=True))
        await reader(aging).lookup("q as well")

    assert caplog.messages == []


# What there is


async def test_a_census_counts_and_changes_nothing() -> None:
    aging = Aging()
    await aging.store(PROMPTS[:5], by=aging.new)
    await aging.store([*PROMPTS[5:8], "too long " * 20], by=aging.old)
    before = await aging.vectors()

    found = await aging.work.census()

    assert (found.entries, found.missing, found.too_long, found.exact_only) == (9, 3, 1, 0)
    assert found.vectors == {"hashing-64": 5, "hashing-32": 4}
    assert found.space == "hashing-64"
    assert await aging.vectors() == before


@pytest.mark.parametrize(("ago", "waits"), [(0.25, 0.75), (5.0, 0.0)])
async def test_old_vectors_go_when_readers_have_heard_of_the_last_new_one(
    ago: float, waits: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    aging = Aging()
    await aging.store(PROMPTS[:3], by=aging.old)
    wanted = Wanted(drop_old=True)
    place = msgspec.structs.replace(AT_THE_END, added_at=aging.clock() - ago)
    slept: list[tuple[float, int]] = []

    async def sleep(seconds: float) -> None:
        slept.append((seconds, len(await aging.vectors())))

    monkeypatch.setattr(re_embedding.asyncio, "sleep", sleep)
    work = ReEmbedding(aging.matcher, clock=aging.clock, entry_limit_bytes=2**20)
    await work.advance(place, wanted)

    assert slept == [(pytest.approx(waits), 3)]
    assert await aging.vectors() == {}
