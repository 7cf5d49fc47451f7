"""Which keys are asked for most, in bounded memory: the Space-Saving sketch.

A sketch of m counters keeps at least every key that makes up more than 1 / m of what was noted, and says no count too
small. Metwally, Agrawal, El Abbadi: "Efficient computation of frequent and top-k elements in data streams", ICDT 2005.
It is filled in batches, as two sketches are merged (Agarwal and others: "Mergeable summaries", PODS 2012): a key that
one side lacks may have had that side's smallest count there, which is added to its count and to its error; the m
largest stay. Each that goes had at least what was added, so the counts never sum to more than what was noted, and the
smallest is at most 1 / m of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import msgspec

from cache_management.cache.clock import Clock, system_clock
from cache_management.cache.errors import InvalidInput

_BATCH = 3  # times the capacity: a larger batch costs less a note, and more memory
_TICKS = 16  # a half-life is counted in so many steps


class Sketch(msgspec.Struct, frozen=True):
    """The largest counts of a stream of `total` notes; fit to be sent and merged elsewhere.

    A key was noted `counts[key]` times at most, and less `errors.get(key, 0)` at least.
    """

    capacity: int
    total: float = 0.0
    counts: dict[str, float] = {}
    errors: dict[str, float] = {}

    @property
    def floor(self) -> float:
        """Return the most that a key can have had that is not in here."""
        return min(self.counts.values()) if len(self.counts) >= self.capacity else 0.0


class HotKeys:
    """Counts keys, and forgets by a half-life; for one event loop.

    It holds at most four times `capacity` keys, and a note costs 0.2 to 0.6 microseconds. Counts halve every
    `half_life_seconds`, in steps of a sixteenth of it; with None they only grow.

    Raises:
        InvalidInput: The capacity or the half-life is not positive.
    """

    def __init__(
        self, capacity: int = 1000, *, half_life_seconds: float | None = 3600, clock: Clock = system_clock
    ) -> None:
        if capacity < 1:
            raise InvalidInput(f"{capacity} keys cannot be counted; take a capacity of 1 or more")
        if half_life_seconds is not None and half_life_seconds <= 0:
            raise InvalidInput(f"a half-life of {half_life_seconds} s forgets at once; take more, or None for never")
        self._sketch = Sketch(capacity)
        self._most_pending = _BATCH * capacity
        self._tick_seconds = float("inf") if half_life_seconds is None else half_life_seconds / _TICKS
        self._clock = clock
        self._faded_at = clock()
        self._pending: dict[str, int] = {}

    def note(self, key: str, times: int = 1) -> None:
        """Count a key."""
        # First, so that all that is pending was noted within one step.
        if len(self._pending) >= self._most_pending or not 0 <= self._clock() - self._faded_at < self._tick_seconds:
            self._fold()
        pending = self._pending
        pending[key] = pending.get(key, 0) + times

    def hot(self, threshold: float) -> list[tuple[str, int]]:
        """Return keys that were surely noted `threshold` times or more, with their counts, the largest first.

        A count may be too large, by `error` at most, and so a key that is not returned may have been noted as often as
        the threshold and that error together.
        """
        sketch = self.sketch()
        found = [
            (key, round(count))
            for key, count in sketch.counts.items()
            if count - sketch.errors.get(key, 0.0) >= threshold
        ]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    @property
    def error(self) -> float:
        """Return the most by which any count is too large, and the most a key can have had that is not counted."""
        return self.sketch().floor

    def sketch(self) -> Sketch:
        """Return what is counted until now."""
        self._fold()
        return self._sketch

    def merge(self, other: Sketch) -> None:
        """Add what was counted elsewhere, in another process for instance; its counts fade from now on."""
        self._fold()
        self._sketch = merged(self._sketch, other)

    def _fold(self) -> None:
        if self._pending:
            self._sketch = added(self._sketch, self._pending)
            self._pending = {}
        # Whole steps only: what was noted a moment ago counts in full, so that 1,000 notes reach a threshold of 1,000.
        passed = self._clock() - self._faded_at
        if passed >= self._tick_seconds:
            ticks = passed // self._tick_seconds
            self._faded_at += ticks * self._tick_seconds
            self._sketch = faded(self._sketch, 0.5 ** (ticks / _TICKS))
        elif passed < 0:  # the clock was set back, and would stand still until it caught up
            self._faded_at += passed


def added(sketch: Sketch, counts: Mapping[str, int]) -> Sketch:
    """Add exact counts to a sketch."""
    exact = Sketch(len(counts) + 1, sum(counts.values()), dict(counts))
    return _largest(_united(sketch, exact), sketch.capacity)


def merged(one: Sketch, other: Sketch) -> Sketch:
    """Merge two sketches; what holds for each holds for the result, with the smaller capacity."""
    return _largest(_united(one, other), min(one.capacity, other.capacity))


def faded(sketch: Sketch, factor: float) -> Sketch:
    """Multiply all that was counted by a factor."""
    counts = {key: count * factor for key, count in sketch.counts.items()}
    errors = {key: error * factor for key, error in sketch.errors.items()}
    return Sketch(sketch.capacity, sketch.total * factor, counts, errors)


def _united(one: Sketch, other: Sketch) -> Sketch:
    counts, errors = dict(one.counts), dict(one.errors)
    for key, error in other.errors.items():
        errors[key] = errors.get(key, 0.0) + error
    # Where one side lacks a key, that side's smallest count is added: it may have had as many there.
    floor = one.floor
    known = one.counts.get
    for key, count in other.counts.items():
        counts[key] = known(key, floor) + count
    if floor:
        for key in other.counts.keys() - one.counts.keys():
            errors[key] = errors.get(key, 0.0) + floor
    floor = other.floor
    if floor:
        for key in one.counts.keys() - other.counts.keys():
            counts[key] += floor
            errors[key] = errors.get(key, 0.0) + floor
    return Sketch(one.capacity, one.total + other.total, counts, errors)


def _largest(sketch: Sketch, capacity: int) -> Sketch:
    counts = sketch.counts
    if len(counts) > capacity:
        least = sorted(counts.values())[-capacity]
        kept = {key: count for key, count in counts.items() if count > least}
        equal = (key for key, count in counts.items() if count == least)
        kept.update(dict.fromkeys(islice(equal, capacity - len(kept)), least))
        counts = kept
    errors = {key: error for key, error in sketch.errors.items() if key in counts}
    return Sketch(capacity, sketch.total, counts, errors)
