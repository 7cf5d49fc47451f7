"""Reads quantities: digits or words, with a unit when one follows, brought to one base unit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

import msgspec

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.closed_classes import STOP, word_set
from cache_management.cache.semantic.gates.tokens import Kind, Token


class Quantity(msgspec.Struct, frozen=True, gc=False):
    """A number in its base unit; `unit` is empty where none was written."""

    value: str
    unit: str
    written: str  # the number before it was brought to the base unit
    year: bool = False  # could be a year, so it is also compared as one


_UNIT_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen
"""
_UNITS = {word: value for value, word in enumerate(_UNIT_WORDS.split())}
_TEN_WORDS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_TENS = {word: 20 + 10 * at for at, word in enumerate(_TEN_WORDS)}
_SCALES = {
    "hundred": 100,
    "thousand": 1_000,
    "lakh": 100_000,
    "million": 1_000_000,
    "crore": 10_000_000,
    "billion": 1_000_000_000,
    "trillion": 1_000_000_000_000,
}
_ORDINALS = {
    word: value
    for value, word in enumerate(
        ("third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"), start=3
    )
}
_SUFFIX_ZEROS = {"k": 3, "m": 6, "bn": 9}
_MULTIPLES = {"k": 1_000, "m": 1_000_000, "bn": 1_000_000_000} | _SCALES
# "one" stands for "somebody" or "a thing" too often to be read as a number on its own.
_NOT_A_NUMBER_ALONE = {"one"}
_NUMBER_WORDS = _UNITS.keys() | _TENS.keys() | _SCALES.keys()
_ROMAN = {
    roman: at
    for at, roman in enumerate(("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"), start=1)
}

# Unit -> base unit and how many of the base one such unit is.
_MEASURES: dict[str, tuple[str, str]] = {}


def _measure(base: str, **units: str) -> None:
    for factor_key, names in units.items():
        factor = factor_key.removeprefix("x").replace("_", ".")
        for name in names.split():
            _MEASURES[name] = (base, factor)


_measure("metre", x1="m metre metres meter meters", x1000="km kilometre kilometres kilometer kilometers kms")
_measure(
    "metre", x0_01="cm centimetre centimetres centimeter centimeters", x0_001="mm millimetre millimetres millimeter"
)
_measure("metre", x1609_344="mile miles", x0_3048="ft foot feet", x0_0254="inch inches", x0_9144="yard yards")
_measure("gram", x1="g gram grams", x1000="kg kgs kilo kilos kilogram kilograms", x0_001="mg milligram milligrams")
POUND_GRAMS = "453.59237"
_measure("gram", x453_59237="lb lbs", x28_349523125="oz ounce ounces", x1000000="tonne tonnes")
_measure("litre", x1="litre litres liter liters l", x0_001="ml millilitre millilitres milliliter milliliters")
_measure("litre", x3_785411784="gallon gallons")
_measure("second", x1="second seconds sec secs", x60="minute minutes min mins", x3600="hour hours hr hrs h")
_measure("second", x86400="day days d", x604800="week weeks", x0_001="ms millisecond milliseconds")
_measure("month", x1="month months", x12="year years yr yrs", x120="decade decades")
_measure("byte", x1="byte bytes", x1000="kb kilobyte kilobytes", x1000000="mb megabyte megabytes")
_measure("byte", x1000000000="gb gigabyte gigabytes", x1000000000000="tb terabyte terabytes")
_measure("hertz", x1="hz", x1000="khz", x1000000="mhz", x1000000000="ghz")
_measure("volt", x1="volt volts v")
_measure("watt", x1="watt watts w", x1000="kw kilowatt kilowatts")
_measure("mph", x1="mph")
_measure("kph", x1="kph kmh")
_measure("percent", x1="% percent percentage pct")
_measure("celsius", x1="celsius °c")
_measure("fahrenheit", x1="fahrenheit °f")
_measure("usd", x1="$ usd dollar dollars", x0_01="cent cents")
_measure("eur", x1="€ eur euro euros")
_measure("gbp", x1="£ gbp", x0_01="pence")
_measure("pound", x1="pound pounds")  # of money or of weight
_measure("inr", x1="₹ inr rupee rupees rs")
_measure("jpy", x1="¥ jpy yen")
_measure("peso", x1="peso pesos")
_measure("franc", x1="franc francs")
_MONEY = word_set("dollar dollars peso pesos pound pounds franc francs rupee rupees yen krona kronor")
CURRENCIES = word_set("usd eur gbp inr jpy chf cad aud cny sek nok dkk pln brl mxn krw sgd hkd nzd zar rub try")
for _code in CURRENCIES - _MEASURES.keys():
    _measure(_code, x1=_code)
_SIGNS = frozenset("$€£¥₹")
_DIGITS = re.compile(r"(-?\d[\d,.]*)([a-z]*)")


def unit_of(word: str) -> tuple[str, str] | None:
    """Return the base unit that a word is a measure of, and how many of it, None for no unit."""
    return _MEASURES.get(word)


def is_number_word(word: str) -> bool:
    """Tell whether a word is a number, or a part of one."""
    return word in _UNITS or word in _TENS or word in _SCALES or any(each.isdigit() for each in word)


