"""Embed jobs: what the steps do, and what a submitter gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.errors import EmbedderUnavailable
from cache_management.cache.semantic import re_embedding
from cache_management.cache.semantic.matcher import SimilarityMatcher
from cache_management.cache.warmer import CacheWarmer
from cache_management.models.store.results import Claim, JobView, Ring
from cache_management.settings import load_settings
from cache_management.workers import embed as embed_tasks
from cache_management.workers import runtime
from cache_management.workers.chunk import run_chunk
from cache_management.workers.client import JobClient
from cache_management.workers.embed import plan, walk
from cache_management.workers.messages import route_of
from cache_management.workers.pace import Pace
from tests.workers.harness import warm_items

STEPS = {"plan": plan, "data": walk}


class Here:
    """A worker's runtime in this process, and a notebook in place of a broker."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **env: str) -> None:
        env = {"CACHE_URL": "memory://", "CACHE_DATA_DIR": str(folder), "CACHE_EMBEDDING_MODEL": "hashing", **env}
        self.settings = load_settings(env=env).settings
        self.runtime = runtime.Runtime(self.settings)
        self.platform = self.runtime.platform
        self.jobs = self.platform.stores.jobs
        self.platform.stores.upgrade()
        self.rung: list[Ring] = []
        monkeypatch.setattr(runtime, "current", lambda: self.runtime)
        monkeypatch.setattr(JobClient, "ring", lambda _, rings, **__: self.rung.extend(rings) or True)
        self.client = JobClient(self.settings, stores=self.platform.stores)

    def store(self, count: int) -> None:
        """Store entries without vectors."""
        self.runtime.run(CacheWarmer(self.platform.entries).warm(warm_items(count)))

    def answer(self, ring: Ring) -> None:
        route = route_of(ring.job_kind, ring.shard_kind)
        request = SimpleNamespace(id=f"t-{ring.shard}-{ring.fence}", headers={})
        task: Any = SimpleNamespace(name=route.task, request=request)
        assert route.queue == "embed"
        run_chunk(task, ring.job_id, ring.shard, ring.fence, STEPS[ring.shard_kind])

    def work(self, job_id: str) -> JobView:
        while self.rung:
            self.answer(self.rung.pop(0))
        return self.jobs.get(job_id)

    def found(self, count: int) -> int:
        """Count the entries that are found by meaning."""
        manager = self.platform.manager
        return sum(bool(self.runtime.run(manager.find_similar(item.prompt, 0.99))) for item in warm_items(count))

    def plant_of_another_model(self, count: int) -> None:
        matcher = SimilarityMatcher(
            self.settings.similarity(), backend=self.platform.llm_cache.backend, embedder=HashingEmbedder(32)
        )
        for item in warm_items(count):
            self.runtime.run(matcher.index_entry(item.prompt, item.response))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    made = Here(tmp_path / "data", monkeypatch)
    yield made
    made.runtime.close()


def test_a_job_embeds_what_has_no_vector_and_counts_it(here: Here) -> None:
    here.store(300)

    job = here.work(here.client.submit_embed().job_id)

    assert (job.kind, job.state, job.total, job.done, job.skipped) == ("embed", "succeeded", 300, 300, 0)
    assert (job.summary["embedded"], job.summary["turns"], job.summary["complete"]) == (300, 2, True)
    assert here.found(20) == 20


def test_a_second_job_finds_everything_there(here: Here) -> None:
    here.store(30)
    here.work(here.client.submit_embed().job_id)

    job = here.work(here.client.submit_embed(check=True).job_id)

    assert (job.state, job.total, job.done, job.skipped) == ("succeeded", 30, 0, 30)
    assert (job.summary["checked"], job.summary["compared"], job.summary["wrong"]) == (30, 30, 0)


def test_an_empty_namespace_is_no_failure(here: Here) -> None:
    assert here.work(here.client.submit_embed(check=True, drop_old=True).job_id).state == "succeeded"


def test_all_and_drop_old_reach_the_work(here: Here) -> None:
    here.store(30)
    here.plant_of_another_model(10)
    here.work(here.client.submit_embed().job_id)

    job = here.work(here.client.submit_embed(everything=True, drop_old=True).job_id)

    assert (job.done, job.skipped, job.summary["dropped"], job.summary["left"]) == (30, 0, 10, 0)


def test_a_live_job_that_does_the_same_is_returned(here: Here) -> None:
    first = here.client.submit_embed(check=True)
    same = here.client.submit_embed(check=True)
    other = here.client.submit_embed()

    assert (first.created, same.created, other.created) == (True, False, True)
    assert (same.job_id == first.job_id, other.job_id == first.job_id) == (True, False)
    here.work(first.job_id)
    assert here.client.submit_embed(check=True).created


