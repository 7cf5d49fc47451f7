"""A warm job when things break: each test kills or stops real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from cache_management import CacheConfig, LLMCache
from cache_management.cache.warm_items import read_warm_file
from cache_management.models.store.results import JobView
from cache_management.workers.client import submit_warm_file
from tests.conftest import OwnRedis
from tests.workers.harness import JobWorld, warm_items

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

COUNT = 1_500
MakeWorld = Callable[..., JobWorld]


def stored_keys(world: JobWorld) -> set[str]:
    """Read the cache as an app would."""

    async def read() -> set[str]:
        async with LLMCache(CacheConfig(url=world.settings.url, strict=True, timeout_seconds=5)) as cache:
            return set(await cache.list_keys())

    return asyncio.run(read())


def assert_complete(world: JobWorld, job: JobView, count: int) -> None:
    """Every item is there, each counted once."""
    assert (job.state, job.total, job.done, job.skipped, job.failed) == ("succeeded", count, count, 0, 0)
    assert (job.embedded, job.embed_failed) == (count, 0)
    assert stored_keys(world) == {item.prompt for item in warm_items(count)}
    assert world.stores.audit.verify() is None


def test_a_worker_killed_in_the_middle_loses_no_entry_and_counts_none_twice(
    make_world: MakeWorld, broker: OwnRedis, node: OwnRedis
) -> None:
    world = make_world(broker_url=broker.url, cache_url=node.url)
    worker = world.start_worker()
    job_id = world.client.submit_warm(warm_items(COUNT), batch_size=5).job_id
    world.wait_for_items(job_id, 100)

    worker.kill()

    assert not world.client.get(job_id).ended, "the job was over before the worker died"
    world.reconcile_after_a_death()
    world.start_worker()
    assert_complete(world, world.wait_for_job(job_id), COUNT)


def test_a_pool_child_killed_in_the_middle_is_taken_over_without_the_reconciler(
    make_world: MakeWorld, broker: OwnRedis, node: OwnRedis
) -> None:
    world = make_world(broker_url=broker.url, cache_url=node.url)
    worker = world.start_worker()
    job_id = world.client.submit_warm(warm_items(COUNT), batch_size=5).job_id
    world.wait_for_items(job_id, 100)

    worker.kill_a_busy_child()

    assert_complete(world, world.wait_for_job(job_id, timeout=90), COUNT)


def test_a_broker_restarted_empty_does_not_lose_the_job(
    make_world: MakeWorld, broker: OwnRedis, node: OwnRedis
) -> None:
    world = make_world(broker_url=broker.url, cache_url=node.url)
    job_id = world.client.submit_warm(warm_items(200)).job_id

    broker.kill()
    broker.restart(empty=True)

    world.start_worker()
    assert world.client.get(job_id).done == 0
    assert world.reconcile(seconds_later=60) == 1
    assert_complete(world, world.wait_for_job(job_id), 200)


def test_a_broker_restarted_empty_under_a_running_job_does_not_lose_it(
    make_world: MakeWorld, broker: OwnRedis, node: OwnRedis
) -> None:
    world = make_world(broker_url=broker.url, cache_url=node.url)
    world.start_worker()
    job_id = world.client.submit_warm(warm_items(COUNT), batch_size=5).job_id
    world.wait_for_items(job_id, 100)

    broker.kill()
    broker.restart(empty=True)

    # The worker comes back by itself; the reconciler rings for what the broker forgot.
    for _ in range(60):
        world.reconcile(seconds_later=60)
        try:
            job = world.wait_for_job(job_id, timeout=2)
            break
        except AssertionError:
            continue
    assert_complete(world, job, COUNT)


def test_a_cache_node_that_goes_away_pauses_the_job_and_blames_no_item(
    make_world: MakeWorld, broker: OwnRedis, node: OwnRedis
) -> None:
    world = make_world(broker_url=broker.url, cache_url=node.url)
    node.stop()
    world.start_worker()
    job_id = world.client.submit_warm(warm_items(100)).job_id
    world.wait_for_items(job_id, 0)

    node.restart()

    assert_complete(world, world.wait_for_job(job_id, timeout=90), 100)


def test_a_broker_that_is_down_at_submit_accepts_the_job_and_rings_later(
    make_world: MakeWorld, broker: OwnRedis, node: OwnRedis
) -> None:
    world = make_world(broker_url=broker.url, cache_url=node.url)
    broker.stop()

    submitted = world.client.submit_warm(warm_items(50))

    assert world.client.get(submitted.job_id).state == "queued"
    broker.restart()
    world.start_worker()
    world.reconcile(seconds_later=60)
    assert_complete(world, world.wait_for_job(submitted.job_id), 50)


def test_cancelling_stops_at_the_next_batch_and_accounts_for_every_item(
    make_world: MakeWorld, broker: OwnRedis, node: OwnRedis
) -> None:
    world = make_world(broker_url=broker.url, cache_url=node.url)
    world.start_worker()
    job_id = world.client.submit_warm(warm_items(COUNT), batch_size=1).job_id
    world.wait_for_items(job_id, 20)

    world.client.request(job_id, "cancel")

    job = world.wait_for_job(job_id, timeout=20)
    assert job.state == "cancelled"
    assert 20 <= job.done < COUNT
    assert job.done + job.skipped + job.failed + job.cancelled == COUNT
    assert len(stored_keys(world)) >= job.done


def test_the_same_key_submitted_twice_runs_once(make_world: MakeWorld, broker: OwnRedis, node: OwnRedis) -> None:
    world = make_world(broker_url=broker.url, cache_url=node.url)
    first = world.client.submit_warm(warm_items(30), idem_key="nightly")
    second = world.client.submit_warm(warm_items(30), idem_key="nightly")

    assert (first.created, second.created) == (True, False)
    assert second.job_id == first.job_id
    world.start_worker()
    assert_complete(world, world.wait_for_job(first.job_id), 30)
    assert len(world.stores.jobs.list()) == 1


def test_an_item_that_cannot_be_stored_becomes_a_dead_letter_and_the_others_go_on(
    make_world: MakeWorld, broker: OwnRedis, node: OwnRedis
) -> None:
    world = make_world(broker_url=broker.url, cache_url=node.url)
    world.env["CACHE_MAX_ENTRY_BYTES"] = "2000"
    items = warm_items(40)
    items[17] = items[17].model_copy(update={"response": "x" * 5000})
    world.start_worker()

    job = world.wait_for_job(world.client.submit_warm(items).job_id)

    assert (job.state, job.done, job.failed) == ("partial", 39, 1)
    (dead,) = world.stores.jobs.dead_items(job.id)
    assert "max_entry_bytes" in (dead.reason or "")


def test_a_warm_job_runs_on_postgres(
    make_world: MakeWorld, broker: OwnRedis, node: OwnRedis, postgres_url: str
) -> None:
    world = make_world(broker_url=broker.url, cache_url=node.url, metadata_url=postgres_url)
    worker = world.start_worker()
    job_id = world.client.submit_warm(warm_items(COUNT), batch_size=5).job_id
    world.wait_for_items(job_id, 100)

    worker.kill()

    world.reconcile_after_a_death()
    world.start_worker()
    assert_complete(world, world.wait_for_job(job_id), COUNT)


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_two_thousand_real_pairs_survive_a_killed_worker(
    make_world: MakeWorld,
    broker: OwnRedis,
    node: OwnRedis,
    developer_data: Path,
    database: str,
    request: pytest.FixtureRequest,
) -> None:
    metadata_url = request.getfixturevalue("postgres_url") if database == "postgres" else None
    world = make_world(broker_url=broker.url, cache_url=node.url, metadata_url=metadata_url)
    pairs = list(read_warm_file(developer_data / "warm_2000.json"))
    worker = world.start_worker()
    job_id = submit_warm_file(world.client, developer_data / "warm_2000.json", batch_size=10).job_id
    world.wait_for_items(job_id, 200)

    worker.kill()

    assert not world.client.get(job_id).ended, "the job was over before the worker died"
    world.reconcile_after_a_death()
    world.start_worker()
    job = world.wait_for_job(job_id, timeout=90)
    assert (job.state, job.total, job.done + job.skipped, job.failed) == ("succeeded", 2000, 2000, 0)
    assert stored_keys(world) == {pair.prompt for pair in pairs}
