"""Celery settings of a beat that has nothing to ask for."""

from cache_management.workers.defaults import *  # noqa: F403

beat_schedule: dict[str, object] = {}
