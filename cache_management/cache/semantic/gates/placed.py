"""Reads where the numbers, dates and identifiers of a text stand, and what tells them apart there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

import msgspec

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.closed_classes import BE, CONJUNCTIONS, PREPOSITIONS, STOP, word_set
from cache_management.cache.semantic.gates.numbers import Quantity
from cache_management.cache.semantic.gates.tokens import Kind, Token


class Placed(msgspec.Struct, frozen=True, gc=False):
    """A number, a date or an identifier where it stands."""

    value: str
    ties: frozenset[str]  # the words beside it and what leads to it: "<divide", "<from", ">people"; its unit
    link: str  # what stands between the one before and this


_ARTICLES = word_set("a an the")
_LEADING = word_set("from to into than by over after before until minus against")
_REACH = 3  # words back to what leads to it
_Span = tuple[int, int, str, str]  # first token, the one behind the last, value, unit


def read_placed(
    found: Sequence[Token], amounts: Sequence[Quantity], spans: Sequence[tuple[int, int]], dated: Collection[int]
) -> tuple[Placed, ...]:
    """Read a text in its order; of less than two there is nothing to tell."""
    values: list[_Span] = [
        (start, end, amount.value, amount.unit) for amount, (start, end) in zip(amounts, spans, strict=True)
    ]
    values += _dates(found, dated)
    values += [(at, at + 1, token.text, "") for at, token in enumerate(found) if token.kind is Kind.ID]
    values += _ones(found) if values else _letters(found)
    if len(values) < 2:
        return ()
    values.sort()
    out: list[Placed] = []
    last = 0
    for start, end, value, unit in values:
        link = " ".join(token.text for token in found[last:start]) if out else ""
        out.append(Placed(value, _ties(found, last, start, end, unit), link))
        last = end
    return tuple(out)


def _dates(found: Sequence[Token], dated: Collection[int]) -> list[_Span]:
    """Read what stands together as one, whichever way round it is written: "March 5", "5 March"."""
    out: list[_Span] = []
    for at in sorted(dated):
        if out and out[-1][1] == at:
            start, _, value, _ = out.pop()
            out.append((start, at + 1, " ".join(sorted((*value.split(), found[at].text))), ""))
        else:
            out.append((at, at + 1, found[at].text, ""))
    return out


def _ones(found: Sequence[Token]) -> list[_Span]:
    """Read "one child" as a number beside others; "which one" and "one of" are none."""
    return [
        (at, at + 1, "1", "")
        for at, (token, after) in enumerate(pairwise(found))
        if token.text == "one" and after.kind is Kind.WORD and after.text not in STOP and lexicon.is_known(after.text)
    ]


def _letters(found: Sequence[Token]) -> list[_Span]:
    """Read "a" beside other letters as one of them where no noun follows: "divide a by b"."""
    others = [at for at, token in enumerate(found) if token.text in _VARIABLES]
    ours = [at for at, token in enumerate(found) if token.text == "a" and _is_letter(found, at)] if others else []
    return [(at, at + 1, found[at].text, "") for at in (*ours, *others)] if ours else []


_VARIABLES = word_set("b c k n p q x y z")


def _is_letter(found: Sequence[Token], at: int) -> bool:
    if at + 1 == len(found) or found[at + 1].kind is not Kind.WORD:
        return True
    after = found[at + 1].text
    return after in _JOINING or lexicon.main_part(lexicon.lemma(after)) == lexicon.VERB


_JOINING = PREPOSITIONS | CONJUNCTIONS | BE | word_set("minus plus times mod modulo")


def _ties(found: Sequence[Token], last: int, start: int, end: int, unit: str) -> frozenset[str]:
    ties = {f"in {unit}"} if unit else set()
    steps = 0
    for at in range(start - 1, last - 1, -1):
        token = found[at]
        if token.kind is not Kind.WORD:
            if token.text in "$€£¥₹":
                continue
            break
        if token.text in _ARTICLES:
            continue
        if not steps or token.text in _LEADING:
            ties.add(f"<{lexicon.lemma(token.text)}")
        steps += 1
        if token.text in _LEADING or steps == _REACH:
            break
    for token in found[end : end + 2]:  # "8 ohm speakers"
        if token.kind is not Kind.WORD or token.text in STOP:
            break
        ties.add(f">{lexicon.lemma(token.text)}")
    return frozenset(ties)
