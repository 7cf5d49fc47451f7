"""Counts what a reasoning cache tells, so that `get_stats()` needs no metrics library."""

from __future__ import annotations

from collections import Counter

from cache_management.cache.events import Event, HitEvent, MissEvent, StepsEvent, StoreEvent
from cache_management.cache.reasoning.steps import ReasoningStats


class ReasoningCounter:
    """A listener that counts, since it was made, in this process."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        counts = self._counts
        match event:
            case HitEvent():
                counts["hits"] += 1
                counts["tokens_saved"] += event.tokens
            case MissEvent():
                counts["misses"] += 1
            case StoreEvent():
                counts["stores"] += 1
            case StepsEvent():
                counts[event.what] += event.count
                if event.what == "reused":
                    counts["tokens_saved"] += event.tokens
                    counts["cost_micro"] += event.cost_micro
            case _:
                pass

    def snapshot(self, backend: str, namespace: str) -> ReasoningStats:
        """Return the counts so far."""
        counts = self._counts
        return ReasoningStats(
            hits=counts["hits"],
            misses=counts["misses"],
            stores=counts["stores"],
            steps_submitted=counts["submitted"],
            steps_stored=counts["stored"],
            steps_reused=counts["reused"],
            tokens_saved=counts["tokens_saved"],
            cost_saved_usd=counts["cost_micro"] / 1e6,
            samples_stored=counts["samples_stored"],
            samples_fresh=counts["samples_fresh"],
            pruned_steps=counts["pruned"],
            backend=backend,
            namespace=namespace,
        )
