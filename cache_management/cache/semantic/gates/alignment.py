"""Matches the words of two texts off against each other; what is left over is where they differ."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import msgspec

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.closed_classes import REVERSALS, SAME_MEANING
from cache_management.cache.semantic.gates.facets import Facets
from cache_management.cache.semantic.gates.words import Word

_LONG_NAMES = 15  # letters of both together
_FEW = 3  # leftovers of both together among which antonyms face each other wherever they stand
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
    if word.name or lexicon.main_part(word.lemma) != lexicon.ADVERB:
        return False
    # Before a noun it tells kinds apart: "forward contract".
    return not (lexicon.can_be(word.lemma, lexicon.ADJECTIVE) and lexicon.main_part(word.after) == lexicon.NOUN)


_REVERSED = frozenset(frozenset(pair.split()) for pair in REVERSALS)
_MEANINGS = {
    word: frozenset(at for at, line in enumerate(SAME_MEANING) if word in line.split())
    for word in " ".join(SAME_MEANING).split()
}
_NO_MEANING: frozenset[int] = frozenset()


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
    # A word said twice on one side is no difference; put in the place of another it is.
    left = [word for word in left if word.lemma not in shared]
    if not left or not right:
        one, two = _only_difference(asked, stored)
        if one is not None and two is not None:
            left, right = [one], [two]
    if not left or not right:
        left = _joined(left, stored, shared) if left else left
        right = _joined(right, asked, shared) if right else right
        return Pair(asked, stored, tuple(left), tuple(right), (), frozenset(shared))
    if len(left) > _SEARCHED or len(right) > _SEARCHED:
        return Pair(asked, stored, tuple(left), tuple(right), (), frozenset(shared))
    found = _facing(left, right)
    left, right = _cancel(left, right, shared)
    found += _facing(left, right)
    left = _joined(left, stored, shared)
    right = _joined(right, asked, shared)
    right.sort(key=lambda word: word.at)
    return Pair(asked, stored, tuple(left), tuple(right), tuple(found), frozenset(shared))


def _facing(left: list[Word], right: list[Word]) -> list[tuple[Word, Word]]:
    """Take antonyms that face each other out of what is left; where little is left, wherever they stand."""
    found = []
    alone = len(left) + len(right) <= _FEW
    for one in list(left):
        for two in right:
            if (alone or _same_place(one, two)) and opposed(one, two):
                found.append((one, two))
                left.remove(one)
                right.remove(two)
                break
    return found


def _only_difference(asked: Facets, stored: Facets) -> tuple[Word | None, Word | None]:
    """Find the one place at which two texts of one length differ, where content words or reversals stand there."""
    ours, theirs = asked.lemmas, stored.lemmas
    if len(ours) != len(theirs):
        return None, None
    places = [at for at, (one, two) in enumerate(zip(ours, theirs, strict=True)) if one != two]
    if len(places) != 1:
        return None, None
    at = places[0]
    if frozenset((ours[at], theirs[at])) in _REVERSED:
        return _grammar_word(asked, at), _grammar_word(stored, at)
    return _word_at(asked, at), _word_at(stored, at)


def _word_at(facets: Facets, at: int) -> Word | None:
    return next((word for word in facets.words if word.at == at), None)


def _grammar_word(facets: Facets, at: int) -> Word:
    """Make a word of "many" or "have", which stand among the content only where they are turned round."""
    lemma = facets.lemmas[at]
    before = facets.lemmas[at - 1] if at else ""
    after = facets.lemmas[at + 1] if at + 1 < len(facets.lemmas) else ""
    return Word(lemma, lemma, at, False, False, before, after, lemma)


def _cancel(left: list[Word], right: list[Word], shared: set[str]) -> tuple[list[Word], list[Word]]:
    rest = []
    right = list(right)
    for one in left:
        for two in right:
            if (alike(one.lemma, two.lemma) and not _told_apart(one, two)) or _misspelt(one, two):
                right.remove(two)
                shared.add(one.lemma)
                shared.add(two.lemma)
                break
        else:
            rest.append(one)
    return rest, right


def _told_apart(one: Word, two: Word) -> bool:
    """Tell words that are alike elsewhere: "The Piano", "The Pianist"; an order delivered, an order shipped."""
    if one.text.endswith("ed") and two.text.endswith("ed"):
        return "deliver" in {one.lemma, two.lemma} and one.lemma != two.lemma
    if _MEANINGS.get(one.lemma, _NO_MEANING) & _MEANINGS.get(two.lemma, _NO_MEANING):
        return False
    titles = one.raw[0].isupper() and two.raw[0].isupper() and one.name and two.name
    return titles and not (lexicon.is_proper(one.lemma) or lexicon.is_proper(two.lemma)) and one.raw != two.raw


@lru_cache(maxsize=50_000)
def alike(one: str, two: str) -> bool:
    """Tell whether two base forms are matched off: synonyms, derivations, one stem."""
    if lexicon.synonyms(one, two) or _MEANINGS.get(one, _NO_MEANING) & _MEANINGS.get(two, _NO_MEANING):
        return True
    # "programme" and "programming", "photo" and "photography": one begins with the other or both with a long stem.
    short, long = sorted((one, two), key=len)
    if len(short) >= 5 and long.startswith(short[: max(5, len(short) - 2)]) and len(long) - len(short) <= 6:
        return not lexicon.is_proper(one) and not lexicon.is_proper(two) and long.startswith(short[:-1])
    return False


def _misspelt(one: Word, two: Word) -> bool:
    """Tell whether one word is a slip for the other: one edit, and the dictionary does not know one of them.

    Of two names it knows neither of, only long ones with a letter left out inside are one: Jon and John are two people.
    """
    if one.text[0] != two.text[0]:
        return False
    a, b = _american(one.text), _american(two.text)
    if a == b:
        return True
    if abs(len(a) - len(b)) > 1 or len(a) + len(b) < 9:
        return False
    known = lexicon.is_known(a) + lexicon.is_known(b)
    if known == 0 and len(a) + len(b) < 10:
        return False
    if known == 2 or (known == 0 and len(a) < 7):
        return False
    if known == 0 and (one.raw[0].isupper() or two.raw[0].isupper()):
        return len(a) + len(b) >= _LONG_NAMES and len(a) != len(b) and a[-2:] == b[-2:] and _one_edit(a, b)
    return _one_edit(a, b)


_SPELLINGS = (("isation", "ization"), ("ising", "izing"), ("ised", "ized"), ("ise", "ize"), ("our", "or"))


def _american(word: str) -> str:
    """Write "organisation" with a z and "colour" without a u."""
    for british, american in _SPELLINGS:
        if len(word) > len(british) + 3 and word.endswith(british):
            return word[: -len(british)] + american
    return word


def _one_edit(a: str, b: str) -> bool:
    if len(a) > len(b):
        a, b = b, a
    at = 0
    while at < len(a) and a[at] == b[at]:
        at += 1
    if len(a) < len(b):
        return a[at:] == b[at + 1 :]
    return a[at + 1 :] == b[at + 1 :] or (a[at : at + 2] == b[at : at + 2][::-1] and a[at + 2 :] == b[at + 2 :])


def _joined(left: list[Word], other: Facets, shared: set[str]) -> list[Word]:
    """Drop what the other text writes as two words, as one, or by its initials."""
    if not left or not other.lemmas:
        return left
    lemmas = other.lemmas
    joins = {one + two for one, two in pairwise(lemmas)}
    rest = []
    for word in left:
        text = word.text
        if text in joins or word.lemma in joins:
            shared.add(word.lemma)
            continue
        acronym = word.raw.isupper() or (len(text) > 2 and not lexicon.is_known(text))
        if 2 <= len(text) <= 5 and acronym and text in "".join(lemma[0] for lemma in lemmas):
            shared.add(word.lemma)
            continue
        rest.append(word)
    return rest
