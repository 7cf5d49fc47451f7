"""Verified mode: what is known of answers found by meaning, and whether that is enough to serve one. Pure.

An answer found by meaning is right when a fresh one would have said the same. Each comparison is an
`Observation`; `Evidence` adds them up, and serves a candidate while

    upper(share of wrong ones among scores from its own up) x risk(its cluster) x risk(its entry) <= budget

`upper` is an interval that may be watched (intervals.anytime); without evidence it is 1 and nothing is
served. The risks are observed over expected wrong ones, drawn to 1 by a few expected ones
(gamma-Poisson), so an entry that was never judged has that of the entries like it.

    source       what it teaches
    recheck      a random share of what was served, computed again: the only input to the published rate
    near_miss    what was computed anyway, beside the nearest stored answer
    feedback     somebody's word: blocks the pair, raises its entry's and cluster's risk; never a rate

When rechecks say that more than the budget is wrong by now, the shares are forgotten and learned anew.

The published idea (an error budget kept by learned thresholds) is that of Schroeder et al., "vCache",
2025; nothing else of it is here. See docs/design/0011-verified-mode.md.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import msgspec

from cache_management.cache.semantic.intervals import anytime, suspicion

Source = Literal["recheck", "near_miss", "feedback"]
Verdict = Literal["same", "different", "unsure"]

_BINS = 100  # of scores from 0 to 1
_DRAWN = 3.0  # expected wrong ones that draw a risk to 1
_HIGHEST_RISK = 100.0
_ENTRIES_KEPT = 20_000
_BLOCKED_KEPT = 50_000
_OLD = 20_000.0  # comparisons, from where on old ones count half
_ALARM = 1_000.0  # rechecks between false alarms, at least, when exactly as many as the budget allows are wrong


class Observation(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One comparison of a stored answer with a fresh one.

    `asked` and `entry` are digests of the question and of the stored entry's key, `cluster` names
    entries that are alike. `weight` is 1 / the probability with which it was looked at.
    """

    source: Source
    verdict: Verdict
    score: float
    asked: str
    entry: str
    cluster: int
    weight: float = 1.0


class _Tally(msgspec.Struct, array_like=True, gc=False):
    """How many there were by verdict, and the sum of their weights: how many they stand for."""

    same: float = 0.0
    different: float = 0.0
    unsure: float = 0.0
    weight: float = 0.0

    def add(self, verdict: Verdict, weight: float) -> None:
        setattr(self, verdict, getattr(self, verdict) + 1)
        self.weight += weight

    def halve(self) -> None:
        self.same, self.different, self.unsure = self.same / 2, self.different / 2, self.unsure / 2
        self.weight /= 2

    @property
    def wrong(self) -> float:
        return self.different + self.unsure

    @property
    def total(self) -> float:
        return self.same + self.different + self.unsure


class _Risk(msgspec.Struct, array_like=True, gc=False):
    wrong: float = 0.0
    expected: float = 0.0

    @property
    def ratio(self) -> float:
        return min((_DRAWN + self.wrong) / (_DRAWN + self.expected), _HIGHEST_RISK)


class Estimate(msgspec.Struct, frozen=True):
    """The share of wrong ones among the answers served by meaning, as far as it is known.

    `audited` is how many were computed again; with none of them nothing is known, and the interval is 0 to 1.
    Unsure ones count as wrong in `high`, as right in `low`.
    """

    rate: float
    low: float
    high: float
    audited: int


class FalseHits(msgspec.Struct, frozen=True):
    """What is known of wrong answers by meaning.

    `served` is of what was served, from rechecks alone. `candidates` counts the compared ones from the configured
    threshold up that were not served, `wrong` and `unsure` ones among them: what serving them would have
    meant. `threshold` is the score from which evidence lets an ordinary entry be served, None for none.
    """

    served: Estimate
    candidates: int
    wrong: int
    unsure: int
    blocked: int
    threshold: float | None
    budget: float


