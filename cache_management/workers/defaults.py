"""Celery settings as plain names; `celeryconfig.py` at the root starts from these.

The job row is the truth and a message is a doorbell, so messages are small, JSON, and may
get lost or come twice. Why each value: docs/design/0003-jobs.md.
"""

from __future__ import annotations

from typing import Any

from kombu.entity import Exchange, Queue

from cache_management.cache.errors import InvalidInput
from cache_management.workers.messages import QUEUES, ROUTES, TASK_LIMITS, check_params

# Messages: JSON only, ids only, no results.
task_serializer = "json"
accept_content = ["json"]
result_accept_content = ["json"]
task_ignore_result = True
task_store_errors_even_if_ignored = False

# Delivery: acknowledged after the chunk; a lost worker puts its message back, a bounded number of times.
task_acks_late = True
task_reject_on_worker_lost = True
task_retry_on_worker_lost = True
task_acks_on_failure = True
task_acks_on_timeout = True
worker_prefetch_multiplier = 1
worker_eta_task_limit = 1000
worker_cancel_long_running_tasks_on_connection_loss = False

# Redis as broker: five times the longest hard limit, looked at often enough to matter.
broker_transport_options: dict[str, Any] = {
    "visibility_timeout": 900,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
    "socket_connect_timeout": 3,
    "socket_timeout": 10,
}
broker_connection_retry_on_startup = True
# For ever: a broker that was away for an hour is no reason to end.
broker_connection_max_retries = None
broker_pool_acquire_timeout = 10

# Stopping: what is under way gets half a minute, then its message goes back.
worker_soft_shutdown_timeout = 30
# An idle worker has nothing to wait for: `down` would take half a minute for each of them.
worker_enable_soft_shutdown_on_idle = False
# Against leaks. A worker of `embed` alone has neither limit on tasks nor this one on memory: `workers/process.py`.
worker_max_tasks_per_child = 500
worker_max_memory_per_child = 1_000_000  # KiB
worker_proc_alive_timeout = 120  # a child that loads a model needs longer than the default 4 s

# Watching.
worker_send_task_events = True
# Whoever sends would appear as a worker of its own, `gen<pid>@host`: a label of Flower's metrics for each process.
task_send_sent_event = False
task_track_started = True
worker_hijack_root_logger = False

# Named, so that a worker started by `celery` without -Q consumes them all. Each has an exchange of its own
# name: that is how a producer, which knows no queues, makes them up.
task_queues = [
    Queue(name, Exchange(name, type="direct"), routing_key=name)  # type: ignore[no-untyped-call]
    for name in QUEUES
]
task_create_missing_queues = True
task_default_queue = "control"
task_routes = {route.task: {"queue": route.queue} for route in ROUTES.values()}
task_annotations = {
    task: {
        "soft_time_limit": limits.soft_seconds,
        "time_limit": limits.hard_seconds,
        # A lost child's message comes back after this: just late enough to take its shard over,
        # which its silence of ten seconds allows. Celery's default is three minutes.
        "default_retry_delay": 11,
    }
    for task, limits in TASK_LIMITS.items()
}


def scheduled(
    name: str,
    kind: str,
    *,
    every_seconds: float,
    offset_seconds: float = 0.0,
    params: dict[str, Any] | None = None,
    namespace: str | None = None,
    priority: int = 2,
) -> dict[str, Any]:
    """Return a beat entry that submits a job of a kind once in each period, for `beat_schedule`.

    A period begins `offset_seconds` after a multiple of itself, counted from 1970-01-01 UTC by the database's
    clock. Beat asks more often than that, and the first to ask in a period gets the job: two beats, a late one and
    clocks that step then neither double nor lose a run, and what fell due while no beat ran is caught up on once.

    Args:
        namespace: That of the workers' settings unless given.
        priority: 0 to 9; below that of jobs that somebody waits for.

    Raises:
        InvalidInput: There is no such kind, or a parameter cannot be used. Here, where the schedule is written:
            a worker that is asked could only log it, each minute.
    """
    try:
        check_params(kind, params or {})
    except InvalidInput as exc:
        raise InvalidInput(f"schedule {name!r}: {exc}") from None
    asked_every = min(every_seconds, ASKED_EVERY_SECONDS)
    return {
        "task": "control.schedule",
        "schedule": asked_every,
        "args": [name, kind, every_seconds, offset_seconds, params or {}, namespace, priority],
        "options": {"queue": "control", "expires": max(1.0, asked_every - 1)},
    }


HOUR, DAY = 3600.0, 86_400.0
ASKED_EVERY_SECONDS = 60.0

# In memory: the schedule on disk would be a pickle, and a missed run is caught by the next one.
beat_scheduler = "celery.beat:Scheduler"
beat_schedule: dict[str, dict[str, Any]] = {
    "reconcile": {"task": "control.reconcile", "schedule": 15.0, "options": {"queue": "control", "expires": 14.0}},
    "pulse": {"task": "control.pulse", "schedule": 15.0, "options": {"queue": "control", "expires": 14.0}},
    "stats": scheduled("stats", "stats", every_seconds=60),
    "evict": scheduled("evict", "evict", every_seconds=300, params={"policy": True, "expired": True}),
    # Reads every entry, so at night and once.
    "evict-leftovers": scheduled(
        "evict-leftovers", "evict", every_seconds=DAY, offset_seconds=2 * HOUR + 40 * 60, params={"leftovers": True}
    ),
    # Both only where distributed.enabled is set. A full pass four times in the default of
    # distributed.max_outage_seconds: a node that no pass saw for that long is given up.
    "repair": scheduled("repair", "repair", every_seconds=300),
    "repair-full": scheduled("repair-full", "repair", every_seconds=900, params={"full": True}),
    "prune": scheduled("prune", "prune", every_seconds=DAY, offset_seconds=3 * HOUR + 10 * 60),
    "audit-verify": scheduled("audit-verify", "audit-verify", every_seconds=DAY, offset_seconds=4 * HOUR),
}
