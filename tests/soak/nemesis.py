"""What happens to a soak: workers die, servers restart or freeze. Whatever dies is started again by a supervisor."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable

import psutil

from tests.conftest import OwnPostgres, OwnRedis
from tests.workers.harness import JobWorld, Worker


class Nemesis:
    """Hurts one thing at a time, and keeps count."""

    def __init__(
        self, world: JobWorld, broker: OwnRedis, node: OwnRedis, database: OwnPostgres, rng: random.Random
    ) -> None:
        self._world, self._broker, self._node, self._database, self._rng = world, broker, node, database, rng
        self.workers: list[Worker] = []
        self.counts: dict[str, int] = {}
        self._starting = threading.Lock()
        self._acts: list[Callable[[], None]] = [
            self.kill_worker,
            self.kill_child,
            self.freeze_child,
            self.stop_worker_softly,
            self.restart_broker,
            self.restart_broker_empty,
            self.pause_database,
            self.kill_database,
            self.pause_node,
        ]

    def strike(self) -> str:
        """Do one thing."""
        act = self._rng.choice(self._acts)
        act()
        self.counts[act.__name__] = self.counts.get(act.__name__, 0) + 1
        return act.__name__

    def supervise(self, *, workers: int) -> None:
        """Start what has died, as a supervisor would."""
        with self._starting:
            self.workers = [worker for worker in self.workers if worker.process.poll() is None]
            while len(self.workers) < workers:
                first = not any(worker.name == "embed" for worker in self.workers)
                self.workers.append(self._start("embed" if first else "light"))

    def _start(self, name: str) -> Worker:
        queues = ("embed",) if name == "embed" else ("control", "warm", "evict", "repair", "transfer")
        worker = self._world.start_worker(queues=queues, concurrency=1 if name == "embed" else 2)
        worker.name = name
        return worker

    def kill_worker(self) -> None:
        self._any().kill()

    def kill_child(self) -> None:
        for child in self._any().children()[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()

    def freeze_child(self) -> None:
        """Freeze a child for some seconds: it wakes up and goes on as if nothing had been."""
        children = self._any().children()
        if not children:
            return
        child = self._rng.choice(children)
        with contextlib.suppress(psutil.NoSuchProcess):
            child.suspend()
            time.sleep(self._rng.uniform(2, 12))
            child.resume()

    def stop_worker_softly(self) -> None:
        self._any().process.send_signal(signal.SIGQUIT)

    def restart_broker(self) -> None:
        self._broker.kill()
        time.sleep(self._rng.uniform(0.2, 3))
        self._broker.restart()

    def restart_broker_empty(self) -> None:
        self._broker.kill()
        self._broker.restart(empty=True)

    def pause_database(self) -> None:
        self._database.pause()
        try:
            time.sleep(self._rng.uniform(1, 8))
        finally:
            self._database.resume()

    def kill_database(self) -> None:
        self._database.kill()
        time.sleep(self._rng.uniform(0.2, 2))
        self._database.restart()

    def pause_node(self) -> None:
        self._node.pause()
        try:
            time.sleep(self._rng.uniform(0.5, 6))
        finally:
            self._node.resume()

    def _any(self) -> Worker:
        alive = [worker for worker in self.workers if worker.process.poll() is None]
        assert alive, f"no worker lives, seen from process {os.getpid()}"
        return self._rng.choice(alive)
