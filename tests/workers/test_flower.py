"""A real Flower looks at a real worker: what it sees is useful, and holds no word of a prompt."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cache_management.cache.warm_items import WarmItem
from cache_management.workers.messages import TASK_LIMITS
from tests.conftest import OwnRedisFactory
from tests.scraping import free_port
from tests.waiting import wait_until
from tests.workers.harness import JobWorld, job_world

pytest.importorskip("flower")
pytestmark = pytest.mark.timeout(120)

MARKER = "xylophone"
IDS = re.compile(r"""[(\[]'?[0-9a-f-]{36}'?, \d+, \d+[)\]]""")


@pytest.fixture
def world(tmp_path: Path, own_redis: OwnRedisFactory) -> Iterator[JobWorld]:
    with job_world(tmp_path / "world", broker_url=own_redis().url, cache_url=own_redis().url) as found:
        found.env["CACHE_MAX_ENTRY_BYTES"] = "2000"
        yield found


class Flower:
    """A Flower process, and its answers."""

    def __init__(self, world: JobWorld) -> None:
        self.port = free_port()
        self.answers: list[str] = []
        # As docs/operating.md says: on this machine only, with a password that does not stand in the list of processes.
        # But without --purge_offline_workers, which would also hide senders that appear as workers.
        argv = ["--app=cache_management.workers.app", "flower", "--address=127.0.0.1", f"--port={self.port}"]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("CACHE_")}
        with (world.folder / "flower.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", *argv, "--read_only=true"],
                env=inherited | world.env | {"FLOWER_BASIC_AUTH": "ops:secret"},
                cwd=world.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ask(self, path: str, *, password: str = "secret") -> str:
        given = base64.b64encode(f"ops:{password}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Basic {given}"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            self.answers.append(answer.read().decode())
        return self.answers[-1]

    def data(self, path: str) -> Any:
        return json.loads(self.ask(path))

    def is_up(self) -> bool:
        try:
            return self.ask("/healthcheck") == "OK"
        except OSError:
            assert self.process.poll() is None
            return False


@pytest.fixture
def flower(world: JobWorld) -> Iterator[Flower]:
    started = Flower(world)
    try:
        wait_until(started.is_up, timeout=60, pause=0.2)
        yield started
    finally:
        started.process.terminate()
        started.process.wait(timeout=20)


def test_flower_shows_tasks_by_kind_and_workers_by_name_and_no_prompt(world: JobWorld, flower: Flower) -> None:
    world.start_worker(concurrency=1)
    items = [WarmItem(prompt=f"{MARKER} {at}", response=f"{MARKER} answers {at}") for at in range(20)]
    items.append(WarmItem(prompt=f"{MARKER} long", response=MARKER * 1000))  # cannot be stored: its error is told

    job = world.wait_for_job(world.client.submit_warm(items, shards=1).job_id)

    assert (job.done, job.failed, job.embedded) == (20, 1, 20)
    world.client.celery.send_task("control.pulse", queue="control")  # what beat asks for; it sends on from a pool child
    expected = {"warm.plan", "warm.chunk", "embed.batch"}

    def has_seen_them_end() -> bool:
        tasks = flower.data("/api/tasks").values()
        return expected | {"control.heartbeat"} <= {task["name"] for task in tasks if task["state"] == "SUCCESS"}

    wait_until(has_seen_them_end, timeout=30, pause=0.2)
    tasks = {task_id: task for task_id, task in flower.data("/api/tasks").items() if task["name"] in expected}
    for task in tasks.values():
        assert IDS.fullmatch(task["args"]), task
        assert job.id in task["args"]
        assert task["kwargs"] == "{}"
        assert task["worker"].startswith("w0@")

    (name,) = flower.data("/api/workers?refresh=1")
    assert name.startswith("w0@")
    assert flower.data("/api/workers?status=true") == {name: True}
    lengths = {each["name"]: each["messages"] for each in flower.data("/api/queues/length")["active_queues"]}
    assert {"control", "warm", "embed"} <= set(lengths)

    metrics = {each.name: each for each in text_string_to_metric_families(flower.ask("/metrics"))}
    assert [(sample.labels["worker"], sample.value) for sample in metrics["flower_worker_online"].samples] == [
        (name, 1)
    ]
    events = [sample.labels for sample in metrics["flower_events"].samples if sample.name.endswith("_total")]
    assert {labels["worker"] for labels in events} == {name}, "a sender for each process would be a label for each"
    assert {labels["task"] for labels in events} - {""} <= set(TASK_LIMITS)

    for page in ("/workers", "/tasks", "/broker", *(f"/task/{task_id}" for task_id in tasks), f"/worker/{name}"):
        flower.ask(urllib.parse.quote(page))
    assert [answer for answer in flower.answers if MARKER in answer.lower()] == []


def test_flower_asks_for_its_password(flower: Flower) -> None:
    for path in ("/api/tasks", "/workers"):
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            flower.ask(path, password="wrong")
        refused.value.close()
