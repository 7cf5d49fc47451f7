"""Reads what words do not say: operators, flags of commands, escapes, and letters whose case tells units apart."""

from __future__ import annotations

import re

import msgspec

_OPERATOR = re.compile(
    r"[()]"
    r"|(?<=[\w)\]])[ \t]*(==|!=|<=|>=|[-+*/]=|->|=>|&&|\|\||<<|>>|\*\*|[<>=+*^≤≥≠×÷])[ \t]*(?=[\w(\[-])"
    r"|(?<=[\d)\]])[ \t]*([-−/])[ \t]*(?=[\d(])"  # between words a hyphen and a stroke join
    r"|(?<=\w)[ \t]+(/)[ \t]+(?=[\w(])"
)
# What stands on both sides of a sign that holds one way only; a hyphen and a stroke stand between letters.
_ONE_WAY = re.compile(
    r"\b([A-Za-z_]\w*)[ \t]*(\*\*|\^|<=|>=|->|=>|<<|>>|[<>%])[ \t]*([A-Za-z_]\w*)"
    r"|\b([A-Za-z])[ \t]*([-−/÷])[ \t]*([A-Za-z])\b"
)
_SAME_SIGN = {"×": "*", "÷": "/", "−": "-", "≤": "<=", "≥": ">=", "≠": "!="}
_FLAG = re.compile(r"(?<!\S)--?[A-Za-z][\w-]*|\\[A-Za-z]")
_UNIT = re.compile(r"\b[kKmMgGtTpPu]?(?:[bB](?:ps)?|W|Wh|V|A|Hz|HZ|N|J)\b")
_WORD = re.compile(r"[^\W\d_]+")
_MOST = 200


class Signs(msgspec.Struct, frozen=True, gc=False):
    """The signs of a text in their order."""

    operators: tuple[str, ...]  # with the brackets around them; empty where there are brackets only
    sides: frozenset[tuple[str, ...]]  # of each sign that holds one way only: left, sign, right
    flags: frozenset[str]
    units: frozenset[str]  # as they are written
    accented: frozenset[str]  # words with letters beyond ASCII, in lower case


_NONE = Signs((), frozenset(), frozenset(), frozenset(), frozenset())


def signs(text: str) -> Signs:
    """Read a text; of a long one the beginning."""
    if text.isalnum() and text.isascii():
        return _NONE
    accented = () if text.isascii() else (word for word in _WORD.findall(text.lower()) if not word.isascii())
    found = [next((part for part in match.groups() if part), match.group()) for match in _OPERATOR.finditer(text)]
    operators = tuple(_SAME_SIGN.get(sign, sign) for sign in found[:_MOST])
    if not any(sign not in "()" for sign in operators):
        operators = ()
    sides = frozenset(tuple(part for part in sides if part) for sides in _ONE_WAY.findall(text)[:_MOST])
    return Signs(
        operators,
        sides,
        frozenset(_FLAG.findall(text)[:_MOST]),
        frozenset(_UNIT.findall(text)[:_MOST]),
        frozenset(accented),
    )
