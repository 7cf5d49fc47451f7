"""The gates on what is said of the same things: denied, turned round, or of another time."""

from __future__ import annotations

from collections import Counter

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.alignment import Pair, alike
from cache_management.cache.semantic.gates.closed_classes import (
    AUXILIARIES,
    BE,
    OPPOSITE_PARTICLES,
    STOP,
)
from cache_management.cache.semantic.gates.facets import Facets
from cache_management.cache.semantic.gates.roles import roles_differ, swapped


def polarity(pair: Pair) -> bool:
    """Refuse when the texts differ by an odd number of turns: negators, antonyms, more against less."""
    if pair.asked.reply and pair.stored.reply and pair.asked.reply != pair.stored.reply:
        return True  # "say yes", "say no"
    flips = _turns(pair)
    if flips % 2 == 0:
        return flips == len(pair.opposed) and _two_things_turned(pair)
    # A negator says little about texts that differ otherwise; two antonyms in one place say more.
    if len(pair.heavy_left) + len(pair.heavy_right) > (1 if _negations(pair) else 2):
        return False
    # "Is A better than B" and "is B worse than A" turn twice, and so do "A before B" and "B after A".
    return not swapped(pair, frozenset(("than", "before", "after"))) and not _order_exchanged(pair)


def _order_exchanged(pair: Pair) -> bool:
    mine, theirs = _ordered(pair.asked), _ordered(pair.stored)
    return bool(mine and theirs) and mine != theirs and mine <= pair.shared and theirs <= pair.shared


def _ordered(facets: Facets) -> frozenset[str]:
    """Return what "before" and "after" lead to."""
    return frozenset(led for role, led in facets.roles if role in {"before", "after"})


def _two_things_turned(pair: Pair) -> bool:
    """Tell "fall after good news" from "rise after bad news": what is said of two things does not cancel."""
    return len(pair.opposed) == 2 and pair.nearly_equal and not swapped(pair) and not _order_exchanged(pair)


def _turns(pair: Pair) -> int:
    turns = _negations(pair) + len(pair.opposed) + _degrees(pair) + _particles(pair) + _exclusions(pair)
    return turns + _seen_from_the_other_side(pair)


_TRADES = frozenset(
    frozenset(pair.split()) for pair in ("buy sell", "give receive", "lend borrow", "send receive", "teach learn")
)


def _seen_from_the_other_side(pair: Pair) -> int:
    """Count a second turn in "who sold it to them", "from whom did they buy it"; not where it is I who act."""
    if len(pair.opposed) != 1 or "first" in pair.asked.subjects | pair.stored.subjects:
        return 0
    if frozenset(word.lemma for word in pair.opposed[0]) not in _TRADES:
        return 0
    lone = pair.asked.grammar ^ pair.stored.grammar
    if "from" not in lone or "to" not in lone:
        return 0
    roles = dict(pair.asked.roles) | dict(pair.stored.roles)
    whom, whence = roles.get("to"), roles.get("from")
    # "Buy from Norway", "sell to Norway": that is one partner, and two trades.
    return int(whom is None or whence is None or not alike(whom, whence))


def _exclusions(pair: Pair) -> int:
    """Count what only one text leaves out: "outside the EU", "except cats"."""
    if pair.asked.negated or pair.stored.negated:
        return 0
    return abs(_excludes(pair.asked) - _excludes(pair.stored))


def _excludes(facets: Facets) -> int:
    if facets.grammar.isdisjoint(("except", "outside")):
        return 0
    lemmas = facets.lemmas
    return sum(
        word == "except" or (word == "outside" and lemmas[at + 1 : at + 2] in (("the",), ("of",)))
        for at, word in enumerate(lemmas)
    )


def _negations(pair: Pair) -> int:
    if not pair.asked.negated and not pair.stored.negated:
        return 0
    ours, theirs = _governed(pair.asked, pair), _governed(pair.stored, pair)
    return abs(len(ours) - len(theirs))


def _governed(facets: Facets, pair: Pair) -> list[str]:
    facing = {word.lemma for both in pair.opposed for word in both}
    both = frozenset(pair.asked.lemmas) & frozenset(pair.stored.lemmas)
    return [word for word in facets.negated if word in pair.shared or word in facing or word in both]


def _degrees(pair: Pair) -> int:
    if not pair.asked.degrees or not pair.stored.degrees:
        return 0
    # "Neater" and "less messy": of words that are neither the same nor opposites nobody knows whether they turn.
    strange = {word.lemma for word in (*pair.left, *pair.right)}
    ours = Counter(sign for sign, graded in pair.asked.degrees if graded not in strange)
    theirs = Counter(sign for sign, graded in pair.stored.degrees if graded not in strange)
    left, right = ours - theirs, theirs - ours
    return min(sum(left.values()), sum(right.values())) if left.keys() != right.keys() else 0


_PARTICLES = frozenset(word for pair in OPPOSITE_PARTICLES for word in pair)


