"""The shell around every step: what a failing step does to its shard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from cache_management.cache.errors import BackendUnavailable, MetadataUnavailable
from cache_management.models.store import Stores
from cache_management.models.store.results import Claim, Counts, Ring
from cache_management.settings import load_settings
from cache_management.wiring import Platform
from cache_management.workers import chunk, runtime
from cache_management.workers.chunk import JobPaused, Progress, ShardFailed, run_chunk
from cache_management.workers.client import JobClient
from tests.workers.harness import warm_items


class Here:
    """A runtime of this process, and a notebook in place of a broker."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = load_settings(env={"CACHE_URL": "memory://", "CACHE_DATA_DIR": str(folder)}).settings
        self.runtime = runtime.Runtime(settings)
        self.stores: Stores = self.runtime.platform.stores
        folder.mkdir(exist_ok=True)
        self.stores.upgrade()
        self.rung: list[Ring] = []
        monkeypatch.setattr(runtime, "current", lambda: self.runtime)
        monkeypatch.setattr(JobClient, "ring", lambda _, rings, **__: self.rung.extend(rings) or True)
        self.client = JobClient(settings, stores=self.stores)

    def submit(self, count: int = 3) -> Ring:
        self.client.submit_warm(warm_items(count))
        return self.rung.pop()

    def answer(self, ring: Ring, step: chunk.Step) -> None:
        request = SimpleNamespace(id=f"task-{ring.fence}", headers={"attempt": 0})
        task: Any = SimpleNamespace(name="warm.plan", request=request)
        run_chunk(task, ring.job_id, ring.shard, ring.fence, step)

    def plan_shard(self, ring: Ring) -> Any:
        return self.stores.jobs.get(ring.job_id).shards[0]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    made = Here(tmp_path / "data", monkeypatch)
    yield made
    made.runtime.close()


async def fail(platform: Platform, claim: Claim) -> Progress:
    raise KeyError("a bug in the step")


async def store_is_away(platform: Platform, claim: Claim) -> Progress:
    raise BackendUnavailable("redis", "it is away")


async def database_is_away(platform: Platform, claim: Claim) -> Progress:
    raise MetadataUnavailable("it is away")


async def is_too_slow(platform: Platform, claim: Claim) -> Progress:
    raise SoftTimeLimitExceeded


async def cannot_go_on(platform: Platform, claim: Claim) -> Progress:
    raise ShardFailed("the model is not installed")


def test_a_step_that_asks_for_it_pauses_its_job_with_the_reason(here: Here) -> None:
    async def is_full(platform: Platform, claim: Claim) -> Progress:
        raise JobPaused("there is no room: make some")

    ring = here.submit()

    here.answer(ring, is_full)

    job = here.stores.jobs.get(ring.job_id)
    assert (job.state, job.last_error) == ("paused", "there is no room: make some")
    assert here.rung == []


def test_a_step_that_fails_frees_its_shard_and_keeps_the_delivery_counted(here: Here) -> None:
    ring = here.submit()

    here.answer(ring, fail)

    shard = here.plan_shard(ring)
    assert (shard.lease_owner, shard.deliveries) == (None, 1)
    assert [each.shard for each in here.rung] == [0]


def test_a_shard_whose_step_always_fails_is_given_up_with_its_job(here: Here) -> None:
    ring = here.submit()

    for _ in range(12):
        here.answer(ring, fail)
        here.rung.clear()
        ring = next(iter(here.stores.jobs.reconcile(redispatch_after_seconds=-1)), ring)
        if here.stores.jobs.get(ring.job_id).ended:
            break

    job = here.stores.jobs.get(ring.job_id)
    assert (job.state, job.shards[0].reason) == ("failed", "KeyError in the last of 3 tries")


@pytest.mark.parametrize("away", [store_is_away, database_is_away])
def test_a_store_that_is_away_is_not_the_shards_fault(here: Here, away: chunk.Step) -> None:
    ring = here.submit()

    for _ in range(5):
        here.answer(ring, away)

    shard = here.plan_shard(ring)
    assert (shard.lease_owner, shard.deliveries, shard.state) == (None, 0, "open")
    assert shard.not_before is not None


def test_a_batch_that_is_too_slow_is_counted_so_that_it_goes_item_by_item(here: Here) -> None:
    ring = here.submit()

    for _ in range(3):
        here.answer(ring, is_too_slow)
        ring = here.rung.pop()
    assert here.plan_shard(ring).reason == "SoftTimeLimitExceeded"
    here.stores.jobs.reconcile()

    assert here.plan_shard(ring).single


def test_a_time_limit_spent_on_waiting_for_the_database_is_not_the_shards_fault(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = here.submit()
    answers = [MetadataUnavailable("it is away"), SoftTimeLimitExceeded()]

    def commit(*_: Any, **__: Any) -> None:
        raise answers.pop(0)

    async def one(platform: Platform, claim: Claim) -> Progress:
        return Progress(to_cursor=claim.cursor + 1)

    monkeypatch.setattr(here.stores.jobs, "commit", commit)
    here.answer(ring, one)

    shard = here.plan_shard(ring)
    assert (shard.lease_owner, shard.deliveries, shard.reason) == (None, 0, "MetadataUnavailable")


def test_a_step_that_fails_behind_a_commit_frees_its_shard(here: Here) -> None:
    ring = here.submit()

    async def one_then_fail(platform: Platform, claim: Claim) -> Progress:
        if claim.cursor:
            raise KeyError("a bug in the step")
        return Progress(to_cursor=1)

    here.answer(ring, one_then_fail)

    shard = here.plan_shard(ring)
    assert (shard.lease_owner, shard.cursor) == (None, 1)
    assert [each.shard for each in here.rung] == [0]


def test_a_shard_that_cannot_go_on_ends_with_its_reason(here: Here) -> None:
    ring = here.submit()

    here.answer(ring, cannot_go_on)

    assert here.stores.jobs.get(ring.job_id).last_error == "the model is not installed"


def test_a_doorbell_of_an_old_fence_does_nothing(here: Here) -> None:
    ring = here.submit()
    calls = []

    async def count(platform: Platform, claim: Claim) -> Progress:
        calls.append(claim.fence)
        return Progress(to_cursor=claim.cursor + 1, counts=Counts())

    here.answer(Ring(ring.job_id, ring.shard, ring.fence + 7, ring.job_kind, ring.shard_kind), count)

    assert calls == []


def test_a_chunk_ends_when_its_time_is_up_and_rings_for_the_next(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk, "CHUNK_SECONDS", 0.0)
    ring = here.submit()

    async def one(platform: Platform, claim: Claim) -> Progress:
        return Progress(to_cursor=claim.cursor + 1)

    here.answer(ring, one)

    assert [(each.shard, each.fence) for each in here.rung] == [(0, ring.fence + 1)]
    assert here.plan_shard(ring).cursor == 1


def test_one_client_serves_all_messages_of_a_process_and_is_closed_with_it(tmp_path: Path) -> None:
    settings = load_settings(env={"CACHE_URL": "memory://", "CACHE_DATA_DIR": str(tmp_path)}).settings
    made = runtime.Runtime(settings.model_copy(update={"broker_url": "memory://"}))
    producer = made.client.celery
    closed: list[bool] = []
    close = producer.close
    producer.close = lambda: closed.append(True) or close()

    assert made.client is made.client
    made.close()

    assert closed == [True]
