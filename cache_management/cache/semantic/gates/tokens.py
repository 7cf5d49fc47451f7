"""Cuts a text into words, numbers, identifiers and marks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from enum import IntEnum

import msgspec

from cache_management.cache.semantic.gates.closed_classes import word_set

MAX_TOKENS = 256
"""What lies beyond is compared as a bag of words; the encoders read no further either."""


class Kind(IntEnum):
    WORD = 0
    NUMBER = 1
    ID = 2
    DATE = 3
    TIME = 4
    MARK = 5
    CODE = 6  # a word with a mark: C++


class Token(msgspec.Struct, frozen=True, gc=False):
    raw: str
    text: str  # lower case
    kind: Kind
    opens: bool  # stands first in a sentence


_TOKEN = re.compile(
    # Most words by far end before a space or a comma; trying all else on each of them took half of the time.
    r"(?P<plain>[A-Za-z]+(?:['’][A-Za-z]+)?(?=[\s?!,;)]|\.?(?:\s|$)))|"
    r"(?P<url>https?://[^\s<>\"]+|www\.[^\s<>\"]+)"
    r"|(?P<mail>(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+)"
    r"|(?P<date>\b\d{4}-\d{1,2}-\d{1,2}\b|\b\d{1,2}[/.]\d{1,2}[/.]\d{2,4}\b)"
    r"|(?P<time>\b\d{1,2}:\d{2}(?::\d{2})?(?:\s?[ap]\.?m\b)?|\b\d{1,2}\s?[ap]\.?m\b)"
    r"|(?P<path>(?<!\w)(?:~|\.{1,2})?(?:/[\w.-]+){2,}/?|\b[A-Za-z]:\\[^\s]+)"
    r"|(?P<id>(?<!\w)(?=[^\W_]*\d)(?=[^\W_]*[^\W\d_])[^\W_]+)"
    r"|(?P<number>(?<![\w.,])-?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,])(?:(?:k|m|bn)\b)?|(?<![\w.])-?\d+(?:\.\d+)*)"
    r"|(?P<degree>°\s?[CF]\b)"
    r"|(?P<dotted>\b(?:[^\W\d_]\.){2,}(?:[^\W\d_]\b)?)"
    r"|(?P<coded>(?<![\w])[A-Za-z](?:\+\+|\#)(?!\w))"
    r"|(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)?|\d+)"
    r"|(?P<mark>[%$€£¥₹?!.,;:()/&+*=<>])",
    re.IGNORECASE,
)
_KINDS = {
    "url": Kind.ID,
    "mail": Kind.ID,
    "path": Kind.ID,
    "id": Kind.ID,
    "date": Kind.DATE,
    "time": Kind.TIME,
    "number": Kind.NUMBER,
    "coded": Kind.CODE,
    "word": Kind.WORD,
    "plain": Kind.WORD,
    "dotted": Kind.WORD,
    "degree": Kind.WORD,
    "mark": Kind.MARK,
}
_COUNTED = re.compile(
    r"\d+(?:k|m|bn|st|nd|rd|th|s|[kmgt]b|kg|km|cm|mm|mg|ml|lb|lbs|oz|ft|mph|kph|hz|ghz|mhz|w|v|min|mins|hr|hrs|h|d|sec|ms|usd|eur|gbp|inr|rs|x|g|l)",
    re.IGNORECASE,
)
_SHORT = {
    "n't": "not",
    "'re": "are",
    "'m": "am",
    "'ll": "will",
    "'ve": "have",
}
_IRREGULAR = {
    "can't": ("can", "not"),
    "won't": ("will", "not"),
    "shan't": ("shall", "not"),
    "cannot": ("can", "not"),
    "gonna": ("going", "to"),
    "wanna": ("want", "to"),
    "dont": ("do", "not"),
    "doesnt": ("does", "not"),
    "didnt": ("did", "not"),
    "isnt": ("is", "not"),
    "cant": ("can", "not"),
    "wont": ("will", "not"),
    "im": ("i", "am"),
    "whats": ("what", "is"),
    "let's": ("let", "us"),
    "wat": ("what",),
    "teh": ("the",),
    "wich": ("which",),
    "hwo": ("how",),
    "wen": ("when",),
    "abt": ("about",),
    "thru": ("through",),
    "cuz": ("because",),
    "bcoz": ("because",),
    "coz": ("because",),
    "r": ("are",),
}
_BE_AFTER = word_set("what who where when how why that it there here he she this which")


_FREE = re.compile(r"\b([A-Za-z]{2,40})-free\b", re.IGNORECASE)
_DECADE = re.compile(r"(?<![\w.,])['’]?([2-9]0)s\b")


def tokens(text: str) -> tuple[list[Token], str]:
    """Return at most `MAX_TOKENS` tokens, contractions undone, and the text that is left."""
    text = _FREE.sub(r"without \1", text)  # "sugar-free"
    text = _DECADE.sub(r"19\1s", text)
    found: list[Token] = []
    opens = True
    add = found.append
    for match in _TOKEN.finditer(text):
        if len(found) >= MAX_TOKENS:
            return found, text[match.start() :]
        group = match.lastgroup or "word"
        raw = match.group()
        kind = _KINDS[group]
        if kind is Kind.WORD:
            lower = _lower(raw)
            if group == "dotted" or raw == "US":
                lower = lower.replace(".", "")
                add(Token(raw, "usa" if lower == "us" else lower, kind, opens))
                opens = False
                continue
            if group == "degree":
                add(Token(raw, lower.replace(" ", ""), kind, False))
                continue
            if lower in _IRREGULAR:
                for part in _IRREGULAR[lower]:
                    add(Token(raw if part == lower else part, part, kind, opens))
                    opens = False
                continue
            if "'" in lower:
                _add_contraction(add, raw, lower, opens)
            elif lower.isdecimal():
                add(Token(raw, lower, Kind.NUMBER, opens))
            else:
                add(Token(raw, lower, kind, opens))
            opens = False
        elif kind is Kind.MARK:
            add(Token(raw, raw, kind, False))
            opens = raw in ".?!:" or (opens and raw not in "%$€£¥₹")
        else:
            if group == "id" and _COUNTED.fullmatch(raw):
                kind = Kind.NUMBER
            elif kind is Kind.ID:
                raw = raw.rstrip(".,;:!?)")
            add(Token(raw, raw.lower(), kind, opens))
            opens = False
    return found, ""


def _lower(raw: str) -> str:
    """Fold case and accents: "Pokémon" is often typed without."""
    lower = raw.lower().replace("’", "'")
    if lower.isascii():
        return lower
    plain = without_accents(lower)
    return plain if plain.isascii() else lower


def without_accents(word: str) -> str:
    return "".join(sign for sign in unicodedata.normalize("NFKD", word) if not unicodedata.combining(sign))


def _add_contraction(add: Callable[[Token], None], raw: str, lower: str, opens: bool) -> None:
    if lower == "n't":  # cut off by somebody else's tokenizer
        add(Token(raw, "not", Kind.WORD, opens))
        return
    if lower.endswith("n't"):
        add(Token(raw[:-3], lower[:-3], Kind.WORD, opens))
        add(Token("not", "not", Kind.WORD, False))
        return
    head, _, end = lower.partition("'")
    if end == "s":
        add(Token(raw[: len(head)], head, Kind.WORD, opens))
        if head in _BE_AFTER:
            add(Token("is", "is", Kind.WORD, False))
        else:
            add(Token("'s", "'s", Kind.WORD, False))
        return
    short = _SHORT.get("'" + end)
    if short:
        add(Token(raw[: len(head)], head, Kind.WORD, opens))
        add(Token(short, short, Kind.WORD, False))
    elif end == "d":
        add(Token(raw[: len(head)], head, Kind.WORD, opens))
        add(Token("would", "would", Kind.WORD, False))
    else:
        add(Token(raw.replace("'", ""), lower.replace("'", ""), Kind.WORD, opens))
