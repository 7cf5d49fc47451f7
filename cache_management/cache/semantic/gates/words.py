"""A content word where it stands, and the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec


class Word(msgspec.Struct, frozen=True, gc=False):
    """A content word where it stands."""

    text: str
    lemma: str
    at: int  # place among all words of the text
    name: bool  # a capital inside a sentence, a proper noun of the dictionary, or not in it
    light: bool
    before: str  # the word to the left and to the right, by base form; empty at the ends
    after: str
    raw: str


def next_content(
    at: int, texts: Sequence[str], content_at: Mapping[int, Word], reach: int = 4, opens: frozenset[int] = frozenset()
) -> Word | None:
    for near in range(at + 1, min(at + 1 + reach, len(texts))):
        if near in opens:
            return None
        if near in content_at:
            return content_at[near]
    return None