class State(msgspec.Struct, array_like=True):
    """All that is kept of the observations; small enough to be written as one record."""

    bins: list[_Tally]
    clusters: dict[int, _Risk]
    entries: dict[str, _Risk]
    blocked: list[tuple[str, str]]
    rechecks: dict[float, _Tally]  # by weight
    near_misses: list[_Tally]
    audited: int = 0
    seen: int = 0
    suspicion: list[float] = []  # see intervals.suspicion


class Evidence:
    """Adds observations up and judges candidates by them.

    Args:
        budget: The share of wrong ones that may be served, 0 to 1.
        judgements: How often somebody's word or an alarm changed what is refused, so far.
    """

    def __init__(self, budget: float, state: State | None = None, *, judgements: int = 0) -> None:
        self.budget = budget
        self.judgements = judgements
        state = state or State(
            [_Tally() for _ in range(_BINS + 1)], {}, {}, [], {}, [_Tally() for _ in range(_BINS + 1)]
        )
        self._state = state
        self._entries = OrderedDict(state.entries)
        self._blocked = OrderedDict.fromkeys(tuple(pair) for pair in state.blocked)
        self._uppers: list[float] | None = None

    @property
    def state(self) -> State:
        """Return what `State` keeps of it."""
        return msgspec.structs.replace(self._state, entries=dict(self._entries), blocked=list(self._blocked))

    @property
    def seen(self) -> int:
        """Return how many observations were added."""
        return self._state.seen

    def add(self, seen: Observation) -> None:
        """Learn from one comparison."""
        state = self._state
        state.seen += 1
        wrong = seen.verdict != "same"
        if seen.source == "feedback":
            self.judgements += 1
            pair = (seen.asked, seen.entry)
            if wrong:
                self._blocked[pair] = None
                while len(self._blocked) > _BLOCKED_KEPT:
                    self._blocked.popitem(last=False)
            else:
                self._blocked.pop(pair, None)
        else:
            state.bins[_bin(seen.score)].add(seen.verdict, seen.weight)
            self._uppers = None
            if sum(tally.total for tally in state.bins) > _OLD:
                self._grow_old()
        # Complaints come from the wrong ones only, so nothing was to be expected of the others.
        expected = 0.0 if seen.source == "feedback" else self._share(seen.score)
        for risk in (state.clusters.setdefault(seen.cluster, _Risk()), self._entry(seen.entry)):
            risk.wrong += wrong
            risk.expected += expected
        if seen.source == "near_miss":
            state.near_misses[_bin(seen.score)].add(seen.verdict, seen.weight)
        if seen.source == "recheck":
            state.rechecks.setdefault(seen.weight, _Tally()).add(seen.verdict, seen.weight)
            state.audited += 1
            state.suspicion = suspicion(state.suspicion, wrong=wrong, expected=self.budget)
            if sum(state.suspicion) >= _ALARM * len(state.suspicion):
                self.judgements += 1
                self._begin_anew()

    def refuses(self, score: float, *, asked: str, entry: str, cluster: int) -> str | None:
        """Return why a candidate must not be served: "feedback_block", "unverified", or None when it may be."""
        if (asked, entry) in self._blocked:
            return "feedback_block"
        held = self._entries.get(entry)
        risk = self._state.clusters.get(cluster, _Risk()).ratio * (1.0 if held is None else held.ratio)
        return "unverified" if self.upper(score) * risk > self.budget else None

    def upper(self, score: float) -> float:
        """Return the share of wrong ones among scores from this one up that is not exceeded with 95 %."""
        if self._uppers is None:
            self._uppers = self._fit()
        return self._uppers[_bin(score)]

    def threshold(self) -> float | None:
        """Return the lowest score that an entry of ordinary risk is served at, or None."""
        return next((at / _BINS for at in range(_BINS + 1) if self.upper(at / _BINS) <= self.budget), None)

    def estimate(self) -> Estimate:
        """Return the share of wrong ones among what was served, from rechecks alone."""
        strata = list(self._state.rechecks.values())
        if not strata:
            return Estimate(0.0, 0.0, 1.0, 0)
        wrong, unsure, count = _pooled(strata)
        low = anytime(wrong, count, expected=self.budget).low
        high = anytime(min(wrong + unsure, count), count, expected=self.budget).high
        return Estimate(wrong / count, low, high, self._state.audited)

    def summary(self, *, from_score: float) -> FalseHits:
        """Return what is known, of candidates from a score up."""
        near = self._state.near_misses[_bin(from_score) :]
        return FalseHits(
            served=self.estimate(),
            candidates=round(sum(tally.total for tally in near)),
            wrong=round(sum(tally.different for tally in near)),
            unsure=round(sum(tally.unsure for tally in near)),
            blocked=len(self._blocked),
            threshold=self.threshold(),
            budget=self.budget,
        )

    def _fit(self) -> list[float]:
        """Return `upper` for each bin: what lies higher is never worse, so the best of the bins below holds."""
        uppers = [1.0] * (_BINS + 1)
        above: list[_Tally] = []
        upper = 1.0
        for at in range(_BINS, -1, -1):
            if self._state.bins[at].total:
                above.append(self._state.bins[at])
                wrong, unsure, count = _pooled(above)
                upper = anytime(min(wrong + unsure, count), count, expected=self.budget).high
            uppers[at] = upper
        for at in range(1, _BINS + 1):
            uppers[at] = min(uppers[at], uppers[at - 1])
        return uppers

    def _share(self, score: float) -> float:
        """Return the share of wrong ones around a score, for what is to be expected of an entry."""
        at = _bin(score)
        near = self._state.bins[max(0, at - 2) : at + 3]
        total = sum(tally.total for tally in near)
        wrong = sum(tally.wrong for tally in near)
        return (wrong + self.budget) / (total + 1.0)

    def _entry(self, entry: str) -> _Risk:
        risk = self._entries.setdefault(entry, _Risk())
        self._entries.move_to_end(entry)
        while len(self._entries) > _ENTRIES_KEPT:
            self._entries.popitem(last=False)
        return risk

    def _begin_anew(self) -> None:
        """Forget how right answers were: what is asked is another thing now, and old evidence speaks for it no more."""
        self._state.bins = [_Tally() for _ in range(_BINS + 1)]
        self._state.suspicion = []
        self._uppers = None

    def _grow_old(self) -> None:
        for tally in (*self._state.bins, *self._state.rechecks.values()):
            tally.halve()


