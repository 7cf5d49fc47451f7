"""The gates on what is said of the same things: denied, turned round, or of another time."""

from __future__ import annotations

from collections import Counter
from functools import cache, lru_cache
from itertools import pairwise

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.alignment import Pair, alike
from cache_management.cache.semantic.gates.closed_classes import (
    AUXILIARIES,
    BE,
    DETERMINERS,
    OPPOSITE_PARTICLES,
    STOP,
    SYMMETRIC,
    word_set,
)
from cache_management.cache.semantic.gates.facets import Facets


def polarity(pair: Pair) -> bool:
    """Refuse when the texts differ by an odd number of turns: negators, antonyms, more against less."""
    flips = _turns(pair)
    if flips % 2 == 0:
        return flips == len(pair.opposed) and _two_things_turned(pair)
    # A negator says little about texts that differ otherwise; two antonyms in one place say more.
    if len(pair.heavy_left) + len(pair.heavy_right) > (1 if _negations(pair) else 2):
        return False
    # "Is A better than B" and "is B worse than A" turn twice, and so do "A before B" and "B after A".
    return not _swapped(pair, frozenset(("than", "before", "after"))) and not _order_exchanged(pair)


def _order_exchanged(pair: Pair) -> bool:
    mine, theirs = _ordered(pair.asked), _ordered(pair.stored)
    return bool(mine and theirs) and mine != theirs and mine <= pair.shared and theirs <= pair.shared


def _ordered(facets: Facets) -> frozenset[str]:
    """Return what "before" and "after" lead to."""
    return frozenset(led for role, led in facets.roles if role in {"before", "after"})


def _two_things_turned(pair: Pair) -> bool:
    """Tell "fall after good news" from "rise after bad news": what is said of two things does not cancel."""
    return len(pair.opposed) == 2 and pair.nearly_equal and not _swapped(pair) and not _order_exchanged(pair)


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
        return _swapped(pair) and pair.nearly_equal and _turns(pair) % 2 == 0
    turned = _turns(pair) % 2 == 1
    if _swapped(pair):
        return not turned
    if turned:
        return False
    return _agents_differ(pair) or _exchanged(pair) or _asks_for_the_other_side(pair) or _done_to_me(pair)


def _done_to_me(pair: Pair) -> bool:
    """Tell "what do they need to pay me" from "what do I need to pay them"."""
    mine, theirs = _paid_by_me(pair.asked), _paid_by_me(pair.stored)
    return (_to_me(pair.asked) & theirs - mine) != (_to_me(pair.stored) & mine - theirs)


def _to_me(facets: Facets) -> frozenset[str]:
    """Return the verbs whose object is me or us."""
    lemmas = facets.lemmas
    return frozenset(
        lemma
        for lemma, after in pairwise(lemmas)
        if after in {"me", "us"} and lemma not in STOP and lexicon.can_be(lemma, lexicon.VERB)
    )


def _paid_by_me(facets: Facets) -> frozenset[str]:
    """Return the verbs in a text where I or we act, and not on ourselves."""
    if "first" not in facets.subjects:
        return frozenset()
    return frozenset(word.lemma for word in facets.words if lexicon.can_be(word.lemma, lexicon.VERB)) - _to_me(facets)


def _asks_for_the_other_side(pair: Pair) -> bool:
    """Tell "who did Macbeth kill" from "who killed Macbeth"."""
    if _verb_before(pair.asked, pair.stored) or _verb_before(pair.stored, pair.asked):
        return not _is_symmetric(pair)
    if _ends_with_its_preposition(pair.asked, pair.stored) or _ends_with_its_preposition(pair.stored, pair.asked):
        return not _is_symmetric(pair)
    sides = [_side(facets) for facets in (pair.asked, pair.stored)]
    return sides[0] != sides[1] and "" not in sides and not _is_symmetric(pair)


def _ends_with_its_preposition(one: Facets, two: Facets) -> bool:
    """Tell "who is Ann the mother of" from "who is the mother of Ann"."""
    last = one.lemmas[-1] if one.lemmas else ""
    if last not in {"of", "to", "from"} or two.lemmas[-1:] == (last,):
        return False
    return any(word.before == last and word.name for word in two.words)


def _verb_before(one: Facets, two: Facets) -> bool:
    """Tell "which teams have beaten Real Madrid" from "which teams has Real Madrid beaten"."""
    if not one.lemmas or not two.lemmas or not {one.lemmas[0], two.lemmas[0]} <= _ASKED_FOR:
        return False
    if "by" in one.grammar | two.grammar:
        return False
    acts = {(word.lemma, word.after) for word in one.words if lexicon.main_part(word.lemma) == lexicon.VERB}
    names = {word.lemma for word in two.words if word.name or _acts_before_its_verb(two, word.at)}
    done = {(word.lemma, word.before) for word in two.words}
    last = {(verb, name) for verb, name in done if name in names}
    first = {verb for verb, name in acts if name in names}
    return any(verb in first for verb, _ in last)


def _acts_before_its_verb(facets: Facets, at: int) -> bool:
    """Tell whether a word stands behind the auxiliary of a question: "what do owls eat"."""
    while at and facets.lemmas[at - 1] in DETERMINERS:
        at -= 1
    return at > 0 and facets.lemmas[at - 1] in _SUPPORT


_SUPPORT = frozenset(("do", "does", "did", "have", "has", "had", "can", "could", "will", "would"))
_ASKED_FOR = frozenset(("who", "whom", "which", "what"))


