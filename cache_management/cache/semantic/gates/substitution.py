"""The gates on a word put in another's place: another name, another variant of the same thing."""

from __future__ import annotations

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.alignment import Pair
from cache_management.cache.semantic.gates.facets import Word
from cache_management.cache.semantic.gates.values import tail_differs

_REPLACED = 3  # words a side; where more differ, the texts are not one question with a name changed


def entity(pair: Pair) -> bool:
    """Refuse when each text has a name that the other has not, and little else differs."""
    left, right = pair.heavy_left, pair.heavy_right
    if len(left) > _REPLACED or len(right) > _REPLACED:
        return False
    return any(word.name for word in left) and any(word.name for word in right)


def variant(pair: Pair) -> bool:
    """Refuse when one thing stands in the place of another kind of it: gold card, platinum card."""
    if tail_differs(pair):
        return True
    left, right = pair.heavy_left, pair.heavy_right
    if not left or not right or len(left) > 2 or len(right) > 2:
        return False
    alone = len(left) == len(right) == 1
    return any(_replaces(one, two, alone=alone) for one in left for two in right)


def _replaces(one: Word, two: Word, *, alone: bool) -> bool:
    if one.light or two.light or lexicon.near(one.lemma, two.lemma):
        return False
    before, after = one.before == two.before, one.after == two.after
    if alone and before and after:
        return True
    # A sister before the same noun, or after the same word, is another variant even where more was reworded.
    return lexicon.sisters(one.lemma, two.lemma) and after and (before or _is_noun(one.after))


def _is_noun(lemma: str) -> bool:
    return bool(lemma) and lexicon.main_part(lemma) == lexicon.NOUN
