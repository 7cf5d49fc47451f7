"""Jobs when servers, providers and clocks fail: each test does it to real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cache_management.cache.errors import MetadataUnavailable
from cache_management.cache.warm_items import WarmItem
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.main import run
from tests.conftest import PROJECT_ROOT, OwnPostgres, OwnRedis
from tests.faults import celery_quick_schedule
from tests.faults.providers import OUTAGE
from tests.waiting import wait_until
from tests.workers.harness import JobWorld, warm_items

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

COUNT = 800
MakeWorld = Callable[..., JobWorld]


@pytest.fixture
def world(make_world: MakeWorld, broker: OwnRedis, node: OwnRedis) -> JobWorld:
    made = make_world(broker_url=broker.url, cache_url=node.url)
    made.env["PYTHONPATH"] = str(PROJECT_ROOT)
    return made


def ask_provider(world: JobWorld, prompts: list[str], name: str = "answer", **options: object) -> str:
    """Submit prompts that the workers' provider has to answer."""
    world.env["CACHE_PROVIDER__CALLABLE"] = f"tests.faults.providers:{name}"
    items = [WarmItem(prompt=prompt) for prompt in prompts]
    return world.client.submit_warm(items, shards=1, embed=False, **options).job_id


def test_an_item_that_kills_its_worker_each_time_is_found_and_the_others_go_on(world: JobWorld) -> None:
    prompts = [f"question {at}" for at in range(12)]
    prompts[5] = "poison"
    job_id = ask_provider(world, prompts)
    world.start_worker(queues=("warm",), concurrency=1)

    # What beat does for a minute and more: leases of the dead end, the shard goes one by one, then past the item.
    def looked_after() -> bool:
        world.reconcile(seconds_later=70)
        return world.client.get(job_id).ended

    wait_until(looked_after, timeout=120, pause=0.7)

    job = world.client.get(job_id)
    assert (job.state, job.done, job.failed) == ("partial", 11, 1)
    (dead,) = world.stores.jobs.dead_items(job_id)
    assert dead.part_index == 5
    assert "worker lost" in (dead.reason or "")
    events = [event.event for event in world.stores.jobs.events(job_id)]
    assert "shard goes one by one" in events


def test_a_provider_that_is_away_makes_the_job_wait_and_fails_no_item(world: JobWorld, tmp_path: Path) -> None:
    outage = tmp_path / "outage"
    outage.touch()
    world.env[OUTAGE] = str(outage)
    job_id = ask_provider(world, [f"question {at}" for at in range(20)], "answer_unless_away")
    world.start_worker(queues=("warm",), concurrency=1)

    def waits() -> bool:
        shards = world.client.get(job_id).shards
        return len(shards) > 1 and "503" in (shards[1].reason or "")

    wait_until(waits, timeout=30)
    during = world.client.get(job_id)
    outage.unlink()

    job = world.wait_for_job(job_id)
    assert (during.state, during.done, during.failed, during.shards[1].deliveries) == ("running", 0, 0, 0)
    assert (job.state, job.done, job.failed) == ("succeeded", 20, 0)


def test_a_broker_restarted_with_its_file_loses_nothing_and_needs_no_reconciler(
    world: JobWorld, broker: OwnRedis
) -> None:
    world.start_worker()
    job_id = world.client.submit_warm(warm_items(COUNT), batch_size=5).job_id
    world.wait_for_items(job_id, 50)

    broker.kill()
    broker.restart()

    # A doorbell of the last moment may be gone, which is what the reconciler is for: as beat would, after a while.
    def ended() -> bool:
        world.reconcile(seconds_later=31)
        return world.client.get(job_id).ended

    wait_until(ended, timeout=60, pause=3)
    job = world.client.get(job_id)
    assert (job.state, job.done, job.failed) == ("succeeded", COUNT, 0)


