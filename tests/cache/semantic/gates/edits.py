"""Small edits of a question that change its answer, and some that do not.

Each takes a text and a source of chance and returns the edited text, or None where the text has no place for it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping

from cache_management.cache.semantic.gates import lexicon

Edit = Callable[[str, random.Random], str | None]

# People, firms and cities of several countries; the point is that one replaces another.
_NAMES = [
    "Maria",
    "Ahmed",
    "Olga",
    "Kenji",
    "Priya",
    "Lars",
    "Fatima",
    "Diego",
    "Siemens",
    "Toyota",
    "Nestle",
    "Boeing",
    "Lisbon",
    "Nairobi",
    "Oslo",
    "Lima",
    "Hanoi",
    "Quito",
]
_CITIES = [
    "lisbon",
    "nairobi",
    "oslo",
    "lima",
    "hanoi",
    "quito",
    "paris",
    "london",
    "berlin",
    "madrid",
    "chicago",
    "toronto",
    "sydney",
    "mumbai",
]
_TIERS = ["basic", "premium", "standard", "enterprise", "free", "business", "student", "gold", "silver", "platinum"]
_SYSTEMS = ["Windows", "macOS", "Linux", "Android", "iOS", "Ubuntu"]
_CURRENCIES = ["dollars", "euros", "pounds", "yen", "rupees", "CHF"]
_MONTHS = ["January", "February", "April", "June", "July", "September", "October", "November", "December"]
_UNITS = [
    "minutes",
    "hours",
    "days",
    "weeks",
    "months",
    "years",
    "kilograms",
    "grams",
    "pounds",
    "miles",
    "metres",
    "inches",
    "litres",
]
_AUXILIARY = re.compile(r"\b(is|are|was|were|can|could|should|would|will|does|did|has|have)\b", re.IGNORECASE)
_PRONOUNS = ["i", "you", "he", "she", "it", "we", "they", "there", "this", "that"]


def _other(rng: random.Random, choices: list[str], than: str) -> str:
    return rng.choice([choice for choice in choices if choice.lower() != than.lower()])


def number(text: str, rng: random.Random) -> str | None:
    found = list(re.finditer(r"(?<![\w.,])\d+(?![\w.,]*\d)", text))
    if not found:
        return None
    match = rng.choice(found)
    changed = str(int(match.group()) + rng.choice([1, 2, 10]))
    return text[: match.start()] + changed + text[match.end() :]


def name(text: str, rng: random.Random) -> str | None:
    if text.istitle():
        return None
    found = list(re.finditer(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b", text))
    found = [match for match in found if lexicon.is_proper(match.group().lower())]
    if not found:
        return None
    match = rng.choice(found)
    return text[: match.start()] + _other(rng, _NAMES, match.group()) + text[match.end() :]


def lower_place(text: str, rng: random.Random) -> str | None:
    """Both texts in lower case, another city in each: the caller's text ends in one."""
    if not text.endswith("?") or len(text) > 90:
        return None
    return text[:-1].lower() + " in " + rng.choice(_CITIES)


def negation(text: str, rng: random.Random) -> str | None:
    words = text.split()
    for at, word in enumerate(words[:-2]):
        if _AUXILIARY.fullmatch(word) and words[at + 1].lower() in _PRONOUNS:
            return " ".join([*words[: at + 2], "not", *words[at + 2 :]])
    return None


def antonym(text: str, rng: random.Random) -> str | None:
    known = lexicon.load()
    words = list(re.finditer(r"[a-z]{3,}", text))
    rng.shuffle(words)
    for match in words:
        at = known.number.get(match.group())
        if at is None or match.group() in {
            "not",
            "more",
            "less",
            "most",
            "least",
            "will",
            "like",
            "man",
            "can",
            "there",
        }:
            continue
        opposite = [lemma for lemma, number in known.number.items() if number in set(known.opposite[at])]
        if opposite:
            return text[: match.start()] + rng.choice(opposite) + text[match.end() :]
    return None


def direction(text: str, rng: random.Random) -> str | None:
    match = re.search(r"\bfrom (\w+) to (\w+)", text)
    if match and not match.group(1).isdigit():
        return f"{text[: match.start()]}from {match.group(2)} to {match.group(1)}{text[match.end() :]}"
    match = re.search(r"\b(\w+) (better|worse|larger|smaller|more \w+|older|faster|cheaper) than (\w+)\b", text)
    if match:
        return f"{text[: match.start()]}{match.group(3)} {match.group(2)} than {match.group(1)}{text[match.end() :]}"
    return None


