"""Celery settings under which the broker takes every message for lost after one second, and looks every second."""

from typing import Any

from cache_management.workers import defaults
from cache_management.workers.defaults import *  # noqa: F403

broker_transport_options: dict[str, Any] = defaults.broker_transport_options | {
    "visibility_timeout": 1,
    "unacked_restore_interval": 1,
}