def test_a_database_that_goes_away_in_the_middle_stops_the_work_and_it_goes_on(
    make_world: MakeWorld, broker: OwnRedis, node: OwnRedis, own_postgres: OwnPostgres
) -> None:
    world = make_world(broker_url=broker.url, cache_url=node.url, metadata_url=own_postgres.url)
    worker = world.start_worker()
    job_id = world.client.submit_warm(warm_items(COUNT), batch_size=5).job_id
    world.wait_for_items(job_id, 50)

    own_postgres.kill()
    wait_until(lambda: "the database is away" in worker.log or "cannot be used" in worker.log, timeout=30)
    own_postgres.restart()

    def ended() -> bool:
        world.reconcile(seconds_later=31)
        return world.client.get(job_id).ended

    wait_until(ended, timeout=90, pause=3)
    job = world.client.get(job_id)
    assert (job.state, job.done, job.skipped, job.failed) == ("succeeded", COUNT, 0, 0)
    assert job.embedded == COUNT
    assert world.stores.audit.verify() is None


def test_a_database_that_is_away_at_submit_queues_nothing(
    make_world: MakeWorld,
    broker: OwnRedis,
    node: OwnRedis,
    own_postgres: OwnPostgres,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    world = make_world(broker_url=broker.url, cache_url=node.url, metadata_url=own_postgres.url)
    file = tmp_path / "items.jsonl"
    file.write_text('{"prompt": "q", "response": "a"}')
    for name, value in world.env.items():
        monkeypatch.setenv(name, value)

    own_postgres.kill()

    with pytest.raises(MetadataUnavailable, match="cannot be used"):
        world.client.submit_warm(warm_items(3))
    assert run(["warm", str(file)]) == ExitCode.DATABASE
    own_postgres.restart()
    assert world.stores.jobs.list() == []


@pytest.mark.parametrize("shift", [600, -600])
def test_a_worker_whose_clock_is_ten_minutes_off_works_like_any_other(world: JobWorld, shift: int) -> None:
    off = {
        "CACHE_TEST_CLOCK_SHIFT": str(shift),
        "PYTHONPATH": f"{PROJECT_ROOT / 'tests' / 'faults' / 'shifted_clock'}{os.pathsep}{PROJECT_ROOT}",
    }
    world.start_worker(env=off, concurrency=1)
    world.start_worker(concurrency=1)

    job_id = world.client.submit_warm(warm_items(200), batch_size=5).job_id

    job = world.wait_for_job(job_id)
    assert (job.state, job.done, job.skipped, job.failed) == ("succeeded", 200, 0, 0)
    seen = subprocess.run(
        [sys.executable, "-c", "import time, datetime; print(time.time() - datetime.datetime.now().timestamp())"],
        env=dict(os.environ) | off,
        capture_output=True,
        check=True,
    )
    assert float(seen.stdout) == pytest.approx(shift, abs=5), "the clock was right after all"
    expired = [event for event in world.stores.jobs.events(job_id) if event.event == "lease expired"]
    assert expired == [], "a lease ended by a clock that is not the database's"


def test_two_schedulers_run_each_slot_once(world: JobWorld) -> None:
    world.env["CACHE_CELERY_CONFIG"] = "tests.faults.celery_quick_schedule"
    world.start_worker(queues=("control",), concurrency=2)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("CACHE_")}
    beats = []
    try:
        for number in range(2):
            with (world.folder / f"worker-beat-{number}.log").open("wb") as log:
                argv = [sys.executable, "-m", "cache_management.cli", "beat"]
                beats.append(
                    subprocess.Popen(
                        argv, env=inherited | world.env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                    )
                )
        wait_until(lambda: len(world.stores.jobs.list(state="succeeded")) >= 4, timeout=60, pause=0.1)
    finally:
        for beat in beats:
            beat.kill()
            beat.wait()

    jobs = world.stores.jobs.list(limit=1000)
    slots = [int(job.created_at.timestamp() // celery_quick_schedule.PERIOD_SECONDS) for job in jobs]
    assert len(slots) == len(set(slots)), "a slot ran twice"
    assert {(job.submitted_by, job.kind) for job in jobs} == {("scheduler", "prune")}