def _particles(pair: Pair) -> int:
    said = (pair.asked.grammar | pair.stored.grammar) & _PARTICLES
    surplus = {word: pair.asked.lemmas.count(word) - pair.stored.lemmas.count(word) for word in said}
    ours = {word for word, count in surplus.items() if count > 0}
    theirs = {word for word, count in surplus.items() if count < 0}
    if not ours or not theirs:
        return 0
    turns = 0
    for one, two in OPPOSITE_PARTICLES:
        if one == "to" and pair.opposed:
            continue  # "upload to", "download from": the verb turns already
        if (one in ours and two in theirs) or (two in ours and one in theirs):
            if _both_turn(pair, one, two):
                continue  # "speed up", "slow down"
            mine, other = (one, two) if one in ours else (two, one)
            turns += (one == "before" and _beside_the_same_act(pair)) or _same_place(
                pair.asked.lemmas, mine, pair.stored.lemmas, other
            )
    return turns


def _beside_the_same_act(pair: Pair) -> bool:
    """Tell "before a race", "once I have run a race" from "eat before I run", "run after I eat"."""
    if len(pair.heavy_left) + len(pair.heavy_right) > 1:
        return False
    return bool(_ordered(pair.asked) and _ordered(pair.stored)) and not _order_exchanged(pair)


def _both_turn(pair: Pair, one: str, two: str) -> bool:
    """Tell whether the verbs before two particles are turned round already."""
    return any(
        {mine.after, theirs.after} == {one, two} and lexicon.can_be(mine.lemma, lexicon.VERB)
        for mine, theirs in pair.opposed
    )


def _same_place(ours: tuple[str, ...], one: str, theirs: tuple[str, ...], two: str) -> bool:
    """Tell whether a word stands somewhere here where another stands there: "check in in person", "out in person"."""
    return any(
        _stand_alike(ours, here, theirs, there) for here in _places_of(one, ours) for there in _places_of(two, theirs)
    )


def _places_of(word: str, lemmas: tuple[str, ...]) -> list[int]:
    return [at for at, lemma in enumerate(lemmas) if lemma == word][:_MANY]


_MANY = 4


def _stand_alike(ours: tuple[str, ...], here: int, theirs: tuple[str, ...], there: int) -> bool:
    if not here or not there or ours[here - 1] != theirs[there - 1]:
        return False
    # "Opt in to", "opt out of": beside a verb the particle alone turns.
    return ours[here + 1 : here + 2] == theirs[there + 1 : there + 2] or ours[here - 1] not in STOP


def direction(pair: Pair) -> bool:
    """Refuse when the same words stand in exchanged roles: from A to B, from B to A."""
    if pair.asked.lemmas == pair.stored.lemmas:
        return False
    if pair.heavy_left or pair.heavy_right:
        return swapped(pair) and pair.nearly_equal and _turns(pair) % 2 == 0
    turned = _turns(pair) % 2 == 1
    if swapped(pair):
        return not turned
    if turned:
        return False
    return roles_differ(pair)


_DID = frozenset(("did", "was", "were"))
_DOES = frozenset(("do", "does", "will"))


def _asks_whether(pair: Pair) -> bool:
    """Tell whether both texts ask for yes or no."""
    return all(facets.lemmas[0] in AUXILIARIES for facets in (pair.asked, pair.stored))


def _did(pair: Pair) -> bool:
    """Tell "did it" from "does it" and "will it": "have" and "can" are of more than one time."""
    first, second = pair.asked.lemmas[0], pair.stored.lemmas[0]
    return (first in _DID and second in _DOES) or (second in _DID and first in _DOES)


def tense(pair: Pair) -> bool:
    """Refuse when only the time differs: is against used to be, is against becoming."""
    ours, theirs = pair.asked.aspect, pair.stored.aspect
    if ours == theirs:
        return False
    rest = [word for word in (*pair.left, *pair.right) if word.lemma not in {"use", "become", "longer", "long"}]
    rest = [word for word in rest if lexicon.main_part(word.lemma) != lexicon.ADVERB or word.name]
    if rest:
        return False
    if pair.asked.question == pair.stored.question == "when" and "past" in {ours, theirs}:
        return bool((_DID - BE) & (pair.asked.grammar ^ pair.stored.grammar))  # "when does it", "when did it open"
    if "habit" in {ours, theirs}:
        return True
    asks_whether = pair.asked.lemmas[:1] and pair.stored.lemmas[:1] and _asks_whether(pair)
    if "becoming" in {ours, theirs}:
        return bool(asks_whether)  # "how do I become rich" asks what "how do I get rich" does
    if asks_whether and {ours, theirs} in ({"past", "future"}, {"past", ""}) and _did(pair):
        return True
    # Who holds an office changes: "who is the chancellor", "who was", "who will be"; who was the greatest does not.
    if pair.asked.lemmas[:1] == pair.stored.lemmas[:1] == ("who",):
        whom = _beside_time(pair.asked)
        return whom == _beside_time(pair.stored) and whom[1:2] == ["the"] and not pair.asked.degrees
    # "Was it open" against "is it open": only of a question for yes or no. "What was it built in" asks for the same.
    if not (pair.asked.lemmas and pair.asked.lemmas[0] in BE and pair.stored.lemmas and pair.stored.lemmas[0] in BE):
        return False
    if _beside_time(pair.asked) != _beside_time(pair.stored):
        return False
    return bool((set(pair.asked.grammar) ^ set(pair.stored.grammar)) & BE)


def _beside_time(facets: Facets) -> list[str]:
    return [word for word in facets.lemmas if word not in BE and word not in _EVER and word != "will"]


_EVER = frozenset(("ever", "still", "yet", "once", "already"))
