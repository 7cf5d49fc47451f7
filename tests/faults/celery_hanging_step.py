"""Celery settings of a worker whose warm chunks hang while a file exists; their hard limit is three seconds."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from celery import signals

from cache_management.models.store.results import Claim
from cache_management.wiring import Platform
from cache_management.workers import defaults, messages
from cache_management.workers.chunk import Progress
from cache_management.workers.defaults import *  # noqa: F403

HARD_SECONDS = 3
HANGS = "CACHE_TEST_HANGS_WHILE"

task_annotations: dict[str, Any] = defaults.task_annotations | {"warm.chunk": {"time_limit": HARD_SECONDS}}


@signals.worker_init.connect(weak=False)
def _plant(**_: Any) -> None:
    from cache_management.workers import warm

    really = warm.store
    file = Path(os.environ[HANGS])

    async def hanging(platform: Platform, claim: Claim) -> Progress:
        progress = await really(platform, claim)
        if file.exists():
            (file.parent / "hung").touch()
        while file.exists():
            await asyncio.sleep(0.05)
        return progress

    warm.store = hanging
    messages.TASK_LIMITS["warm.chunk"] = messages.Limits(HARD_SECONDS - 1, HARD_SECONDS)
