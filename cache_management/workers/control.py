"""What looks after the jobs: rings again for what was lost, ends what is done."""

from __future__ import annotations

import logging
from typing import Any

from celery import Task, shared_task

from cache_management.workers import runtime
from cache_management.workers.messages import check_params, is_of_use, namespace_of, queue_of
from cache_management.workers.queues import oldest_waiting

logger = logging.getLogger("cache_management.workers")

SCHEDULER = "scheduler"


@shared_task(name="control.reconcile", bind=True)
def reconcile(self: Task) -> None:
    """Look after every live job; any number of these may run at once."""
    here = runtime.current()
    stores = here.platform.stores
    # Job by job: what is marked as sent must be sent, also when the time limit comes in between.
    rings = stores.jobs.reconcile(oldest_sent_at=oldest_waiting(self.app), queue=queue_of, publish=here.client.ring)
    if rings:
        logger.info("the reconciler rang for %d shards", len(rings))


@shared_task(name="control.schedule", bind=True)
def schedule(  # noqa: PLR0917 - a message has no names
    self: Task,
    name: str,
    kind: str,
    every_seconds: float,
    offset_seconds: float,
    params: dict[str, Any],
    namespace: str | None,
    priority: int,
) -> None:
    """Submit the job of a schedule's current period, unless somebody has, or it would have nothing to do."""
    here = runtime.current()
    if not is_of_use(kind, here.settings):
        return
    submitted = here.platform.stores.jobs.create_scheduled(
        name,
        kind,
        check_params(kind, params),
        every_seconds=every_seconds,
        offset_seconds=offset_seconds,
        namespace=namespace_of(kind, here.settings.namespace if namespace is None else namespace),
        submitted_by=SCHEDULER,
        priority=priority,
    )
    if submitted is not None and submitted.ring is not None:
        here.client.ring([submitted.ring])
    elif submitted is not None:
        logger.info("%s: job %s of an earlier period still runs", name, submitted.job_id)