def _pooled(strata: Sequence[_Tally]) -> tuple[float, float, float]:
    """Return different, unsure and all of some strata together, each at the weight of what it stands for.

    As many are returned as an even sample would need to say as much: the shares of a stratum
    are known from all that was seen of it, whatever it weighs.
    """
    weight = sum(tally.weight for tally in strata)
    count = weight * weight / sum(tally.weight**2 / tally.total for tally in strata)
    different = sum(tally.weight * tally.different / tally.total for tally in strata) / weight
    unsure = sum(tally.weight * tally.unsure / tally.total for tally in strata) / weight
    return count * different, count * unsure, count


def _bin(score: float) -> int:
    return round(max(0.0, min(score, 1.0)) * _BINS)


_encode = msgspec.msgpack.Encoder().encode
_decode_observation = msgspec.msgpack.Decoder(Observation).decode


def encode_observation(seen: Observation) -> bytes:
    """Return an observation as a note of a journal."""
    return _encode(seen)


def decode_observation(note: bytes) -> Observation | None:
    """Return the observation of a note, or None for one that is none of ours."""
    try:
        return _decode_observation(note)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def encode_state(state: State, cursor: str) -> bytes:
    """Return what was added up to a cursor of the journal, as the value of a record."""
    return _encode((cursor, state))


def decode_state(value: bytes) -> tuple[str, State] | None:
    """Return cursor and state of a record's value, or None for bytes that are none of ours."""
    try:
        cursor, state = msgspec.msgpack.decode(value, type=tuple[str, State])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    is_whole = len(state.bins) == len(state.near_misses) == _BINS + 1
    return (cursor, state) if is_whole else None
