"""What is told of queues, jobs, store and use, as metrics; nothing here asks or waits. `exporter.py` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from cache_management.metrics.families import Family, Sample
from cache_management.models.job import LIVE, TERMINAL
from cache_management.models.store.census import Census, JobTally
from cache_management.models.store.results import Mark
from cache_management.models.usage import UsageRow
from cache_management.workers.messages import PARAMS
from cache_management.workers.queues import QueueView, Waiting, view_queues
from cache_management.workers.store_watch import StoreView

OTHER = "other"
_NODE_STATES = ("member", "syncing", "out", "unreachable", "unused")
_OUTCOMES = ("done", "skipped", "failed", "cancelled")


def job_families(census: Census | None) -> list[Family]:
    """Tell of jobs; of an unknown number of them nothing but that."""
    up = _gauge("cache_jobs_up", "Whether the metadata database answered.", (), [Sample((), float(census is not None))])
    if census is None:
        return [up]
    every = [*census.kept, *census.pruned]
    live = _by_kind(((tally.kind, tally.state), tally.jobs) for tally in census.kept if tally.state in LIVE)
    ended = _by_kind(((tally.kind, tally.state), tally.jobs) for tally in every if tally.state in TERMINAL)
    items = _by_kind(((tally.kind, outcome), getattr(tally, outcome)) for tally in every for outcome in _OUTCOMES)
    by_kind = ("kind",)
    return [
        up,
        _gauge("cache_jobs", "Jobs that have not ended.", ("kind", "state"), _filled(live, LIVE)),
        _counter("cache_jobs_ended_total", "Jobs that have ended.", ("kind", "state"), _filled(ended, TERMINAL)),
        _counter("cache_job_items_total", "Items that jobs settled.", ("kind", "outcome"), _filled(items, _OUTCOMES)),
        _counter("cache_job_bytes_total", "Bytes that jobs stored, moved or freed.", by_kind, _sums(every, "bytes")),
        _counter(
            "cache_job_cost_dollars_total",
            "What providers were paid.",
            by_kind,
            # Summed as whole micro-dollars: sums of fractions could come out a hair lower the next time.
            [Sample((kind,), micro / 1e6) for kind, micro in _by(every, "cost_micro").items()],
        ),
        _gauge(
            "cache_job_dead_items", "Failed items that are kept for a retry.", by_kind, _sums(census.kept, "failed")
        ),
        _gauge("cache_job_shards_running", "Shards that a worker is at.", by_kind, _of_kinds(census.running)),
        _gauge(
            "cache_job_shards_lease_expired",
            "Shards whose worker went silent and that nobody has taken over.",
            by_kind,
            _of_kinds(census.expired),
        ),
        _gauge(
            "cache_job_oldest_age_seconds",
            "Age of the oldest job that has not ended; 0 without one.",
            by_kind,
            _of_kinds(census.oldest, merge=max),
        ),
    ]


def queue_families(waiting: Mapping[str, Waiting] | None, marks: Sequence[Mark] | None) -> list[Family]:
    """Tell of queues; without `marks`, which the database keeps, not of who takes from them."""
    up = _gauge("cache_broker_up", "Whether the broker answered.", (), [Sample((), float(waiting is not None))])
    if waiting is None:
        return [up]
    views = view_queues(waiting, marks, now=datetime.now(UTC))

    def of_queues(name: str, what: str, value: Callable[[QueueView], float | None]) -> Family:
        found = ((view.queue, value(view)) for view in views)
        samples = [Sample((queue,), float(number)) for queue, number in found if number is not None]
        return _gauge(name, what, ("queue",), samples)

    told = [
        up,
        of_queues("cache_queue_depth", "Messages that wait.", lambda view: view.depth),
        of_queues(
            "cache_queue_oldest_age_seconds",
            "Age of the message that waits longest; 0 when none does.",
            lambda view: view.oldest_seconds or 0,
        ),
        of_queues("cache_queue_unacked", "Messages that were delivered and are not done.", lambda view: view.unacked),
    ]
    if marks is not None:
        told += [
            of_queues(
                "cache_queue_last_taken_age_seconds",
                "Since a worker last took something; absent when none did for a day.",
                lambda view: view.mark_age_seconds,
            ),
            of_queues("cache_queue_workers", "Workers that took something lately.", lambda view: view.workers),
            of_queues(
                "cache_queue_stuck", "Whether something waits and nobody takes it.", lambda view: float(view.stuck)
            ),
        ]
    return told


def store_families(store: StoreView | None) -> list[Family]:
    """Tell of the store that holds the entries; of one that does not answer nothing but that."""
    up = _gauge("cache_store_up", "Whether the cache store answered.", (), [Sample((), float(store is not None))])
    if store is None:
        return [up]
    told = [up]
    if store.used_bytes is not None:
        told.append(_gauge("cache_store_used_bytes", "Bytes that the store takes.", (), [_one(store.used_bytes)]))
    if store.limit_bytes:
        told.append(_gauge("cache_store_limit_bytes", "Bytes that it may take.", (), [_one(store.limit_bytes)]))
    if store.nodes:
        states = [
            Sample((node.address, state), float(node.state == state)) for node in store.nodes for state in _NODE_STATES
        ]
        told.append(
            _gauge("cache_node_state", "How a node of a replicated cache stands: 1.", ("node", "state"), states)
        )
        fill = [node for node in store.nodes if node.used_bytes is not None]
        told.append(
            _gauge(
                "cache_node_used_bytes",
                "Bytes that a node takes.",
                ("node",),
                [Sample((node.address,), float(node.used_bytes or 0)) for node in fill],
            )
        )
    return told


def usage_families(rows: Sequence[UsageRow] | None) -> list[Family]:
    """Tell how all applications used the cache, as far as their notes were added up: a minute or so behind."""
    if rows is None:
        return []
    hits, semantic = sum(row.hits for row in rows), sum(row.semantic_hits for row in rows)
    return [
        _counter(
            "cache_usage_hits_total",
            "Answers served to all applications.",
            ("kind",),
            [Sample(("exact",), hits), Sample(("semantic",), semantic)],
        ),
        _counter(
            "cache_usage_misses_total",
            "Lookups of all applications that found nothing.",
            (),
            [_one(sum(row.misses for row in rows))],
        ),
        _counter(
            "cache_usage_tokens_saved_total",
            "Tokens served to all applications instead of generated.",
            (),
            [_one(sum(row.tokens_saved for row in rows))],
        ),
        _counter(
            "cache_usage_saved_dollars_total",
            "What generating them would have cost.",
            (),
            [_one(sum(row.saved_micro for row in rows) / 1e6)],
        ),
    ]


def _one(value: float) -> Sample:
    return Sample((), float(value))


def _gauge(name: str, what: str, labels: tuple[str, ...], samples: list[Sample]) -> Family:
    return Family(name, "gauge", what, labels, samples)


def _counter(name: str, what: str, labels: tuple[str, ...], samples: list[Sample]) -> Family:
    return Family(name, "counter", what, labels, samples)


def _known(kind: str) -> str:
    """Bound the label: a kind that this version does not know shares one value with the others."""
    return kind if kind in PARAMS else OTHER


def _by_kind(numbers: Iterable[tuple[tuple[str, str], int]]) -> Counter[tuple[str, str]]:
    sums: Counter[tuple[str, str]] = Counter()
    for (kind, second), number in numbers:
        sums[_known(kind), second] += number
    return sums


def _filled(sums: Counter[tuple[str, str]], seconds: Sequence[str]) -> list[Sample]:
    """Add the zeros: a series that begins with its first event hides that event from `increase`."""
    kinds = [*sorted(PARAMS), *([OTHER] if any(kind == OTHER for kind, _ in sums) else [])]
    return [Sample((kind, second), sums[kind, second]) for kind in kinds for second in seconds]


def _sums(tallies: Iterable[JobTally], name: str) -> list[Sample]:
    return [Sample((kind,), number) for kind, number in _by(tallies, name).items()]


def _by(tallies: Iterable[JobTally], name: str) -> dict[str, float]:
    sums: Counter[str] = Counter()
    for tally in tallies:
        sums[tally.kind] += getattr(tally, name)
    return _merged(sums)


def _of_kinds(
    numbers: Mapping[str, float], *, merge: Callable[[float, float], float] = lambda one, other: one + other
) -> list[Sample]:
    return [Sample((kind,), number) for kind, number in _merged(numbers, merge=merge).items()]


def _merged(
    numbers: Mapping[str, float], *, merge: Callable[[float, float], float] = lambda one, other: one + other
) -> dict[str, float]:
    """Return a number for every kind, 0 where there is none."""
    found: dict[str, float] = dict.fromkeys(sorted(PARAMS), 0)
    for kind, number in numbers.items():
        found[_known(kind)] = merge(found.get(_known(kind), 0), number)
    return found
