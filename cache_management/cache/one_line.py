"""Texts of others as they are shown: their beginning, on one line."""

from __future__ import annotations


def on_one_line(text: str, characters: int) -> str:
    """Return the beginning of a text, marked where more follows."""
    line = " ".join(text[:characters].split())
    return line if len(text) <= characters else line + " …"
