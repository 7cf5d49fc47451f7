"""Phrases of several words that say what one word says, put in its place before anything else is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.tokens import Kind, Token

_FORMS = {
    "go": "go goes going went gone",
    "come": "come comes coming came",
    "get": "get gets getting got",
    "fail": "fail fails failing failed",
    "lay": "lay lays laying laid",
    "put": "put puts putting",
    "take": "take takes taking took taken",
    "speed": "speed speeds speeding sped",
    "slow": "slow slows slowing slowed",
}
_PERIODS = {
    "hour": "hourly",
    "day": "daily",
    "week": "weekly",
    "fortnight": "fortnightly",
    "month": "monthly",
    "quarter": "quarterly",
    "year": "yearly",
    "annum": "yearly",
}
_SAID_OTHERWISE = {
    "united states of america": "usa",
    "united states": "usa",
    "united kingdom": "uk",
    "great britain": "uk",
    "prior to": "before",
    "other than": "except",
    "apart from": "except",
    "aside from": "except",
    "except for": "except",
    "everything but": "everything except",
    "everyone but": "everyone except",
    "everybody but": "everybody except",
    "with the exception of": "except",
    "excluding": "except",
    "greater than": "more than",
    "higher than": "more than",
    "lower than": "less than",
    "unless": "if not",
    "free of": "without",
    "free from": "without",
    "how come": "why",
    "as well as": "and",
    "in order to": "to",
    "per cent": "percent",
    "turn on": "enable",
    "turned on": "enabled",
    "switch on": "enable",
    "turn off": "disable",
    "turned off": "disabled",
    "switch off": "disable",
    "degrees celsius": "celsius",
    "degrees c": "celsius",
    "degrees fahrenheit": "fahrenheit",
    "degrees f": "fahrenheit",
    "half a million": "500000",
    "quarter of a million": "250000",
    "half an hour": "30 minutes",
    "three quarters of an hour": "45 minutes",
    "quarter of an hour": "15 minutes",
    "an hour and a half": "90 minutes",
    "a year and a half": "18 months",
    "half a year": "6 months",
    "half a dozen": "6",
    "a dozen": "12",
    "a fortnight": "2 weeks",
    "yoy": "year-over-year",
    "qoq": "quarter-over-quarter",
}


def _phrases() -> Iterator[tuple[tuple[str, ...], str]]:
    for phrase, word in _SAID_OTHERWISE.items():
        yield tuple(phrase.split()), word
    for verb, rest, word in (
        ("go", "up", "rise"),
        ("go", "down", "fall"),
        ("come", "down", "fall"),
        ("get", "rid of", "remove"),
        ("fail", "to", "not"),
        ("lay", "off", "fire"),
        ("put", "on", "don"),
        ("take", "off", "doff"),
        ("take", "away", "subtract"),
        ("speed", "up", "accelerate"),
        ("slow", "down", "decelerate"),
    ):
        for form in _FORMS[verb].split():
            yield (form, *rest.split()), word
    for who in ("i", "you", "we", "they", "he", "she", "it", "the", "my"):
        yield ("once", who), f"after {who}"
    for span, word in _PERIODS.items():
        for each in ("per", "each", "every"):
            yield (each, span), word
        for over in ("over", "on"):
            yield (span, over, span), f"{span}-over-{span}"


_BY_FIRST: dict[str, list[tuple[tuple[str, ...], str]]] = {}
for _words, _word in sorted(_phrases(), key=lambda both: -len(both[0])):
    _BY_FIRST.setdefault(_words[0], []).append((_words[1:], _word))

PERIODS = {
    **{word: word for word in _PERIODS.values()},
    **{f"{span}-over-{span}": f"{span}-over-{span}" for span in _PERIODS},
    **dict.fromkeys(("annual", "annually"), "yearly"),
    **dict.fromkeys(("biweekly",), "fortnightly"),
}
"""Words for how often, by what they say."""


def shortened(found: Sequence[Token]) -> list[Token]:
    """Return the tokens with each known phrase as one word."""
    out: list[Token] = []
    at = 0
    while at < len(found):
        token = found[at]
        for rest, word in _BY_FIRST.get(token.text, ()):
            end = at + 1 + len(rest)
            if all(other.text == part for other, part in zip(found[at + 1 : end], rest, strict=False)) and end <= len(
                found
            ):
                raw = found[end - 1].raw
                out.extend(
                    Token(raw, part, Kind.NUMBER if part.isdigit() else Kind.WORD, token.opens and not nth)
                    for nth, part in enumerate(word.split())
                )
                at = end
                break
        else:
            if token.text == "a" and out and at + 1 < len(found) and _counts(found, at):
                out.append(Token(token.raw, _PERIODS[found[at + 1].text], Kind.WORD, False))
                at += 2
                continue
            out.append(token)
            at += 1
    return out


def _counts(found: Sequence[Token], at: int) -> bool:
    """Tell "ten hours a day", "once a month" from "for a day"."""
    if found[at + 1].text not in _PERIODS:
        return False
    before = found[at - 1]
    if before.kind is Kind.NUMBER or before.text in {"once", "twice", "times"}:
        return True
    return before.text.endswith("s") and lexicon.lemma(before.text) != before.text
