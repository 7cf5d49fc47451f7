"""Celery settings of a worker that gives what is under way one second when it is stopped."""

from cache_management.workers.defaults import *  # noqa: F403

worker_soft_shutdown_timeout = 1
