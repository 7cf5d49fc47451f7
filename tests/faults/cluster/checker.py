"""Says what a history proves to be wrong, by the real-time order of unique values. Pure; O(n log n) for each key.

It never alarms at a history that some order of the operations explains (sound). Without deletes and times to live it
also misses nothing: that is the theorem of zones. With deletes it may miss some, because reads of absence do not say
which delete they saw; `test_checker.py` compares it with an exhaustive search.

The zone of a value reaches from the first end to the last beginning among its write and its reads. Is the end before
the beginning (a *forward* zone), then the key held just this value all the time between.

Source: Gibbons and Korach, "Testing shared memories", 1997 (zones); the windows of absence are added here.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Literal

import msgspec

from tests.faults.cluster.history import Operation

Wrong = Literal[
    "lost",  # nothing is read, although a write was acknowledged and nothing took it away
    "stale",  # a value is read after a newer one was acknowledged or read
    "resurrected",  # a value is read after it was deleted
    "backwards",  # reads alternate between two values
    "invented",  # a value nobody had written, or not yet
    "foreign",  # a value of another key
    "denied",  # a value whose write was said to have surely not happened
    "expired",  # a value is read long after its time to live
]

TOLERANCE_NS = 300_000_000


class Violation(msgspec.Struct, frozen=True):
    """Something that no order of the operations explains; `operations` are those that contradict each other."""

    kind: Wrong
    key: str
    text: str
    operations: list[Operation]


def check(
    operations: Iterable[Operation], *, tolerance_ns: int = TOLERANCE_NS, may_evict: bool = False
) -> list[Violation]:
    """Return what is wrong, key by key. Every value must have been written once only.

    Args:
        operations: In any order; reads without an answer are left out.
        tolerance_ns: How far the end of a time to live may be off, either way.
        may_evict: Anything may be absent at any time; what is there must be right still, unless it was written
            beside what was evicted: then nothing is left that says which of the two is newer.
    """
    by_key: dict[str, list[Operation]] = defaultdict(list)
    written: dict[str, Operation] = {}
    for operation in operations:
        by_key[operation.key].append(operation)
        if operation.kind == "set" and operation.value is not None:
            if operation.value in written:
                raise ValueError(f"{operation.value!r} was written twice; the rules need unique values")
            written[operation.value] = operation
    found: list[Violation] = []
    for key, of_key in by_key.items():
        found += _Register(key, of_key, written, tolerance_ns).violations(may_evict=may_evict)
    return found


class _Zone:
    """One value: its write, who read it, and what that says about when the key held it."""

    def __init__(self, write: Operation, reads: Sequence[Operation]) -> None:
        self.write = write
        self.reads = reads
        ends = [_end(write), *(_end(read) for read in reads)]
        begins = [write.invoked, *(read.invoked for read in reads)]
        self.first_end: float = min(ends)
        self.last_begin: int = max(begins)
        self.is_certain = self.first_end < inf  # an unacknowledged write that nobody read may not have happened
        self.is_forward = self.first_end < self.last_begin

    def last_reader(self) -> Operation:
        return max((self.write, *self.reads), key=lambda operation: operation.invoked)


class _LatestBefore:
    """For moments: the largest value among items that ended strictly before them."""

    def __init__(self, items: Iterable[tuple[float, float]]) -> None:
        self._ends: list[float] = []
        self._largest: list[float] = []
        largest = -inf
        for end, value in sorted(items):
            largest = max(largest, value)
            self._ends.append(end)
            self._largest.append(largest)

    def before(self, moment: float) -> float:
        at = bisect_left(self._ends, moment)
        return self._largest[at - 1] if at else -inf

    def until(self, moment: float) -> float:
        at = bisect_right(self._ends, moment)
        return self._largest[at - 1] if at else -inf


class _Forward:
    """Finds a forward zone that holds a whole interval strictly inside."""

    def __init__(self, zones: Iterable[tuple[float, float, _Zone]]) -> None:
        self._begins: list[float] = []
        self._widest: list[tuple[float, _Zone]] = []
        widest: tuple[float, _Zone] | None = None
        for begin, end, zone in sorted(zones, key=lambda item: item[:2]):
            if widest is None or end > widest[0]:
                widest = (end, zone)
            self._begins.append(begin)
            self._widest.append(widest)

    def around(self, begin: float, end: float) -> _Zone | None:
        at = bisect_left(self._begins, begin)
        if not at:
            return None
        reach, zone = self._widest[at - 1]
        return zone if reach > end else None


class _Register:
    """The operations of one key."""

    def __init__(
        self, key: str, operations: Sequence[Operation], written: Mapping[str, Operation], tolerance_ns: int
    ) -> None:
        self._key = key
        self._written = written
        self._tolerance = tolerance_ns
        self._found: list[Violation] = []
        self._told: set[int] = set()  # absences that are explained to be wrong already
        kinds: dict[str, list[Operation]] = defaultdict(list)
        for operation in sorted(operations, key=lambda each: each.invoked):
            if not operation.is_refused:
                kinds[operation.kind].append(operation)
        self._deletes = kinds["delete"]
        self._absences = [each for each in kinds["get"] + kinds["exists"] if each.value is None]
        self._presences = [each for each in kinds["exists"] if each.value is not None]
        reads = self._dictated([each for each in kinds["get"] if each.value is not None])
        self._zones = [_Zone(write, reads.get(str(write.value), ())) for write in kinds["set"]]
        self._passing = [zone for zone in self._zones if zone.write.ttl_ns is not None]
        forward = [zone for zone in self._zones if zone.is_forward]
        self._values = _Forward((zone.first_end, zone.last_begin, zone) for zone in forward)
        # Two clients may see the end of a time to live at moments a little apart.
        self._unexpired = _Forward(
            (zone.first_end, min(zone.last_begin, self._expires_from(zone.write)), zone) for zone in forward
        )

    def violations(self, *, may_evict: bool) -> list[Violation]:
        self._values_in_order(may_evict=may_evict)
        self._deleted_and_read()
        if may_evict:
            return self._found
        sources = self._sources()
        self._absent_between_reads(sources)
        self._absent_without_a_cause(sources)
        self._present_without_a_value()
        return self._found

    def _alarm(self, kind: Wrong, text: str, *operations: Operation) -> None:
        self._found.append(Violation(kind, self._key, text, list(operations)))

    def _expires_from(self, write: Operation) -> float:
        return inf if write.ttl_ns is None else write.invoked + write.ttl_ns - self._tolerance

    def _expires_until(self, write: Operation) -> float:
        # What is unacknowledged may arrive late, and then lives from then on.
        return inf if write.ttl_ns is None else _end(write) + write.ttl_ns + self._tolerance

    def _dictated(self, reads: Sequence[Operation]) -> dict[str, list[Operation]]:
        """Group the reads by value, and sort out those that no write explains."""
        grouped: dict[str, list[Operation]] = defaultdict(list)
        for read in reads:
            write = self._written.get(str(read.value))
            if write is None:
                self._alarm("invented", f"{read.value} was never written", read)
            elif write.key != self._key:
                self._alarm("foreign", f"{read.value} was written to {write.key}", write, read)
            elif write.is_refused:
                self._alarm("denied", f"{read.value} was said not to have been written", write, read)
            elif _end(read) < write.invoked:
                self._alarm("invented", f"{read.value} was read before it was written", write, read)
            elif read.invoked > self._expires_until(write):
                self._alarm("expired", f"{read.value} was read after its time to live", write, read)
            else:
                grouped[str(read.value)].append(read)
        return grouped

    def _values_in_order(self, *, may_evict: bool) -> None:
        reach, widest = -inf, None
        for zone in sorted((each for each in self._zones if each.is_forward), key=lambda each: each.first_end):
            if widest is not None and reach > zone.first_end:
                self._out_of_order(widest, zone, may_evict=may_evict)
            if zone.last_begin > reach:
                reach, widest = zone.last_begin, zone
        for zone in self._zones:
            if zone.is_certain and not zone.is_forward:
                around = self._values.around(zone.last_begin, zone.first_end)
                if around is not None:
                    self._out_of_order(around, zone, may_evict=may_evict)

    def _out_of_order(self, older: _Zone, newer: _Zone, *, may_evict: bool) -> None:
        if may_evict and _end(older.write) >= newer.write.invoked:
            return
        read_again = older.last_reader()
        involved = (older.write, newer.write, min((newer.write, *newer.reads), key=_end), read_again)
        if newer.write.invoked > older.first_end or not newer.is_forward:
            self._alarm("stale", f"{older.write.value} was read after the newer {newer.write.value}", *involved)
        else:
            self._alarm("backwards", f"{older.write.value} and {newer.write.value} were read alternately", *involved)

    def _deleted_and_read(self) -> None:
        for delete in self._deletes:
            zone = self._values.around(delete.invoked, _end(delete))
            if zone is not None:
                self._alarm(
                    "resurrected", f"{zone.write.value} was read after a delete", zone.write, delete, zone.last_reader()
                )

    # Absence. It begins with a *source*: a delete, or the end of a time to live, which each happen once.

    def _sources(self) -> list[tuple[float, float, Operation]]:
        """Return for each source from when on it can act, and until when it can have acted."""
        deletes: list[tuple[float, float, Operation]] = [(each.invoked, _end(each), each) for each in self._deletes]
        expiries: list[tuple[float, float, Operation]] = []
        for zone in self._zones:
            if zone.write.ttl_ns is not None:
                # A value can expire as long as it is the last one, so never after another replaced it.
                seen = [self._sight(each) for each in self._presences if self._may_be(each, zone.write)]
                until = max(zone.first_end, zone.last_begin, *seen)
                expiries.append((self._expires_from(zone.write), until, zone.write))
        return sorted(deletes + expiries, key=lambda source: source[:2])

    def _sightings(self) -> _LatestBefore:
        """For a moment: until when, at least, the key held something, by operations that had ended."""
        seen: list[tuple[float, float]] = [(_end(each), self._sight(each)) for each in self._presences]
        for zone in self._zones:
            write, expires_from = zone.write, self._expires_from(zone.write)
            if _end(write) < inf:
                seen.append((_end(write), min(write.invoked, expires_from)))
            seen += [(_end(read), min(max(read.invoked, write.invoked), expires_from)) for read in zone.reads]
        return _LatestBefore(seen)

    def _sight(self, presence: Operation) -> float:
        # Near the end of a time to live one client still sees what is gone for another.
        ends = [self._expires_from(zone.write) for zone in self._passing if self._may_be(presence, zone.write)]
        return min(presence.invoked, *ends, inf)

    def _may_be(self, presence: Operation, write: Operation) -> bool:
        return write.invoked <= _end(presence) and presence.invoked <= self._expires_until(write)

    def _absent_between_reads(self, sources: Sequence[tuple[float, float, Operation]]) -> None:
        for read in self._absences:
            zone = self._unexpired.around(read.invoked, _end(read))
            if zone is None:
                continue
            self._told.add(id(read))
            was_deleted = any(begin <= _end(read) and zone.write.invoked <= until for begin, until, _ in sources)
            self._alarm(
                "resurrected" if was_deleted else "lost",
                f"nothing was read, then {zone.write.value} again",
                zone.write,
                read,
                zone.last_reader(),
            )

    def _absent_without_a_cause(self, sources: Sequence[tuple[float, float, Operation]]) -> None:
        present_at = self._sightings()
        can_act = _LatestBefore((begin, until) for begin, until, _ in sources)
        unused: list[tuple[float, int]] = []
        taken = 0
        last_end = -inf
        for read in sorted(self._absences, key=_end):
            since = present_at.before(read.invoked)
            if since == -inf or id(read) in self._told:
                continue  # nothing was there yet, or told
            if can_act.until(_end(read)) < since:
                self._alarm(
                    "lost", "nothing was read, and nothing had taken the value away", *self._last_sight(read), read
                )
                continue
            if since <= last_end:
                continue  # may be the same absence as the one before
            # Between the two the key held something: this absence needs a source of its own.
            while taken < len(sources) and sources[taken][0] <= _end(read):
                heapq.heappush(unused, (sources[taken][1], taken))
                taken += 1
            while unused and unused[0][0] < since:
                heapq.heappop(unused)
            if not unused:
                self._alarm("lost", "nothing was read more often than deletes explain", *self._last_sight(read), read)
                continue
            heapq.heappop(unused)
            last_end = _end(read)

    def _last_sight(self, read: Operation) -> list[Operation]:
        seen = [each for zone in self._zones for each in (zone.write, *zone.reads) if _end(each) < read.invoked]
        seen += [each for each in self._presences if _end(each) < read.invoked]
        return [max(seen, key=lambda each: each.invoked)] if seen else []

    def _present_without_a_value(self) -> None:
        if not self._presences:
            return
        gone = [each for each in self._deletes if each.returned is not None]
        gone_at = _LatestBefore((_end(each), each.invoked) for each in gone + self._absences)
        deleted_at = _LatestBefore((_end(each), each.invoked) for each in gone)
        lasting = _LatestBefore(
            (zone.write.invoked, zone.first_end) for zone in self._zones if zone.write.ttl_ns is None
        )
        for read in self._presences:
            possible = lasting.until(_end(read))
            if possible > -inf and possible >= gone_at.before(read.invoked):
                continue
            deleted = deleted_at.before(read.invoked)
            if any(zone.first_end >= deleted and self._may_be(read, zone.write) for zone in self._passing):
                continue
            has_begun = any(zone.write.invoked <= _end(read) for zone in self._zones)
            self._alarm(
                "resurrected" if has_begun else "invented",
                "something was there that was gone or never written",
                read,
            )


def _end(operation: Operation) -> float:
    return inf if operation.returned is None else operation.returned
