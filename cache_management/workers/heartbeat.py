"""Finds out whether queues are consumed: a message into each that is empty, and a mark by whoever takes it.

A queue that is not empty needs none: whoever takes what waits there marks it as well. So at most one
heartbeat waits in a queue that nobody consumes, however long that lasts.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from celery import Task, shared_task

from cache_management.workers import runtime
from cache_management.workers.messages import QUEUES
from cache_management.workers.queues import depth_of, reaching

logger = logging.getLogger("cache_management.workers")

HEARTBEAT = "control.heartbeat"
FORGOTTEN_AFTER_SECONDS = 86_400.0


@shared_task(name="control.pulse", bind=True)
def pulse(self: Task) -> None:
    """Send a heartbeat into every empty queue that somebody consumed within a day."""
    operations = runtime.current().platform.stores.operations
    marks = operations.marks()
    if any(mark.age_seconds > FORGOTTEN_AFTER_SECONDS for mark in marks):
        operations.forget_marks(older_than_seconds=FORGOTTEN_AFTER_SECONDS)
    consumed = {mark.queue for mark in marks if mark.age_seconds <= FORGOTTEN_AFTER_SECONDS}
    with reaching(self.app) as channel:
        for queue in QUEUES:
            if queue not in consumed:
                _take_back(channel, queue)
            elif not depth_of(channel, queue):
                self.app.send_task(HEARTBEAT, queue=queue)


@shared_task(name=HEARTBEAT)
def heartbeat() -> None:
    """Do nothing: that a worker began it is what `workers/process.py` marks."""


def _take_back(channel: Any, queue: str) -> None:
    """Remove the heartbeat that waits where nobody consumes any more: it would look like work."""
    client = getattr(channel, "client", None)
    if client is None:  # not a Redis broker
        return
    for message in client.lrange(queue, 0, 9):
        if json.loads(message).get("headers", {}).get("task") == HEARTBEAT:
            client.lrem(queue, 1, message)
