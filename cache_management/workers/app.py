"""The Celery app of the workers and of beat: the one object that exists on import."""

from __future__ import annotations

import os

try:
    from celery import Celery
except ImportError as exc:
    raise ImportError("Workers need: pip install 'cache-management[workers]'") from exc

from cache_management.settings import Settings
from cache_management.wiring import read_settings
from cache_management.workers import process  # noqa: F401 - what the processes of this app do
from cache_management.workers.messages import require_broker

TASK_MODULES = ("warm", "embed", "evict", "transfer", "control", "heartbeat", "upkeep", "stats", "repair")


def make_app(settings: Settings) -> Celery:
    """Return an app with all tasks, configured by the settings and `CACHE_CELERY_CONFIG`.

    Raises:
        BrokerUnavailable: No broker is configured and no embedded set runs.
    """
    made = Celery(
        "cache_management",
        broker=require_broker(settings),
        include=[f"cache_management.workers.{name}" for name in ("process", "about", *TASK_MODULES)],
        set_as_current=True,
    )
    made.config_from_object(os.environ.get("CACHE_CELERY_CONFIG") or "cache_management.workers.defaults")
    made.conf.broker_url = require_broker(settings)
    return made


app: Celery = make_app(read_settings().settings)
