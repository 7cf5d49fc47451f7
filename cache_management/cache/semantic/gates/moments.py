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


_NAMED_SPANS = word_set("week weekend month year quarter season morning afternoon evening night hour minute")
_FEEDS = word_set("price prices score scores rate rates status traffic feed update updates quote quotes data")
_MARKETS = word_set("stock share market exchange spot")


def depends_on_now(texts: Sequence[str]) -> bool:
    """Tell whether the answer to a text is another one tomorrow."""
    last = len(texts) - 1
    for at, word in enumerate(texts):
        after = texts[at + 1] if at < last else ""
        before = texts[at - 1] if at else ""
        if word in {"currently", "latest", "tonight", "tomorrow", "yesterday", "upcoming", "newest"}:
            return True
        if word == "current" and after not in {"account", "accounts", "affairs"}:
            return True
        if word == "today" and after != "'s":
            return True
        if word == "today" and after == "'s" and at + 2 <= last and texts[at + 2] not in _ERAS:
            return True
        if word == "now" and (before in {"right", "just", "of", "until"} or at == last):
            return True
        if word == "moment" and before in {"the", "this"}:
            return True
        if word in _NAMED_SPANS and before in {"this", "last", "next", "past"}:
            return True
        if word in {"weather", "forecast"} and (before in {"the", "s"} or after in {"in", "like", "for", "forecast"}):
            return True
        if word == "live" and after in _FEEDS:
            return True
        if word == "recent" and before == "most":
            return True
        if word in {"price", "prices"} and before in _MARKETS:
            return True
        if word == "time" and before == "what" and after in {"is", "in"}:
            return True
        if word in {"day", "date", "year", "month"} and before == "what" and texts[at + 1 : at + 3] == ["is", "it"]:
            return True
    return False


_ERAS = word_set("world age society generation era time times day youth")
