"""A job is worked on in the namespace it was submitted to, whatever the worker's own one is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cache_management import CacheConfig, LLMCache
from cache_management.models.store.results import Ring
from cache_management.settings import load_settings
from cache_management.wiring import NAMESPACES_KEPT, Platform, open_platform
from cache_management.workers import runtime
from cache_management.workers.chunk import run_chunk
from cache_management.workers.client import JobClient
from cache_management.workers.embed import embed
from cache_management.workers.messages import route_of
from cache_management.workers.warm import plan, store
from tests.conftest import OwnRedisFactory
from tests.workers.harness import job_world, warm_items

STEPS = {"plan": plan, "data": store, "embed": embed}


def make_platform(folder: Path, namespace: str = "default") -> Platform:
    env = {
        "CACHE_URL": "memory://",
        "CACHE_DATA_DIR": str(folder),
        "CACHE_EMBEDDING_MODEL": "hashing",
        "CACHE_NAMESPACE": namespace,
    }
    return open_platform(load_settings(env=env).settings)


def test_namespaces_share_one_store_and_one_model(tmp_path: Path) -> None:
    platform = make_platform(tmp_path)
    tenant = platform.in_namespace("tenant-a")

    assert tenant.llm_cache.namespace == "tenant-a"
    assert tenant.llm_cache.backend is platform.llm_cache.backend
    matcher, own = tenant.manager.similarity_matcher, platform.manager.similarity_matcher
    assert matcher is not None
    assert own is not None
    assert (matcher.namespace, matcher.embedder, matcher.backend) == ("tenant-a", own.embedder, own.backend)
    assert tenant.stores is platform.stores


def test_namespaces_are_kept_but_not_without_bound(tmp_path: Path) -> None:
    platform = make_platform(tmp_path)
    first = platform.in_namespace("tenant-a")

    assert platform.in_namespace("tenant-a") is first
    assert platform.in_namespace("default") is platform
    for number in range(NAMESPACES_KEPT):
        platform.in_namespace(f"other-{number}")
    assert platform.in_namespace("tenant-a") is not first


async def test_a_namespace_closed_leaves_the_store_to_the_others(tmp_path: Path) -> None:
    platform = make_platform(tmp_path)
    await platform.in_namespace("tenant-a").aclose()

    assert await platform.llm_cache.get("anything") is None
    await platform.aclose()


def test_a_worker_stores_and_embeds_in_the_namespace_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitting = make_platform(tmp_path, "tenant-a")
    here = runtime.Runtime(make_platform(tmp_path).settings)
    here.platform.stores.upgrade()
    rung: list[Ring] = []
    monkeypatch.setattr(runtime, "current", lambda: here)
    monkeypatch.setattr(JobClient, "ring", lambda _, rings, **__: rung.extend(rings) or True)
    job_id = JobClient(submitting.settings, stores=here.platform.stores).submit_warm(warm_items(3)).job_id

    while rung:
        ring = rung.pop(0)
        name = route_of(ring.job_kind, ring.shard_kind).task
        task: Any = SimpleNamespace(name=name, request=SimpleNamespace(id=f"t-{ring.shard}-{ring.fence}", headers={}))
        last = ring.job_id, ring.shard, ring.fence
        run_chunk(task, *last, STEPS[ring.shard_kind])

    job = here.platform.stores.jobs.get(job_id)
    tenant = here.platform.in_namespace("tenant-a")
    run_chunk(task, *last, STEPS["embed"])  # the last doorbell comes once more, and finds no inputs
    again = here.platform.stores.jobs.get(job_id)
    stored = here.run(tenant.llm_cache.list_keys())
    elsewhere = here.run(here.platform.llm_cache.list_keys())
    matches = here.run(tenant.manager.find_similar("question number 1"))
    here.close()
    assert (job.state, job.done, job.embedded) == ("succeeded", 3, 3)
    assert again == job
    assert (len(stored), elsewhere) == (3, [])
    assert matches[0].response == "answer 1"


@pytest.mark.timeout(120)
def test_a_real_worker_of_another_namespace_does_the_same(tmp_path: Path, own_redis: OwnRedisFactory) -> None:
    node = own_redis()
    with job_world(tmp_path / "world", broker_url=own_redis().url, cache_url=node.url) as world:
        world.start_worker()
        settings = world.settings.model_copy(update={"namespace": "tenant-a"})
        tenant = JobClient(settings, stores=world.stores)
        job = world.wait_for_job(tenant.submit_warm(warm_items(20)).job_id)
        tenant.close()

    async def count(namespace: str) -> int:
        async with LLMCache(CacheConfig(url=node.url, namespace=namespace, strict=True)) as cache:
            return len(await cache.list_keys())

    assert (job.state, job.done, job.embedded) == ("succeeded", 20, 20)
    assert asyncio.run(count("tenant-a")) == 20
    assert asyncio.run(count("default")) == 0
