"""Pure vetoes by name: why a close text must not be answered with a stored one.

Encoders put "within 10 miles" next to "within 100 miles" and "safe" next to "not safe";
a threshold cannot part them, so each gate compares one thing that must agree. Every gate
is symmetric. They read English.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping

Gate = Callable[[str, str], bool]
"""Takes the text asked and the text stored; returns True to refuse."""

_UNIT_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen
"""
_UNITS = {word: value for value, word in enumerate(_UNIT_WORDS.split())}
_TEN_WORDS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_TENS = {word: 20 + 10 * at for at, word in enumerate(_TEN_WORDS)}
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_SUFFIX_ZEROS = {"k": 3, "m": 6, "bn": 9}
# "one" stands for "somebody" or "a thing" too often to be read as a number on its own.
_NOT_A_NUMBER_ALONE = {"one"}

_TOKEN = re.compile(
    r"(?<![\w.,])-?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,])(?:(?:k|m|bn)\b)?"  # 1,000 and -1,000.5 and 1,000k
    r"|(?<![\w.])-?\d+(?:\.\d+)*(?:(?:k|m|bn)\b)?"  # 10, -5, 3.10, 1.2.3, 5k
    r"|\d+(?:\.\d+)*"  # digits inside a word, as in GPT-4o or A380
    r"|[a-z]+(?:'[a-z]+)?",
    re.IGNORECASE,
)
_NEGATORS = {"not", "no", "never", "without", "cannot", "none", "nobody", "nothing", "neither", "nor", "nowhere"}


def numbers(text: str) -> Counter[str]:
    """Return the numbers of a text with how often each stands there.

    `1,000`, `1k` and `a thousand` are one number. What has a point is compared as it is written:
    3.10 is another version than 3.1.
    """
    found: Counter[str] = Counter()
    words: list[str] = []
    for word in [*_tokens(text), ""]:
        if word in _UNITS or word in _TENS or word in _SCALES or (word == "and" and words):
            words.append(word)
            continue
        if words:
            found.update(map(str, _read_words(words)))
            words = []
        if word.lstrip("-")[:1].isdigit():
            found[_read_digits(word)] += 1
    return found


def negations(text: str) -> int:
    """Return how many negating words a text holds."""
    return sum(token in _NEGATORS or token.endswith("n't") for token in _tokens(text))


def number_gate(asked: str, stored: str) -> bool:
    """Refuse when both texts carry numbers and those differ."""
    ours, theirs = numbers(asked), numbers(stored)
    return bool(ours) and bool(theirs) and ours != theirs


def polarity_gate(asked: str, stored: str) -> bool:
    """Refuse when one text denies what the other says: the parity of negations differs."""
    return negations(asked) % 2 != negations(stored) % 2


GATES: Mapping[str, Gate] = {"number": number_gate, "polarity": polarity_gate}


def vetoes(asked: str, stored: str) -> tuple[str, ...]:
    """Return the names of all gates that refuse to answer `asked` with what is stored for `stored`."""
    return tuple(name for name, gate in GATES.items() if gate(asked, stored))


def _tokens(text: str) -> list[str]:
    return [token.lower() for token in _TOKEN.findall(text.replace("’", "'"))]


def _read_digits(token: str) -> str:
    """Write a number in one way, without arithmetic: an id of forty digits must stay exact."""
    sign = "-" if token.startswith("-") else ""
    suffix = re.search(r"[a-z]+$", token)
    digits = (token[: suffix.start()] if suffix else token).lstrip("-").replace(",", "")
    if digits.count(".") > 1:
        return token
    whole, point, fraction = digits.partition(".")
    if suffix:
        zeros = _SUFFIX_ZEROS[suffix.group()]
        whole, fraction = whole + fraction[:zeros].ljust(zeros, "0"), fraction[zeros:].rstrip("0")
        point = "." if fraction else ""
    return sign + (whole.lstrip("0") or "0") + point + fraction


def _read_words(words: list[str]) -> list[int]:
    """Read "two hundred and five" as 205, and "two three" as two numbers."""
    while words and words[-1] == "and":
        words = words[:-1]
    if len(words) == 1 and words[0] in _NOT_A_NUMBER_ALONE:
        return []
    found: list[int] = []
    total = 0
    part: int | None = None
    last = ""
    for word in words:
        if word == "and":
            continue
        if word in _SCALES:
            scale = _SCALES[word]
            part = (1 if part is None else part) * scale
            if scale >= 1000:
                total, part = total + part, None
        else:
            value = _UNITS.get(word, _TENS.get(word, 0))
            joins = part is None or last == "hundred" or (last in _TENS and word in _UNITS and value > 0)
            if joins:
                part = (part or 0) + value
            else:
                found.append(total + (part or 0))
                total, part = 0, value
        last = word
    return [*found, total + (part or 0)]
