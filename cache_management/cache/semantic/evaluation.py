"""What a threshold and the gates do to labelled pairs. Pure: scores and vetoes come in, counts go out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from cache_management.cache.errors import InvalidInput
from cache_management.cache.semantic.decision import reaches
from cache_management.cache.semantic.evidence import Evidence, Observation, Verdict
from cache_management.cache.semantic.intervals import Interval, wilson
from cache_management.cache.semantic.pairs import LabelledPair

TABLE_THRESHOLDS = (0.70, 0.75, 0.80, 0.85, 0.90, 0.95)
_RECHECKED = 0.05
_MOST_CATEGORIES = 40  # beyond so many, those with few pairs stand together
FEW = 20
"""Of fewer pairs than this nothing can be said."""
CURVE = tuple(at / 100 for at in range(50, 101))


class Judged(msgspec.Struct, frozen=True):
    """A labelled pair with its similarity (cosine; None when the model cannot read a text whole) and vetoes."""

    pair: LabelledPair
    score: float | None
    vetoes: tuple[str, ...]
    cluster: int = 0


class Outcome(msgspec.Struct, frozen=True):
    """What was served of some pairs. `served` right and wrong ones, out of so many of each."""

    right: int
    wrong: int
    positives: int
    negatives: int

    @property
    def precision(self) -> Interval:
        """Return the share of right ones among those served."""
        return wilson(self.right, self.right + self.wrong)

    @property
    def recall(self) -> Interval:
        """Return the share of the pairs with one answer that is served."""
        return wilson(self.right, self.positives)

    @property
    def false_hits(self) -> Interval:
        """Return the share of the pairs with two answers that is served."""
        return wilson(self.wrong, self.negatives)

    @property
    def hit_ratio(self) -> float:
        """Return the share of all pairs that is served."""
        return (self.right + self.wrong) / max(1, self.positives + self.negatives)

    def to_json(self) -> dict[str, Any]:
        """Return the counts and shares, each with its 95 % interval (Wilson)."""
        found: dict[str, Any] = msgspec.structs.asdict(self)
        for name in ("precision", "recall", "false_hits"):
            low, share, high = getattr(self, name)
            found[name] = {"share": share, "low": low, "high": high}
        return {**found, "hit_ratio": self.hit_ratio}


Serves = Callable[[Judged], bool]


def by_cosine(threshold: float) -> Serves:
    """Serve what reaches the threshold."""
    return lambda each: each.score is not None and reaches(each.score, threshold)


def by_gates(threshold: float, *, off: Iterable[str] = ()) -> Serves:
    """Serve what reaches the threshold and no gate refuses."""
    ignored = frozenset(off)
    return lambda each: each.score is not None and reaches(each.score, threshold) and not set(each.vetoes) - ignored


def by_veto(gate: str) -> Serves:
    """Take what a gate refuses."""
    return lambda each: gate in each.vetoes


def outcome(judged: Sequence[Judged], serves: Serves) -> Outcome:
    """Count what is served."""
    right = wrong = positives = 0
    for each in judged:
        positives += each.pair.same
        if serves(each):
            right += each.pair.same
            wrong += not each.pair.same
    return Outcome(right, wrong, positives, len(judged) - positives)


def verified(judged: Sequence[Judged], threshold: float, *, budget: float, seed: int = 0) -> Outcome:
    """Ask the pairs one after the other, in random order, under an error budget; count what is served.

    What is not served is computed and compared, and so is a twentieth of what is served; the labels
    say how the comparison ends.
    """
    rng = random.Random(seed)  # noqa: S311 - a simulation that must come out the same again
    evidence = Evidence(budget)
    near = [each for each in judged if by_gates(threshold)(each)]
    right = wrong = 0
    for each in rng.sample(near, len(near)):
        score, asked, entry = each.score or 0.0, each.pair.asked, each.pair.stored
        verdict: Verdict = "same" if each.pair.same else "different"
        if evidence.refuses(score, asked=asked, entry=entry, cluster=each.cluster) is not None:
            evidence.add(Observation("near_miss", verdict, score, asked, entry, each.cluster))
            continue
        right += each.pair.same
        wrong += not each.pair.same
        if rng.random() < _RECHECKED:
            evidence.add(Observation("recheck", verdict, score, asked, entry, each.cluster, 1 / _RECHECKED))
    positives = sum(each.pair.same for each in judged)
    return Outcome(right, wrong, positives, len(judged) - positives)


def mean_precision(curve: Sequence[Outcome], *, up_to: float) -> float | None:
    """Return the mean precision over the cache-hit ratios from 0 to `up_to`; `curve` goes from low to high thresholds.

    Curves are compared over ratios that all of them reach: gates end earlier than cosine alone. None where it means
    nothing: few pairs, or all of one label, or none served.
    """
    of = curve[0]
    if not (up_to and of.positives and of.negatives) or of.positives + of.negatives < FEW:
        return None
    found = last_ratio = 0.0
    last_precision: float | None = None
    for point in reversed(curve):
        if not point.right + point.wrong:
            continue
        precision, ratio = point.precision.share, min(point.hit_ratio, up_to)
        # Nothing is known below the first ratio: as it is there.
        found += (ratio - last_ratio) * (precision + (precision if last_precision is None else last_precision)) / 2
        last_ratio, last_precision = ratio, precision
    return found / up_to


def split(judged: Sequence[Judged]) -> tuple[list[Judged], list[Judged]]:
    """Return two halves: one to choose by, one to report on. Texts that occur twice stay together."""
    order: dict[str, int] = {}
    halves: tuple[list[Judged], list[Judged]] = ([], [])
    for each in judged:
        at = order.setdefault(each.pair.asked, len(order))
        halves[at % 2].append(each)
    return halves


class Tuned(msgspec.Struct, frozen=True):
    """A threshold that was chosen on one half of the pairs, and what it does to the other.

    `threshold` is None where none can be recommended, which `why_not` explains; the outcomes then count what there is,
    or are those of the best one. `doubts` say why a recommendation is worth little.
    """

    threshold: float | None
    chosen_on: Outcome
    reported_on: Outcome
    why_not: str | None = None
    doubts: tuple[str, ...] = ()


def tune(judged: Sequence[Judged], *, precision: float) -> Tuned:
    """Return the lowest threshold whose precision, gates on, is wanted, on one half; and what the other half says.

    Raises:
        InvalidInput: The wanted precision is no share.
    """
    if not 0 < precision <= 1:
        raise InvalidInput(f"a precision of {precision} is no share; take a number above 0, up to 1")
    ours, others = split(judged)
    halves = outcome(ours, _nothing), outcome(others, _nothing)
    doubts = tuple(_doubts(*halves))
    missing = _missing(*halves)
    if missing is not None:
        return Tuned(None, *halves, missing, doubts)
    best: tuple[Outcome, float] | None = None
    for at in CURVE:
        found = outcome(ours, by_gates(at))
        if not found.right + found.wrong:
            continue
        if found.precision.share >= precision:
            return Tuned(at, found, outcome(others, by_gates(at)), None, doubts)
        if best is None or found.precision.share > best[0].precision.share:
            best = found, at
    if best is None:
        why = f"nothing is served at any threshold from {CURVE[0]:g} up: gates refuse it, or texts are too far apart"
        return Tuned(None, *halves, why, doubts)
    found, at = best
    why = (
        f"no threshold reaches a precision of {precision:g} on these pairs; the best has {found.precision.share:.3f}"
        f" ({found.right} of {found.right + found.wrong} right, at {at:.2f})"
    )
    return Tuned(None, found, outcome(others, by_gates(at)), why, doubts)


def _nothing(_: Judged) -> bool:
    return False


def _missing(ours: Outcome, others: Outcome) -> str | None:
    """Return which pairs a threshold cannot be chosen without."""
    if not ours.negatives + others.negatives:
        return (
            "no pair has label 0 (two answers are needed), and without such pairs every threshold looks right;"
            " add some, above all of questions that are close"
        )
    if not ours.positives + others.positives:
        return "no pair has label 1 (one answer serves both), so there is nothing right to serve; add some"
    for label, count in ((0, ours.negatives), (1, ours.positives)):
        if not count:
            return f"the half to choose by has no pair with label {label}; add pairs with other texts"
    return None


def _doubts(ours: Outcome, others: Outcome) -> Iterator[str]:
    counts = ((1, ours.positives, others.positives), (0, ours.negatives, others.negatives))
    for label, one, other in counts:
        if one + other < FEW:
            yield f"pairs with label {label}: {one + other}; fewer than {FEW} say little about a threshold"
        elif not other:
            yield f"the other half has no pair with label {label}, and says nothing about them"


class Report(msgspec.Struct, frozen=True):
    """All that `evaluate` finds about the pairs of one kind."""

    kind: str
    threshold: float
    encoder: str
    gates_version: int
    pairs: int
    unreadable: int
    cosine: dict[float, Outcome]
    gated: dict[float, Outcome]
    verified: Outcome
    budget: float
    curve_cosine: list[Outcome]
    curve_gated: list[Outcome]
    mean_precision_cosine: float | None
    mean_precision_gated: float | None
    by_category: dict[str, tuple[Outcome, Outcome]]
    by_gate: dict[str, Outcome]
    without_gate: dict[str, Outcome]
    examples: list[Judged]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "kind": self.kind,
            "threshold": self.threshold,
            "encoder": self.encoder,
            "gates_version": self.gates_version,
            "pairs": self.pairs,
            "unreadable": self.unreadable,
            "cosine": {f"{at:.2f}": found.to_json() for at, found in self.cosine.items()},
            "gated": {f"{at:.2f}": found.to_json() for at, found in self.gated.items()},
            "verified": {"budget": self.budget, **self.verified.to_json()},
            "curve": [
                {"threshold": at, "cosine": one.to_json(), "gated": other.to_json()}
                for at, one, other in zip(CURVE, self.curve_cosine, self.curve_gated, strict=True)
            ],
            "mean_precision": {"cosine": self.mean_precision_cosine, "gated": self.mean_precision_gated},
            "by_category": {
                name: {"cosine": one.to_json(), "gated": other.to_json()}
                for name, (one, other) in self.by_category.items()
            },
            "by_gate": {name: found.to_json() for name, found in self.by_gate.items()},
            "without_gate": {name: found.to_json() for name, found in self.without_gate.items()},
            "wrongly_served": [
                {
                    "asked": each.pair.asked,
                    "stored": each.pair.stored,
                    "score": each.score,
                    "category": each.pair.category,
                }
                for each in self.examples
            ],
        }


def evaluate(
    judged: Sequence[Judged],
    *,
    kind: str,
    threshold: float,
    encoder: str,
    gates_version: int,
    gates: Sequence[str],
    budget: float,
) -> Report:
    """Return what thresholds, gates and verified mode do to the pairs of one kind."""
    served = by_gates(threshold)
    near = by_cosine(threshold)
    many = Counter(each.pair.category for each in judged)
    small = {name for name, count in many.items() if count < FEW} if len(many) > _MOST_CATEGORIES else set()
    grouped: dict[str, list[Judged]] = {}
    for each in judged:
        name = f"{len(small)} small ones" if each.pair.category in small else each.pair.category
        grouped.setdefault(name, []).append(each)
    curve_cosine = [outcome(judged, by_cosine(at)) for at in CURVE]
    curve_gated = [outcome(judged, by_gates(at)) for at in CURVE]
    reached = min(curve_cosine[0].hit_ratio, curve_gated[0].hit_ratio)
    wrong = [each for each in judged if served(each) and not each.pair.same]
    return Report(
        kind=kind,
        threshold=threshold,
        encoder=encoder,
        gates_version=gates_version,
        pairs=len(judged),
        unreadable=sum(each.score is None for each in judged),
        cosine={at: outcome(judged, by_cosine(at)) for at in TABLE_THRESHOLDS},
        gated={at: outcome(judged, by_gates(at)) for at in TABLE_THRESHOLDS},
        verified=verified(judged, threshold, budget=budget),
        budget=budget,
        curve_cosine=curve_cosine,
        curve_gated=curve_gated,
        mean_precision_cosine=mean_precision(curve_cosine, up_to=reached),
        mean_precision_gated=mean_precision(curve_gated, up_to=reached),
        by_category={name: (outcome(rows, near), outcome(rows, served)) for name, rows in sorted(grouped.items())},
        # What a gate refuses of what is near enough: `right` is recall lost, `wrong` are false hits prevented.
        by_gate={name: outcome([*filter(near, judged)], by_veto(name)) for name in gates},
        without_gate={name: outcome(judged, by_gates(threshold, off=[name])) for name in gates},
        examples=sorted(wrong, key=lambda each: -(each.score or 0.0))[:50],
    )
