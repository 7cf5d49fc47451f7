"""An app whose Redis Cluster loses nodes goes on: what docs/operating.md promises."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.events import Event, MissEvent, UnavailableEvent
from cache_management.cache.identity import storage_prefix
from cache_management.cache.llm import LLMCache
from cache_management.cache.values import CachedResponse
from tests.conftest import OwnRedisCluster, temporary_folder
from tests.waiting import eventually

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]
BUDGET_SECONDS = 0.25
KEYS = [f"q{at}" for at in range(300)]
PREFIX = storage_prefix("llm", "default")


@pytest.fixture
def cluster() -> Iterator[OwnRedisCluster]:
    """A private cluster in which slots without a primary do not stop the others."""
    with temporary_folder() as folder:
        made = OwnRedisCluster(folder, extra=("--cluster-require-full-coverage", "no"))
        try:
            yield made
        finally:
            made.stop()


def answer(text: str) -> CachedResponse:
    return CachedResponse(prompt="q", response=text, model="gpt-4", timestamp=datetime(2026, 1, 1, tzinfo=UTC))


class App:
    """An application: it has a cache, a model, and no patience. Whatever the cache raises fails the test."""

    def __init__(self, cluster: OwnRedisCluster, budget_seconds: float) -> None:
        self.events: list[Event] = []
        config = CacheConfig(url=cluster.url, timeout_seconds=budget_seconds)
        self.cache = LLMCache(config, listener=self.events.append)

    async def has_all(self) -> bool:
        """Write every key and read it back."""
        mark = str(time.monotonic_ns())
        await self.cache.set_many({key: answer(mark) for key in KEYS})
        found = await asyncio.gather(*(self.cache.get(key) for key in KEYS))
        return all(each is not None and each.response == mark for each in found)


async def are_replicated(cluster: OwnRedisCluster) -> bool:
    pairs = zip(cluster.servers[:3], cluster.servers[3:], strict=True)
    return all(cluster.ask(primary, "DBSIZE") == cluster.ask(replica, "DBSIZE") > 0 for primary, replica in pairs)


@pytest.mark.parametrize("frozen", [False, True], ids=["killed", "frozen"])
async def test_a_lost_primary_costs_its_own_keys_until_its_replica_takes_over(
    cluster: OwnRedisCluster, frozen: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = App(cluster, 1.0)  # so long that a machine under load is no outage
    assert await app.has_all()

    async def level() -> bool:
        return await are_replicated(cluster)

    await eventually(level)
    victim = cluster.servers[0]  # the first that a walk comes to
    elsewhere = [key for key in KEYS if cluster.owner(f"{PREFIX}k{key}") is not victim]
    idle = App(cluster, 1.0).cache.backend  # of a process that asks nothing meanwhile
    page, bookmark = await idle.scan_page(PREFIX, "", 10)
    assert bookmark is not None
    is_over = asyncio.Event()
    asked = 0
    missed: set[str] = set()

    async def read_and_write() -> None:
        nonlocal asked
        while not is_over.is_set():
            for key in elsewhere[:20]:
                asked += 1
                if await app.cache.get(key) is None:
                    missed.add(key)
            await app.cache.set("kept busy", answer("x"))
            await asyncio.gather(*(app.cache.get(key) for key in KEYS[:30]))

    with caplog.at_level(logging.WARNING, logger="cache_management"):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(read_and_write())
            if frozen:
                cluster.pause(victim)
            else:
                cluster.kill(victim)
            await eventually(app.has_all, timeout=30)
            is_over.set()

    assert asked >= 40, "two rounds, of which each may wait for the lost one"
    assert missed == set(), "keys of the other primaries were served all the while"
    assert any(isinstance(event, UnavailableEvent) for event in app.events), "there was an outage"
    assert 1 <= len(caplog.records) <= 4, "one line for each change of a node's state"
    seen = set(page)
    walker = app.cache.backend if frozen else idle
    while bookmark is not None:
        page, bookmark = await walker.scan_page(PREFIX, bookmark, 50)
        seen |= set(page)
    assert {f"{PREFIX}k{key}" for key in KEYS} <= seen, "the walk begins anew where another node took over"
    await app.cache.aclose()
    await idle.aclose()


async def test_without_any_node_every_call_is_a_miss_within_its_budget(cluster: OwnRedisCluster) -> None:
    app = App(cluster, BUDGET_SECONDS)
    assert await app.has_all()
    for server in cluster.servers:
        cluster.kill(server)
    app.events.clear()

    async def compute() -> str:
        return "computed"

    # A machine under load gets the rest of these: each waits at most once for its own budget.
    async with asyncio.timeout(10 * BUDGET_SECONDS):
        assert await asyncio.gather(*(app.cache.get(key) for key in KEYS)) == [None] * len(KEYS)
    async with asyncio.timeout(10 * BUDGET_SECONDS):
        await app.cache.set("q1", answer("new"))
        assert (await app.cache.get_or_compute("cold", compute)).response == "computed"
    assert {event.reason for event in app.events if isinstance(event, MissEvent)} == {"degraded"}
    with pytest.raises(BackendUnavailable):
        await app.cache.delete("q1")
    await app.cache.aclose()
