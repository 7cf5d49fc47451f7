"""A set of real worker processes on real servers, for tests that kill them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Connection

from cache_management.cache.warm_items import WarmItem
from cache_management.models.base import read_clock
from cache_management.models.store import Stores, open_stores
from cache_management.models.store.results import JobView
from cache_management.settings import Settings, load_settings
from cache_management.workers.client import JobClient
from cache_management.workers.messages import queue_of
from tests.waiting import wait_until


def warm_items(count: int, *, start: int = 0) -> list[WarmItem]:
    """Make distinct items with distinct answers."""
    return [
        WarmItem(prompt=f"question number {at}", response=f"answer {at}", token_count=2)
        for at in range(start, start + count)
    ]


class JobWorld:
    """Settings, stores and a client of one test, and the workers that it starts."""

    def __init__(
        self,
        folder: Path,
        *,
        broker_url: str,
        cache_url: str = "memory://",
        metadata_url: str | None = None,
        nodes: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.env = {
            "CACHE_BROKER_URL": broker_url,
            "CACHE_DATA_DIR": str(folder),
            "CACHE_EMBEDDING_MODEL": "hashing",
            "TMPDIR": str(folder),  # what a killed worker cannot clear away goes with the test
        }
        if nodes:
            self.env |= {"CACHE_DISTRIBUTED__ENABLED": "true", "CACHE_DISTRIBUTED__NODES": ",".join(nodes)}
        else:
            self.env["CACHE_URL"] = cache_url
        if metadata_url:
            self.env["CACHE_METADATA_URL"] = metadata_url
        self.settings: Settings = load_settings(env=self.env).settings
        self.stores: Stores = open_stores(self.settings.metadata_url)
        self.stores.upgrade()
        self.client = JobClient(self.settings, stores=self.stores)
        self._workers: list[subprocess.Popen[bytes]] = []

    def start_worker(
        self,
        *,
        queues: Sequence[str] = ("control", "warm", "embed"),
        concurrency: int | None = 2,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Worker:
        """Start a worker process and wait until it consumes."""
        number = len(self._workers)
        ready = self.folder / f"worker-{number}.ready"
        log = (self.folder / f"worker-{number}.log").open("wb")
        argv = [sys.executable, "-m", "cache_management.cli", "worker", f"--name=w{number}"]
        process = subprocess.Popen(
            [
                *argv,
                f"--queues={','.join(queues)}",
                *([f"--concurrency={concurrency}"] if concurrency else []),
                *options,
            ],
            env=self.inherited_env() | self.env | {"CACHE_READY_FILE": str(ready)} | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()
        self._workers.append(process)
        wait_until(lambda: ready.exists() or process.poll() is not None, timeout=60)
        assert process.poll() is None, (self.folder / f"worker-{number}.log").read_text()[-3000:]
        return Worker(process, self.folder / f"worker-{number}.log")

    @staticmethod
    def inherited_env() -> dict[str, str]:
        """Return this process's environment without settings of the caller's."""
        return {key: value for key, value in os.environ.items() if not key.startswith("CACHE_")}

    def wait_for_job(self, job_id: str, *, timeout: float = 60.0) -> JobView:
        """Wait for the end of a job; on failure say how far it got and what the workers said."""
        try:
            wait_until(lambda: self.client.get(job_id).ended, timeout=timeout, pause=0.1)
        except AssertionError as exc:
            logs = "\n".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("worker-*.log")))
            raise AssertionError(f"{self.client.get(job_id)}\n{logs}") from exc
        return self.client.get(job_id)

    def wait_for_items(self, job_id: str, count: int, *, timeout: float = 30.0) -> None:
        """Wait until a job has settled at least so many items, and assert that it is not at its end."""
        wait_until(lambda: self.client.get(job_id).done >= count, timeout=timeout, pause=0.01)

    def reconcile(self, *, seconds_later: float = 0.0) -> int:
        """Do what beat asks for every 15 s, as if so many seconds had passed; return how often it rang."""

        def later(connection: Connection) -> datetime:
            return read_clock(connection) + timedelta(seconds=seconds_later)

        stores = open_stores(self.settings.metadata_url, clock=later)
        try:
            return len(stores.jobs.reconcile(queue=queue_of, publish=self.client.ring))
        finally:
            stores.close()

    def reconcile_after_a_death(self) -> None:
        """Reconcile as if the leases of a dead worker were over, until one is found to be.

        A database may hold the dead one's row locks for a moment longer; the reconciler passes
        such a job over, and beat calls it again.
        """
        wait_until(lambda: self.reconcile(seconds_later=70) > 0, timeout=30, pause=0.2)

    def close(self) -> None:
        """End the workers by their own pids, children included."""
        for process in self._workers:
            Worker(process, self.folder / "unread").kill()
        self.client.close()
        self.stores.close()


class Worker:
    """One worker: a parent that talks to the broker, and its pool children."""

    def __init__(self, process: subprocess.Popen[bytes], log_file: Path) -> None:
        self.process = process
        self.name = "worker"
        self._log_file = log_file

    @property
    def log(self) -> str:
        """What it said so far."""
        return self._log_file.read_text()

    def children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """Kill the whole worker with SIGKILL; its children must follow by themselves."""
        if self.process.poll() is not None:
            return
        children = self.children()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        _, left = psutil.wait_procs(children, timeout=10)
        assert not left, f"pool children outlived their worker: {left}"

    def kill_a_busy_child(self) -> None:
        """Kill the pool child that has worked most."""
        busiest = max(self.children(), key=lambda child: sum(child.cpu_times()[:2]))
        busiest.kill()

    def stop(self, number: int = signal.SIGTERM, *, timeout: float = 60) -> None:
        self.process.send_signal(number)
        self.process.wait(timeout=timeout)


@contextmanager
def job_world(folder: Path, **urls: Any) -> Iterator[JobWorld]:
    """Open a world and end what it started."""
    world = JobWorld(folder, **urls)
    try:
        yield world
    finally:
        world.close()