def test_a_paused_job_goes_on_where_it_stopped(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_tasks, "_pages", Pace(least=50, most=50))
    here.store(300)
    job_id = here.client.submit_embed().job_id
    here.answer(here.rung.pop(0))
    advance = re_embedding.ReEmbedding.advance
    pages: list[int] = []

    async def pause_at_the_second(self: Any, place: Any, *args: Any, **options: Any) -> Any:
        pages.append(place.tally.embedded)
        if len(pages) == 2:
            here.jobs.request(job_id, "pause", by="me")
        return await advance(self, place, *args, **options)

    monkeypatch.setattr(re_embedding.ReEmbedding, "advance", pause_at_the_second)
    paused = here.work(job_id)
    here.client.request(job_id, "resume")
    job = here.work(job_id)

    assert (paused.state, paused.done) == ("paused", 100)
    assert pages[:4] == [0, 50, 100, 150]
    assert (job.state, job.done) == ("succeeded", 300)


def test_a_cancelled_job_keeps_what_it_embedded(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_tasks, "_pages", Pace(least=50, most=50))
    here.store(300)
    job_id = here.client.submit_embed().job_id
    here.answer(here.rung.pop(0))
    advance = re_embedding.ReEmbedding.advance

    async def cancel(self: Any, *args: Any, **options: Any) -> Any:
        here.jobs.request(job_id, "cancel", by="me")
        return await advance(self, *args, **options)

    monkeypatch.setattr(re_embedding.ReEmbedding, "advance", cancel)
    job = here.work(job_id)

    assert (job.state, job.done) == ("cancelled", 50)


def test_a_missing_model_fails_the_job_with_its_reason_and_changes_nothing(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.store(5)

    async def load(_: object) -> None:
        raise EmbedderUnavailable("no weights here")

    monkeypatch.setattr(HashingEmbedder, "load", load)
    job = here.work(here.client.submit_embed().job_id)

    assert (job.state, job.done) == ("failed", 0)
    assert "no weights here" in (job.last_error or "")


def test_a_model_that_is_lost_in_the_middle_leaves_a_partial_job(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_tasks, "_pages", Pace(least=50, most=50))
    here.store(300)
    embed = HashingEmbedder.embed
    calls: list[int] = []

    async def fail_later(self: HashingEmbedder, texts: Any) -> Any:
        calls.append(len(texts))
        if len(calls) > 2:
            raise EmbedderUnavailable("the device is lost")
        return await embed(self, texts)

    monkeypatch.setattr(HashingEmbedder, "embed", fail_later)
    job = here.work(here.client.submit_embed().job_id)

    assert (job.state, job.done) == ("partial", 100)
    assert "the device is lost" in (job.last_error or "")


def test_a_worker_with_another_model_refuses_the_job(here: Here, tmp_path: Path) -> None:
    here.store(5)
    settings = here.settings.model_copy(update={"embedding_model": "all-mpnet-base-v2"})
    client = JobClient(settings, stores=here.platform.stores)

    job = here.work(client.submit_embed(drop_old=True).job_id)

    assert (job.state, job.done) == ("failed", 0)
    assert "all-mpnet-base-v2" in (job.last_error or "")


def test_a_refused_cut_over_is_told_when_all_else_is_written_down(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.store(30)
    here.plant_of_another_model(10)
    monkeypatch.setattr(re_embedding, "MOST_TURNS", 1)

    job = here.work(here.client.submit_embed(drop_old=True).job_id)

    assert (job.state, job.done, job.summary["left"], job.summary["dropped"]) == ("partial", 30, 10, 0)
    assert "still entries without a vector" in (job.last_error or "")


def test_a_shard_that_lost_its_workers_goes_in_small_pages(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.store(40)
    job_id = here.client.submit_embed().job_id
    here.answer(here.rung.pop(0))
    seen: list[int] = []
    claim = here.jobs.claim(job_id, 1, 0, owner="me", task_id="t", hard_limit_seconds=90)
    assert isinstance(claim, Claim)

    async def advance(self: Any, place: Any, wanted: Any, *, limit: int) -> Any:
        seen.append(limit)
        return place

    monkeypatch.setattr(re_embedding.ReEmbedding, "advance", advance)
    here.runtime.run(walk(here.platform, msgspec.structs.replace(claim, single=True)))

    assert seen == [16]
