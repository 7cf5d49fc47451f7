"""The provider of a soak: answers are known beforehand, some prompts are refused, and now and then it is busy."""

from __future__ import annotations

import random
from typing import Any

from cache_management.cache.errors import ProviderBusy, ProviderRefused

REFUSED = "refuse this"
_BUSY_SHARE = 0.05


def answer_to(prompt: str) -> str:
    """Return the one answer that a prompt may have."""
    return f"the answer to {prompt}"


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Answer a question, or not."""
    prompt = question["prompt"]
    if REFUSED in prompt:
        raise ProviderRefused("it does not like the question (400)")
    if random.random() < _BUSY_SHARE:
        raise ProviderBusy("429", retry_after_seconds=0.5)
    return {"response": answer_to(prompt), "cost_usd": 0.0001, "token_count": 3}
