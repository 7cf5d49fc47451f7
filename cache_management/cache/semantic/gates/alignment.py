"""Matches the words of two texts off against each other; what is left over is where they differ."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import msgspec

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.closed_classes import REVERSALS
from cache_management.cache.semantic.gates.facets import Facets, Word

_SEARCHED = 24  # leftovers compared with one another; more than these and nothing depends on the rest


class Pair(msgspec.Struct, frozen=True, gc=False):
    """Two texts and the content words that only one of them has."""

    asked: Facets
    stored: Facets
    left: tuple[Word, ...]
    right: tuple[Word, ...]
    opposed: tuple[tuple[Word, Word], ...]  # antonyms that face each other
    shared: frozenset[str]  # base forms that both have

    @property
    def nearly_equal(self) -> bool:
        """Little but the antonyms is left over."""
        return len(self.heavy_left) <= 2 and len(self.heavy_right) <= 2

    @property
    def heavy_left(self) -> list[Word]:
        return [word for word in self.left if not word.light and not _is_adverb(word)]

    @property
    def heavy_right(self) -> list[Word]:
        return [word for word in self.right if not word.light and not _is_adverb(word)]


def _is_adverb(word: Word) -> bool:
    return not word.name and lexicon.main_part(word.lemma) == lexicon.ADVERB


_REVERSED = frozenset(frozenset(pair.split()) for pair in REVERSALS)


def opposed(one: Word, two: Word) -> bool:
    if frozenset((one.lemma, two.lemma)) in _REVERSED or lexicon.opposites(one.lemma, two.lemma):
        return True
    inflected = one.text != one.lemma or two.text != two.lemma
    return inflected and lexicon.opposites(one.text, two.text)


def _same_place(one: Word, two: Word) -> bool:
    return one.before == two.before or one.after == two.after


def align(asked: Facets, stored: Facets) -> Pair:
    """Match off equal base forms, synonyms, derivations, slips of spelling, compounds; then pair antonyms."""
    ours: dict[str, list[Word]] = {}
    for word in stored.words:
        ours.setdefault(word.lemma, []).append(word)
    left: list[Word] = []
    shared = set()
    for word in asked.words:
        if word.lemma in ours:
            shared.add(word.lemma)
        else:
            left.append(word)
    right = [word for words in ours.values() for word in words if word.lemma not in shared]
    # A word said twice on one side is no difference.
    left = [word for word in left if word.lemma not in shared]
    if not left or not right:
        left = _joined(left, stored) if left else left
        right = _joined(right, asked) if right else right
        return Pair(asked, stored, tuple(left), tuple(right), (), frozenset(shared))
    if len(left) > _SEARCHED or len(right) > _SEARCHED:
        return Pair(asked, stored, tuple(left), tuple(right), (), frozenset(shared))
    found: list[tuple[Word, Word]] = []
    alone = len(left) == len(right) == 1
    for one in list(left):
        for two in right:
            if (alone or _same_place(one, two)) and opposed(one, two):
                found.append((one, two))
                left.remove(one)
                right.remove(two)
                break
    left, right = _cancel(left, right, shared)
    left = _joined(left, stored)
    right = _joined(right, asked)
    right.sort(key=lambda word: word.at)
    return Pair(asked, stored, tuple(left), tuple(right), tuple(found), frozenset(shared))


def _cancel(left: list[Word], right: list[Word], shared: set[str]) -> tuple[list[Word], list[Word]]:
    rest = []
    right = list(right)
    for one in left:
        for two in right:
            if _alike(one.lemma, two.lemma) or _misspelt(one, two):
                right.remove(two)
                shared.add(one.lemma)
                shared.add(two.lemma)
                break
        else:
            rest.append(one)
    return rest, right


@lru_cache(maxsize=50_000)
def _alike(one: str, two: str) -> bool:
    if lexicon.synonyms(one, two):
        return True
    # "programme" and "programming", "photo" and "photography": one begins with the other or both with a long stem.
    short, long = sorted((one, two), key=len)
    if len(short) >= 5 and long.startswith(short[: max(5, len(short) - 2)]) and len(long) - len(short) <= 6:
        return not lexicon.is_proper(one) and not lexicon.is_proper(two) and long.startswith(short[:-1])
    return False


def _misspelt(one: Word, two: Word) -> bool:
    """Tell whether one word is a slip for the other: one edit, and the dictionary does not know one of them."""
    a, b = one.text, two.text
    if a[0] != b[0] or abs(len(a) - len(b)) > 1 or len(a) + len(b) < 10:
        return False
    known = lexicon.is_known(a) + lexicon.is_known(b)
    if known == 2 or (known == 0 and (len(a) < 7 or one.raw[0].isupper() or two.raw[0].isupper())):
        return False
    return _one_edit(a, b)


def _one_edit(a: str, b: str) -> bool:
    if len(a) > len(b):
        a, b = b, a
    at = 0
    while at < len(a) and a[at] == b[at]:
        at += 1
    if len(a) < len(b):
        return a[at:] == b[at + 1 :]
    return a[at + 1 :] == b[at + 1 :] or (a[at : at + 2] == b[at : at + 2][::-1] and a[at + 2 :] == b[at + 2 :])


def _joined(left: list[Word], other: Facets) -> list[Word]:
    """Drop what the other text writes as two words, as one, or by its initials."""
    if not left or not other.lemmas:
        return left
    lemmas = other.lemmas
    joins = {one + two for one, two in pairwise(lemmas)}
    rest = []
    for word in left:
        text = word.text
        if text in joins or word.lemma in joins:
            continue
        if 2 <= len(text) <= 5 and word.raw.isupper() and text in "".join(lemma[0] for lemma in lemmas):
            continue
        rest.append(word)
    return rest
