"""Shell globs as Redis knows them: `*`, `?`, `[a-z]`, `[^a-z]` and a backslash before a plain character."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

Matches = Callable[[str], bool]


@lru_cache(maxsize=256)
def glob_matcher(pattern: str) -> Matches:
    """Return a test for one glob.

    An unclosed `[` reaches to the end of the pattern, as in Redis. Stars are matched
    without giving back (each to its first fitting place), so the time is bounded by
    pattern length times text length.
    """
    pieces = [_segment(part) for part in _split_at_stars(pattern)]
    if len(pieces) == 1:
        whole = pieces[0]
        return lambda text: whole.fullmatch(text) is not None
    first, *middle, last = pieces
    tail_length = _length(pattern)

    def matches(text: str) -> bool:
        begin = first.match(text)
        if begin is None:
            return False
        at = begin.end()
        for piece in middle:
            found = piece.search(text, at)
            if found is None:
                return False
            at = found.end()
        tail_at = len(text) - tail_length
        return tail_at >= at and last.fullmatch(text, tail_at) is not None

    return matches


def escape_glob(text: str) -> str:
    """Return a glob that matches `text` and nothing else."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


Token = tuple[str, str]
"""A kind ("star" or "char") and the regular expression of one character."""


def _tokens(pattern: str) -> list[Token]:
    found: list[Token] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            if not found or found[-1][0] != "star":
                found.append(("star", ""))
        elif char == "?":
            found.append(("char", "."))
        elif char == "[":
            expression, at = _char_class(pattern, at + 1)
            found.append(("char", expression))
            continue
        else:
            if char == "\\" and at + 1 < len(pattern):
                at += 1
                char = pattern[at]
            found.append(("char", re.escape(char)))
        at += 1
    return found


def _char_class(pattern: str, at: int) -> tuple[str, int]:
    """Read a class that begins behind its bracket; return its expression and where it ends."""
    negated = at < len(pattern) and pattern[at] == "^"
    at += negated
    parts: list[str] = []
    while at < len(pattern) and pattern[at] != "]":
        if pattern[at] == "\\" and at + 1 < len(pattern):
            at += 1
            parts.append(re.escape(pattern[at]))
        elif at + 2 < len(pattern) and pattern[at + 1] == "-":
            low, high = sorted((pattern[at], pattern[at + 2]))
            parts.append(f"{re.escape(low)}-{re.escape(high)}")
            at += 2
        else:
            parts.append(re.escape(pattern[at]))
        at += 1
    at = min(at + 1, len(pattern))
    if not parts:
        return ("." if negated else r"(?!)"), at
    return f"[{'^' if negated else ''}{''.join(parts)}]", at


def _split_at_stars(pattern: str) -> list[list[Token]]:
    segments: list[list[Token]] = [[]]
    for token in _tokens(pattern):
        if token[0] == "star":
            segments.append([])
        else:
            segments[-1].append(token)
    return segments


def _segment(tokens: list[Token]) -> re.Pattern[str]:
    return re.compile("".join(expression for _, expression in tokens), re.DOTALL)


def _length(pattern: str) -> int:
    return len(_split_at_stars(pattern)[-1])
