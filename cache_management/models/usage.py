"""What is counted of the use of a cache, by moment, namespace and model: plain values, without a database."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

DAY_SECONDS = 86_400
PERIODS_SECONDS = (60, 3600, DAY_SECONDS)
USAGE_NAMES = ("hits", "semantic_hits", "misses", "tokens_saved", "saved_micro")

KeyCounts = Mapping[tuple[str, str], tuple[int, int]]
"""Hits and misses by namespace and digest of the key."""
Amounts = Mapping[tuple[datetime, str, str], Mapping[str, int]]
"""Amounts by name, for a moment, a namespace and a model."""


class HotKeyView(msgspec.Struct, frozen=True):
    """How often a key was asked for; by digest, because a key may be a prompt."""

    key_digest: str
    hits: int
    misses: int
    namespace: str = "default"


class UsageRow(msgspec.Struct, frozen=True):
    """What happened with the answers of one model in one namespace; `saved_micro` is in micro-dollars."""

    namespace: str
    model: str
    hits: int = 0
    semantic_hits: int = 0
    misses: int = 0
    tokens_saved: int = 0
    saved_micro: int = 0

    @property
    def hit_rate(self) -> float | None:
        """Return the share of questions that were answered; None when there were none."""
        served = self.hits + self.semantic_hits
        return served / (served + self.misses) if served + self.misses else None


def period_start(moment: datetime, period_seconds: int) -> datetime:
    """Return when the period began that a moment falls into."""
    seconds = int(moment.timestamp())
    return datetime.fromtimestamp(seconds - seconds % period_seconds, UTC)
