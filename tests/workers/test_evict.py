"""Evict jobs: what the steps do, and what a submitter and the schedule get."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cache_management.cache.clock import version_at
from cache_management.cache.errors import BackendRefused, InvalidInput
from cache_management.cache.identity import digest
from cache_management.cache.sweeping import Sweeping
from cache_management.cache.values import CachedResponse
from cache_management.models.store.results import JobView, Ring
from cache_management.settings import load_settings
from cache_management.wiring import Platform
from cache_management.workers import defaults, runtime
from cache_management.workers import evict as evict_tasks
from cache_management.workers.chunk import run_chunk
from cache_management.workers.client import JobClient
from cache_management.workers.evict import plan, sweep
from cache_management.workers.messages import check_params, route_of
from tests.waiting import wait_until

STEPS = {"plan": plan, "data": sweep}


class Here:
    """A worker's runtime in this process, and a notebook in place of a broker."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        env = {"CACHE_URL": f"disk://{folder / 'cache'}", "CACHE_DATA_DIR": str(folder)}
        self.settings = load_settings(env=env).settings
        self.runtime = runtime.Runtime(self.settings)
        self.platform = self.runtime.platform
        self.jobs = self.platform.stores.jobs
        self.platform.stores.upgrade()
        self.rung: list[Ring] = []
        monkeypatch.setattr(runtime, "current", lambda: self.runtime)
        monkeypatch.setattr(JobClient, "ring", lambda _, rings, **__: self.rung.extend(rings) or True)
        self.client = JobClient(self.settings, stores=self.platform.stores)

    def store(self, count: int, *, namespace: str = "default", prefix: str = "key", tags: tuple[str, ...] = ()) -> None:
        answers = {
            f"{prefix} {at}": CachedResponse(prompt="p", response="r", model="m", timestamp=datetime.now(UTC))
            for at in range(count)
        }
        self.runtime.run(self.platform.in_namespace(namespace).llm_cache.set_many(answers, tags=tags))

    def keys(self, namespace: str = "default") -> set[str]:
        return set(self.runtime.run(self.platform.in_namespace(namespace).llm_cache.list_keys()))

    def answer(self, ring: Ring) -> None:
        route = route_of(ring.job_kind, ring.shard_kind)
        assert route.queue == "evict"
        request = SimpleNamespace(id=f"t-{ring.shard}-{ring.fence}", headers={})
        task: Any = SimpleNamespace(name=route.task, request=request)
        run_chunk(task, ring.job_id, ring.shard, ring.fence, STEPS[ring.shard_kind])

    def work(self, job_id: str) -> JobView:
        while self.rung:
            self.answer(self.rung.pop(0))
        return self.jobs.get(job_id)

    def do(self, **params: Any) -> JobView:
        return self.work(self.client.submit("evict", {"keys_per_second": 0, **params}).job_id)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    made = Here(tmp_path / "data", monkeypatch)
    yield made
    made.runtime.close()


def test_a_selection_is_planned_and_removed_page_by_page(here: Here) -> None:
    here.store(1_200, prefix="old", tags=("t",))
    here.store(30, prefix="other")

    job = here.do(tag="t")

    assert (job.state, job.total, job.done, job.skipped) == ("succeeded", 1_200, 1_200, 0)
    assert (job.summary["planned"], job.summary["chosen"], job.summary["step"]) == (1_200, 1_200, "done")
    assert job.bytes == job.summary["chosen_bytes"] > 1_200 * 50
    assert len(here.keys()) == 30


