"""The gates on a word put in another's place: another name, another variant of the same thing."""

from __future__ import annotations

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.alignment import Pair
from cache_management.cache.semantic.gates.closed_classes import DESTRUCTIVE, SAME_USE, STOP, TO_A_PLACE
from cache_management.cache.semantic.gates.facets import Word
from cache_management.cache.semantic.gates.values import tail_differs

_REPLACED = 2  # words a side; where more differ, the texts are not one question with a name changed
_LONG_NAME = 4


def entity(pair: Pair) -> bool:
    """Refuse when each text has a name that the other has not, and little else differs.

    A name on one side only is an addition, but for a place at which the other text does not ask: "in Texas".
    """
    left, right = pair.heavy_left, pair.heavy_right
    if left and right:
        return _is_name(left) and _is_name(right)
    return _is_place(left or right)


def _is_place(words: list[Word]) -> bool:
    """Tell whether words are all of one place that a preposition leads to."""
    if not words or len(words) > _REPLACED or words[-1].at - words[0].at >= len(words):
        return False
    before = words[0].before
    return (before in TO_A_PLACE or before == "the") and any(lexicon.is_place(word.text) for word in words)


def _is_name(words: list[Word]) -> bool:
    if len(words) > _REPLACED:
        return len(words) <= _LONG_NAME and all(word.name for word in words)
    return any(word.name for word in words)


def variant(pair: Pair) -> bool:
    """Refuse when one thing stands in the place of another kind of it: gold card, platinum card."""
    if tail_differs(pair):
        return True
    left, right = pair.heavy_left, pair.heavy_right
    if not left or not right or len(left) > _REPLACED or len(right) > _REPLACED:
        return False
    if len(left) == len(right) and _one_place(pair, left, right):
        return not any(_could_be_same(one, two) for one in left for two in right)
    return len(left) == len(right) == 1 and _is_sister(left[0], right[0])


def _one_place(pair: Pair, left: list[Word], right: list[Word]) -> bool:
    """Tell whether what is left over stands between the same words, or the texts are equal but for one phrase."""
    if len(left) == 1:
        if left[0].before == right[0].before and left[0].after == right[0].after:
            return True
    elif not all(_is_noun(word.lemma) for word in (*left, *right)):
        return False
    ours, theirs = pair.asked.lemmas, pair.stored.lemmas
    shorter = min(len(ours), len(theirs))
    start = 0
    while start < shorter and ours[start] == theirs[start]:
        start += 1
    end = 0
    while end < shorter - start and ours[-1 - end] == theirs[-1 - end]:
        end += 1
    if not len(ours) == len(theirs) == start + end + len(left):
        return False
    return all(start <= word.at < len(ours) - end for word in left) and all(
        start <= word.at < len(theirs) - end for word in right
    )


def _could_be_same(one: Word, two: Word) -> bool:
    if DESTRUCTIVE.get(one.lemma, one) == DESTRUCTIVE.get(two.lemma, two):
        return True
    # What stands before a noun tells kinds of it apart: only a synonym says the same, or other praise.
    tells_apart = one.after == two.after and one.after not in STOP and lexicon.can_be(one.after, lexicon.NOUN)
    if tells_apart and not _is_praise(one, two) and not (_is_plural(one) and _is_plural(two)):
        return lexicon.synonyms(one.lemma, two.lemma)
    return lexicon.near(one.lemma, two.lemma) or {one.lemma, two.lemma} in SAME_USE


def _is_praise(one: Word, two: Word) -> bool:
    """Tell "the best", "the finest" and "amazing", "surprising" from "gold", "platinum"."""
    if one.text.endswith("est") and two.text.endswith("est"):
        return True
    return lexicon.shades(one.text, two.text)


def _is_plural(word: Word) -> bool:
    """Tell whether a noun ends here: "airplanes fly", not "airplane tickets"."""
    return word.text != word.lemma and word.text.endswith("s") and _is_noun(word.lemma)


def _is_sister(one: Word, two: Word) -> bool:
    """Tell whether a sister stands before the same noun: another variant even where more was reworded."""
    if one.after != two.after or not lexicon.sisters(one.lemma, two.lemma):
        return False
    return one.before == two.before or (one.after not in STOP and _is_noun(one.after))


def _is_noun(lemma: str) -> bool:
    return lexicon.main_part(lemma) == lexicon.NOUN
