from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.backends.tiered import TieredBackend
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendUnavailable, ConfigurationError
from cache_management.cache.records import Record
from tests.cache.backends.shared_store import Client, Server

PREFIX = "cm1:llm:default:"
KEY = PREFIX + "kquestion"


def record(value: bytes = b"value") -> Record:
    return Record(value=value, expires_at=None, version=1)


def tier_over(client: Client, tier: type[TieredBackend] = TieredBackend, *, max_size: int = 100) -> TieredBackend:
    return tier(client, MemoryBackend(max_size=max_size), prefixes=[PREFIX])


class Pair:
    """Two processes with a tier each over one server."""

    def __init__(self, tier: type[TieredBackend] = TieredBackend) -> None:
        self.server = Server()
        self.clients = [Client(self.server), Client(self.server)]
        self.tiers = [tier_over(client, tier) for client in self.clients]

    async def settle(self) -> None:
        """Let everything on the wire arrive."""
        await self.turn()
        while any(client.outbox or client.inbox for client in self.clients):
            for client in self.clients:
                if client.outbox:
                    client.send_one()
                if client.inbox:
                    client.hear_one()
            await self.turn()

    async def turn(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def done(self, call: Any) -> Any:
        task = asyncio.ensure_future(call)
        await self.settle()
        return await task


@pytest.fixture
def pair() -> Pair:
    return Pair()


async def test_what_was_read_is_answered_from_memory(pair: Pair) -> None:
    here, there = pair.tiers
    await pair.done(there.put(KEY, record()))

    assert await pair.done(here.get(KEY)) == record()

    assert here.peek(KEY) == record()
    assert await here.get(KEY) == record()  # nothing travels


async def test_what_was_written_is_answered_from_memory(pair: Pair) -> None:
    here, _ = pair.tiers

    await pair.done(here.put_many({KEY: record()}))

    assert await here.get_many([KEY]) == {KEY: record()}


async def test_of_many_only_the_unknown_travel(pair: Pair) -> None:
    here, _ = pair.tiers
    await pair.done(here.put(KEY, record()))
    both = asyncio.ensure_future(here.get_many([KEY, KEY + "2"]))
    await pair.turn()

    assert pair.clients[0].outbox[0][2] == [KEY + "2"]
    await pair.settle()
    assert await both == {KEY: record()}


@pytest.mark.parametrize("change", ["put", "delete"])
async def test_a_change_elsewhere_drops_the_copy(pair: Pair, change: str) -> None:
    here, there = pair.tiers
    await pair.done(here.put(KEY, record(b"old")))

    await pair.done(there.put(KEY, record(b"new")) if change == "put" else there.delete_many([KEY]))

    assert here.peek(KEY) is None
    assert await pair.done(here.get(KEY)) == (record(b"new") if change == "put" else None)


async def test_a_read_that_met_a_change_is_not_kept(pair: Pair) -> None:
    here, there = pair.tiers
    mine, theirs = pair.clients
    await pair.done(there.put(KEY, record(b"old")))
    read = asyncio.ensure_future(here.get(KEY))
    write = asyncio.ensure_future(there.put(KEY, record(b"new")))
    await pair.turn()
    mine.send_one()  # the old value is on its way back
    theirs.send_one()  # and then it changes
    mine.hear_one()
    mine.hear_one()
    await pair.settle()

    assert await read == record(b"old")
    assert here.peek(KEY) is None
    await write


async def test_a_busy_key_is_kept_again_after_a_change(pair: Pair) -> None:
    """Reads that overlap for ever must not keep a key out of memory for ever."""
    here, there = pair.tiers
    first = asyncio.ensure_future(here.get(KEY))
    await pair.turn()
    pair.clients[0].send_one()
    write = asyncio.ensure_future(there.put(KEY, record()))
    await pair.turn()
    pair.clients[1].send_one()
    pair.clients[0].inbox.rotate()  # the news overtakes the answer
    pair.clients[0].hear_one()

    second = asyncio.ensure_future(here.get(KEY))  # begins while the first is under way, and sees the new value
    await pair.settle()

    assert await second == record()
    assert here.peek(KEY) == record()
    await asyncio.gather(first, write)


async def test_a_lost_connection_drops_every_copy(pair: Pair) -> None:
    here, there = pair.tiers
    await pair.done(here.put(KEY, record(b"old")))
    pair.clients[0].lose_connection()
    assert here.peek(KEY) is None
    with pytest.raises(BackendUnavailable):
        await here.get(KEY)
    await pair.done(there.put(KEY, record(b"new")))

    pair.clients[0].connect()

    assert here.peek(KEY) is None
    assert await pair.done(here.get(KEY)) == record(b"new")


async def test_a_write_that_failed_leaves_no_copy(pair: Pair) -> None:
    here, _ = pair.tiers
    await pair.done(here.put(KEY, record(b"old")))
    write = asyncio.ensure_future(here.put(KEY, record(b"new")))
    await pair.turn()
    pair.clients[0].send_one()
    pair.clients[0].lose_connection()

    with pytest.raises(BackendUnavailable):
        await write

    pair.clients[0].connect()
    assert here.peek(KEY) is None


async def test_other_keys_are_handed_on_and_not_kept(pair: Pair) -> None:
    here, _ = pair.tiers

    await pair.done(here.put("cm1:llm:other:kx", record()))

    assert here.peek("cm1:llm:other:kx") is None


async def test_the_memory_is_bounded(pair: Pair) -> None:
    here = tier_over(pair.clients[0], max_size=3)

    await pair.done(here.put_many({f"{PREFIX}k{at}": record() for at in range(50)}))

    assert sum(here.peek(f"{PREFIX}k{at}") is not None for at in range(50)) == 3


def history(tier: type[TieredBackend], seed: int, *, steps: int = 400) -> str | None:
    """Let two tiers live through a random history; return what was wrong, or None.

    Whatever happens in whatever order, a copy is true, or news about it is on its way.
    """
    with asyncio.Runner() as runner:
        return runner.run(_history(tier, random.Random(seed), steps))


async def _history(tier: type[TieredBackend], chance: random.Random, steps: int) -> str | None:
    pair = Pair(tier)
    keys = [PREFIX + "ka", PREFIX + "kb"]
    calls: list[asyncio.Task[Any]] = []
    wrong = None
    for step in range(steps):
        side = chance.randrange(2)
        client, here, key = pair.clients[side], pair.tiers[side], chance.choice(keys)
        match chance.choices(
            ["send", "hear", "turn", "get", "get both", "put", "delete", "cancel", "lose", "connect"],
            [20, 20, 20, 8, 2, 6, 2, 2, 1, 4],
        ):
            case ["send"] if client.outbox:
                client.send_one(chance.randrange(len(client.outbox)))
            case ["hear"] if client.inbox:
                client.hear_one()
            case ["turn"]:
                await pair.turn()
            case ["get"]:
                calls.append(asyncio.create_task(here.get(key)))
            case ["get both"]:
                calls.append(asyncio.create_task(here.get_many(keys)))
            case ["put"]:
                calls.append(asyncio.create_task(here.put(key, record(b"%d" % step))))
            case ["delete"]:
                calls.append(asyncio.create_task(here.delete_many([key])))
            case ["cancel"] if calls:
                chance.choice(calls[-4:]).cancel()
            case ["lose"]:
                client.lose_connection()
            case ["connect"]:
                client.connect()
        wrong = _wrong_copy(pair, keys)
        if wrong:
            break
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    return wrong


def _wrong_copy(pair: Pair, keys: list[str]) -> str | None:
    for client, tier in zip(pair.clients, pair.tiers, strict=True):
        told = {key for future, news in client.inbox if future is None for key in news}
        for key in keys:
            copy, truth = tier.peek(key), pair.server.records.get(key)
            if copy is not None and key not in told and copy != truth:
                return f"{key}: the copy is {copy}, the server has {truth}"
    return None


class DeafWhileReading(TieredBackend):
    def _on_change(self, keys: Sequence[str] | None) -> None:
        self._near.clear()


class DeafToLosses(TieredBackend):
    def _on_change(self, keys: Sequence[str] | None) -> None:
        super()._on_change(keys or [])


class KeepsBesideAWrite(TieredBackend):
    async def get(self, key: str) -> Record | None:
        found = self.peek(key) or await self.inner.get(key)
        if found is not None:
            self._near.keep(key, found)
        return found


class ForgetsCancelledWrites(TieredBackend):
    async def put(self, key: str, record: Record) -> None:
        try:
            await super().put(key, record)
        except asyncio.CancelledError:
            self._under_way.pop(key, None)
            raise


class LeavesTheOldCopy(TieredBackend):
    async def delete_many(self, keys: Sequence[str]) -> int:
        return await self.inner.delete_many(keys)


@pytest.mark.parametrize("seed", range(40))
def test_copies_are_never_wrong(seed: int) -> None:
    assert history(TieredBackend, seed) is None


@pytest.mark.parametrize(
    "planted", [DeafWhileReading, DeafToLosses, KeepsBesideAWrite, ForgetsCancelledWrites, LeavesTheOldCopy]
)
def test_the_search_for_wrong_copies_finds_planted_ones(planted: type[TieredBackend]) -> None:
    assert any(history(planted, seed) for seed in range(40))


def test_no_memory_in_front_of_memory() -> None:
    with pytest.raises(ConfigurationError, match="near_max_size"):
        CacheConfig(url="memory://", near_max_size=10)
