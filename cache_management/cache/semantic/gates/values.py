"""The gates on what is counted, measured, dated or identified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from decimal import Decimal

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.alignment import Pair
from cache_management.cache.semantic.gates.closed_classes import AUXILIARIES, NEGATORS, STOP
from cache_management.cache.semantic.gates.facets import Facets
from cache_management.cache.semantic.gates.numbers import POUND_GRAMS, Quantity
from cache_management.cache.semantic.gates.order import exchanged
from cache_management.cache.semantic.gates.tokens import without_accents


def _differ(ours: Iterable[Hashable], theirs: Iterable[Hashable]) -> bool:
    """Tell whether both sides have something the other has not."""
    mine, others = Counter(ours), Counter(theirs)
    return bool(mine - others) and bool(others - mine)


def number(pair: Pair) -> bool:
    """Refuse when each text has a number that the other has not. A number on one side only is an addition."""
    if _scope_differs(pair) or _ordinals_differ(pair) or exchanged(pair):
        return True
    if _one_of_many(pair.asked, pair.stored) or _one_of_many(pair.stored, pair.asked):
        return True
    left, right = _unmatched(pair)
    if not left or not right:
        return _tail_differs(pair, digits=True)
    if all(amount.year for amount in (*left, *right)):
        return False  # two years are the business of `date`
    return not _same_written(left, right)


def symbol(pair: Pair) -> bool:
    """Refuse when both texts have operators, flags of commands or units that differ in their signs or letters."""
    ours, theirs = pair.asked.signs, pair.stored.signs
    if ours == theirs:
        return False
    if _only_sign(pair) or any((right, sign, left) in theirs.sides for left, sign, right in ours.sides - theirs.sides):
        return True
    if ours.operators and theirs.operators and ours.operators != theirs.operators:
        return True
    if _differ(ours.flags, theirs.flags):
        return True
    if not (pair.asked.english and pair.stored.english) and _accents_differ(ours.accented, theirs.accented, pair):
        return True
    lone, other = ours.units - theirs.units, theirs.units - ours.units
    return not {unit.lower() for unit in lone}.isdisjoint(unit.lower() for unit in other)  # MB, Mb


def _only_sign(pair: Pair) -> bool:
    """Tell "ls -l" from "ls" and from "ls l", and "7 - 1" from "7 1": only one text has the sign."""
    ours, theirs = pair.asked.signs, pair.stored.signs
    lone = ours.flags ^ theirs.flags
    if any(sign.startswith("--") or (sign[0] == "-" and len(sign) <= _SHORT_FLAG) for sign in lone):
        return True
    operators = ours.operators or theirs.operators
    if bool(ours.operators) == bool(theirs.operators) or _says_nothing(operators, counted=bool(pair.asked.quantities)):
        return False
    bare = pair.stored if ours.operators else pair.asked
    if any(sign in each.link for each in bare.placed for sign in operators):
        return False  # "nine/11" has the sign of "9/11"
    return (pair.asked.lemmas, pair.asked.quantities) == (pair.stored.lemmas, pair.stored.quantities)


_SHORT_FLAG = 4  # signs: "-xzf"; a longer one may be a word behind a dash


def _says_nothing(operators: tuple[str, ...], *, counted: bool) -> bool:
    """Tell a telephone number from a difference, and *words* that are stressed from a product."""
    return (len(operators) > 1 and set(operators) == {"-"}) or (not counted and set(operators) <= {"*", "**"})


def _accents_differ(ours: frozenset[str], theirs: frozenset[str], pair: Pair) -> bool:
    """Tell "schon" from "schön", which models read alike; in English the accents are an ornament."""
    lone = ours ^ theirs
    bare = {lexicon.lemma(without_accents(word)) for word in lone}
    return not bare.isdisjoint(set(pair.asked.lemmas) & set(pair.stored.lemmas))


def edited(pair: Pair) -> bool:
    """Refuse a long text of which a few words were changed: nobody words the rest of it alike by chance."""
    if min(len(pair.asked.lemmas), len(pair.stored.lemmas)) < _LONG:
        return False
    ours, theirs = _said(pair.asked), _said(pair.stored)
    share = (Counter(ours) & Counter(theirs)).total() / max(len(ours), len(theirs), 1)
    if share < _COPIED:
        return False
    return (ours, pair.asked.dates, pair.asked.quantities) != (theirs, pair.stored.dates, pair.stored.quantities)


_LONG, _COPIED = 30, 0.85


def _said(facets: Facets) -> list[str]:
    """Return the words that say something, in their order."""
    return [word for word in facets.lemmas if word not in STOP or word in NEGATORS]


def _ordinals_differ(pair: Pair) -> bool:
    """Tell "the first quarter" from "the fourth"; "first" and "second" say other things too often to be numbers."""
    ours, theirs = _ordinals(pair.asked), _ordinals(pair.stored)
    if _ranked(pair.asked) != _ranked(pair.stored):
        return True  # the largest, the second largest
    return bool(ours and theirs) and not ours & theirs


def _ordinals(facets: Facets) -> set[str]:
    found = {amount.value for amount in facets.quantities if amount.unit == "th"}
    found |= {value for word, value in (("first", "1"), ("second", "2")) if word in facets.lemmas}
    return found


def _ranked(facets: Facets) -> bool:
    """Tell whether a text asks for the second or third of a ranking."""
    best = {word.at for word in facets.words if word.text.endswith("est")}
    best |= {at for at, lemma in enumerate(facets.lemmas) if lemma in {"most", "least"}}
    return any(at + 1 in best for at, lemma in enumerate(facets.lemmas) if lemma in {"second", "third", "fourth"})


def _scope_differs(pair: Pair) -> bool:
    """Tell "one email" from "all my email", and "does every state" from "does any state"."""
    ours, theirs = set(pair.asked.scopes), set(pair.stored.scopes)
    others = {"one"}
    if all(facets.lemmas[0] in AUXILIARIES for facets in (pair.asked, pair.stored) if facets.lemmas):
        others.add("any")
    lone = ours ^ theirs
    return any(scope == "all" and any((other, of) in lone for other in others) for scope, of in lone)


def _one_of_many(one: Facets, many: Facets) -> bool:
    """Tell "one column" from "two columns": a "one" by itself is read as no number."""
    counted = {of for scope, of in set(one.scopes) - set(many.scopes) if scope == "one"}
    if counted.isdisjoint(many.lemmas) or Counter(one.quantities) - Counter(many.quantities):
        return False
    more = Counter(many.quantities) - Counter(one.quantities)
    return any(not amount.unit and not amount.year and amount.value != "1" for amount in more)


def unit(pair: Pair) -> bool:
    """Refuse when one number stands with unlike units: 10 USD and 10 EUR, 5 miles and 5 km."""
    if pair.asked.periods - pair.stored.periods and pair.stored.periods - pair.asked.periods:
        return True  # the daily limit, the monthly limit
    left, right = _unmatched(pair)
    return bool(left and right) and _same_written(left, right)


def _unmatched(pair: Pair) -> tuple[list[Quantity], list[Quantity]]:
    """The quantities that only one text has; one without a unit matches any of its value."""
    if not pair.asked.quantities or not pair.stored.quantities:
        return [], []
    left = list(pair.asked.quantities)
    right = []
    for theirs in pair.stored.quantities:
        for ours in left:
            if theirs.unit == ours.unit:
                same = theirs.value == ours.value
            elif "pound" in {theirs.unit, ours.unit}:
                same = _same_pounds(ours, theirs)
            else:
                # "5k" walked are 5 km.
                same = (not theirs.unit or not ours.unit) and (
                    theirs.written == ours.written or theirs.value == ours.value
                )
            if same:
                left.remove(ours)
                break
        else:
            right.append(theirs)
    return left, right


def _same_pounds(one: Quantity, two: Quantity) -> bool:
    """Compare pounds with an amount of money, a weight, or a bare number."""
    pounds, other = (one, two) if one.unit == "pound" else (two, one)
    if other.unit in {"gbp", ""}:
        return pounds.value == other.value
    weight = Decimal(pounds.value) * Decimal(POUND_GRAMS) if pounds.value.replace(".", "").isdigit() else None
    return other.unit == "gram" and weight is not None and f"{weight.normalize():f}" == other.value


def _same_written(left: list[Quantity], right: list[Quantity]) -> bool:
    """Tell whether each number has its like, so that only the units differ."""
    return sorted(amount.written for amount in left) == sorted(amount.written for amount in right)


def identifier(pair: Pair) -> bool:
    """Refuse when each text has an identifier that the other has not."""
    ours, theirs = pair.asked.ids, pair.stored.ids
    return bool(ours and theirs) and _differ(map(_id_key, ours), map(_id_key, theirs))


def _id_key(text: str) -> str:
    return text.lstrip("#").rstrip("/")


def date(pair: Pair) -> bool:
    """Refuse when both texts name days, months, years or hours and these differ."""
    if pair.asked.moments and pair.stored.moments and not pair.asked.moments & pair.stored.moments:
        return True
    ours, theirs = _calendar(pair.asked), _calendar(pair.stored)
    if _now_and_then(pair.asked, ours, pair.stored, theirs) or _now_and_then(pair.stored, theirs, pair.asked, ours):
        return True
    if not ours or not theirs:
        return False
    return any(_differ(ours[kind], theirs[kind]) for kind in ours.keys() & theirs.keys())


def _now_and_then(one: Facets, ours: dict[str, list[str]], two: Facets, theirs: dict[str, list[str]]) -> bool:
    """Tell "tonight" from "on Monday": whether they are the same depends on the day."""
    return bool(one.moments) and not ours and not two.moments and not theirs.keys().isdisjoint(_DAYS)


_DAYS = ("weekday", "day", "month")


def _calendar(facets: Facets) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for kind, value in facets.dates:
        out.setdefault(kind, []).append(value)
    for amount in facets.quantities:
        if amount.year:
            out.setdefault("year", []).append(amount.value)
    return out


def _tail_differs(pair: Pair, *, digits: bool) -> bool:
    if pair.asked.tail == pair.stored.tail:
        return False
    return any(any(map(str.isdigit, word)) is digits for word, _ in pair.asked.tail ^ pair.stored.tail)


def tail_differs(pair: Pair) -> bool:
    """Tell whether the words beyond the limit differ; there even an addition counts."""
    return _tail_differs(pair, digits=False)
