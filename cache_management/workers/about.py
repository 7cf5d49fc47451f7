"""What a worker was configured with, told to `cache-cli doctor` when it asks."""

from __future__ import annotations

from typing import Any

import msgspec
from celery import signals
from celery.worker.control import inspect_command

from cache_management.wiring import read_settings
from cache_management.workers.doctor import About, about

COMMAND = "cache_about"

_own: About | None = None


@signals.celeryd_init.connect
def _note(**_: Any) -> None:
    # Now, not when it is asked for: the configuration may say something else by then.
    global _own
    _own = about(read_settings().settings)


@inspect_command(name=COMMAND)
def tell(state: Any) -> Any:
    """Return what this worker was started with."""
    return None if _own is None else msgspec.to_builtins(_own)
