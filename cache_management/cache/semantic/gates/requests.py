"""Reads what a text wants: to be told something, or to have something done; and whether that can be undone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.closed_classes import (
    ASKING_NICELY,
    AUXILIARIES,
    DESTRUCTIVE,
    DETERMINERS,
    FIRST_PERSON,
    OWNERS,
    POLITE,
    PRONOUNS,
    QUESTION_WORDS,
    TELLING,
    UNDOING,
    word_set,
)


class Request(msgspec.Struct, frozen=True, gc=False):
    act: str  # "do", "ask", or "" where the text says neither
    how: bool  # asks for the way to do it
    whether: bool  # put as a question for yes or no, without a please: it may ask for the act or whether it is done
    verb: str  # base form of what shall be done or explained
    orders: bool  # an order to tell or write something
    destructive: tuple[tuple[str, str], ...]  # kind and base form of each irreversible verb
    undoes: bool


_MAY = word_set("can could may would will")
_WE_OR_YOU = word_set("i we you u")
_OBJECTS = DETERMINERS | OWNERS.keys() | PRONOUNS


def read_request(texts: Sequence[str], lemmas: Sequence[str], opens: Sequence[bool], asks: bool) -> Request:
    act, how, verb = _act(texts, lemmas, asks)
    destructive = tuple(
        (DESTRUCTIVE[lemma], lemma)
        for at, lemma in enumerate(lemmas)
        if lemma in DESTRUCTIVE and _is_verb_here(texts, at)
    )
    orders = act == "ask" and not how and verb in TELLING and verb in lemmas[:3] and lemmas[0] not in QUESTION_WORDS
    return Request(act, how, _whether(texts), verb, orders, destructive, _undoes(lemmas))


def _whether(texts: Sequence[str]) -> bool:
    return len(texts) > 1 and texts[0] in _MAY and texts[1] in _WE_OR_YOU and not ASKING_NICELY.intersection(texts)


def _undoes(lemmas: Sequence[str]) -> bool:
    return any(lemma in UNDOING or (lemma == "roll" and after == "back") for lemma, after in pairwise([*lemmas, ""]))


def _is_verb_here(texts: Sequence[str], at: int) -> bool:
    """Tell "close my account" from "close to home" and "the end of it"."""
    before = texts[at - 1] if at else ""
    after = texts[at + 1] if at + 1 < len(texts) else ""
    if texts[at] in {"end", "close", "drop", "format", "reset", "kill"}:
        return (not before or before in {"to", "i", "we", "you", "please", "not", "and", "can", "or", "just"}) and (
            after not in {"to", "of", ""}
        )
    if texts[at].startswith("kill") and texts[at] != "kill":
        return False  # people are killed, processes are to be killed
    if texts[at].endswith("est"):
        return False  # "the closest branch"
    # "Deleted messages" are a kind of messages.
    return not texts[at].endswith("ed") or before in AUXILIARIES or before in PRONOUNS


def _act(texts: Sequence[str], lemmas: Sequence[str], asks: bool) -> tuple[str, bool, str]:
    at = 0
    size = len(texts)
    while at < size and texts[at] in POLITE:
        at += 1
    if at >= size:
        return "", False, ""
    first = texts[at]
    second = texts[at + 1] if at + 1 < size else ""
    if first == "how":
        return ("ask", True, _verb_after(texts, lemmas, at + 1)) if second in _HOW else ("ask", False, "")
    if first in QUESTION_WORDS:
        return "ask", "way" in texts[at : at + 6] or "steps" in texts[at : at + 5], _after_to(texts, lemmas, at)
    if first in {"can", "could", "would", "will"} and second in {"you", "u", "someone", "somebody"}:
        to = at + 2
        while to < size and texts[to] in POLITE:
            to += 1
        act, how, verb = _asked_to(texts, lemmas, to)
        # "Can you close my account" wants it done; "can you eat fish" speaks of anybody.
        mine = any(word in FIRST_PERSON or word in ASKING_NICELY for word in texts[at + 2 :])
        return (act, how, verb) if act == "ask" or mine else ("ask", False, "")
    if first in {"i", "we"} and second in {"want", "need", "would"} and "you" in texts[at + 1 : at + 5]:
        to = at + 1 + texts[at + 1 :].index("you")
        return _asked_to(texts, lemmas, to + 2) if to + 1 < size and texts[to + 1] == "to" else ("", False, "")
    if first in AUXILIARIES and first not in {"do", "have"}:
        return "ask", False, ""
    if first in {"do", "have"} and second in PRONOUNS:
        return "ask", False, ""
    if first in {"do"} and second in {"not"}:
        return "do", False, lemmas[at + 2] if at + 2 < size else ""
    if first in {"is", "are", "do", "does", "did"}:
        return "ask", False, ""
    if any(word == "how" and after in _HOW for word, after in pairwise(texts)):
        return "ask", True, ""  # "reset my password, how do I?"
    act, how, verb = _asked_to(texts, lemmas, at)
    return ("", False, "") if act == "do" and asks and not ASKING_NICELY & set(texts) else (act, how, verb)


_HOW = word_set("do does to can could should would i may must shall did you")


def _verb_after(texts: Sequence[str], lemmas: Sequence[str], at: int) -> str:
    for near in range(at, min(at + 6, len(texts))):
        if texts[near] not in AUXILIARIES and texts[near] not in PRONOUNS and texts[near] not in {"to", "about", "go"}:
            if lexicon.can_be(lemmas[near], lexicon.VERB):
                return lemmas[near]
            if lexicon.main_part(lemmas[near]) not in {lexicon.ADVERB, None}:
                continue
    return ""


def _after_to(texts: Sequence[str], lemmas: Sequence[str], at: int) -> str:
    for near in range(at, len(texts) - 1):
        if texts[near] in {"to", "i"} and lexicon.can_be(lemmas[near + 1], lexicon.VERB):
            return lemmas[near + 1]
    return ""


def _asked_to(texts: Sequence[str], lemmas: Sequence[str], at: int) -> tuple[str, bool, str]:
    """Read an order from its first verb on: "tell me how to close it" asks, "close it" does not."""
    if at >= len(texts):
        return "", False, ""
    verb = lemmas[at]
    after = texts[at + 1] if at + 1 < len(texts) else ""
    if verb == "help" and after in {"me", "us"} and at + 2 < len(texts):
        rest = at + 3 if texts[at + 2] == "to" else at + 2
        return _asked_to(texts, lemmas, rest) if rest < len(texts) else ("", False, "")
    if verb in TELLING:
        for near in range(at + 1, min(at + 8, len(texts))):
            if texts[near] == "how":
                return "ask", True, _verb_after(texts, lemmas, near + 1)
        return "ask", False, verb
    unknown = not lexicon.is_known(verb) and after in _OBJECTS  # "unsubscribe me"
    if not unknown and (texts[at] != verb or not lexicon.can_be(verb, lexicon.VERB)):
        return "", False, ""
    noun_like = lexicon.main_part(verb) != lexicon.VERB
    if noun_like and after not in _OBJECTS:
        return "", False, ""
    return "do", False, verb
