"""The Celery app of the workers and of beat: the one object that exists on import."""

from __future__ import annotations

import os

try:
    from celery import Celery
    from celery.utils.imports import import_from_cwd
except ImportError as exc:
    raise ImportError("Workers need: pip install 'cache-management[workers]'") from exc

from cache_management.cache.errors import ConfigurationError
from cache_management.settings import Settings
from cache_management.wiring import read_settings
from cache_management.workers import process  # noqa: F401 - what the processes of this app do
from cache_management.workers.messages import require_broker

TASK_MODULES = ("warm", "embed", "evict", "transfer", "control", "heartbeat", "upkeep", "stats", "repair")


def make_app(settings: Settings) -> Celery:
    """Return an app with all tasks, configured by the settings and `CACHE_CELERY_CONFIG`.

    Raises:
        BrokerUnavailable: No broker is configured and no embedded set runs.
        ConfigurationError: There is no module of the name in `CACHE_CELERY_CONFIG`.
    """
    named = os.environ.get("CACHE_CELERY_CONFIG") or "cache_management.workers.defaults"
    made = Celery(
        "cache_management",
        broker=require_broker(settings),
        include=[f"cache_management.workers.{name}" for name in ("process", "about", *TASK_MODULES)],
        set_as_current=True,
    )
    try:
        import_from_cwd(named)  # Celery would read it much later, and say no more than what it lacks
    except ModuleNotFoundError as exc:
        if exc.name != named:
            raise
        raise ConfigurationError(
            f"CACHE_CELERY_CONFIG names {named!r}, and there is no such module; put its folder on PYTHONPATH, "
            "or unset it to take the defaults"
        ) from exc
    made.config_from_object(named)
    made.conf.broker_url = require_broker(settings)
    return made


app: Celery = make_app(read_settings().settings)
