"""Everything the gates need to know of one text, read once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.clauses import (
    read_agent,
    read_anew,
    read_aspect,
    read_degrees,
    read_negated,
    read_owners,
    read_question,
    read_reply,
    read_roles,
    read_scopes,
    read_subjects,
)
from cache_management.cache.semantic.gates.closed_classes import (
    LIGHT,
    STOP,
)
from cache_management.cache.semantic.gates.dates import Part, dates
from cache_management.cache.semantic.gates.moments import depends_on_now, moments
from cache_management.cache.semantic.gates.numbers import Quantity, quantities
from cache_management.cache.semantic.gates.phrases import PERIODS, shortened
from cache_management.cache.semantic.gates.placed import Placed, read_placed
from cache_management.cache.semantic.gates.requests import Request, read_request
from cache_management.cache.semantic.gates.signs import Signs, signs
from cache_management.cache.semantic.gates.tokens import Kind, Token, tokens
from cache_management.cache.semantic.gates.words import Word

REMEMBERED = 10_000
"""How many short texts keep their facets: a word takes a hundred bytes, so a text of the longest kind 10 kB."""
_SHORT = 400  # characters
_GRAMMAR = STOP | {"'s"}


class Facets(msgspec.Struct, frozen=True, gc=False):
    """One text as the gates see it. Compare two with `compare`."""

    english: bool
    lemmas: tuple[str, ...]  # every word in order, by base form
    words: tuple[Word, ...]  # the content words among them
    grammar: frozenset[str]  # the others, as they are written
    quantities: tuple[Quantity, ...]
    ids: tuple[str, ...]
    dates: tuple[Part, ...]
    negated: tuple[str, ...]  # for each negator the base form of the word it governs, or ""
    degrees: tuple[tuple[int, str], ...]  # +1 for "more", -1 for "less", and what is graded
    owners: tuple[tuple[str, str], ...]  # what is owned, and by whom: "first", "second", "third" or a name
    subjects: frozenset[str]
    aspect: str  # "habit", "becoming", "past", "future" or ""
    roles: tuple[tuple[str, str], ...]  # preposition and the content word it leads to
    agent: tuple[str, str, str] | None  # who, does, to whom: in a passive, turned round
    request: Request
    periods: frozenset[str]  # how often: "monthly"
    moments: frozenset[str]  # when, seen from now: "yesterday", "last month"
    question: str  # the one question word that opens it or closes it, or ""
    scopes: tuple[tuple[str, str], ...]  # "all", "any" or "one", and of what
    signs: Signs
    placed: tuple[Placed, ...]  # numbers, dates and identifiers in their order; empty where there is one only
    reply: str  # "yes" or "no" where it has one of them
    anew: bool  # asks for another than was given
    now: bool
    tail: frozenset[tuple[str, int]]  # words beyond the limit, with their number


def _read(text: str) -> Facets:
    found, rest = tokens(text)
    found = shortened(found)
    parts, dated = dates(found)
    undated = [_blank(token) if at in dated else token for at, token in enumerate(found)] if dated else found
    amounts, counted, spans = quantities(undated)
    taken = dated | counted
    ids = tuple(token.text for token in found if token.kind is Kind.ID)
    shouting = _shouts(found)
    plain = [(at, token) for at, token in enumerate(found) if token.kind in {Kind.WORD, Kind.CODE} and at not in taken]
    texts = [token.text for _, token in plain]
    lemmas = [_base_form(token) for _, token in plain]
    words = _content(plain, texts, lemmas, shouting)
    content_at = {word.at: word for word in words}
    opens = frozenset(at for at, (_, token) in enumerate(plain) if token.opens)
    return Facets(
        english=_is_english(texts),
        lemmas=tuple(lemmas),
        words=tuple(words),
        grammar=frozenset(word for word in texts if word in _GRAMMAR),
        quantities=tuple(amounts),
        ids=ids,
        dates=tuple(parts),
        negated=read_negated(texts, content_at, opens),
        degrees=read_degrees(texts, content_at),
        owners=read_owners(texts, content_at, plain),
        subjects=read_subjects(texts, lemmas),
        aspect=read_aspect(texts),
        roles=read_roles(texts, content_at),
        agent=read_agent(texts, words),
        request=read_request(texts, lemmas, [token.opens for _, token in plain], text.rstrip().endswith("?")),
        periods=frozenset(PERIODS[word] for word in texts if word in PERIODS),
        moments=moments(texts),
        question=read_question(texts),
        scopes=read_scopes(texts, content_at),
        signs=signs(text),
        placed=read_placed(found, amounts, spans, dated),
        reply=read_reply(texts),
        anew=read_anew(texts, lemmas),
        now=depends_on_now(texts),
        tail=_tail(rest),
    )


remembered = lru_cache(maxsize=REMEMBERED)(_read)


def facets(text: str) -> Facets:
    """Read a text; what a short one says is remembered."""
    return remembered(text) if len(text) <= _SHORT else _read(text)


def _base_form(token: Token) -> str:
    word = token.text
    if word in _GRAMMAR:
        return "a" if word == "an" else word
    if len(word) > 2 and token.raw[-1] == "s" and token.raw[:-1].isupper():
        return word[:-1]  # "APIs"
    return lexicon.lemma(word)


def _blank(token: Token) -> Token:
    return Token("", "", Kind.MARK, False) if token.kind is Kind.NUMBER else token


def _shouts(found: Sequence[Token]) -> bool:
    """Tell whether capitals say nothing here: a headline, or all of it in capitals."""
    inner = [token.raw for token in found if token.kind is Kind.WORD and not token.opens and len(token.raw) > 3]
    return len(inner) > 2 and sum(raw[0].isupper() for raw in inner) > 0.7 * len(inner)


def _is_english(texts: Sequence[str]) -> bool:
    """Tell whether the word lists can be trusted here: half the words are in them."""
    if not texts:
        return True
    known = sum(word in _GRAMMAR or (word.isascii() and lexicon.is_known(word)) for word in texts)
    return 2 * known >= len(texts)


def _content(
    plain: Sequence[tuple[int, Token]], texts: Sequence[str], lemmas: Sequence[str], shouting: bool
) -> list[Word]:
    out = []
    last = len(texts) - 1
    for at, (_, token) in enumerate(plain):
        word = token.text
        capital = token.raw[0].isupper() and not token.opens
        if word in _GRAMMAR and not (capital and len(word) == 1 and word not in {"i"} and not shouting):
            continue
        lemma = lemmas[at]
        name = (capital and not shouting) or token.kind is Kind.CODE
        if not name:
            name = lexicon.is_proper(word) or (len(word) > 1 and not lexicon.is_known(word))
        out.append(
            Word(
                word,
                lemma,
                at,
                name,
                (lemma in LIGHT or word in LIGHT) and (shouting or not capital),
                lemmas[at - 1] if at else "",
                lemmas[at + 1] if at < last else "",
                token.raw,
            )
        )
    return out


def _tail(rest: str) -> frozenset[tuple[str, int]]:
    counts: dict[str, int] = {}
    for word in rest.lower().split():
        bare = word.strip(".,;:!?()\"'")
        counts[bare] = counts.get(bare, 0) + 1
    return frozenset(counts.items())
