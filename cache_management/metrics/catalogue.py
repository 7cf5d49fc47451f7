"""Every metric that a cache's process counts, with every value of its labels: what there can be is known beforehand.

So all of it fits into one row of numbers of a fixed length (`cells.py`), no label grows without bound, every series is
there from the beginning (one that begins with its first event hides that event from `increase`), and rows are added up
number by number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Literal, get_args

import msgspec

from cache_management.cache.admission import Refusal
from cache_management.cache.config import GATE_NAMES
from cache_management.cache.events import HitKind, NodeChange, StepsWhat
from cache_management.metrics.families import Family, Sample
from cache_management.metrics.latencies import BOUNDS, BUCKETS, Distribution

OTHER = "other"
"""Stands for a word that is not in the catalogue, such as a reason that a later version tells."""

Result = Literal["exact", "semantic", "miss", "unknown"]

_MISSES = (
    *("absent", "expired", "corrupt", "degraded", "bypass", "no_candidate", "below_threshold", "vetoed"),
    *("unverified", "ineligible_turn", OTHER),
)
_BACKENDS = ("memory", "disk", "redis", "redis cluster", "replicated", OTHER)
_GATES = (*GATE_NAMES, "second_opinion", "feedback_block", "unverified", OTHER)


class Metric(msgspec.Struct, frozen=True):
    """One metric: the names of its labels, and the values that each may have."""

    name: str
    type: Literal["counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()

    @property
    def series(self) -> Iterator[tuple[str, ...]]:
        """Yield the values of the labels of every series."""
        return product(*self.values)

    @property
    def cells(self) -> int:
        """Return how many numbers one series takes."""
        return 1 if self.type == "counter" else BUCKETS + 1


CATALOGUE: tuple[Metric, ...] = (
    Metric("cache_hits_total", "counter", "Answers served from the cache.", ("kind",), (get_args(HitKind),)),
    Metric("cache_misses_total", "counter", "Lookups that found nothing to serve.", ("reason",), (_MISSES,)),
    Metric("cache_get_seconds", "histogram", "How long lookups took.", ("result",), (get_args(Result),)),
    Metric("cache_tokens_saved_total", "counter", "Tokens that were served instead of generated."),
    Metric("cache_stores_total", "counter", "Entries stored."),
    Metric("cache_stored_bytes_total", "counter", "Bytes of the entries stored."),
    Metric("cache_set_seconds", "histogram", "How long storing an entry took."),
    Metric(
        "cache_removals_total",
        "counter",
        "Entries removed: deleted, evicted, or dropped past their life.",
        ("reason",),
        (("delete", "evicted", "expired"),),
    ),
    Metric(
        "cache_refusals_total",
        "counter",
        "Computed answers that were given to the caller and not stored.",
        ("reason",),
        ((*(each.value for each in Refusal), OTHER),),
    ),
    Metric(
        "cache_compute_seconds",
        "histogram",
        "How long computing an answer took; in the background nobody waited.",
        ("where",),
        (("foreground", "background"),),
    ),
    Metric(
        "cache_stale_served_total",
        "counter",
        "Answers served past their time.",
        ("reason",),
        (("revalidate", "error"),),
    ),
    Metric(
        "cache_vetoes_total",
        "counter",
        "Candidates near enough to be served that something refused.",
        ("gate",),
        (_GATES,),
    ),
    Metric(
        "cache_judgements_total",
        "counter",
        "Stored answers compared with fresh ones, or judged by somebody.",
        ("source", "verdict"),
        (("recheck", "near_miss", "feedback", OTHER), ("same", "different", "unsure", OTHER)),
    ),
    Metric("cache_corrupt_records_total", "counter", "Stored records that failed their check and were not served."),
    Metric("cache_store_failures_total", "counter", "Calls of the store that failed.", ("backend",), (_BACKENDS,)),
    Metric("cache_reasoning_hits_total", "counter", "Reasoning results served from the cache."),
    Metric("cache_reasoning_misses_total", "counter", "Lookups of reasoning that found nothing to serve."),
    Metric("cache_reasoning_stores_total", "counter", "Reasoning results stored."),
    Metric(
        "cache_reasoning_steps_total", "counter", "What became of reasoning steps.", ("what",), (get_args(StepsWhat),)
    ),
    Metric("cache_reasoning_tokens_saved_total", "counter", "Tokens of steps that were reused instead of generated."),
    Metric(
        "cache_node_changes_total",
        "counter",
        "What befell the nodes of a replicated cache, as this process saw it.",
        ("what",),
        (get_args(NodeChange),),
    ),
)


def _lay_out() -> tuple[dict[str, dict[tuple[str, ...], int]], int]:
    """Give every series its place; return the places and how many numbers there are."""
    places: dict[str, dict[tuple[str, ...], int]] = {}
    length = 0
    for metric in CATALOGUE:
        places[metric.name] = {}
        for labels in metric.series:
            places[metric.name][labels] = length
            length += metric.cells
    return places, length


_PLACES, LENGTH = _lay_out()

LAYOUT = hashlib.sha256(repr(([(each.name, each.type, each.values) for each in CATALOGUE], BOUNDS)).encode()).digest()[
    :16
]
"""Names what stands where: rows of different layouts cannot be added up."""


def places(name: str) -> dict[tuple[str, ...], int]:
    """Return where the series of a metric begin, by the values of its labels."""
    return _PLACES[name]


def words(name: str) -> dict[str, int]:
    """Return where the series of a metric with one label begin, by the value of that label."""
    return {labels[0]: place for labels, place in _PLACES[name].items()}


def families(row: Sequence[float]) -> list[Family]:
    """Return what a row of numbers says."""
    return [
        Family(
            metric.name,
            metric.type,
            metric.help,
            metric.labels,
            [Sample(labels, _value(metric, row, place)) for labels, place in _PLACES[metric.name].items()],
        )
        for metric in CATALOGUE
    ]


def _value(metric: Metric, row: Sequence[float], place: int) -> float | Distribution:
    return row[place] if metric.type == "counter" else distribution(row, place)


def distribution(row: Sequence[float], place: int) -> Distribution:
    """Return the distribution that begins at a place of a row."""
    return Distribution(tuple(row[place : place + BUCKETS]), row[place + BUCKETS])