def quantities(found: Sequence[Token]) -> tuple[list[Quantity], set[int], list[tuple[int, int]]]:
    """Return the quantities of a text in their order, the tokens they were read from, and the span of each."""
    out: list[Quantity] = []
    used: set[int] = set()
    spans: list[tuple[int, int]] = []
    at = start = 0
    while at < len(found):
        spans.extend([(start, at)] * (len(out) - len(spans)))
        start = at
        token = found[at]
        if token.kind is Kind.NUMBER:
            at = _read_number(found, at, out, used)
        elif token.kind is Kind.WORD and (token.text in _NUMBER_WORDS):
            at = _read_phrase(found, at, out, used)
        elif token.kind is Kind.WORD and token.text in _ORDINALS:
            out.append(_bare(str(_ORDINALS[token.text]), "th"))
            used.add(at)
            at += 1
        elif (
            token.kind is Kind.WORD
            and token.raw in _ROMAN
            and at
            and found[at - 1].raw[:1].isupper()
            and (len(token.raw) > 1 or not (found[at - 1].opens or found[at - 1].text in STOP))
        ):
            out.append(_bare(str(_ROMAN[token.raw])))
            used.add(at)
            at += 1
        else:
            at += 1
    spans.extend([(start, at)] * (len(out) - len(spans)))
    return out, used, spans


def _read_number(found: Sequence[Token], at: int, out: list[Quantity], used: set[int]) -> int:
    match = _DIGITS.fullmatch(found[at].text)
    digits, suffix = (match.group(1), match.group(2)) if match else (found[at].text, "")
    used.add(at)
    after = at + 1
    scale = suffix if suffix in _SUFFIX_ZEROS else ""
    if not suffix and after < len(found) and found[after].text in _SCALES and found[after].text != "hundred":
        scale = found[after].text
        used.add(after)
        after += 1
    unit = "th" if suffix in {"st", "nd", "rd", "th"} else suffix if suffix in _MEASURES and not scale else ""
    if unit and unit != "th":
        out.append(_in_base(_plain(digits), unit))
        return after
    if not unit and at and found[at - 1].text in _SIGNS:
        unit = found[at - 1].text
    elif not unit and at and found[at - 1].text in CURRENCIES and not _names_unit(found, after):
        unit = found[at - 1].text
        used.add(at - 1)
    elif not unit and _names_currency_of(found, after):
        unit = found[after + 1].text
        used.update((after, after + 1))
        after += 2
    elif not unit and _names_unit(found, after):
        unit = found[after].text
        used.add(after)
        after += 1
    plain = _plain(digits, _zeros(scale))
    if unit and unit != "th":
        out.append(_in_base(plain, unit))
    else:
        year = not unit and not scale and len(digits) == 4 and digits.isdigit() and "1800" <= digits <= "2199"
        out.append(Quantity(plain, unit, plain, year))
    return after


def _zeros(scale: str) -> int:
    return len(str(_MULTIPLES[scale])) - 1 if scale else 0


def _names_unit(found: Sequence[Token], at: int) -> bool:
    if at >= len(found) or found[at].text not in _MEASURES:
        return False
    # A single letter is a unit only where it cannot be a name: "5 m", not "plan 5 D".
    return len(found[at].text) > 1 or found[at].text == "%" or found[at].raw.islower()


def _names_currency_of(found: Sequence[Token], at: int) -> bool:
    """Tell "500 Mexican pesos", "20 Canadian dollars"."""
    if at + 1 >= len(found) or found[at + 1].text not in _MONEY:
        return False
    return found[at].kind is Kind.WORD and (found[at].text == "us" or lexicon.is_proper(found[at].text))


def _bare(value: str, unit: str = "") -> Quantity:
    return Quantity(value, unit, value)


def _trimmed(plain: str) -> str:
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _in_base(plain: str, unit: str) -> Quantity:
    base, factor = _MEASURES[unit]
    if plain.count(".") > 1 or len(plain) > 40:
        return _bare(plain, base)
    value = (Decimal(plain) * Decimal(factor)).normalize()
    if base == "fahrenheit":
        base, value = "celsius", round((value - 32) * 5 / 9, 1).normalize()
    return Quantity(f"{value:f}", base, _trimmed(plain))


def _plain(digits: str, zeros: int = 0) -> str:
    """Write a number in one way, without arithmetic: an id of forty digits must stay exact."""
    sign = "-" if digits.startswith("-") else ""
    digits = digits.lstrip("-").replace(",", "").rstrip(".")
    if digits.count(".") > 1:
        return sign + digits
    whole, point, fraction = digits.partition(".")
    if zeros:
        whole, fraction = whole + fraction[:zeros].ljust(zeros, "0"), fraction[zeros:].rstrip("0")
        point = "." if fraction else ""
    return sign + (whole.lstrip("0") or "0") + point + fraction


def _read_phrase(found: Sequence[Token], at: int, out: list[Quantity], used: set[int]) -> int:
    start = at
    words: list[str] = []
    while at < len(found) and (found[at].text in _NUMBER_WORDS or (found[at].text == "and" and words)):
        words.append(found[at].text)
        at += 1
    while words and words[-1] == "and":
        words.pop()
        at -= 1
    values = _read_words(words)
    if not values:
        return at
    used.update(range(start, at))
    unit = ""
    if _names_unit(found, at):
        unit = found[at].text
        used.add(at)
        at += 1
    out.extend(_bare(str(value)) for value in values[:-1])
    last = str(values[-1])
    out.append(_in_base(last, unit) if unit else _bare(last))
    return at


def _read_words(words: list[str]) -> list[int]:
    """Read "two hundred and five" as 205, and "two three" as two numbers."""
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
