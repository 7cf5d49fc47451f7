"""Workers that are stopped, frozen, late, hung or deaf: each test does it to real processes."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

import psutil
import pytest
from redis import Redis

from cache_management.metrics.families import as_data
from cache_management.models.store.results import JobView
from cache_management.workers.exporter import Exporter
from tests.conftest import OwnRedis
from tests.faults import celery_hanging_step
from tests.faults.deaf_proxy import DeafProxy
from tests.waiting import wait_until
from tests.workers.harness import JobWorld, Worker, warm_items

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

COUNT = 600
MakeWorld = Callable[..., JobWorld]


@pytest.fixture
def world(make_world: MakeWorld, broker: OwnRedis, node: OwnRedis) -> JobWorld:
    return make_world(broker_url=broker.url, cache_url=node.url)


def begin_job(world: JobWorld, *, after: int = 20) -> str:
    """Submit a job of one shard that takes some seconds, and return when it is well under way."""
    job_id = world.client.submit_warm(warm_items(COUNT), batch_size=1, shards=1, embed=False).job_id
    world.wait_for_items(job_id, after)
    return job_id


def assert_once_each(job: JobView) -> None:
    """Every item is done, and counted once."""
    assert (job.state, job.total, job.done, job.skipped, job.failed) == ("succeeded", COUNT, COUNT, 0, 0)


def test_a_worker_stopped_with_sigquit_puts_its_chunk_back_and_the_next_goes_on(
    world: JobWorld, broker: OwnRedis
) -> None:
    stopped = world.start_worker(concurrency=1, env={"CACHE_CELERY_CONFIG": "tests.faults.celery_short_stop"})
    job_id = begin_job(world)

    stopped.stop(signal.SIGQUIT)

    before = world.client.get(job_id)
    assert 20 <= before.done < COUNT, "the job was over before the worker stopped"
    with closing(Redis.from_url(broker.url)) as client:
        assert client.llen("warm") + sum(client.llen(f"warm\x06\x16{step}") for step in (3, 6, 9)) == 1
        assert client.hlen("unacked") == 0
    world.start_worker(concurrency=1)
    assert_once_each(world.wait_for_job(job_id))


def test_a_worker_that_wakes_up_after_its_lease_counts_nothing_again(world: JobWorld) -> None:
    zombie = world.start_worker(concurrency=1)
    job_id = begin_job(world)
    (child,) = busy_children(zombie)
    freeze_outside_a_transaction(world, child)
    try:
        frozen_at = world.client.get(job_id).done
        assert frozen_at < COUNT

        world.reconcile_after_a_death()
        world.start_worker(concurrency=1)
        finished = world.wait_for_job(job_id)
    finally:
        child.resume()

    # It commits, or finds that its store took too long and gives its claim back: neither changes a row.
    wait_until(lambda: "the claim is lost" in zombie.log or "is given back" in zombie.log, timeout=30)
    assert_once_each(finished)
    assert_once_each(world.client.get(job_id))


def test_a_chunk_that_takes_longer_than_the_visibility_timeout_is_done_once(world: JobWorld) -> None:
    worker = world.start_worker(env={"CACHE_CELERY_CONFIG": "tests.faults.celery_short_visibility"})

    job_id = begin_job(world)

    assert_once_each(world.wait_for_job(job_id))
    assert "own first run may still work" in worker.log, "the broker never delivered a second time"


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_cancelling_stops_at_the_next_batch_where_celery_cannot_revoke(world: JobWorld, pool: str) -> None:
    world.start_worker(concurrency=None, options=[f"--pool={pool}"])
    job_id = begin_job(world)

    at_request = world.client.request(job_id, "cancel").job

    job = world.wait_for_job(job_id, timeout=20)
    assert job.state == "cancelled"
    assert job.done - at_request.done <= 2, "it went on after the batch that was under way"
    assert job.done + job.skipped + job.failed + job.cancelled == COUNT


@pytest.fixture
def hanging(world: JobWorld) -> Iterator[dict[str, str]]:
    """An environment in which the first warm chunk of a worker hangs until the file is gone."""
    file = world.folder / "hangs"
    file.touch()
    yield {
        "CACHE_CELERY_CONFIG": celery_hanging_step.__name__,
        celery_hanging_step.HANGS: str(file),
        "CACHE_DEAF_AFTER_SECONDS": "0",
    }
    file.unlink(missing_ok=True)


def test_a_chunk_that_hangs_loses_its_shard_although_its_timer_goes_on(
    world: JobWorld, hanging: dict[str, str]
) -> None:
    hung = world.start_worker(concurrency=1, options=["--pool=threads"], env=hanging)
    job_id = world.client.submit_warm(warm_items(COUNT), batch_size=50, shards=1, embed=False).job_id
    wait_until((world.folder / "hung").exists, timeout=30)
    (shard,) = [each for each in world.client.get(job_id).shards if each.kind == "data"]

    # Three seconds of hard limit and ten of grace, by the real clock: until then nobody may take the shard.
    assert world.reconcile() == 0
    wait_until(lambda: world.reconcile() == 1, timeout=30, pause=0.2)

    (moved,) = [each for each in world.client.get(job_id).shards if each.kind == "data"]
    assert moved.fence == shard.fence + 1
    world.start_worker(concurrency=1)
    finished = world.wait_for_job(job_id)
    (world.folder / "hangs").unlink()
    wait_until(lambda: "the claim is lost" in hung.log, timeout=30)
    assert_once_each(finished)
    assert_once_each(world.client.get(job_id))


def test_a_worker_that_cannot_end_a_hung_task_ends_itself(world: JobWorld, hanging: dict[str, str]) -> None:
    hung = world.start_worker(
        concurrency=None, options=["--pool=solo"], env=hanging | {"CACHE_DEAF_AFTER_SECONDS": "1"}
    )
    world.client.submit_warm(warm_items(5), embed=False)

    assert hung.process.wait(timeout=60) == 1
    assert "warm.chunk has run for more than 3 s" in hung.log


def test_metrics_are_right_although_children_and_workers_are_killed(world: JobWorld) -> None:
    worker = world.start_worker(concurrency=1)
    job_id = begin_job(world)
    told: list[float] = []

    def done() -> float:
        """Ask as a fresh exporter does, which remembers nothing."""
        exporter = Exporter(world.settings)
        found = as_data(exporter.families())["cache_job_items_total"]
        exporter.close()
        told.append(next(each["value"] for each in found if (each["kind"], each["outcome"]) == ("warm", "done")))
        return told[-1]

    assert done() >= 20
    worker.kill_a_busy_child()
    wait_until(lambda: world.client.get(job_id).done > told[0], timeout=60, pause=0.1)
    assert done() > told[0]
    worker.kill()
    world.reconcile_after_a_death()
    world.start_worker()
    assert_once_each(world.wait_for_job(job_id))

    assert done() == COUNT
    assert told == sorted(told)


@pytest.fixture
def proxy(broker: OwnRedis) -> Iterator[DeafProxy]:
    made = DeafProxy(broker.port)
    yield made
    made.close()


def test_a_worker_that_lives_and_consumes_nothing_ends_itself(world: JobWorld, proxy: DeafProxy) -> None:
    deaf = world.start_worker(
        queues=("warm",),
        env={"CACHE_BROKER_URL": f"redis://127.0.0.1:{proxy.port}/0", "CACHE_DEAF_AFTER_SECONDS": "2"},
    )
    proxy.deaf = True
    wait_until(lambda: proxy.swallowed, timeout=30)

    job_id = world.client.submit_warm(warm_items(COUNT), shards=1, embed=False).job_id

    assert deaf.process.wait(timeout=60) == 1
    assert "the queue warm is not empty, and nothing was taken for" in deaf.log
    world.start_worker(concurrency=1)
    assert_once_each(world.wait_for_job(job_id))


def test_a_worker_without_a_broker_waits_for_it(world: JobWorld, broker: OwnRedis) -> None:
    worker = world.start_worker(concurrency=1, env={"CACHE_DEAF_AFTER_SECONDS": "0.5"})

    broker.stop()

    # Celery tries again after 2, 4, 6 ... seconds: many times the patience.
    wait_until(lambda: worker.log.count("Trying again in") >= 3, timeout=60)
    assert worker.process.poll() is None


def busy_children(worker: Worker) -> list[psutil.Process]:
    """Leave out the helper that watches over the semaphores of a worker."""
    children = worker.children()
    return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]


def freeze_outside_a_transaction(world: JobWorld, process: psutil.Process) -> None:
    """Stop a process with SIGSTOP while it holds no lock on the database: with one, all would have to wait for it."""
    file = world.settings.metadata_url.removeprefix("sqlite:///")

    def freeze() -> bool:
        process.suspend()
        try:
            with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            process.resume()
            return False
        return True

    wait_until(freeze, timeout=30)
