"""A Redis user with just the rights that the README names can do everything the cache does."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import redis

from cache_management.cache.config import CacheConfig
from cache_management.cache.events import Event, UnavailableEvent
from cache_management.cache.invalidation import Selection
from cache_management.cache.llm import LLMCache
from cache_management.cache.sweeping import Sweeping, Wanted
from cache_management.cache.values import CachedResponse
from tests.conftest import OwnRedisFactory

README = Path(__file__).parents[2] / "README.md"


async def test_the_rights_in_the_readme_are_enough(own_redis: OwnRedisFactory) -> None:
    paragraph = README.read_text().partition("A Redis user with few rights needs")[2].partition("\n\n")[0]
    server = own_redis()
    answer = CachedResponse(prompt="q", response="x" * 1000, model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC))
    heard: list[Event] = []
    with redis.Redis.from_url(server.url) as client:
        rights = re.findall(r"\+[a-z|]+", paragraph)
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
            assert cache.backend.is_current()  # type: ignore[attr-defined]

            wanted = Wanted(policy=True, expired=True, leftovers=True, selection=Selection(tag="u"))
            await cache.set("tagged again", answer, tags=["u"])
            for dry in (True, False):
                sweeping = Sweeping(cache, dry=dry)
                place = sweeping.begin(wanted)
                while place.step != "done":
                    place = await sweeping.advance(place, wanted)
                assert place.found["chosen"].entries == 1

        assert client.acl_log() == []
    assert not [event for event in heard if isinstance(event, UnavailableEvent)]
