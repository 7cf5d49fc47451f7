"""Numbers, dates and identifiers that change places: "divide 10 by 2", "divide 2 by 10"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import combinations

from cache_management.cache.semantic.gates.alignment import Pair
from cache_management.cache.semantic.gates.facets import Facets
from cache_management.cache.semantic.gates.placed import Placed

_MOST = 12  # values a text that are looked at


def exchanged(pair: Pair) -> bool:
    """Tell whether two values that both texts have stand in each other's place.

    In another order they do, unless a word, a unit or a preposition keeps to one of them: "for 2 people at 8". In the
    same order they do where each has the words of the other.
    """
    ours, theirs = pair.asked.placed, pair.stored.placed
    if len(ours) < 2 or len(theirs) < 2 or ours == theirs:
        return False
    mine, others = _by_value(ours), _by_value(theirs)
    shared = mine.keys() & others.keys()
    if len(shared) < 2:
        return False
    turned = _turned(ours, theirs, shared)
    if len(turned) == 1 and _commute(pair):
        return False
    if any(_not_kept(one, two, mine, others) for one, two in turned):
        return True
    kept = [value for value in mine if value in shared]
    return any(_each_as_the_other(one, two, mine, others) for one, two in combinations(kept[:_MOST], 2))


_Ties = Mapping[str, frozenset[str]]


def _by_value(placed: Sequence[Placed]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for each in placed[:_MOST]:
        # Of what is said twice only what stands beside both tells it apart.
        found[each.value] = found.get(each.value, each.ties) & each.ties
    return found


def _turned(ours: Sequence[Placed], theirs: Sequence[Placed], shared: AbstractSet[str]) -> list[tuple[str, str]]:
    """Return the pairs of values that stand in another order in the other text."""
    mine = [each.value for each in ours[:_MOST] if each.value in shared]
    others = [each.value for each in theirs[:_MOST] if each.value in shared]
    if mine == others:
        return []
    if len(mine) > len(shared) and Counter(mine) == Counter(others):
        # What is said twice has no one place: "2 2 3", "2 3 2".
        return sorted({(min(both), max(both)) for both in zip(mine, others, strict=True) if both[0] != both[1]})
    at = {value: nth for nth, value in enumerate(dict.fromkeys(others))}
    return [(one, two) for one, two in combinations(dict.fromkeys(mine), 2) if at[one] > at[two]]


def _not_kept(one: str, two: str, mine: _Ties, others: _Ties) -> bool:
    kept = len(_apart(one, two, mine) & _apart(one, two, others)) + len(
        _apart(two, one, mine) & _apart(two, one, others)
    )
    return not kept or kept < sum(_crossed(one, two, mine, others))


def _each_as_the_other(one: str, two: str, mine: _Ties, others: _Ties) -> bool:
    """Tell "from 9 subtract 4" from "subtract 9 from 4"."""
    if _apart(one, two, mine) & _apart(one, two, others) or _apart(two, one, mine) & _apart(two, one, others):
        return False
    return all(_crossed(one, two, mine, others))


def _crossed(one: str, two: str, mine: _Ties, others: _Ties) -> tuple[int, int]:
    """Count the ties that one value has here and the other there."""
    return (
        len(_apart(one, two, mine) & _apart(two, one, others)),
        len(_apart(two, one, mine) & _apart(one, two, others)),
    )


def _apart(one: str, two: str, ties: _Ties) -> frozenset[str]:
    """Return what a value is tied to and the other is not."""
    return ties[one] - ties[two]


_CHOICES = frozenset(("or", "vs", "versus"))
_ALIKE = frozenset(("same", "equal", "equals", "equivalent", "identical", "different"))  # "the same as"
_COMMUTING = frozenset(("+", "*", "plus", "times"))
_OF_BOTH = frozenset(
    ("sum", "add", "product", "multiply", "average", "mean", "difference", "differ", "compare", "common", "both")
)


def _commute(pair: Pair) -> bool:
    """Tell whether two neighbours may change places: "3 plus 5", "the sum of 3 and 5", "500 and 1000 rupee notes"."""
    return all(len(facets.placed) == 2 and _both_ways(*facets.placed, facets) for facets in (pair.asked, pair.stored))


def _both_ways(one: Placed, two: Placed, facets: Facets) -> bool:
    link = two.link.split() or ["".join(facets.signs.operators)]
    if not _ALIKE.isdisjoint(link):
        return True
    joins = link[0]
    if len(link) > 1 and not all(f"<{word}" in one.ties & two.ties for word in link[1:]):
        return False  # "Python 2 or Python 3" is a choice, "2 or more of 5" is none
    if joins in {"and", "&"}:
        return not _OF_BOTH.isdisjoint(facets.lemmas) or (_is_counted(two) and not _is_counted(one))
    # Not "plus 3 squared", "plus 3 percent".
    return joins in _CHOICES or (joins in _COMMUTING and not any(tie.startswith((">", "in ")) for tie in two.ties))


def _is_counted(placed: Placed) -> bool:
    """Tell whether a noun stands behind a number."""
    return any(tie.startswith(">") for tie in placed.ties)
