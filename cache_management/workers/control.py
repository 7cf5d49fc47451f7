"""What looks after the jobs: rings again for what was lost, ends what is done."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from typing import Any

from celery import Task, shared_task

from cache_management.workers import runtime
from cache_management.workers.messages import QUEUES, queue_of

logger = logging.getLogger("cache_management.workers")


@shared_task(name="control.reconcile", bind=True)
def reconcile(self: Task) -> None:
    """Look after every live job; any number of these may run at once."""
    here = runtime.current()
    stores = here.platform.stores
    # Job by job: what is marked as sent must be sent, also when the time limit comes in between.
    rings = stores.jobs.reconcile(oldest_sent_at=oldest_waiting(self.app), queue=queue_of, publish=here.client.ring)
    if rings:
        logger.info("the reconciler rang for %d shards", len(rings))


def oldest_waiting(app: Any) -> dict[str, datetime]:
    """Return, by queue, when the message that waits longest was sent; empty queues are left out."""
    found: dict[str, datetime] = {}
    with app.connection_for_read() as connection:
        client = getattr(connection.default_channel, "client", None)
        if client is None:  # not a Redis broker: every ring older than the patience is repeated
            return found
        for queue in QUEUES:
            oldest = client.lindex(queue, -1)
            if oldest is None:
                continue
            try:
                found[queue] = datetime.fromisoformat(json.loads(oldest)["headers"]["sent_at"])
            except (ValueError, KeyError, TypeError):
                continue
    return found
