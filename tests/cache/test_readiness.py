"""Whether a cache of an application is ready, as answers of HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest

from cache_management.cache.config import CacheConfig
from cache_management.cache.findings import Finding
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.cache.readiness import Answer, Routes, alive, cache_routes, health_of, rendered
from tests.conftest import OwnRedisFactory

WELL, WARNS = Finding("broker", "ok", "it answers"), Finding("node n1", "warn", "away", "why", "start it")
DOWN = Finding("cache store", "fail", "no answer", "every lookup is a miss", "start it")


def test_a_process_that_can_answer_is_alive() -> None:
    assert alive() == (200, "application/json", b'{"status":"ok"}\n')


@pytest.mark.parametrize(
    ("findings", "status", "word"), [((WELL, WARNS), 200, "ok"), ((WELL, DOWN), 503, "unavailable"), ((), 200, "ok")]
)
def test_what_only_warns_is_no_reason_to_send_nobody(findings: tuple[Finding, ...], status: int, word: str) -> None:
    code, kind, body = rendered(health_of(findings))

    told = json.loads(body)
    assert (code, kind, told["status"]) == (status, "application/json", word)
    assert [(each["check"], each["level"], each["way_out"]) for each in told["parts"]] == [
        (each.check, each.level, each.way_out) for each in findings
    ]


async def ready(routes: Routes) -> Answer:
    """Ask as an HTTP server does: on a thread of its own."""
    return await asyncio.to_thread(routes["/readyz"])


async def test_a_cache_in_memory_and_one_on_disk_are_ready(tmp_path: Path) -> None:
    for url in ("memory://", f"disk://{tmp_path}"):
        async with LLMCache(CacheConfig(url=url)) as cache, CacheManager(cache) as manager:
            for each in (cache, manager):
                status, _, body = await ready(cache_routes(each))

                assert (status, json.loads(body)["parts"][0]["level"]) == (200, "ok")


async def test_a_store_that_is_lost_is_told_with_the_way_out(own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    async with LLMCache(CacheConfig(url=server.url, redis_password="sesame")) as cache:
        server.kill()

        status, _, body = await ready(cache_routes(cache))
        without, _, told = await ready(cache_routes(cache, is_needed=False))

    (part,) = json.loads(body)["parts"]
    assert (status, part["check"], part["level"]) == (503, "cache store", "fail")
    assert (without, json.loads(told)["parts"][0]["level"]) == (200, "warn")
    assert "cache-cli doctor" in part["way_out"]
    assert b"sesame" not in body


async def test_a_loop_that_stands_still_is_not_ready_and_neither_is_one_that_is_closed() -> None:
    cache = LLMCache(CacheConfig(url="memory://"))
    loop = asyncio.new_event_loop()
    may_go_on = threading.Event()
    loop.call_soon(may_go_on.wait, 30)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    routes = cache_routes(cache, loop=loop, seconds=0.3)

    stuck = await ready(routes)
    may_go_on.set()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    closed = await ready(cache_routes(cache, loop=loop, seconds=0.3))

    assert (stuck[0], b"no answer in time" in stuck[2]) == (503, True)
    assert (closed[0], b"closed" in closed[2]) == (503, True)
