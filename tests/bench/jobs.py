"""Table 13: what durable jobs cost: for each item, until a job begins, and until work goes on after a kill.

Real workers, Redis as broker and as cache, SQLite metadata. The bare loop stores the same items in the same batches
in this process. Latency is from before the submit until the first claim, beside a task of Celery alone that
does nothing. After a SIGKILL the clock runs until the job's counts move again; beat runs as it always does.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from redis import Redis

from cache_management import CacheConfig, CacheManager, CacheWarmer, LLMCache
from cache_management.cache.clock import run_version
from cache_management.cache.warm_items import WarmItem
from cache_management.services import start_redis
from cache_management.services.processes import wait_for
from tests.bench.measure import Comparison, Figures, Report, percentile, spread
from tests.bench.noop_task import STARTED
from tests.workers.harness import JobWorld, Worker, job_world

NAME = "jobs"
_ROOT = Path(__file__).resolve().parents[2]
_BATCH = 50


async def measure(*, items: int, rounds: int, submits: int, kills: int) -> Report:
    """Measure the table; without `kills` nobody is killed."""
    report = Report(
        name=NAME,
        title="13. durable jobs",
        rows=[],
        notes=[
            f"{items:,} items in batches of {_BATCH}, one shard, no embedding; latency and resumption in milliseconds",
            "a killed child is taken over by its own message, which Celery sends again after 11 s; a killed worker's"
            " lease ends after 30 s, and beat looks every 15 s",
        ],
    )
    with ExitStack() as stack:
        world = stack.enter_context(_world())
        worker = world.start_worker(queues=("control", "warm"), concurrency=1)
        report.rows.append(await _per_item(world, items, rounds))
        report.rows.append(_latency(world, submits))
        if not kills:
            return report
        stack.enter_context(_beat(world))
        standby = world.start_worker(queues=("control", "warm"), concurrency=1)
        report.rows.append(_resumption(world, "child", [worker, standby], kills))
        report.rows.append(_resumption(world, "worker", [worker, standby], kills))
    return report


@contextmanager
def _world() -> Iterator[JobWorld]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cm-bench-")))
        broker = start_redis(folder / "broker", appendonly=True)
        stack.callback(broker.stop)
        node = start_redis(folder / "node")
        stack.callback(node.stop)
        world = stack.enter_context(job_world(folder / "world", broker_url=broker.url, cache_url=node.url))
        world.env |= {"CACHE_CELERY_CONFIG": "tests.bench.celery_noop", "PYTHONPATH": str(_ROOT)}
        yield world


async def _per_item(world: JobWorld, count: int, rounds: int) -> Comparison:
    jobs, bare = [], []
    for number in range(rounds):
        items = _items(count, number)
        for what in ("job", "bare") if number % 2 == 0 else ("bare", "job"):
            if what == "job":
                jobs.append(_run_job(world, items))
            else:
                bare.append(await _bare_loop(world, items))
    ours, theirs = ([seconds / count * 1e6 for seconds in each] for each in (jobs, bare))
    return _row("a warm job, each item", "bare loop of the same batches", "us", ours, theirs)


def _items(count: int, number: int) -> list[WarmItem]:
    return [WarmItem(prompt=f"{number} question {at}", response="x" * 1000, token_count=250) for at in range(count)]


def _run_job(world: JobWorld, items: list[WarmItem]) -> float:
    job_id = world.client.submit_warm(items, batch_size=_BATCH, shards=1, embed=False).job_id
    job = world.wait_for_job(job_id, timeout=600)
    if (job.state, job.done) != ("succeeded", len(items)) or job.finished_at is None:
        raise RuntimeError(f"the job did not store everything: {job}")
    return (job.finished_at - job.created_at).total_seconds()


async def _bare_loop(world: JobWorld, items: list[WarmItem]) -> float:
    async with LLMCache(CacheConfig(url=world.settings.url, namespace="bare")) as cache:
        warmer = CacheWarmer(CacheManager(cache))
        version = run_version()
        started = time.perf_counter()
        for start in range(0, len(items), _BATCH):
            await warmer.store(items[start : start + _BATCH], version=version)
        return time.perf_counter() - started


def _latency(world: JobWorld, count: int) -> Comparison:
    ours, theirs = [], []
    with Redis.from_url(str(world.settings.url)) as redis:
        for _ in range(count):
            before = time.time()
            job_id = world.client.submit("prune", {}).job_id
            started = world.wait_for_job(job_id).started_at
            if started is None:
                raise RuntimeError("a job ended that never began")
            ours.append((started.timestamp() - before) * 1000)
            before = time.time()
            world.client.celery.send_task("bench.noop", queue="control")
            told = redis.blpop([STARTED], timeout=30)
            theirs.append((float(told[1]) - before) * 1000)
    return _row("from submit to start", "a Celery task of no job", "ms", ours, theirs)


def _resumption(world: JobWorld, what: str, workers: list[Worker], count: int) -> Comparison:
    """Kill whoever works on a job, and wait until its counts move again."""
    waits = []
    for number in range(count):
        items = [WarmItem(prompt=f"{what} {number} {at}", response="x") for at in range(3_000)]
        job_id = world.client.submit_warm(items, batch_size=1, shards=1, embed=False).job_id
        world.wait_for_items(job_id, 50)
        owner = next(shard.lease_owner for shard in world.client.get(job_id).shards if shard.lease_owner)
        pid = int(owner.split(":")[1])
        worker = next(each for each in workers if pid in {child.pid for child in each.children()})
        if what == "child":
            next(child for child in worker.children() if child.pid == pid).kill()
        else:
            worker.kill()
            workers.remove(worker)
        killed = time.perf_counter()
        # What had been committed by then, and one commit more that may have been on its way.
        before = world.client.get(job_id).done + 1
        if not wait_for(
            lambda job_id=job_id, before=before: world.client.get(job_id).done > before, timeout=180, pause=0.02
        ):  # type: ignore[misc]
            raise RuntimeError(f"nobody went on with job {job_id}")
        waits.append((time.perf_counter() - killed) * 1000)
        world.client.request(job_id, "cancel")
        world.wait_for_job(job_id)
        if what == "worker":
            workers.append(world.start_worker(queues=("control", "warm"), concurrency=1))
    return _row(f"from SIGKILL of a {what} until work goes on", "", "ms", waits, [])


@contextmanager
def _beat(world: JobWorld) -> Iterator[None]:
    argv = [sys.executable, "-m", "cache_management.cli", "beat"]
    with (world.folder / "worker-beat.log").open("wb") as log:
        beat = subprocess.Popen(argv, env=world.inherited_env() | world.env, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        beat.kill()
        beat.wait()


def _row(what: str, reference: str, unit: str, ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    middle, low, high = spread([a / b for a, b in zip(ours, theirs, strict=True)]) if theirs else (1.0, 1.0, 1.0)
    return Comparison(
        what=what,
        reference=reference or "itself",
        unit=unit,
        ours=Figures(median=statistics.median(ours), p99=percentile(ours, 99)),
        theirs=Figures(median=statistics.median(theirs or ours), p99=percentile(theirs or ours, 99)),
        ratio=middle,
        ratio_low=low,
        ratio_high=high,
        runs=len(ours),
    )
