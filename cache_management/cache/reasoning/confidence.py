"""How sure a whole result is: put together from its steps, and set right by what turned out to be correct.

Scores of a model are its own estimates. A `Calibration` learns from results that somebody marked how often a given
confidence was right.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec

from cache_management.cache.errors import InvalidInput
from cache_management.cache.reasoning.result import ReasoningResult
from cache_management.cache.reasoning.trees import Tree
from cache_management.cache.reasoning.validation import range_of

How = Literal["min", "mean", "product", "geometric", "last"]
WAYS: tuple[How, ...] = ("min", "mean", "product", "geometric", "last")


class Confidence(msgspec.Struct, frozen=True):
    """A confidence from 0 to 1, None where no step has one; how many steps had one, and how many had none."""

    value: float | None
    known: int
    unknown: int


def confidence(result: ReasoningResult, how: How = "min", *, calibration: Calibration | None = None) -> Confidence:
    """Return how sure a result is. The default is that of its least sure step: a chain breaks there.

    Of a chain all steps count, of a tree those on the best way from its root to a leaf (without the root, which stands
    for the problem). Steps that have no confidence are left out and counted. Where the result says another range than
    0 to 1 (`confidence_range`, `score_range`), values are brought to that first.

    Args:
        how: `min`, `mean`, `product`, `geometric` (mean), `last` (step; of a tree the best leaf).
        calibration: Says what that was worth.
    """
    if how not in WAYS:
        raise InvalidInput(f"how={how!r:.40}: take one of {', '.join(WAYS)}")
    tree = Tree(result)
    scale = _scale_of(result)
    best = Confidence(None, 0, 0)
    for leaf in tree.leaves():
        found = _put_together([scale(each) for each in tree.scores_along(tree.path_to(leaf))], how)
        if best.value is None or (found.value is not None and found.value > best.value):
            best = found
    if calibration is None or best.value is None:
        return best
    return msgspec.structs.replace(best, value=calibration.of(best.value))


def _scale_of(result: ReasoningResult) -> Callable[[float | None], float | None]:
    """Return what brings a confidence of a result to the range from 0 to 1."""
    low, high = range_of(result) or (0.0, 1.0)
    return lambda value: None if value is None else min(1.0, max(0.0, (value - low) / (high - low)))


def _put_together(values: Sequence[float | None], how: How) -> Confidence:
    known = [value for value in values if value is not None]
    unknown = len(values) - len(known)
    if how == "last":
        return Confidence(values[-1] if values else None, len(known), unknown)
    if not known:
        return Confidence(None, 0, unknown)
    match how:
        case "min":
            value = min(known)
        case "mean":
            value = math.fsum(known) / len(known)
        case "product":
            value = math.prod(known)
        case _:
            value = math.exp(math.fsum(map(math.log, known)) / len(known)) if min(known) > 0 else 0.0
    return Confidence(value, len(known), unknown)


def vote(results: Iterable[ReasoningResult], how: How | None = None) -> list[tuple[str, float]]:
    """Return the final answers with their votes, most first: self-consistency (Wang et al., 2022).

    Args:
        how: Weighs each vote by the confidence of its result; those without one have no vote. None: each has one.
    """
    votes: dict[str, float] = defaultdict(float)
    for result in results:
        if result.final_answer is not None:
            votes[result.final_answer] += 1.0 if how is None else confidence(result, how).value or 0.0
    return sorted(votes.items(), key=lambda each: each[1], reverse=True)


class Calibration:
    """Turns a confidence into how often it was right, never falling where confidence rises.

    Isotonic regression by pooling adjacent violators (Ayer et al., 1955), with one right and one wrong case
    added to each pool, so that a few cases never make it certain. Between the means of pools a line is drawn.
    """

    def __init__(self, judged: Iterable[tuple[float, bool]]) -> None:
        cases = sorted(_cases(judged))
        if not cases:
            raise InvalidInput(
                "a calibration is made from cases: each a confidence from 0 to 1, and whether it was right"
            )
        pools: list[_Pool] = []
        for value, group in itertools.groupby(cases, key=lambda case: case[0]):
            right = [correct for _, correct in group]
            pools.append(_Pool(value * len(right), sum(right), len(right)))
            while len(pools) > 1 and pools[-2].share >= pools[-1].share:
                last, before = pools.pop(), pools.pop()
                pools.append(_Pool(before.total + last.total, before.right + last.right, before.count + last.count))
        self._means = [pool.total / pool.count for pool in pools]
        shares = [(pool.right + 1) / (pool.count + 2) for pool in pools]
        self._shares = list(itertools.accumulate(shares, max))  # what was added may have bent the order

    def of(self, value: float) -> float:
        """Return how often a confidence like this one was right.

        Raises:
            InvalidInput: It is not from 0 to 1.
        """
        if not _is_share(value):
            raise InvalidInput(f"a confidence of {value!r:.40} is not from 0 to 1")
        at = bisect.bisect_left(self._means, value)
        if at == 0 or at == len(self._means):
            return self._shares[min(at, len(self._shares) - 1)]
        low, high = self._means[at - 1], self._means[at]
        part = (value - low) / (high - low)
        return self._shares[at - 1] + part * (self._shares[at] - self._shares[at - 1])


def _cases(judged: Iterable[tuple[float, bool]]) -> Iterable[tuple[float, bool]]:
    if not isinstance(judged, Iterable):
        raise InvalidInput(f"a calibration is made from a list of cases, not {type(judged).__name__}")
    for case in judged:
        if not isinstance(case, tuple | list) or len(case) != 2 or not _is_share(case[0]) or type(case[1]) is not bool:
            raise InvalidInput(f"{case!r:.60} is no case of a calibration: a confidence from 0 to 1, and True or False")
        yield float(case[0]), case[1]


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


class _Pool(msgspec.Struct, frozen=True):
    """Neighbouring confidences: their sum, how many were right, and how many there are."""

    total: float
    right: int
    count: int

    @property
    def share(self) -> float:
        return self.right / self.count
