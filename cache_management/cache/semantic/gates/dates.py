"""Reads calendar words: months, weekdays, days, years, clock times."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cache_management.cache.semantic.gates.closed_classes import word_set
from cache_management.cache.semantic.gates.tokens import Kind, Token

Part = tuple[str, str]  # ("month", "3"), ("weekday", "1"), ("day", "5"), ("time", "14:30")

_MONTHS = {
    name: str(at)
    for at, names in enumerate(
        (
            "january jan",
            "february feb",
            "march mar",
            "april apr",
            "may",
            "june jun",
            "july jul",
            "august aug",
            "september sep sept",
            "october oct",
            "november nov",
            "december dec",
        ),
        start=1,
    )
    for name in names.split()
}
_WEEKDAYS = {
    name: str(at)
    for at, names in enumerate(
        (
            "monday mon mondays",
            "tuesday tue tues tuesdays",
            "wednesday wed wednesdays",
            "thursday thu thurs thursdays",
            "friday fri fridays",
            "saturday sat saturdays",
            "sunday sun sundays",
        ),
        start=1,
    )
    for name in names.split()
}
_AMBIGUOUS = word_set("may march mar mon wed sat sun sep august jan")
_DAY = re.compile(r"([0-3]?\d)(?:st|nd|rd|th)?")
_CLOCK = re.compile(r"(\d{1,2})(?::(\d{2}))?(?::\d{2})?\s?([ap])?\.?m?")


def dates(found: Sequence[Token]) -> tuple[list[Part], set[int]]:
    """Return the parts of dates in a text, and the places of the tokens they were read from."""
    out: list[Part] = []
    used: set[int] = set()
    for at, token in enumerate(found):
        if token.kind is Kind.DATE:
            out.extend(_numeric(token.text))
            used.add(at)
        elif token.kind is Kind.TIME:
            out.append(("time", _clock(token.text)))
            used.add(at)
        elif token.kind is not Kind.WORD:
            continue
        elif token.text in _MONTHS and _is_calendar(found, at):
            out.append(("month", _MONTHS[token.text]))
            used.add(at)
            for near in (at + 1, at - 1, at - 2):
                if near == at - 2 and (at < 2 or found[at - 1].text not in {"of", "."}):
                    continue
                if 0 <= near < len(found) and found[near].kind is Kind.NUMBER and near not in used:
                    day = _DAY.fullmatch(found[near].text)
                    if day:
                        out.append(("day", day.group(1).lstrip("0")))
                        used.add(near)
                        break
        elif token.text in _WEEKDAYS and _is_calendar(found, at):
            out.append(("weekday", _WEEKDAYS[token.text]))
            used.add(at)
    return out, used


def _is_calendar(found: Sequence[Token], at: int) -> bool:
    """Tell "May 5" and "in March" from "may I" and "march on"."""
    token = found[at]
    if token.text not in _AMBIGUOUS:
        return True
    beside = [found[near] for near in (at - 1, at + 1) if 0 <= near < len(found)]
    if any(other.kind is Kind.NUMBER for other in beside):
        return True
    before = found[at - 1].text if at else ""
    return (
        token.raw[:1].isupper()
        and not token.opens
        and before
        in {
            "in",
            "on",
            "of",
            "since",
            "by",
            "until",
            "till",
            "from",
            "to",
            "for",
            "last",
            "next",
            "this",
            "early",
            "late",
            "mid",
            "every",
            "before",
            "after",
            "during",
            "through",
            "and",
            "or",
        }
    )


def _numeric(text: str) -> list[Part]:
    """Read 2024-03-05 by its parts; of 5/3/2024 nobody says which is the month, so the two are kept without order."""
    pieces = [piece.lstrip("0") for piece in re.split(r"[-/.]", text)]
    if len(pieces[0]) == 4:
        year, month, day = pieces
        return [("year", year), ("month", month), ("day", day), ("both", _unordered(month, day))]
    year = pieces[2] if len(pieces[2]) == 4 else "20" + pieces[2].zfill(2)
    one, two = pieces[:2]
    found = [("year", year), ("both", _unordered(one, two))]
    if one.isdigit() and int(one) > 12:
        return [*found, ("month", two), ("day", one)]
    if two.isdigit() and int(two) > 12:
        return [*found, ("month", one), ("day", two)]
    return found


def _unordered(one: str, two: str) -> str:
    return " ".join(sorted((one, two)))


def _clock(text: str) -> str:
    match = _CLOCK.fullmatch(text)
    if not match:
        return text
    hour = int(match.group(1))
    if match.group(3):
        hour = hour % 12 + (12 if match.group(3) == "p" else 0)
    return f"{hour}:{match.group(2) or '00'}"
