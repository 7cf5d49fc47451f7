"""A task that does nothing but say when it began: what Celery alone takes from a message to its start."""

from __future__ import annotations

import os
import time

from celery import shared_task
from redis import Redis

STARTED = "bench:started"


@shared_task(name="bench.noop")
def noop() -> None:
    """Say that it began."""
    with Redis.from_url(os.environ["CACHE_URL"]) as redis:
        redis.rpush(STARTED, repr(time.time()))
