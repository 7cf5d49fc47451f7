"""Ends a worker that is up and takes nothing, so that its supervisor starts it anew.

A worker can lose its consumer without noticing: the process lives, answers pings, and its queue
grows. Only consumption itself tells, so that is what is watched, from a thread of the worker's
parent process, by a connection of its own.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from celery import signals
from celery.worker import state

from cache_management.workers.queues import depth_of

logger = logging.getLogger("cache_management.workers")

PATIENCE_SECONDS = 60.0
PATIENCE_VARIABLE = "CACHE_DEAF_AFTER_SECONDS"
_MOST_SECONDS_BETWEEN_LOOKS = 5.0
_MOST_SECONDS_TO_LEAVE = 30.0


class Look(msgspec.Struct, frozen=True):
    """What is seen of a worker at one moment.

    `waiting` names a queue of this worker that holds messages; None: all are empty, or the broker
    did not answer. `received` counts what was taken and has not begun. `running` holds, for each
    task at work, its id, name and hard time limit in seconds.
    """

    waiting: str | None
    received: int
    running: tuple[tuple[str, str, float | None], ...]


class Watch:
    """Judges looks; knows the time only by what it is told, in seconds of a clock that never steps."""

    def __init__(self, now: float, *, patience_seconds: float, start_seconds: float) -> None:
        self._patience = patience_seconds
        self._start = start_seconds
        self._well = self._looked = now
        self._begun: dict[str, float] = {}

    def took(self, now: float) -> None:
        """Note that the worker took a message."""
        self._well = max(self._well, now)

    def judge(self, now: float, look: Look) -> str | None:
        """Return why the worker must go, or None."""
        if now - self._looked > self._patience / 2:
            # Nobody looked: the process was stopped, or the broker took its time. What happened then is not known.
            self._well = now
        self._looked = now
        self._begun = {task_id: self._begun.get(task_id, now) for task_id, _, _ in look.running}
        for task_id, name, limit in look.running:
            # The pool ends a task at its hard limit, if it can: threads and solo cannot.
            if limit is not None and now - self._begun[task_id] > limit + self._patience:
                return f"{name} has run for more than {limit:g} s and {self._patience:g} s beyond, and cannot be ended"
        if look.running or (look.waiting is None and not look.received):
            self._well = now
            return None
        if look.received:
            # A pool that is starting takes its time: a model loads.
            if now - self._well > self._patience + self._start:
                return f"{look.received} tasks were taken and none has begun for {now - self._well:.0f} s"
            return None
        if now - self._well > self._patience:
            return f"the queue {look.waiting} is not empty, and nothing was taken for {now - self._well:.0f} s"
        return None


class Watchdog:
    """The thread that looks at one worker."""

    def __init__(self, worker: Any, *, patience_seconds: float) -> None:
        self._worker = worker
        self._patience = patience_seconds
        self._watch = Watch(
            time.monotonic(),
            patience_seconds=patience_seconds,
            start_seconds=float(worker.app.conf.worker_proc_alive_timeout or 0),
        )
        self._pause = min(_MOST_SECONDS_BETWEEN_LOOKS, patience_seconds / 5)
        self._connection: Any = None

    def start(self) -> None:
        """Begin to look."""
        for taken in (signals.task_received, signals.task_revoked, signals.task_rejected, signals.task_unknown):
            taken.connect(self._took, weak=False)
        threading.Thread(target=self._look_after, name="cache-watchdog", daemon=True).start()

    def _took(self, **_: Any) -> None:
        self._watch.took(time.monotonic())

    def _look_after(self) -> None:
        while True:
            time.sleep(self._pause)
            if state.should_stop is not None or state.should_terminate is not None:
                return
            why = self._watch.judge(time.monotonic(), self._look())
            if why is not None:
                self._leave(why)

    def _look(self) -> Look:
        running = [(each.id, each.name, each.task.time_limit) for each in _copied(state.active_requests)]
        return Look(
            waiting=self._waiting(),
            received=max(0, len(state.reserved_requests) - len(running)),
            running=tuple(running),
        )

    def _waiting(self) -> str | None:
        # Those of this moment: a consumer that somebody cancelled on purpose is not missed.
        queues = sorted(_copied(self._worker.app.amqp.queues.consume_from))
        try:
            if self._connection is None:
                self._connection = self._worker.app.connection_for_read()
                # Else kombu tries for as long as it takes, and whoever asks learns nothing meanwhile.
                self._connection.ensure_connection(max_retries=1, timeout=self._patience / 4)
            return next((name for name in queues if depth_of(self._connection.default_channel, name)), None)
        except Exception as exc:  # noqa: BLE001 - drivers raise what they like; a broker that is down is not our fault
            logger.debug("the watchdog cannot ask the broker: %s", exc)
            self._drop()
            return None

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                connection.close()
        except Exception as exc:  # noqa: BLE001 - as above
            logger.debug("the watchdog's connection cannot be closed: %s", exc)

    def _leave(self, why: str) -> None:
        logger.critical("this worker (%s) ends itself to be started anew: %s", self._worker.hostname, why)
        # In good order while the main loop still turns; else at once, and the kernel ends the pool's children.
        state.should_stop = 1
        time.sleep(min(_MOST_SECONDS_TO_LEAVE, self._patience))
        logger.critical("this worker (%s) does not end in good order", self._worker.hostname)
        logging.shutdown()
        os._exit(1)


def patience_of(env: Mapping[str, str]) -> float:
    """Return after how many seconds a silent worker ends itself; 0: never."""
    given = env.get(PATIENCE_VARIABLE, "")
    try:
        return max(0.0, float(given)) if given else PATIENCE_SECONDS
    except ValueError:
        logger.warning("%s is no number (%r): %g s is taken", PATIENCE_VARIABLE, given, PATIENCE_SECONDS)
        return PATIENCE_SECONDS


def watch_over(worker: Any) -> None:
    """Start the watchdog of a worker, unless the environment switches it off."""
    patience = patience_of(os.environ)
    if patience:
        Watchdog(worker, patience_seconds=patience).start()


def _copied(changing: Iterable[Any]) -> list[Any]:
    """Copy what the main thread changes meanwhile."""
    while True:
        try:
            return list(changing)
        except RuntimeError:
            continue