def test_what_is_stored_behind_the_plan_stays(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.store(40)
    job_id = here.client.submit("evict", {"pattern": "key *", "keys_per_second": 0}).job_id
    here.answer(here.rung.pop(0))
    here.store(10)
    here.store(10, prefix="key of later")

    job = here.work(job_id)

    assert here.keys() == {f"key {at}" for at in range(10)} | {f"key of later {at}" for at in range(10)}
    assert (job.state, job.done, job.done + job.skipped) == ("succeeded", 30, job.total)
    assert job.summary["kept"] == 20


def test_the_moment_that_the_submitter_names_counts(here: Here) -> None:
    here.store(5, prefix="old")
    before = version_at(time.time() + 0.001)
    wait_until(lambda: version_at(time.time()) > before)
    here.store(5, prefix="new")

    assert here.do(everything=True, before=before).done == 5
    assert here.keys() == {f"new {at}" for at in range(5)}


def test_a_job_works_in_its_namespace_only(here: Here) -> None:
    for namespace in ("default", "another"):
        here.store(5, namespace=namespace)

    job_id = here.client.submit("evict", {"everything": True}, namespace="another").job_id

    assert here.work(job_id).done == 5
    assert (len(here.keys()), len(here.keys("another"))) == (5, 0)


def test_a_cancelled_job_stops_at_the_next_page_and_a_paused_one_goes_on(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evict_tasks, "PAGE", 20)
    here.store(100)
    pages: list[int] = []
    asks = {2: "pause", 4: "cancel"}
    advance = Sweeping.advance

    async def ask(self: Sweeping, place: Any, *args: Any, **options: Any) -> Any:
        if not self._dry:
            pages.append(place.total.entries)
            if len(pages) in asks:
                here.jobs.request(job_id, asks[len(pages)], by="me")  # type: ignore[arg-type]
        return await advance(self, place, *args, **options)

    monkeypatch.setattr(Sweeping, "advance", ask)
    job_id = here.client.submit("evict", {"pattern": "*", "keys_per_second": 0}).job_id
    paused = here.work(job_id)
    here.client.request(job_id, "resume")
    cancelled = here.work(job_id)

    assert (paused.state, paused.done) == ("paused", 40)
    assert (cancelled.state, cancelled.done) == ("cancelled", 80)
    assert pages == [0, 20, 40, 60]
    assert len(here.keys()) == 20


def test_pages_removed_by_a_run_that_could_not_say_so_are_counted_as_gone(here: Here) -> None:
    here.store(30)
    job_id = here.client.submit("evict", {"everything": True, "keys_per_second": 0}).job_id
    here.answer(here.rung.pop(0))
    for key in sorted(here.keys())[:12]:
        here.runtime.run(here.platform.llm_cache.delete(key))

    job = here.work(job_id)

    assert (job.total, job.done, job.skipped, job.summary["gone"]) == (30, 18, 12, 12)


def test_a_calm_store_costs_a_scheduled_job_almost_nothing(here: Here) -> None:
    here.store(50)
    entry = defaults.beat_schedule["evict"]

    job = here.do(**entry["args"][4])

    assert (job.state, job.done) == ("succeeded", 0)
    assert len(here.keys()) == 50
    assert sum(shard.cursor for shard in job.shards) <= 5
    assert defaults.beat_schedule["evict-leftovers"]["args"][4] == {"leftovers": True}


def test_expired_entries_and_those_above_the_bounds_go(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.store(60)
    disk: Any = here.platform.llm_cache.backend.inner  # type: ignore[attr-defined]
    monkeypatch.setattr(disk, "_max_size", 20)

    job = here.do(policy=True, expired=True)

    assert (job.state, job.done, job.total) == ("succeeded", 44, 44)
    assert len(here.keys()) == 16


def test_the_budget_of_names_a_second_is_kept(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.store(60)
    paused: list[float] = []

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    def sweeping(platform: Platform, **options: Any) -> Sweeping:
        return Sweeping(platform.llm_cache, sleep=sleep, **options)

    monkeypatch.setattr(Platform, "sweeping", sweeping)
    job = here.do(everything=True, keys_per_second=20)

    assert job.done == 60
    assert len(paused) >= 6, "three pages are planned, and three removed"
    assert sum(paused) == pytest.approx(6, abs=1)
    assert max(paused) <= 1


def test_a_store_that_refuses_fails_the_job_with_its_reason(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> Any:
        raise BackendRefused("redis at there", "NOPERM this user has no permissions to run the 'info' command")

    monkeypatch.setattr(type(here.platform.llm_cache.backend), "surplus", refuse)

    job = here.do(policy=True)

    assert (job.state, "NOPERM" in (job.last_error or "")) == ("failed", True)


def test_a_slow_regular_expression_fails_the_job_before_anything_is_removed(here: Here) -> None:
    here.store(1, prefix="a" * 40 + "!")

    job = here.do(regex=r"(a|aa|a?)+$")

    assert (job.state, job.done, len(here.keys())) == ("failed", 0, 1)
    assert "takes too long" in (job.last_error or "")


def test_no_key_stands_in_what_is_told_of_a_job(here: Here) -> None:
    here.store(20, prefix="a private question")

    job = here.do(older_than_seconds=0)

    told = repr((job.summary, job.last_error, here.jobs.events(job.id), here.platform.stores.audit.tail(50)))
    assert job.done == 20
    assert "private" not in told
    assert digest("a private question 1") not in told


@pytest.mark.parametrize(
    "params", [{}, {"pattern": "*", "everything": True}, {"regex": "("}, {"older_than_seconds": -1}, {"unknown": 1}]
)
def test_parameters_that_say_nothing_or_nonsense_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        check_params("evict", params)
