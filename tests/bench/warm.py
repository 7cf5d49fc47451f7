"""Table 2: entries per second of a real warm job, beside the bare model on the same texts.

The job runs as in production: embedded Redis as broker and as cache, SQLite metadata, Celery
workers as processes of their own. Bare is one `SentenceTransformer.encode` of all texts in a
process that does nothing else. The two take turns, never at once.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from cache_management.cache.warm_items import WarmItem
from cache_management.services import start_redis
from cache_management.services.processes import spawn, wait_for
from cache_management.settings import Settings
from cache_management.workers.client import JobClient
from tests.bench.measure import Comparison, Figures, Report, spread

NAME = "warm"
ROOT = Path(__file__).resolve().parents[2]
_WARM_FILE = ROOT.parent / "shared" / "data" / "warm_2000.json"
_DEMO_FILE = ROOT / "cache_management" / "cli" / "demo_data" / "support.jsonl"
_READY_SECONDS = 120.0
_JOB_SECONDS = 600.0
_FIRST_JOB = 64
_WORKERS = {"light": ("warm,control", 2), "embed": ("embed", 1)}


async def measure(*, quick: bool, rounds: int | None = None, count: int | None = None) -> Report:
    """Measure the table: job and bare in turn."""
    rounds = rounds or (2 if quick else 4)
    source, items = _read_items(count or (500 if quick else 2_000))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cm-bench-")))
        settings, server = _start_services(folder, stack)
        client = JobClient(settings)
        stack.callback(client.close)
        client.stores.upgrade()
        workers = {name: stack.enter_context(_worker(folder, name, settings)) for name in _WORKERS}
        bare = stack.enter_context(_bare_encoder(folder))  # loads its model while the workers load theirs
        _wait_ready(folder, workers)
        first = _run_job(client, _marked(items[:_FIRST_JOB], "first"), workers)
        jobs, encodes = [], []
        for number in range(rounds):
            # Other texts each time, or the embed worker would remember the vectors of the last round.
            texts = _marked(items, str(number))
            for what in ("job", "bare") if number % 2 == 0 else ("bare", "job"):
                if what == "job":
                    jobs.append(_run_job(client, texts, workers))
                else:
                    encodes.append(bare([item.prompt for item in texts]))
        vectors = _count_keys(server, "vec") - first["vectors"]
    if vectors != sum(job["vectors"] for job in jobs):
        raise AssertionError(f"{vectors} vectors are stored, the jobs say {[job['vectors'] for job in jobs]}")
    ours = [len(items) / job["seconds"] for job in jobs]
    theirs = [len(items) / encode["seconds"] for encode in encodes]
    middle, low, high = spread([a / b for a, b in zip(ours, theirs, strict=True)])
    cpu_ratio = statistics.median(
        encode["cpu_seconds"] / sum(job["cpu_seconds"].values()) for job, encode in zip(jobs, encodes, strict=True)
    )
    row = Comparison(
        what=f"warm job of {len(items):,}",
        reference="bare encode",
        unit="entries/s",
        ours=Figures(median=statistics.median(ours)),
        theirs=Figures(median=statistics.median(theirs)),
        ratio=middle,
        ratio_low=low,
        ratio_high=high,
        cpu_ratio=cpu_ratio,
        runs=rounds,
        goal=">= 0.80 x, then 0.95 x",
    )
    return Report(
        name=NAME,
        title="2. warm throughput, entries per second",
        rows=[row],
        notes=[
            f"texts: {source}, marked with the round; light workers -c 2, embed worker -c 1, MiniLM by torch",
            "ratio: ours / beside, above 1 is faster; CPU: entries for each CPU second, ours (all workers) / beside",
            *(_describe(number, job, encode) for number, (job, encode) in enumerate(zip(jobs, encodes, strict=True))),
        ],
        details={"jobs": jobs, "bare": encodes, "texts": source, "count": len(items)},
    )


def _read_items(count: int) -> tuple[str, list[WarmItem]]:
    if _WARM_FILE.is_file():
        rows = json.loads(_WARM_FILE.read_text())
        return _WARM_FILE.name, [WarmItem(**row) for row in rows[:count]]
    rows = [json.loads(line) for line in _DEMO_FILE.read_text().splitlines()]
    return _DEMO_FILE.name, [WarmItem(**row) for row in rows[:count]]


def _marked(items: Sequence[WarmItem], mark: str) -> list[WarmItem]:
    return [item.model_copy(update={"prompt": f"{item.prompt} ({mark})"}) for item in items]


def _start_services(folder: Path, stack: ExitStack) -> tuple[Settings, str]:
    broker = start_redis(folder / "broker")
    stack.callback(broker.stop)
    cache = start_redis(folder / "cache", maxmemory_policy="allkeys-lru")
    stack.callback(cache.stop)
    return Settings(broker_url=broker.url, url=cache.url, data_dir=folder / "data"), cache.url


@contextmanager
def _worker(folder: Path, name: str, settings: Settings) -> Iterator[psutil.Process]:
    """Run a worker as the command line would."""
    queues, children = _WORKERS[name]
    process = spawn(
        [
            *(sys.executable, "-m", "celery", "-A", "cache_management.workers.app", "worker"),
            *("-Q", queues, "-c", str(children), "-n", f"{name}@%h"),
        ],
        log=folder / f"{name}.log",
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("CACHE_")},
            "CACHE_BROKER_URL": str(settings.broker_url),
            "CACHE_URL": str(settings.url),
            "CACHE_DATA_DIR": str(settings.data_dir),
            "CACHE_READY_FILE": str(folder / f"{name}.ready"),
        },
        # Not the project's folder: a configuration file there would be read.
        cwd=folder,
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(folder: Path, workers: dict[str, psutil.Process]) -> None:
    for name, worker in workers.items():
        ready = wait_for(
            lambda name=name, worker=worker: (folder / f"{name}.ready").exists() or not worker.is_running(),  # type: ignore[misc]
            timeout=_READY_SECONDS,
        )
        if not ready or not (folder / f"{name}.ready").exists():
            log = (folder / f"{name}.log").read_text()
            raise RuntimeError(f"the {name} worker did not start; its log ends: {log[-2000:]}")


def _run_job(client: JobClient, items: Sequence[WarmItem], workers: dict[str, psutil.Process]) -> dict[str, Any]:
    """Run one warm job; return what it took, by the clock of the metadata database where it counts."""
    before = {name: _cpu_seconds(worker) for name, worker in workers.items()}
    started = time.perf_counter()
    job_id = client.submit_warm(items).job_id
    submitted = time.perf_counter()
    # Seldom enough not to disturb, and the result does not depend on it.
    if not wait_for(lambda: client.get(job_id).ended, timeout=_JOB_SECONDS, pause=0.1):
        raise RuntimeError(f"job {job_id} did not end: {client.get(job_id)}")
    job = client.get(job_id)
    if job.state != "succeeded" or job.done != len(items) or job.finished_at is None:
        raise RuntimeError(f"the job did not store everything: {job}")
    events = client.stores.jobs.events(job_id)
    return {
        "seconds": (submitted - started) + (job.finished_at - job.created_at).total_seconds(),
        "submit_seconds": submitted - started,
        # Fewer than entries: a prompt that the model cannot read whole stays exact-only, bare cuts it off.
        "vectors": job.embedded,
        "cpu_seconds": {name: _cpu_seconds(worker) - before[name] for name, worker in workers.items()},
        "events": [[round((each.at - job.created_at).total_seconds(), 3), each.event, each.shard] for each in events],
    }


def _cpu_seconds(worker: psutil.Process) -> float:
    """Return what a worker and its children used so far."""
    used = 0.0
    for process in (worker, *worker.children(recursive=True)):
        times = process.cpu_times()
        used += times.user + times.system
    return used


@contextmanager
def _bare_encoder(folder: Path) -> Iterator[Any]:
    """Run the bare model in a process; yield a function from texts to what encoding them took."""
    with (
        (folder / "bare.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.bare_encode"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None

        def answer() -> dict[str, Any]:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the bare encoder ended: {(folder / 'bare.log').read_text()[-2000:]}")
            return json.loads(line)

        def encode(texts: list[str]) -> dict[str, Any]:
            process.stdin.write(json.dumps(texts) + "\n")
            process.stdin.flush()
            return answer()

        answer()  # loaded
        try:
            yield encode
        finally:
            process.stdin.close()


def _count_keys(url: str, kind: str) -> int:
    with Redis.from_url(url) as redis:
        return sum(1 for _ in redis.scan_iter(match=f"cm1:{kind}:*", count=1000))


def _describe(number: int, job: dict[str, Any], encode: dict[str, Any]) -> str:
    used = ", ".join(f"{name} {seconds:.1f}" for name, seconds in job["cpu_seconds"].items())
    return (
        f"round {number}: job {job['seconds']:.2f} s (CPU: {used}), "
        f"bare {encode['seconds']:.2f} s (CPU: {encode['cpu_seconds']:.1f})"
    )
