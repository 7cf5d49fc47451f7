"""Providers that workers of the fault tests ask, by name: some are poison, some are away for a while."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from cache_management.cache.errors import ProviderBusy

OUTAGE = "CACHE_TEST_OUTAGE"


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Answer; a prompt that holds "poison" kills the process that asks."""
    if "poison" in question["prompt"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"response": f"answer to {question['prompt']}", "cost_usd": 0.001}


def answer_unless_away(question: dict[str, Any]) -> dict[str, Any]:
    """Answer while a file is not there: as long as it is, the provider is down."""
    if Path(os.environ[OUTAGE]).exists():
        raise ProviderBusy("503 for ten minutes", retry_after_seconds=0.5)
    return answer(question)
