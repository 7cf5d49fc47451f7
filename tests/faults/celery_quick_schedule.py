"""Celery settings of a beat that asks every half second, for a run every two."""

from cache_management.workers.defaults import *  # noqa: F403
from cache_management.workers.defaults import scheduled

PERIOD_SECONDS = 2.0
beat_max_loop_interval = 0.5
beat_schedule = {"quick": scheduled("quick", "prune", every_seconds=PERIOD_SECONDS) | {"schedule": 0.5}}
