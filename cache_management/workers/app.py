"""The Celery app of the workers and of beat: the one object that exists on import."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from typing import Any

try:
    from celery import Celery, signals
except ImportError as exc:
    raise ImportError("Workers need: pip install 'cache-management[workers]'") from exc

from cache_management.services.processes import bind_to_parent
from cache_management.settings import Settings
from cache_management.wiring import read_settings
from cache_management.workers import runtime
from cache_management.workers.messages import require_broker

TASK_MODULES = ("warm", "embed", "control", "upkeep", "stats")


def make_app(settings: Settings) -> Celery:
    """Return an app with all tasks, configured by the settings and `CACHE_CELERY_CONFIG`.

    Raises:
        BrokerUnavailable: No broker is configured and no embedded set runs.
    """
    made = Celery(
        "cache_management",
        broker=require_broker(settings),
        include=[f"cache_management.workers.{name}" for name in TASK_MODULES],
        set_as_current=True,
    )
    made.config_from_object(os.environ.get("CACHE_CELERY_CONFIG") or "cache_management.workers.defaults")
    made.conf.broker_url = require_broker(settings)
    return made


@signals.worker_process_init.connect
def _begin_process(**_: Any) -> None:
    # A pool child must not outlive a killed worker: it would go on with a chunk that nobody waits for.
    bind_to_parent()
    runtime.forget()


@signals.worker_process_shutdown.connect
def _end_process(**_: Any) -> None:
    runtime.close()


@signals.before_task_publish.connect
def _note_when_sent(headers: dict[str, Any], **_: Any) -> None:
    # Beat cannot: its entries are fixed. Without it nobody could tell how long a queue has been waiting.
    headers.setdefault("sent_at", datetime.now(UTC).isoformat())


@signals.worker_ready.connect
def _tell_ready(**_: Any) -> None:
    ready_file = os.environ.get("CACHE_READY_FILE")
    if ready_file:
        with open(ready_file, "w", encoding="utf-8") as file:  # noqa: PTH123 - an edge, before any path is wrapped
            file.write(str(os.getpid()))


@signals.setup_logging.connect
def _keep_logging(loglevel: int | str | None = None, **_: Any) -> None:
    logging.basicConfig(
        level=loglevel or logging.INFO,
        format="%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s",
        force=True,
    )


app: Celery = make_app(read_settings().settings)
