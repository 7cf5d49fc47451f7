"""Distributions of latencies in bounded memory, fit to be added up: percentiles are within 1 %.

Buckets grow by at most 2 %, so the geometric middle of one is within 1 % of all that it holds (the idea of DDSketch:
Masson, Rim, Lee, VLDB 2019). They are cut so that every bound that Prometheus is told is the bound of a bucket too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import ceil, floor, log, sqrt

import msgspec

LE = (
    *(1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
"""Upper bounds in seconds, as told to Prometheus."""

_GROWTH = 1.02
_SMALLEST, _LARGEST = 1e-7, 1e5


def _bounds() -> tuple[float, ...]:
    found = [_SMALLEST]
    for low, high in pairwise((_SMALLEST, *LE, _LARGEST)):
        parts = ceil(log(high / low) / log(_GROWTH))
        found += [low * (high / low) ** (part / parts) for part in range(1, parts)]
        found.append(high)
    return tuple(found)


BOUNDS = _bounds()
"""Upper bounds of the buckets in seconds; what is larger than the last falls into one more."""
BUCKETS = len(BOUNDS) + 1
_LE_AT = tuple(BOUNDS.index(le) for le in LE)


def bucket_of(seconds: float) -> int:
    """Return the number of the bucket that holds a latency."""
    return bisect_left(BOUNDS, seconds)


class Distribution(msgspec.Struct, frozen=True):
    """Latencies by bucket, and their sum in seconds."""

    counts: Sequence[float]
    sum_seconds: float

    @property
    def count(self) -> int:
        """Return how many latencies there are."""
        return int(sum(self.counts))

    @property
    def mean_seconds(self) -> float:
        """Return their mean; 0.0 without any."""
        count = self.count
        return self.sum_seconds / count if count else 0.0

    def quantile(self, share: float) -> float:
        """Return the latency in seconds that a share of them (0 to 1) does not exceed, within 1 %; 0.0 without any.

        Between two of them it is interpolated, as numpy's default does (type 7 of Hyndman and Fan, 1996).
        """
        passed = list(accumulate(self.counts))
        if not passed or not passed[-1]:
            return 0.0
        rank = share * (passed[-1] - 1)
        low = _middle(bisect_left(passed, floor(rank) + 1))
        high = _middle(bisect_left(passed, ceil(rank) + 1))
        return low + (high - low) * (rank - floor(rank))

    def cumulative(self) -> list[tuple[str, float]]:
        """Return how many are at most each bound of `LE`, as Prometheus wants them."""
        passed = list(accumulate(self.counts))
        told = [(repr(le), passed[at]) for le, at in zip(LE, _LE_AT, strict=True)]
        return [*told, ("+Inf", passed[-1])]


def _middle(bucket: int) -> float:
    if bucket == 0:
        return _SMALLEST / 2
    if bucket >= len(BOUNDS):
        return BOUNDS[-1]
    return sqrt(BOUNDS[bucket - 1] * BOUNDS[bucket])
