"""The gates on a word put in another's place: another name, another variant of the same thing."""

from __future__ import annotations

from collections import Counter

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.alignment import Pair
from cache_management.cache.semantic.gates.closed_classes import (
    DESTRUCTIVE,
    DETERMINERS,
    MENTIONING,
    OWNERS,
    REMARKS,
    SAME_USE,
    STOP,
    TO_A_PLACE,
)
from cache_management.cache.semantic.gates.values import tail_differs
from cache_management.cache.semantic.gates.words import Word

_REPLACED = 2  # words a side; where more differ, the texts are not one question with a name changed
_LONG_NAME = 4
_LONG_PHRASE = 3
_FRAME = 0.85  # where less is the same, people mostly ask the same in other words


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
    if pair.asked.anew != pair.stored.anew or _said_otherwise(pair) or _light_replaced(pair):
        return True
    left, right = pair.heavy_left, pair.heavy_right
    if not left or not right or len(left) > _LONG_PHRASE or len(right) > _LONG_PHRASE:
        return False
    if len(left) == len(right) <= _REPLACED and _one_place(pair, left, right):
        return not any(_could_be_same(one, two) for one in left for two in right)
    if len(left) == len(right) == 1 and _is_sister(left[0], right[0]):
        return True
    if _object_replaced(pair, left, right):
        return True
    framed = _share_of_the_same(pair) >= _FRAME
    return _kind_replaced(left, right, framed=framed) or (framed and _phrase_replaced(pair, left, right))


def _said_otherwise(pair: Pair) -> bool:
    """Tell "click OK" from "click Cancel", "say hello" from "say goodbye", though the words say little elsewhere."""
    ours, theirs = pair.asked.lemmas, pair.stored.lemmas
    if len(ours) != len(theirs) or ours == theirs:
        return False
    places = [at for at, (one, two) in enumerate(zip(ours, theirs, strict=True)) if one != two]
    if len(places) != 1 or not places[0]:
        return False
    at = places[0]
    if ours[at - 1] not in MENTIONING and not (ours[at - 1] == "to" and "set" in ours):
        return False
    return REMARKS.get(ours[at]) != REMARKS.get(theirs[at])


def _light_replaced(pair: Pair) -> bool:
    """Tell "get a loan" from "repay a loan", where all other words are the same and stand in the same order."""
    if len(pair.left) != 1 or len(pair.right) != 1 or not (pair.left[0].light or pair.right[0].light):
        return False
    one, two = pair.left[0], pair.right[0]
    ours, theirs = list(pair.asked.lemmas), list(pair.stored.lemmas)
    if one.at != two.at or len(ours) != len(theirs):
        return False
    del ours[one.at], theirs[two.at]
    if ours != theirs:
        return False
    if one.before not in STOP and all(lexicon.can_be(word.lemma, lexicon.NOUN) for word in (one, two)):
        return not lexicon.near(one.lemma, two.lemma)
    verbs = all(lexicon.can_be(word.lemma, lexicon.VERB) for word in (one, two))
    return verbs and one.light != two.light and not lexicon.near(one.lemma, two.lemma)


def _share_of_the_same(pair: Pair) -> float:
    """Return how much of all but articles and what is left over is the same, grammar included, in any order."""
    ours, theirs = (
        Counter(word for word in facets.lemmas if word not in DETERMINERS) - Counter(word.lemma for word in left)
        for facets, left in ((pair.asked, pair.heavy_left), (pair.stored, pair.heavy_right))
    )
    return (ours & theirs).total() / max(ours.total(), theirs.total(), 1)


def _kind_replaced(left: list[Word], right: list[Word], *, framed: bool) -> bool:
    """Tell "everyday current account" from "everyday savings account" wherever the two stand."""
    return any(
        one.after == two.after
        and one.after not in STOP
        and lexicon.can_be(one.after, lexicon.NOUN)
        and (framed or (one.before == two.before and one.before not in STOP))
        and not _could_be_same(one, two)
        for one in left
        for two in right
    )


def _phrase_replaced(pair: Pair, left: list[Word], right: list[Word]) -> bool:
    """Tell "my car loan" from "my mortgage": one phrase a side, each a thing, beside the same word."""
    if not _is_phrase(left) or not _is_phrase(right):
        return False
    if not _beside_the_same(pair, left, right):
        return False
    # Of unequal length, the heads face each other: "car loan" and "mortgage".
    facing = zip(reversed(left), reversed(right), strict=False)
    return not any(_could_be_same(one, two) for one, two in facing) and not any(
        lexicon.synonyms(one.lemma, two.lemma) for one in left for two in right
    )


def _object_replaced(pair: Pair, left: list[Word], right: list[Word]) -> bool:
    """Tell "damage to my roof" from "damage to my car": one thing behind the same two words, whatever else is said."""
    if len(left) != 1 or len(right) != 1 or not (_is_phrase(left) and _is_phrase(right)):
        return False
    if _is_plural(left[0]) != _is_plural(right[0]):
        return False
    before, other = _two_before(pair.asked.lemmas, left[0].at), _two_before(pair.stored.lemmas, right[0].at)
    if len(before) < 2 or before != other or not any(word not in STOP for word in before):
        return False
    return not _could_be_same(left[0], right[0])


def _two_before(lemmas: tuple[str, ...], at: int) -> tuple[str, ...]:
    while at and (lemmas[at - 1] in DETERMINERS or lemmas[at - 1] in OWNERS):
        at -= 1
    return lemmas[max(at - 2, 0) : at]


def _is_phrase(words: list[Word]) -> bool:
    return words[-1].at - words[0].at < len(words) and (words[-1].name or _is_noun(words[-1].lemma))


def _beside_the_same(pair: Pair, left: list[Word], right: list[Word]) -> bool:
    ours, theirs = pair.asked.lemmas, pair.stored.lemmas
    before, other = _before(ours, left[0].at), _before(theirs, right[0].at)
    if before and before == other:
        return True
    after, other = _after(ours, left[-1].at), _after(theirs, right[-1].at)
    return bool(after) and after == other


def _before(lemmas: tuple[str, ...], at: int) -> str:
    """Return the word before a phrase, past its article or owner, and the particle of a verb: "pay off my loan"."""
    while at and (lemmas[at - 1] in DETERMINERS or lemmas[at - 1] in OWNERS or lemmas[at - 1] in _BESIDE_VERBS):
        at -= 1
    return lemmas[at - 1] if at else ""


def _after(lemmas: tuple[str, ...], at: int) -> str:
    while at + 1 < len(lemmas) and lemmas[at + 1] in _BESIDE_VERBS:
        at += 1
    return lemmas[at + 1] if at + 1 < len(lemmas) else ""


_BESIDE_VERBS = frozenset(("up", "off", "out", "down"))


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
