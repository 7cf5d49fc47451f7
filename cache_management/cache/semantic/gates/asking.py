"""The gates on what is wanted: told or done, undone, of whom, and as of when."""

from __future__ import annotations

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.alignment import Pair, alike
from cache_management.cache.semantic.gates.closed_classes import BE, OTHER_PRONOUNS, UNDOING, word_set
from cache_management.cache.semantic.gates.facets import Facets
from cache_management.cache.semantic.gates.words import Word


def action(pair: Pair) -> bool:
    """Refuse when one text asks how to do what the other asks to be done."""
    ours, theirs = pair.asked.request, pair.stored.request
    if {ours.act, theirs.act} != {"do", "ask"}:
        # "Write me a letter" tells in the end, but not how one is written.
        return ours.how != theirs.how and ours.verb == theirs.verb != "" and (ours.orders or theirs.orders)
    if ours.whether and theirs.whether:
        return False  # "can you ship it", "can I have it shipped": neither asks for the way
    do, ask = (pair.asked, pair.stored) if ours.act == "do" else (pair.stored, pair.asked)
    return do.request.verb in ask.lemmas or do.request.verb in pair.shared


def _defines_too(word: Word) -> bool:
    """Tell whether a word makes another question the one for a definition, or for more than one: "the process"."""
    return not word.light or word.lemma in _DEFINING or lexicon.main_part(word.lemma) == lexicon.NOUN


def _how_it_is(*both: Facets) -> bool:
    """Tell "how is the weather", which asks what it is like."""
    return any(facets.lemmas[0] == "how" and facets.lemmas[1] in BE for facets in both if len(facets.lemmas) > 1)


_DEFINING = word_set("define describe explain mean call")


def question(pair: Pair) -> bool:
    """Refuse when the same is asked with another question word: where, when, who, why, how."""
    ours, theirs = pair.asked.question, pair.stored.question
    if "what is" in {ours, theirs} and "" not in {ours, theirs} and ours != theirs:
        return not any(map(_defines_too, (*pair.left, *pair.right))) and not _how_it_is(pair.asked, pair.stored)
    if not ours or not theirs or ours == theirs or {ours, theirs} == {"how", "where"}:
        return False  # "how" and "where do I find it" are one question
    return not pair.heavy_left and not pair.heavy_right


def destructive(pair: Pair) -> bool:
    """Refuse when an irreversible act meets another act, or its own undoing."""
    ours, theirs = pair.asked.request, pair.stored.request
    if (ours.destructive or theirs.destructive) and ours.undoes != theirs.undoes:
        return True
    # "Get it back" undoes as "recover it" does.
    back = "back" in pair.asked.lemmas or "back" in pair.stored.lemmas
    rest = (*pair.left, *pair.right, *(word for both in pair.opposed for word in both))
    if ours.undoes != theirs.undoes and not back and any(map(_undoes, rest)) and not any(map(_matters, rest)):
        return True
    mine, others = {kind for kind, _ in ours.destructive}, {kind for kind, _ in theirs.destructive}
    if mine == others:
        return False
    if mine and others:
        return not mine & others
    verbs = {verb for _, verb in (*ours.destructive, *theirs.destructive)}
    left, right = (pair.left, pair.right) if mine else (pair.right, pair.left)
    facing = {word.lemma for both in pair.opposed for word in both}
    lone = [word for word in left if word.lemma in verbs]
    if verbs & facing:
        return True
    if "remove" in verbs and len(verbs) == 1 and {"off", "out"} & set(pair.asked.lemmas + pair.stored.lemmas):
        return False  # "get the stain out"
    # The other text has another act in its place; without one the verb is an addition.
    return bool(lone) and any(not word.light for word in right) and pair.nearly_equal


def freshness(pair: Pair, *, age_seconds: float | None, fresh_seconds: float) -> bool:
    """Refuse when either text depends on the present and the stored answer is too old, or of no known age."""
    if not (pair.asked.now or pair.stored.now):
        return False
    return age_seconds is None or not age_seconds <= fresh_seconds


def principal(pair: Pair) -> bool:
    """Refuse when the same thing belongs to somebody else: my balance, John's balance."""
    ours, theirs = dict(pair.asked.owners), dict(pair.stored.owners)
    for owned in ours.keys() & theirs.keys():
        mine, other = ours[owned], theirs[owned]
        if mine == other or alike(mine, other):
            continue
        if not _anybody(pair, mine, other):
            return True
    if _defines(pair, ours) != _defines(pair, theirs) and not pair.heavy_left and not pair.heavy_right:
        return True
    if any(not lexicon.is_person(word.lemma) for word in (*pair.left, *pair.right)):
        return False
    we, they = pair.asked.subjects - pair.stored.subjects, pair.stored.subjects - pair.asked.subjects
    # "They" and "you" are said of anybody; he, she, I and my wife are not each other.
    return bool(we and they) and (we | they) <= {"first", "he", "she", "third"}


def _defines(pair: Pair, owners: dict[str, str]) -> bool:
    """Tell whether a text asks what a thing of the asker's is; "what is a balance" beside it asks for a definition."""
    texts = (pair.asked.lemmas, pair.stored.lemmas)
    return "first" in owners.values() and all(
        lemmas[0] == "what" and lemmas[1] in BE for lemmas in texts if len(lemmas) > 1
    )


def _anybody(pair: Pair, mine: str, other: str) -> bool:
    """Tell whether both owners can be anybody: "how do you change your name", "how does one change their name"."""
    owners = {mine, other}
    if owners == {"first", "second"}:
        return pair.asked.subjects != pair.stored.subjects
    if "third" not in owners:
        return False
    if (pair.asked.grammar | pair.stored.grammar) & OTHER_PRONOUNS - {"it", "its", "itself"}:
        return True
    (named,) = owners - {"third"}
    return named in pair.asked.lemmas and named in pair.stored.lemmas  # "his" after the name


def _undoes(word: Word) -> bool:
    return word.lemma in UNDOING or word.lemma == "roll"


def _matters(word: Word) -> bool:
    return not word.light and not _undoes(word)
