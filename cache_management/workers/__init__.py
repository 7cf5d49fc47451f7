"""Celery tasks: durable, recorded jobs over the core.

`celery -A cache_management.workers worker` finds the app here, loaded when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

    app: Celery
    celery_app: Celery


def __getattr__(name: str) -> Any:
    # Lazily: importing `cache_management.workers.client` must not load every task.
    if name in {"app", "celery_app", "celery"}:
        from cache_management.workers.app import app as found

        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
