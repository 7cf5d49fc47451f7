"""Lets several hear what one may hear."""

from __future__ import annotations

from collections.abc import Sequence

from cache_management.cache.events import Event, Listening, fan_out


class Several:
    """Hands every event to each; one that fails is logged, and the others still hear it."""

    def __init__(self, listening: Sequence[Listening]) -> None:
        self._answers = fan_out(listening)
        self._reasoning = fan_out([each.of_reasoning for each in listening])

    def __call__(self, event: Event) -> None:
        """Hear of an event of answers."""
        self._answers(event)

    def of_reasoning(self, event: Event) -> None:
        """Hear of an event of reasoning."""
        self._reasoning(event)
