"""How a cache is used, as its store is told."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cache_management import CacheConfig, CacheManager, Computed, LLMCache
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.errors import BackendRefused, BackendUnavailable
from cache_management.cache.identity import digest
from cache_management.cache.invalidation import Selection
from cache_management.cache.near_misses import load_near_misses
from cache_management.cache.records import Record
from cache_management.cache.requests import entry_key, make_request
from cache_management.cache.usage import (
    STREAM,
    Ask,
    Counts,
    Usage,
    UsageNote,
    decode_note,
    encode_ask,
    load_asks,
    mark_as_looked_at,
    mark_as_read,
)
from cache_management.cache.values import NearMiss
from tests.cache.test_values import response
from tests.waiting import eventually


class Told(MemoryBackend):
    """A store in this process that others are thought to read."""

    name = "told"

    def __init__(self) -> None:
        super().__init__(max_size=1000)
        self.error: Exception | None = None
        self.is_read = True

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        if self.is_read:
            await mark_as_read(self, time.time())
        return await super().get_many(keys)

    async def append(self, stream: str, items: Any) -> str:
        if self.error is not None and stream == STREAM:
            raise self.error
        return await super().append(stream, items)

    async def notes(self) -> list[UsageNote]:
        data, _ = await self.read_after(STREAM, "", limit=1000)
        return [note for note in map(decode_note, data) if note is not None]


def cache_on(backend: MemoryBackend, **config: Any) -> LLMCache:
    return LLMCache(CacheConfig(url="memory://", namespace="shop", **config), backend=backend)


async def test_hits_misses_tokens_and_costs_are_told_by_model() -> None:
    backend = Told()
    async with cache_on(backend) as cache:
        await cache.set("q", response(model="gpt-4", token_count=7))
        await cache.get_or_compute("costly", lambda: Computed(response="a", model="big", token_count=3, cost_micro=500))
        for key in ("q", "q", "nothing"):
            await cache.get(key)
        await cache.get_many(["q", "nothing"])
        await cache.get_or_compute("costly", lambda: "never")

    (note,) = await backend.notes()
    assert note.namespace == "shop"
    assert note.models["gpt-4"] == Counts(hits=3, tokens=21, unpriced_tokens=21)
    assert note.models["big"] == Counts(hits=1, tokens=3, saved_micro=500)
    assert note.models[""].misses == 3
    assert note.keys == {digest("q"): (3, 0), digest("nothing"): (0, 2), digest("costly"): (1, 1)}


async def test_a_note_holds_no_key_and_no_prompt() -> None:
    backend = Told()
    async with cache_on(backend) as cache:
        await cache.get("my secret question")

    data, _ = await backend.read_after(STREAM, "", limit=10)
    assert b"secret" not in b"".join(data)


async def test_requests_are_kept_so_that_they_can_be_asked_again() -> None:
    backend = Told()
    async with CacheManager(cache_on(backend)) as manager:
        await manager.lookup("how much?", model="gpt-4", system="Be brief.")
        await manager.lookup("plain")

    asked = make_request("how much?", model="gpt-4", system="Be brief.")
    (note,) = await backend.notes()
    asks = await load_asks(backend, "shop", list(note.keys))
    by_key = {ask.key: ask.request for ask in asks.values()}
    assert by_key.pop("plain") is None
    assert all(ask.is_question for ask in asks.values())
    (found,) = by_key.values()
    assert found is not None
    assert (found.prompt, found.model, found.system) == (asked.prompt, asked.model, asked.system)
    assert note.models["gpt-4"].misses == 1
    assert await load_asks(backend, "elsewhere", list(note.keys)) == {}


async def test_a_hit_counts_for_the_model_that_was_asked_as_its_miss_did() -> None:
    backend = Told()
    async with CacheManager(cache_on(backend)) as manager:
        for _ in range(3):
            await manager.get_or_compute("q", lambda: Computed(response="a", model="gpt-4-0613"), model="gpt-4")

    (note,) = await backend.notes()
    assert {model: (counts.hits, counts.misses) for model, counts in note.models.items()} == {"gpt-4": (2, 1)}


def near_miss(asked: str = "on version 3?") -> NearMiss:
    return NearMiss(time.time(), "shop", asked, "on version 2?", 0.9, ("number",))


async def test_what_was_refused_is_told_while_somebody_looks_and_goes_with_its_namespace() -> None:
    backend = Told()
    async with cache_on(backend) as first, cache_on(backend) as second:
        for cache, asked in ((first, "one"), (second, "two")):
            assert cache.usage is not None
            cache.usage.near_miss(asked, make_request(asked), near_miss(asked))
            await cache.get(asked)
            await cache.usage._tell()

        assert [near.asked for near in await load_near_misses(backend, "shop")] == ["two", "one"]
        assert await load_near_misses(backend, "elsewhere") == []
        await first.invalidate(Selection(everything=True))
        assert await load_near_misses(backend, "shop") == []


async def test_what_was_refused_is_not_told_when_nobody_looks_or_it_is_secret_or_personal() -> None:
    backend = Told()
    async with cache_on(backend) as cache:
        usage = cache.usage
        assert usage is not None
        usage.near_miss("secret", make_request("q", params={"user.secret": "s"}), near_miss())
        usage.near_miss("known later", make_request("q"), near_miss())
        usage.near_miss("told before", make_request("q"), near_miss())
        usage.personal("known later")
        await cache.get("q")
        await usage._tell()
        assert len(await load_near_misses(backend, "shop")) == 1
        usage.personal("told before")
        await cache.get("q")
        await usage._tell()
        assert await load_near_misses(backend, "shop") == []
        backend.is_read = False
        await backend.delete_many([name async for name in backend.scan("cm1:ask:")])
        usage.near_miss("q", make_request("q"), near_miss())
        await cache.get("q")
        await usage._tell()

    assert await load_near_misses(backend, "shop") == []


async def test_what_was_counted_in_another_namespace_is_told_at_the_close_too() -> None:
    backend = Told()
    async with CacheManager(cache_on(backend)) as manager:
        await manager.lookup("q", namespace="other")

    assert [note.namespace for note in await backend.notes()] == ["other"]


async def test_prompts_do_not_outlive_a_namespace_that_is_emptied() -> None:
    backend = Told()
    async with CacheManager(cache_on(backend)) as manager:
        usage = manager.llm_cache.usage
        assert usage is not None
        await manager.lookup("told", model="m")
        await usage._tell()
        await manager.lookup("asked since", model="m")
        assert len([name async for name in backend.scan("cm1:ask:shop:")]) == 1

        await manager.llm_cache.invalidate(Selection(everything=True))

    assert [name async for name in backend.scan("cm1:ask:shop:")] == []


async def test_keys_and_requests_are_told_only_while_somebody_adds_them_up() -> None:
    backend = Told()
    for is_read in (False, True):
        backend.is_read = is_read
        async with CacheManager(cache_on(backend)) as manager:
            await manager.lookup("how much?", model="gpt-4")
        asks = [name async for name in backend.scan("cm1:ask:shop:")]
        assert len(asks) == int(is_read)

    short, full = await backend.notes()
    assert (short.models["gpt-4"].misses, short.keys) == (1, {})
    assert list(full.keys) == [digest(entry_key(make_request("how much?", model="gpt-4")))]


async def test_who_only_looks_is_told_few_keys() -> None:
    backend = Told()
    backend.is_read = False
    await mark_as_looked_at(backend, time.time())
    async with cache_on(backend) as cache:
        for at in range(200):
            await cache.get(f"{at % 50}")

    (note,) = await backend.notes()
    assert len(note.keys) == 10
    assert note.models[""].misses == 200


async def test_nothing_is_counted_where_nobody_else_can_read_it(tmp_path: Path) -> None:
    async with LLMCache(CacheConfig(url="memory://")) as cache:
        assert cache.usage is None
    async with LLMCache(CacheConfig(url=f"disk://{tmp_path}", usage_interval_seconds=0)) as cache:
        assert cache.usage is None
    async with LLMCache(CacheConfig(url=f"disk://{tmp_path}")) as cache:
        assert cache.usage is not None


async def test_one_note_for_each_interval_however_much_is_asked() -> None:
    backend = Told()
    usage = Usage(backend, "n", interval_seconds=10, clock=lambda: 1000.0)

    for second in range(100):
        usage.hit("k", "m", 1, 0, 1000.0 + second)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await usage.aclose()

    notes = await backend.notes()
    assert len(notes) == 10
    assert sum(note.models["m"].hits for note in notes) == 100


async def test_the_last_counts_of_an_app_that_falls_idle_are_told_too() -> None:
    backend = Told()
    async with cache_on(backend, usage_interval_seconds=0.05) as cache:
        await cache.get("q")

        async def is_told() -> bool:
            return len(await backend.notes()) == 1

        await eventually(is_told)
        await cache.get("q")
        await cache.get("q")

    assert [note.models[""].misses for note in await backend.notes()] == [1, 2]


@pytest.mark.filterwarnings("error")
def test_loops_that_end_before_an_interval_lose_nothing_and_complain_of_nothing() -> None:
    backend = Told()
    usage = Usage(backend, "n", interval_seconds=10, clock=lambda: 1000.0)

    async def ask(second: int) -> None:
        usage.hit("k", "m", 1, 0, 1000.0 + second)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    for second in range(25):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(ask(second))
        loop.close()
    before = asyncio.run(backend.notes())
    asyncio.run(usage.aclose())

    assert [note.models["m"].hits for note in before] == [11, 11]
    assert sum(note.models["m"].hits for note in asyncio.run(backend.notes())) == 25


async def test_how_an_answer_is_to_be_kept_is_told_once_it_is_known() -> None:
    backend = Told()
    async with CacheManager(cache_on(backend)) as manager:
        usage = manager.llm_cache.usage
        assert usage is not None
        await manager.lookup("q", model="m")
        await usage._tell()
        await manager.lookup("q", model="m")
        await manager.store("q", "a", model="m", tags=["t"], ttl_seconds=60)

    (ask,) = (await load_asks(backend, "shop", [digest(entry_key(make_request("q", model="m")))])).values()
    assert (ask.is_question, ask.tags, ask.ttl_seconds) == (True, ("t",), 60)


async def test_a_question_told_before_its_answer_was_personal_is_taken_back() -> None:
    backend = Told()
    key = entry_key(make_request("my balance?", model="m"))

    async def slow() -> Computed:
        assert manager.llm_cache.usage is not None
        await manager.llm_cache.usage._tell()
        assert (await load_asks(backend, "shop", [digest(key)]))[digest(key)].is_question
        return Computed(response="3", personalised=True)

    async with CacheManager(cache_on(backend)) as manager:
        await manager.get_or_compute("my balance?", slow, model="m")
        await manager.llm_cache.get("something else")

    (ask,) = (await load_asks(backend, "shop", [digest(key)])).values()
    assert (ask.is_question, ask.request) == (False, None)


async def test_numbers_that_no_database_holds_are_bounded() -> None:
    backend = Told()
    async with cache_on(backend) as cache:
        await cache.set("q", response(token_count=2**63 - 1))
        for _ in range(3):
            await cache.get("q")

    (note,) = await backend.notes()
    assert note.models["m"].tokens == 10**12


async def test_a_close_frees_the_store_whatever_becomes_of_the_last_note(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Told()
    closed = []

    async def aclose() -> None:
        closed.append(True)

    monkeypatch.setattr(backend, "aclose", aclose)
    backend.error = ValueError("a bug")
    cache = cache_on(backend)
    await cache.get("q")

    with pytest.raises(ValueError, match="a bug"):
        await cache.aclose()

    assert closed


async def test_threads_may_count_while_a_note_is_written() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    backend = Told()
    usage = Usage(backend, "n", interval_seconds=1e9, clock=lambda: 1000.0)
    stop = threading.Event()
    counted = [0, 0]

    def count(thread: int) -> None:
        while not stop.is_set():
            usage.hit(f"k{thread}-{counted[thread]}", "m", 1, 0, 1.0)
            counted[thread] += 1

    threads = [threading.Thread(target=count, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            await asyncio.sleep(0.002)  # for the threads to find keys that are new
            await usage._tell()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    await usage.aclose()

    hits = sum(note.models["m"].hits for note in await backend.notes())
    assert hits == pytest.approx(sum(counted), rel=0.01)


@pytest.mark.parametrize("error", [BackendUnavailable("told", "gone"), BackendRefused("told", "no rights")])
async def test_a_store_that_cannot_be_told_harms_nobody(error: Exception) -> None:
    backend = Told()
    backend.error = error
    async with cache_on(backend, strict=True) as cache:
        await cache.set("q", response())
        assert await cache.get("q") is not None


async def test_a_store_that_refused_is_told_again_later() -> None:
    backend, now = Told(), [1000.0]
    usage = Usage(backend, "n", interval_seconds=10, clock=lambda: now[0])
    backend.error = BackendRefused("told", "it is full")
    usage.hit("k", "m", 1, 0, 1.0)
    await usage._tell()
    backend.error = None

    for seconds, notes in ((10, 0), (600, 1)):
        now[0] += seconds
        usage.hit("k", "m", 1, 0, 1.0)
        await usage._tell()
        assert len(await backend.notes()) == notes


async def test_a_flood_of_keys_and_models_stays_bounded() -> None:
    backend = Told()
    usage = Usage(backend, "n", interval_seconds=10, clock=lambda: 1000.0)
    for number in range(20_000):
        usage.hit(f"k{number}", f"m{number % 1000}", 1, 0, 1.0)
    for _ in range(5):
        usage.hit("k3", "m0", 1, 0, 1.0)

    await usage.aclose()

    (note,) = await backend.notes()
    assert len(note.models) <= 201
    assert sum(counts.hits for counts in note.models.values()) == 20_005
    assert len(note.keys) <= 200
    assert note.keys[digest("k3")] == (6, 0)


def test_a_very_large_request_is_not_kept() -> None:
    assert encode_ask(Ask("k", make_request("x" * 70_000))) is None
    assert encode_ask(Ask("k", make_request("x" * 60_000))) is not None


async def test_a_foreign_note_or_ask_is_passed_over() -> None:
    assert decode_note(b"") is None
    assert decode_note(msgspec.msgpack.encode({"a": 1})) is None
    assert await load_asks(Told(), "n", ["0" * 32]) == {}


async def test_a_forked_child_tells_only_what_it_counted_itself(tmp_path: Path) -> None:
    config = CacheConfig(url=f"disk://{tmp_path}")
    cache = LLMCache(config)
    assert cache.usage is not None
    cache.usage.hit("parents", "m", 1, 0, 1.0)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            cache.usage.hit("childs", "m", 1, 0, 1.0)
            note, _ = cache.usage._take() if not cache.usage._left_to_parent() else (None, None)
            code = 0 if note is None else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    await cache.aclose()

    async with LLMCache(config) as reader:
        data, _ = await reader.backend.read_after(STREAM, "", limit=10)  # type: ignore[attr-defined]
    (note,) = (decode_note(each) for each in data)
    assert note is not None
    assert note.models["m"].hits == 1