def _side(facets: Facets) -> str:
    """Say whether a question for a person asks who does or to whom it is done; "" where it does neither."""
    lemmas = facets.lemmas
    if len(lemmas) < 3 or lemmas[0] not in {"who", "whom"}:
        return ""
    if lemmas[1] in {"do", "did", "does"}:
        return "to whom"
    if lexicon.can_be(lemmas[1], lexicon.VERB) and lemmas[1] not in STOP and len(facets.words) > 1:
        return "who"
    return ""


def _swapped(pair: Pair, only: frozenset[str] | None = None) -> bool:
    """Tell whether a preposition leads to one of two shared words here and to the other there."""
    if not pair.asked.roles or not pair.stored.roles:
        return False
    ours, theirs = _single(pair.asked.roles), _single(pair.stored.roles)
    for role, mine in ours.items():
        other = theirs.get(role)
        if other is None and (alike_role := _LEADS_ALIKE.get(role)) and alike_role not in ours:
            other = theirs.get(alike_role)
        if other is None or other == mine or alike(mine, other) or (only is not None and role not in only):
            continue
        # Behind "after" stands a whole clause, whose first word says little: "after it shipped", "after my order was".
        loosely = role not in {"before", "after"}
        if _stands_in(mine, pair.stored, loosely) and _stands_in(other, pair.asked, loosely):
            both = {mine, other} <= set(pair.asked.lemmas) & set(pair.stored.lemmas)
            if both and _listed(pair.asked.lemmas, mine, other) and _listed(pair.stored.lemmas, mine, other):
                continue
            return role in _ONE_WAY or not _is_symmetric(pair)
    return False


def _stands_in(lemma: str, facets: Facets, loosely: bool) -> bool:
    return lemma in facets.lemmas or (loosely and any(alike(lemma, word.lemma) for word in facets.words))


_LEADS_ALIKE = {"to": "into", "into": "to"}  # for each other where a text has only one of them
_ONE_WAY = frozenset(("from", "into", "than", "over"))  # though what is merged or compared could be exchanged


def _single(roles: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Keep the prepositions that stand once: of two, nobody knows which answers which."""
    counts = Counter(role for role, _ in roles)
    return {role: led for role, led in roles if counts[role] == 1}


def _listed(lemmas: tuple[str, ...], one: str, two: str) -> bool:
    """Tell whether two words are joined by and, or."""
    here, there = sorted((lemmas.index(one), lemmas.index(two)))
    return bool({"and", "or", "nor"} & set(lemmas[here:there])) and there - here <= 3


def _is_symmetric(pair: Pair) -> bool:
    """Tell whether what is said holds both ways round: "married to", "a friend of"."""
    return any(
        _holds_both_ways(lemma)
        for facets in (pair.asked, pair.stored)
        for lemma in facets.lemmas
        if lemma not in {"and", "or"} and not (lemma == "share" and _of_a_company(facets))
    )


def _of_a_company(facets: Facets) -> bool:
    return any(word.text == "shares" for word in facets.words)


@lru_cache(maxsize=20_000)
def _holds_both_ways(lemma: str) -> bool:
    if lemma in SYMMETRIC or lemma in _symmetric_lemmas():
        return True
    # By synonyms of words of one meaning only: "last" is one of "close", "departure" one of "difference".
    return any(lexicon.synonyms(lemma, other) for other in _OF_ONE_MEANING) or any(
        other[:5] == lemma[:5] and lexicon.synonyms(lemma, other) for other in _symmetric_lemmas()
    )


@cache
def _symmetric_lemmas() -> frozenset[str]:
    return frozenset(map(lexicon.lemma, SYMMETRIC))


_OF_ONE_MEANING = word_set(
    "marry divorce similar equal identical compatible friend sibling cousin neighbor adjacent correlate"
)


def _agents_differ(pair: Pair) -> bool:
    ours, theirs = pair.asked.agent, pair.stored.agent
    if ours is None or theirs is None or ours[1] != theirs[1] or ours[0] == ours[2]:
        return False
    return ours[0] == theirs[2] and ours[2] == theirs[0] and not _is_symmetric(pair)


def _exchanged(pair: Pair) -> bool:
    """Tell whether two words have changed places and all else has stayed."""
    ours, theirs = pair.asked.lemmas, pair.stored.lemmas
    if len(ours) != len(theirs) or ours == theirs:
        return False
    content = {word.at for word in pair.asked.words}
    places = [at for at, (one, two) in enumerate(zip(ours, theirs, strict=True)) if one != two]
    if Counter(ours) != Counter(theirs) or places[0] not in content or places[-1] not in content:
        return False
    first, last = places[0], places[-1]
    # The exchanged phrases have one length each when the words between them did not move.
    size = next((n for n in (1, 2, 3) if ours[first : first + n] == theirs[last - n + 1 : last + 1]), 0)
    if not size or 2 * size > last - first + 1:
        return False
    if theirs[first : first + size] != ours[last - size + 1 : last + 1]:
        return False
    between = ours[first + size : last - size + 1]
    if between != theirs[first + size : last - size + 1]:
        return False
    if set(between) & {"and", "or", "vs", "versus", "nor"} or _is_symmetric(pair):
        return False
    return any(at in content for at in range(first + size, last - size + 1)) or bool(between)


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
    # "Was it open" against "is it open": only of a question for yes or no. "What was it built in" asks for the same.
    if not (pair.asked.lemmas and pair.asked.lemmas[0] in BE and pair.stored.lemmas and pair.stored.lemmas[0] in BE):
        return False
    if _beside_time(pair.asked) != _beside_time(pair.stored):
        return False
    return bool((set(pair.asked.grammar) ^ set(pair.stored.grammar)) & BE)


def _beside_time(facets: Facets) -> list[str]:
    return [word for word in facets.lemmas if word not in BE and word not in _EVER]


_EVER = frozenset(("ever", "still", "yet", "once", "already"))
