"""Celery settings of a bench worker, which knows one task more."""

from cache_management.workers.defaults import *  # noqa: F403

imports = ("tests.bench.noop_task",)
