"""A Redis user with just the rights that docs/security.md names can do everything the cache does."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import redis

from cache_management.cache.backends.base import Journal
from cache_management.cache.config import CacheConfig
from cache_management.cache.events import Event, UnavailableEvent
from cache_management.cache.invalidation import Selection
from cache_management.cache.llm import LLMCache
from cache_management.cache.sweeping import Place, Sweeping, Wanted
from cache_management.cache.usage import STREAM
from cache_management.cache.values import CachedResponse
from tests.conftest import OwnRedisCluster, OwnRedisFactory

OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"
PAGE = Path(__file__).parents[2] / "docs" / "security.md"


def rights_behind(words: str, page: Path) -> list[str]:
    return re.findall(r"\+[a-z|]+", page.read_text().partition(words)[2].partition("\n\n")[0])


async def swept(cache: LLMCache, wanted: Wanted, *, dry: bool) -> Place:
    sweeping = Sweeping(cache, dry=dry)
    place = sweeping.begin(wanted)
    while place.step != "done":
        place = await sweeping.advance(place, wanted)
    return place


async def test_the_rights_on_the_page_are_enough(own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    answer = CachedResponse(prompt="q", response="x" * 1000, model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC))
    heard: list[Event] = []
    with redis.Redis.from_url(server.url) as client:
        rights = rights_behind("A Redis user with few rights needs", PAGE)
        client.execute_command("ACL", "SETUSER", "app", "on", ">secret", "~cm1:*", *rights)
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 2_000_000)
        url = f"redis://app:secret@127.0.0.1:{server.port}/0"
        config = CacheConfig(url=url, near_max_size=100, timeout_seconds=5, eviction_policy="s3fifo")
        async with LLMCache(config, listener=heard.append) as cache:
            for at in range(3000):
                await cache.set(f"{at}", answer)
            await cache.set("tagged", answer, tags=["t"])

            assert await cache.get("tagged") == answer
            assert (await cache.get_or_compute("asked", lambda: "an answer")).response == "an answer"
            assert await cache.invalidate(Selection(tag="t")) == 1
            assert await cache.delete("asked")
            assert await cache.list_keys()
            assert (await cache.get_stats()).evictions > 0
            backend = cache.backend
            assert isinstance(backend, Journal)
            await backend.trim(STREAM, await backend.tail(STREAM))
            assert cache.backend.is_current()  # type: ignore[attr-defined]

            for dry in (True, False):
                await swept(cache, Wanted(policy=True, expired=True, leftovers=True), dry=dry)
            # Else the newest entry, which is on probation, might be what is evicted next.
            client.config_set("maxmemory", 0)
            await cache.set("tagged again", answer, tags=["u"])
            for dry in (True, False):
                place = await swept(cache, Wanted(selection=Selection(tag="u")), dry=dry)
                assert place.found["chosen"].entries == 1

        assert client.acl_log() == []
    assert not [event for event in heard if isinstance(event, UnavailableEvent)]


async def test_a_cluster_takes_the_rights_that_its_page_adds(redis_cluster: OwnRedisCluster) -> None:
    rights = rights_behind("A Redis user with few rights needs", PAGE)
    rights += rights_behind("A user with few rights needs", OPERATING)
    answer = CachedResponse(prompt="q", response="x", model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC))
    heard: list[Event] = []
    url = redis_cluster.url.replace("redis+cluster://", "redis+cluster://app:secret@")
    for server in redis_cluster.servers:
        redis_cluster.ask(server, "ACL", "SETUSER", "app", "on", ">secret", "~cm1:*", *rights)
    slot = redis_cluster.ask(redis_cluster.servers[0], "CLUSTER", "KEYSLOT", "{moving}")
    source = redis_cluster.owner("{moving}")
    target = next(server for server in redis_cluster.primaries() if server is not source)
    redis_cluster.begin_move(slot, source, target)
    try:
        async with LLMCache(CacheConfig(url=url, timeout_seconds=5), listener=heard.append) as cache:
            await cache.set("{moving}", answer, tags=["t"])
            assert await cache.get("{moving}") == answer
            assert (await cache.get_or_compute("asked", lambda: "an answer")).response == "an answer"
            assert await cache.invalidate(Selection(tag="t")) == 1
            assert await cache.delete("asked")
            assert await cache.list_keys() == []
            await cache.get_stats()
    finally:
        redis_cluster.end_move(slot, source, target)
        redis_cluster.begin_move(slot, target, source)
        redis_cluster.end_move(slot, target, source)
        logs = [redis_cluster.ask(server, "ACL", "LOG") for server in redis_cluster.servers]
        for server in redis_cluster.servers:
            redis_cluster.ask(server, "ACL", "DELUSER", "app")
    assert logs == [[]] * 6
    assert not [event for event in heard if isinstance(event, UnavailableEvent)]
