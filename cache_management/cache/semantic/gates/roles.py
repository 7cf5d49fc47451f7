"""Who does what to whom: roles of the same words that are exchanged between two texts."""

from __future__ import annotations

from collections import Counter
from functools import cache, lru_cache
from itertools import pairwise

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.alignment import Pair, alike
from cache_management.cache.semantic.gates.closed_classes import DETERMINERS, STOP, SYMMETRIC, word_set
from cache_management.cache.semantic.gates.facets import Facets


def roles_differ(pair: Pair) -> bool:
    """Tell whether the same words stand in other roles, whatever leads to them."""
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


def swapped(pair: Pair, only: frozenset[str] | None = None) -> bool:
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