def _swap(choices: list[str]) -> Edit:
    pattern = re.compile(r"\b(" + "|".join(choices) + r")\b", re.IGNORECASE)

    def edit(text: str, rng: random.Random) -> str | None:
        match = pattern.search(text)
        return match and text[: match.start()] + _other(rng, choices, match.group()) + text[match.end() :]

    return edit


def _with(frame: str, choices: list[str], rng: random.Random, text: str) -> tuple[str, str] | None:
    if not text.endswith("?") or len(text) > 90:
        return None
    one = rng.choice(choices)
    return (f"{text[:-1]} {frame.format(one)}?", f"{text[:-1]} {frame.format(_other(rng, choices, one))}?")


FRAMES: Mapping[str, tuple[str, list[str]]] = {
    "tier": ("on the {} plan", _TIERS),
    "tier of a card": ("with a {} card", _TIERS),
    "platform": ("on {}", _SYSTEMS),
    "currency": ("for 100 {}", _CURRENCIES),
    "unit": ("within 3 {}", _UNITS),
    "month": ("in {}", _MONTHS),
    "day": ("before March {}", [str(day) for day in range(1, 29)]),
    "year": ("in {}", [str(year) for year in range(1990, 2026)]),
    "version": ("with version {}", ["3.9", "3.10", "3.11", "4.0", "2.7"]),
    "lower-case city": ("in {}", _CITIES),
    "owner": ("for my {}", ["wife", "son", "boss", "neighbour", "mother", "client"]),
}
"""Frames put at the end of any question, and what may stand in them: two fillings must not share an answer."""

CHANGES: Mapping[str, Edit] = {
    "number": number,
    "name": name,
    "negation": negation,
    "antonym": antonym,
    "direction": direction,
    "month": _swap(_MONTHS),
    "unit": _swap(_UNITS),
}
"""Edits of what stands there; the answer changes."""

_POLITE = ("Please tell me: {}", "Hi, {}", "{} Thanks!", "Hello, I would like to know: {}", "{} Please help.")


def polite(text: str, rng: random.Random) -> str | None:
    return rng.choice(_POLITE).format(text) if text.endswith("?") else None


def filler(text: str, rng: random.Random) -> str | None:
    words = text.split()
    for at, word in enumerate(words[:-2]):
        if _AUXILIARY.fullmatch(word) and words[at + 1].lower() in _PRONOUNS:
            return " ".join([*words[: at + 2], rng.choice(["really", "actually", "just"]), *words[at + 2 :]])
    return None


def contraction(text: str, rng: random.Random) -> str | None:
    for long, short in (
        ("What is", "What's"),
        ("do not", "don't"),
        ("I am", "I'm"),
        ("It is", "It's"),
        ("can not", "can't"),
    ):
        if long in text:
            return text.replace(long, short)
    return None


def spelled(text: str, rng: random.Random) -> str | None:
    words = dict(
        zip(
            ["2", "3", "4", "5", "6", "7", "8", "9", "10", "12", "20"],
            ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve", "twenty"],
            strict=True,
        )
    )
    match = re.search(r"(?<![\w.,-])(?:" + "|".join(words) + r")(?![\w.,%-])", text)
    return match and text[: match.start()] + words[match.group()] + text[match.end() :]


def lists(text: str, rng: random.Random) -> str | None:
    match = re.search(r"\b([a-z]{3,}) (and|or) ([a-z]{3,})\b", text)
    if not match:
        return None
    return f"{text[: match.start()]}{match.group(3)} {match.group(2)} {match.group(1)}{text[match.end() :]}"


def lower(text: str, rng: random.Random) -> str | None:
    return text.lower().rstrip("?.")


KEEPS: Mapping[str, Edit] = {
    "polite": polite,
    "filler": filler,
    "contraction": contraction,
    "number spelled": spelled,
    "list reordered": lists,
    "lower case": lower,
}
"""Edits after which the same answer serves."""


def framed(kind: str, text: str, rng: random.Random) -> tuple[str, str] | None:
    """Put two fillings of a frame at the end of a question."""
    frame, choices = FRAMES[kind]
    return _with(frame, choices, rng, text)
