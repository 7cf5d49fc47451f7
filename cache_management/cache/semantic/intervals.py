"""How sure a share is that was counted: intervals for k wrong ones among n. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import lgamma, log, log1p, sqrt
from typing import NamedTuple

from cache_management.cache.errors import InvalidInput

_GROWN = (2, 4, 8)
_STEPS = 28  # of halving: some 1e-9 of the whole


class Interval(NamedTuple):
    """A share, 0 to 1, and the bounds between which it lies."""

    low: float
    share: float
    high: float


def wilson(wrong: float, total: float, *, z: float = 1.96) -> Interval:
    """Return the interval of a count that was looked at once; z=1.96 is 95 %.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.

    Raises:
        InvalidInput: No such count exists.
    """
    _check(wrong, total)
    if not total:
        return Interval(0.0, 0.0, 1.0)
    share = wrong / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
    # A share of 0 or 1 is its own bound, but for rounding.
    return Interval(min(share, max(0.0, centre - half)), share, max(share, min(1.0, centre + half)))


def anytime(wrong: float, total: float, *, error: float = 0.05, expected: float = 0.02) -> Interval:
    """Return an interval that holds at every moment of a growing count, with probability 1 - `error`.

    A Wilson interval that is read again and again misses the truth in the end; this one may be
    watched. It is the set of shares against which a bet on a Beta prior has not won 1 / `error` yet
    (Ville's inequality; Robbins, "Statistical Methods Related to the Law of the Iterated Logarithm",
    1970). It is narrowest where the share is near `expected`.

    Raises:
        InvalidInput: No such count exists.
    """
    _check(wrong, total)
    if not total:
        return Interval(0.0, 0.0, 1.0)
    share = wrong / total
    a, b = 0.5, 0.5 / expected
    won = _log_beta(a + wrong, b + total - wrong) - _log_beta(a, b) - log(1 / error)

    def is_in(p: float) -> bool:
        return won <= wrong * log(p) + (total - wrong) * log1p(-p)

    return Interval(_edge(is_in, share, 0.0), share, _edge(is_in, share, 1.0))


def suspicion(before: Sequence[float], *, wrong: bool, expected: float) -> list[float]:
    """Return how strongly a share seems to have grown beyond `expected`, after one more observation.

    One number for each way in which it may have grown (2, 4 and 8 times). As long as the share is at
    most `expected`, their mean reaches N after N observations on average, or later, however long one watches.
    Source: Shiryaev and Roberts' statistic as an e-detector: Shin, Ramdas and Rinaldo, "E-detectors", 2023.

    Args:
        before: What was returned before; empty at the beginning.
    """
    grown = [min(times * expected, (1 + expected) / 2) for times in _GROWN]
    ratios = [share / expected if wrong else (1 - share) / (1 - expected) for share in grown]
    return [(1 + known) * ratio for known, ratio in zip(before or [0.0] * len(grown), ratios, strict=True)]


def _edge(is_in: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return where the interval ends between a share in it and 0 or 1."""
    inside = min(max(inside, 1e-12), 1 - 1e-12)
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        if 0 < middle < 1 and is_in(middle):
            inside = middle
        else:
            outside = middle
    return outside


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def _check(wrong: float, total: float) -> None:
    if not 0 <= wrong <= total:
        raise InvalidInput(f"{wrong} of {total} is no count")
