"""Reads when something is, seen from now: yesterday, last month, next year."""

from __future__ import annotations

from collections.abc import Sequence

from cache_management.cache.semantic.gates.closed_classes import word_set

_NOW = word_set("today now currently nowadays")
_DAYS = word_set("yesterday tomorrow tonight")
_PARTS = {
    "weekend": "weekend",
    "morning": "morning",
    "afternoon": "afternoon",
    "evening": "tonight",
    "night": "tonight",
}
_SIDES = {"last": "last", "past": "last", "previous": "last", "this": "now", "current": "now", "next": "next"}
_SPANS = word_set(
    "day week weekend month quarter year season decade century night morning afternoon evening monday tuesday "
    "wednesday thursday friday saturday sunday"
)


def moments(texts: Sequence[str]) -> frozenset[str]:
    """Return the moments that a text names; today, this month and now are all "now"."""
    found = set()
    for at, word in enumerate(texts):
        after = texts[at + 1] if at + 1 < len(texts) else ""
        if word in _NOW or (word == "current" and after not in {"account", "accounts", "affairs"}):
            found.add("now")
        elif word in _DAYS:
            found.add(word)
        elif word in _SIDES and after in _SPANS:
            side = _SIDES[word]
            found.add(_PARTS.get(after, "now") if side == "now" else f"{side} {after}")
    return frozenset(found)
