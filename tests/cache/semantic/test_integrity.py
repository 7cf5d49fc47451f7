"""Faults planted among vectors: each is found, mended and counted; where there is none, none is found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.backends.redis import RedisBackend
from cache_management.cache.clock import version_at
from cache_management.cache.config import CacheConfig
from cache_management.cache.records import Record
from cache_management.cache.semantic.integrity import SETTLED_SECONDS, Held, fault_of
from cache_management.cache.semantic.re_embedding import Tally, Wanted
from cache_management.cache.semantic.stored_entries import StoredEntry
from cache_management.cache.semantic.stored_vectors import StoredVector, decode_vector, encode_vector
from tests.cache.semantic.aging import DAY, Aging, response
from tests.contracts.clock import ManualClock

PROMPTS = [f"what is thing number {at} good for" for at in range(30)]
CHECK = Wanted(check=True)
NOW = 1_800_000_000.0


@pytest.fixture
async def aging() -> Aging:
    made = Aging()
    await made.store(PROMPTS, by=made.new)
    made.embedder.texts.clear()
    return made


def faults(tally: Tally) -> dict[str, int]:
    """Return what a check counted as wrong; zeros are left out."""
    names = ("orphans", "foreign", "damaged", "wrong", "unreadable", "embedded")
    return {name: getattr(tally, name) for name in names if getattr(tally, name)}


async def replant(aging: Aging, key: str, /, **changes: object) -> str:
    """Replace the vector of an entry by one that differs in some fields; return its id."""
    vector_id = aging.matcher._vectors.id_of(key)
    record = await aging.backend.get(vector_id)
    assert record is not None
    found = msgspec.structs.replace(decode_vector(record.value, dims=64), **changes)
    value = encode_vector(found.key, found.prompt, found.response, found.as_array(), scope=found.scope)
    await aging.backend.put(vector_id, msgspec.structs.replace(record, value=value))
    return vector_id


async def test_a_store_without_faults_reports_none_and_changes_nothing(aging: Aging) -> None:
    await aging.old.index(PROMPTS[:10])
    before = await aging.vectors()

    place = await aging.run(CHECK)

    assert faults(place.tally) == {}
    assert (place.tally.checked, place.tally.compared, place.tally.left) == (40, 30, 10)
    assert await aging.vectors() == before


async def test_a_vector_whose_entry_is_gone_is_removed_in_every_space(aging: Aging) -> None:
    await aging.store(PROMPTS[:2], by=aging.old)
    await aging.new.llm_cache.delete(PROMPTS[0])

    place = await aging.run(CHECK)

    assert faults(place.tally) == {"orphans": 2}
    assert len(await aging.vectors()) == 30


async def test_a_vector_of_another_scope_is_made_anew_in_its_own(aging: Aging) -> None:
    await replant(aging, PROMPTS[3], scope="somebody else's")
    stranger = await aging.matcher.find_similar(PROMPTS[3], 0.99, scope="somebody else's")

    place = await aging.run(CHECK)

    assert stranger == []  # the entry says in which scope it may be found
    assert faults(place.tally) == {"foreign": 1}
    assert await aging.found([PROMPTS[3]], by=aging.new) == [PROMPTS[3]]
    left = decode_vector((await aging.vectors())[aging.matcher._vectors.id_of(PROMPTS[3])].value, dims=64)
    assert left.scope == ""


async def test_a_vector_of_another_prompt_is_made_anew(aging: Aging) -> None:
    await replant(aging, PROMPTS[3], prompt="something else")

    place = await aging.run(CHECK)

    assert faults(place.tally) == {"foreign": 1}
    assert aging.embedder.texts.count(PROMPTS[3]) == 1
    assert await aging.found([PROMPTS[3]], by=aging.new) == [PROMPTS[3]]


async def test_a_vector_that_disagrees_with_an_entry_of_this_minute_is_left_to_its_writer(aging: Aging) -> None:
    await aging.new.llm_cache.set(PROMPTS[3], response("a new text under the same key"))

    place = await aging.work.advance(aging.begin(CHECK), CHECK)

    assert faults(place.tally) == {}


async def test_a_damaged_vector_is_made_anew(aging: Aging) -> None:
    vector_id = aging.matcher._vectors.id_of(PROMPTS[5])
    await aging.backend.put(vector_id, Record(b"no vector", None, 1))

    place = await aging.run(CHECK)

    assert faults(place.tally) == {"damaged": 1, "embedded": 1}
    assert await aging.found([PROMPTS[5]], by=aging.new) == [PROMPTS[5]]


async def test_a_wrong_vector_is_made_anew(aging: Aging) -> None:
    other = np.eye(1, 64, dtype="<f4")[0]
    await replant(aging, PROMPTS[7], vector=other.tobytes())
    assert await aging.found([PROMPTS[7]], by=aging.new) == []

    place = await aging.run(CHECK)

    assert faults(place.tally) == {"wrong": 1}
    assert await aging.found([PROMPTS[7]], by=aging.new) == [PROMPTS[7]]


async def test_an_answer_that_stands_alone_is_no_orphan(aging: Aging) -> None:
    await aging.matcher.index_entry("stands alone", "r")

    assert faults((await aging.run(CHECK)).tally) == {}
    assert await aging.found(["stands alone"], by=aging.new) == ["stands alone"]


async def test_mended_once_there_is_nothing_left_to_mend(aging: Aging) -> None:
    await aging.store(PROMPTS[:5], by=aging.old)
    await aging.new.llm_cache.delete(PROMPTS[0])
    await replant(aging, PROMPTS[1], scope="x")
    await aging.backend.put(aging.matcher._vectors.id_of(PROMPTS[2]), Record(b"no vector", None, 1))

    first = await aging.run(CHECK)
    aging.clock.advance(SETTLED_SECONDS)
    second = await aging.run(CHECK)

    assert faults(first.tally) == {"orphans": 2, "foreign": 1, "damaged": 1, "embedded": 1}
    assert faults(second.tally) == {}


class Between(MemoryBackend):
    """Lets something happen each time before entries are read."""

    happens = staticmethod(lambda: asyncio.sleep(0))

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        if keys and keys[0].startswith("cm1:llm:"):
            await self.happens()
        return await super().get_many(keys)


async def between() -> tuple[Aging, Between]:
    clock = ManualClock()
    backend = Between(max_size=1000, clock=clock)
    aging = Aging(backend)
    backend._clock = aging.clock
    await aging.store(["q"], by=aging.new)
    return aging, backend


async def check_while(steps: list[Callable[[], Awaitable[object]]], aging: Aging, backend: Between) -> Tally:
    """Check all vectors; before each of its reads of entries one of the steps is done."""

    async def happens() -> None:
        backend.happens = staticmethod(lambda: asyncio.sleep(0))  # not while it happens
        if steps:
            await steps.pop(0)()
            backend.happens = staticmethod(happens)

    backend.happens = staticmethod(happens)
    tally = (await aging.work.advance(aging.begin(CHECK), CHECK)).tally
    assert steps == []
    return tally


async def test_an_entry_that_comes_back_between_two_looks_keeps_its_vector() -> None:
    aging, backend = await between()

    tally = await check_while(
        [
            lambda: aging.new.llm_cache.delete("q"),
            lambda: aging.new.set_llm_cache("q", response("q")),
        ],
        aging,
        backend,
    )

    assert faults(tally) == {}
    assert await aging.found(["q"], by=aging.new) == ["q"]


async def test_a_vector_that_is_replaced_between_two_looks_is_left_alone() -> None:
    aging, backend = await between()
    await replant(aging, "q", prompt="what stood there before")

    tally = await check_while([lambda: aging.new.index(["q"])], aging, backend)

    assert faults(tally) == {}
    assert aging.embedder.texts.count("q") == 2  # stored, and replaced by its writer


async def test_no_false_alarm_while_a_writer_stores_and_deletes(aging: Aging) -> None:
    async def write() -> None:
        for at in range(200):
            await aging.new.set_llm_cache(f"new {at}", response(f"new {at}"))
            await asyncio.sleep(0)
            if at % 3 == 0:
                await aging.new.llm_cache.delete(f"new {at}")
                await aging.matcher.remove_entry(f"new {at}")

    writer = asyncio.create_task(write())
    tallies = []
    while not writer.done():
        place = aging.begin(CHECK)
        while place.step == "check":
            place = await aging.work.advance(place, CHECK, limit=20)
            await asyncio.sleep(0)
        tallies.append(place.tally)
    await writer

    wanted = {f"new {at}" for at in range(200) if at % 3} | set(PROMPTS)
    assert len(tallies) > 3
    assert {key for tally in tallies for key in faults(tally)} <= {"orphans"}  # deleted, its vector not yet
    assert set(await aging.found(sorted(wanted), by=aging.new)) == wanted


# What the store itself refuses to give


@pytest.fixture
async def on_redis(redis_url: str) -> AsyncIterator[Aging]:
    made = Aging()
    made = Aging(RedisBackend(CacheConfig(url=redis_url, timeout_seconds=20), clock=made.clock))
    await made.store(PROMPTS, by=made.new)
    yield made
    await made.backend.aclose()


async def damage(redis_url: str, names: Mapping[str, object]) -> None:
    import redis

    with redis.Redis.from_url(redis_url) as client:
        for name in names:
            client.set(name, b"flipped bits", keepttl=True)


async def test_a_record_with_a_broken_sum_is_made_anew(on_redis: Aging, redis_url: str) -> None:
    await damage(redis_url, {on_redis.matcher._vectors.id_of(PROMPTS[5]): 1})

    place = await on_redis.run(CHECK, limit=500)

    assert faults(place.tally) == {"damaged": 1, "embedded": 1}
    assert await on_redis.found(PROMPTS, by=on_redis.new) == PROMPTS


async def test_when_nothing_can_be_read_nothing_is_removed(on_redis: Aging, redis_url: str) -> None:
    before = await on_redis.vectors()
    await damage(redis_url, before)

    place = await on_redis.work.advance(on_redis.begin(CHECK), CHECK, limit=500)

    assert faults(place.tally) == {"unreadable": 30}
    assert len([name async for name in on_redis.backend.scan("cm1:vec:")]) == 30


# The rule


def held(*, prompt: str = "p", scope: str = "", answer: str | None = None) -> Held:
    return Held(StoredVector("k", prompt, answer, b"", scope), 1, None)


def entry(*, prompt: str = "p", scope: str = "", age: float = 2 * SETTLED_SECONDS) -> StoredEntry:
    return StoredEntry("k", prompt, None, scope, True, version_at(NOW - age))


def test_what_belongs_together_has_no_fault() -> None:
    assert fault_of(held(), entry(), now=NOW) is None


def test_what_stands_alone_needs_no_entry() -> None:
    assert fault_of(held(answer="r"), None, now=NOW) is None


@given(prompt=st.text(max_size=3), scope=st.text(max_size=3), age=st.floats(0, DAY))
def test_a_disagreement_is_a_fault_once_it_has_settled(prompt: str, scope: str, age: float) -> None:
    found = fault_of(held(prompt=prompt, scope=scope), entry(age=round(age)), now=NOW)

    agrees = (prompt, scope) == ("p", "")
    assert found == ("foreign" if not agrees and round(age) >= SETTLED_SECONDS else None)
