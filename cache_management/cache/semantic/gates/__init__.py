"""Pure vetoes by name: why a close text must not be answered with a stored one.

Encoders put "within 10 miles" next to "within 100 miles" and "safe" next to "not safe"; a threshold cannot part them,
so each gate compares one thing that must agree. A gate looks at the facets of two texts, which are read once a text.
Every gate but `freshness`, which also asks how old the stored answer is, is symmetric.

The gates read English. In a text of which the dictionary knows less than half the words, only `number`, `unit`, `id`,
`symbol`, `date` (in digits) and `edited` are compared: a short one is never refused for its words, so another threshold
must guard it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache

from cache_management.cache.errors import InvalidInput
from cache_management.cache.semantic.gates import asking, meaning, substitution, values
from cache_management.cache.semantic.gates.alignment import Pair, align
from cache_management.cache.semantic.gates.facets import Facets, facets, remembered

VERSION = 6
"""Rises when a gate decides anything differently; reports name it."""

GATES: Mapping[str, Callable[[Pair], bool] | None] = {
    "number": values.number,
    "unit": values.unit,
    "id": values.identifier,
    "symbol": values.symbol,
    "date": values.date,
    "entity": substitution.entity,
    "polarity": meaning.polarity,
    "direction": meaning.direction,
    "action": asking.action,
    "question": asking.question,
    "destructive": asking.destructive,
    "freshness": None,  # needs the age of the answer too
    "principal": asking.principal,
    "variant": substitution.variant,
    "tense": meaning.tense,
    "edited": values.edited,
}
NAMES: tuple[str, ...] = tuple(GATES)
ERROR = "gate_error"
"""What stands among the vetoes when a gate broke."""
_ANY_LANGUAGE = frozenset(("number", "unit", "id", "symbol", "date", "edited"))


def vetoes(
    asked: str,
    stored: str,
    *,
    age_seconds: float | None = None,
    fresh_seconds: float = 3600,
    off: Collection[str] = (),
) -> tuple[str, ...]:
    """Return the names of all gates that refuse to answer `asked` with what is stored for `stored`, as in `NAMES`.

    Args:
        age_seconds: How old the stored answer is; None, unknown, counts as too old for `freshness`.
        fresh_seconds: How old the answer to a question about the present may be.
        off: Gates that do not count.

    Returns:
        Empty when the answer may be served; a gate that breaks adds "gate_error".

    Raises:
        InvalidInput: `off` names a gate that does not exist.
    """
    try:
        ours, theirs = facets(asked), facets(stored)
    except Exception:  # noqa: BLE001  a text that cannot be read is never answered with another's answer
        known_gates(frozenset(off))
        return (ERROR,)
    return compare(ours, theirs, age_seconds=age_seconds, fresh_seconds=fresh_seconds, off=off)


def compare(
    asked: Facets,
    stored: Facets,
    *,
    age_seconds: float | None = None,
    fresh_seconds: float = 3600,
    off: Collection[str] = (),
) -> tuple[str, ...]:
    """Do what `vetoes` does, with facets that are at hand."""
    unwanted = known_gates(frozenset(off)) if off else off
    # In one order whichever way round it is asked, so that no rule can depend on it.
    first, second = (asked, stored) if _is_first(asked, stored) else (stored, asked)
    try:
        pair = align(first, second)
        late = asking.freshness(pair, age_seconds=age_seconds, fresh_seconds=fresh_seconds)
    except Exception:  # noqa: BLE001  as above
        return (ERROR,)
    english = asked.english and stored.english
    found = []
    broken = False
    for name, gate in GATES.items():
        if name in unwanted or not (english or name in _ANY_LANGUAGE):
            continue
        try:
            refuses = late if gate is None else gate(pair)
        except Exception:  # noqa: BLE001  as above
            broken = True
            continue
        if refuses:
            found.append(name)
    return (*found, ERROR) if broken else tuple(found)


def _is_first(one: Facets, two: Facets) -> bool:
    return one.lemmas < two.lemmas if one.lemmas != two.lemmas else repr(one) <= repr(two)


@lru_cache(maxsize=64)
def known_gates(names: frozenset[str]) -> frozenset[str]:
    """Return `names` when each is a gate's.

    Raises:
        InvalidInput: One is not; the message names the nearest that is.
    """
    for name in sorted(names):
        if name not in GATES:
            near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.0)[0]
            raise InvalidInput(f"there is no gate {name!r}; did you mean {near!r}? The gates are {', '.join(NAMES)}")
    return names


__all__ = ["ERROR", "GATES", "NAMES", "VERSION", "Facets", "compare", "facets", "known_gates", "remembered", "vetoes"]
