"""Workers die in the middle of an export, of verifying, merging and replacing: the job ends, and nothing is by half."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from cache_management import CacheConfig, LLMCache
from cache_management.cache.values import CachedResponse
from cache_management.models.store.results import JobView
from tests.cache.transfer.shelves import export_to, import_from, open_cache
from tests.conftest import OwnRedis
from tests.waiting import wait_until
from tests.workers.harness import JobWorld, Worker

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

COUNT = 9_000
STRANGERS = 4_000
RATE = 4_500  # two seconds for each step: what is to be killed is under way when it is
ROOM = 1_200_000
MakeWorld = Callable[..., JobWorld]


def key(at: int) -> str:
    return f"question number {at}"


async def fill(url: str, keys: list[str], text: str) -> None:
    moment = datetime.now(UTC)
    async with LLMCache(CacheConfig(url=url, strict=True, timeout_seconds=20)) as cache:
        for start in range(0, len(keys), 1_000):
            some = {
                each: CachedResponse(prompt=each, response=f"{text} {each}", model="m", timestamp=moment)
                for each in keys[start : start + 1_000]
            }
            await cache.set_many(some)


async def texts(url: str) -> dict[str, str]:
    """Return the answer under each key."""
    found: dict[str, str] = {}
    async with LLMCache(CacheConfig(url=url, strict=True, timeout_seconds=20)) as cache:
        keys = await cache.list_keys()
        for start in range(0, len(keys), 1_000):
            some = await cache.get_many(keys[start : start + 1_000])
            found |= {each: response.response for each, response in some.items()}
    return found


def expected(count: int, text: str) -> dict[str, str]:
    return {key(at): f"{text} {key(at)}" for at in range(count)}


def submit(world: JobWorld, kind: str, file: Path, **params: Any) -> str:
    given = {"path": str(file), "entries_per_second": RATE, **params}
    if kind == "import":
        given["embed"] = False
    return world.client.submit(kind, given).job_id


def kill_and_go_on(world: JobWorld, worker: Worker, job_id: str) -> JobView:
    """Kill a worker, let another take over, and return the job at its end."""
    worker.kill()
    assert not world.client.get(job_id).ended, "the job was over before the worker died"
    world.reconcile_after_a_death()
    world.start_worker(queues=("transfer",), concurrency=1)
    return world.wait_for_job(job_id)


def start(world: JobWorld) -> Worker:
    return world.start_worker(queues=("transfer",), concurrency=1)


@pytest.fixture
def world(make_world: MakeWorld, broker: OwnRedis, node: OwnRedis) -> JobWorld:
    """Workers on a cache node that holds entries to be exported."""
    made = make_world(broker_url=broker.url, cache_url=node.url)
    asyncio.run(fill(node.url, [key(at) for at in range(COUNT)], "answer to"))
    return made


@pytest.fixture
def exported(world: JobWorld, tmp_path: Path) -> Path:
    """A real export of it."""
    file = tmp_path / "all.jsonl.zst"

    async def export() -> None:
        async with open_cache(url=world.settings.url) as cache:
            await export_to(file, cache)

    asyncio.run(export())
    return file


def test_a_worker_dies_in_the_middle_of_an_export_and_the_file_is_whole(
    world: JobWorld, node: OwnRedis, tmp_path: Path
) -> None:
    file = tmp_path / "all.jsonl.zst"
    worker = start(world)

    job_id = submit(world, "export", file)
    world.wait_for_items(job_id, 2_500)
    assert not file.exists(), "it gets its name at the end"
    job = kill_and_go_on(world, worker, job_id)

    assert (job.state, job.failed) == ("succeeded", 0)
    assert job.done + job.skipped == job.total
    here = open_cache(max_size=2 * COUNT)
    tally = asyncio.run(import_from(file, here)).tally
    assert tally.entries == job.done, "the seals hold, and every entry that was counted is in the file"
    assert (tally.added, tally.entries - tally.added) == (COUNT, tally.present + tally.duplicates)
    assert list(tmp_path.glob(".*.part")) == []
    assert world.stores.audit.verify() is None


def test_a_worker_dies_while_it_verifies_and_stages_and_nothing_live_is_touched(
    world: JobWorld, exported: Path, node: OwnRedis
) -> None:
    asyncio.run(fill(node.url, [f"stranger {at}" for at in range(100)], "goes"))
    asyncio.run(delete(node.url, [key(at) for at in range(0, COUNT, 2)]))
    before = asyncio.run(texts(node.url))
    worker = start(world)

    job_id = submit(world, "import", exported, replace=True)
    wait_until(lambda: world.client.get(job_id).summary.get("verified", 0) > 0, timeout=30)
    worker.kill()
    assert world.client.get(job_id).summary["step"] == "verify"
    assert asyncio.run(texts(node.url)) == before
    world.reconcile_after_a_death()
    start(world)
    job = world.wait_for_job(job_id)

    assert (job.state, job.total, job.done + job.skipped) == ("succeeded", COUNT, COUNT)
    assert job.summary["removed"] == 100
    assert asyncio.run(texts(node.url)) == expected(COUNT, "answer to")


async def delete(url: str, keys: list[str]) -> None:
    async with LLMCache(CacheConfig(url=url, strict=True, timeout_seconds=20)) as cache:
        await cache.delete_many(keys)


def test_a_worker_dies_while_it_merges_and_nothing_is_lost_or_doubled(
    world: JobWorld, exported: Path, node: OwnRedis
) -> None:
    asyncio.run(delete(node.url, [key(at) for at in range(COUNT)]))
    newer = [key(at) for at in range(0, COUNT, 100)]
    asyncio.run(fill(node.url, newer, "stored since"))
    worker = start(world)

    job_id = submit(world, "import", exported)
    world.wait_for_items(job_id, 2_500)
    job = kill_and_go_on(world, worker, job_id)

    assert (job.state, job.total) == ("succeeded", COUNT)
    assert job.done + job.skipped == COUNT
    assert job.summary["newer"] == len(newer)
    since = {each: f"stored since {each}" for each in newer}
    assert asyncio.run(texts(node.url)) == expected(COUNT, "answer to") | since


def test_workers_die_in_the_middle_of_a_swap_and_the_next_ones_complete_it(
    world: JobWorld, exported: Path, node: OwnRedis
) -> None:
    asyncio.run(fill(node.url, [f"stranger {at}" for at in range(STRANGERS)], "goes"))
    asyncio.run(fill(node.url, [key(at) for at in range(COUNT)], "changed"))
    worker = start(world)

    job_id = submit(world, "import", exported, replace=True)
    halves = []
    for counted in ("updated", "removed"):
        wait_until(lambda counted=counted: world.client.get(job_id).summary.get(counted, 0) > 0, timeout=60)
        worker.kill()
        assert not world.client.get(job_id).ended
        halves.append(asyncio.run(texts(node.url)))
        asyncio.run(fill(node.url, [f"stored behind {counted}"], "stays"))
        world.reconcile_after_a_death()
        worker = start(world)
    job = world.wait_for_job(job_id)

    since = {f"stored behind {counted}": f"stays stored behind {counted}" for counted in ("updated", "removed")}
    wanted = expected(COUNT, "answer to") | since
    assert wanted not in halves
    assert len(halves[0]) == COUNT + STRANGERS, "nothing goes before all is there"
    assert asyncio.run(texts(node.url)) == wanted
    assert (job.state, job.total, job.done + job.skipped) == ("succeeded", COUNT, COUNT)
    # What the dead one removed behind its last note is gone without being counted.
    assert 0 < job.summary["removed"] <= STRANGERS


def test_a_full_disk_pauses_the_export_of_a_real_worker_until_it_is_resumed(world: JobWorld, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    worker = start(world)
    # The worker's own files stay below; it is about half of the export.
    for child in worker.children():
        child.rlimit(psutil.RLIMIT_FSIZE, (ROOM, psutil.RLIM_INFINITY))

    job_id = submit(world, "export", file)
    wait_until(lambda: world.client.get(job_id).state == "paused", timeout=60)
    paused = world.client.get(job_id)
    unfinished = next(tmp_path.glob(".*.part")).stat().st_size
    for child in worker.children():
        child.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    world.client.request(job_id, "resume")
    job = world.wait_for_job(job_id)

    assert "there is no room" in (paused.last_error or "")
    assert 0 < paused.done < COUNT
    assert unfinished <= ROOM
    assert (job.state, job.done, job.last_error) == ("succeeded", COUNT, None)
    here = open_cache(max_size=2 * COUNT)
    assert asyncio.run(import_from(file, here)).tally.added == COUNT
