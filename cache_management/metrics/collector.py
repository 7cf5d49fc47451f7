"""MetricsCollector: what happens in caches, counted by hand or heard from them, and told to people and Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from cache_management.cache.cluster.hot_keys import HotKeys
from cache_management.cache.errors import InvalidInput
from cache_management.cache.events import (
    ComputeEvent,
    CorruptEvent,
    Event,
    HitEvent,
    JudgedEvent,
    MissEvent,
    NodeEvent,
    RefusedEvent,
    RemoveEvent,
    StaleEvent,
    StepsEvent,
    StoreEvent,
    UnavailableEvent,
    VetoEvent,
)
from cache_management.metrics.catalogue import OTHER, distribution, families, places, words
from cache_management.metrics.cells import Cells, read_folder
from cache_management.metrics.families import Family, Sample, as_text
from cache_management.metrics.forks import in_child
from cache_management.metrics.latencies import BUCKETS, Distribution, bucket_of

_SIZES_KEPT = 100_000
"""Of how many keys the size is known, so that a key that is set again counts once."""
_HOT_KEYS = 1_000
_KEY_CHARACTERS = 120
_TOO_LARGE = 2**63
"""What is larger was not measured, and a few of them would add up to no number any more."""

_HITS = words("cache_hits_total")
_MISSES = words("cache_misses_total")
_GETS = words("cache_get_seconds")
_REMOVALS = words("cache_removals_total")
_REFUSALS = words("cache_refusals_total")
_COMPUTATIONS = words("cache_compute_seconds")
_STALE = words("cache_stale_served_total")
_VETOES = words("cache_vetoes_total")
_JUDGEMENTS = places("cache_judgements_total")
_FAILURES = words("cache_store_failures_total")
_STEPS = words("cache_reasoning_steps_total")
_NODES = words("cache_node_changes_total")
_TOKENS = places("cache_tokens_saved_total")[()]
_STORES = places("cache_stores_total")[()]
_STORED_BYTES = places("cache_stored_bytes_total")[()]
_SETS = places("cache_set_seconds")[()]
_CORRUPT = places("cache_corrupt_records_total")[()]
_REASONING_HITS = places("cache_reasoning_hits_total")[()]
_REASONING_MISSES = places("cache_reasoning_misses_total")[()]
_REASONING_STORES = places("cache_reasoning_stores_total")[()]
_REASONING_TOKENS = places("cache_reasoning_tokens_saved_total")[()]


class CacheMetrics(msgspec.Struct, frozen=True):
    """What one process counted. `hits` are of both kinds; `size_bytes` see `MetricsCollector`."""

    hits: int
    semantic_hits: int
    misses: int
    sets: int
    evictions: int
    deletes: int
    size_bytes: int
    tokens_saved: int

    @property
    def hit_rate(self) -> float:
        """Return hits over lookups, 0 to 1; 0.0 when nothing was looked up."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0


class PerformanceMetrics(msgspec.Struct, frozen=True):
    """Latencies in milliseconds, percentiles within 1 %; 0.0 where nothing was measured."""

    gets: int
    avg_get_latency_ms: float
    p50_get_latency_ms: float
    p95_get_latency_ms: float
    p99_get_latency_ms: float
    sets: int
    avg_set_latency_ms: float
    p50_set_latency_ms: float
    p95_set_latency_ms: float
    p99_set_latency_ms: float


class MetricsCollector:
    """Counts hits, misses, sizes and latencies in bounded memory.

    It stands alone (`record_…`), or hears caches: it is a listener, as in `LLMCache(config, listener=metrics)` or
    `CacheManager(…, metrics=metrics)`. Safe to share between threads.

    `size_bytes` adds up what was set, the last size of each key, less what was recorded as evicted or deleted by key.

    Args:
        folder: Where the processes of one application, or of one machine, count together: the children of a server
            that forks, and workers. `export_prometheus` and `families` tell of all of them then, also of those that
            ended; the other methods of this process.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self._cells = Cells(None if folder is None else Path(folder))
        self._hot = HotKeys(_HOT_KEYS, half_life_seconds=None)
        self._sizes: dict[int, int] = {}
        self._size_bytes = 0
        self._heard: dict[type[Any], Callable[[Any], None]] = {
            HitEvent: self._hit,
            MissEvent: self._miss,
            StoreEvent: self._store,
            RemoveEvent: self._remove,
            CorruptEvent: self._corrupt,
            UnavailableEvent: self._unavailable,
            RefusedEvent: self._refused,
            ComputeEvent: self._compute,
            StaleEvent: self._stale,
            VetoEvent: self._veto,
            JudgedEvent: self._judged,
            StepsEvent: self._steps,
            NodeEvent: self._node,
        }
        in_child(self, MetricsCollector._forget)

    def __call__(self, event: Event) -> None:
        """Hear of an event of a cache of answers."""
        hear = self._heard.get(event.__class__)
        if hear is not None:
            hear(event)

    def of_reasoning(self, event: Event) -> None:
        """Hear of an event of a ReasoningCache, as in `ReasoningCache(config, listener=metrics.of_reasoning)`."""
        match event:
            case HitEvent():
                self._add(_REASONING_HITS)
                self._add(_REASONING_TOKENS, event.tokens)
            case MissEvent():
                self._add(_REASONING_MISSES)
            case StoreEvent():
                self._add(_REASONING_STORES)
            case _:
                self(event)

    # What is recorded by hand.

    def record_cache_hit(self, key: str) -> None:
        """Count an answer that was served.

        Raises:
            InvalidInput: The key is no text.
        """
        key = _text(key)
        self._add(_HITS["exact"])
        self._note(key)

    def record_cache_miss(self, key: str) -> None:
        """Count a lookup that found nothing.

        Raises:
            InvalidInput: The key is no text.
        """
        key = _text(key)
        self._add(_MISSES["absent"])
        self._note(key)

    def record_cache_set(self, key: str, size: int = 0) -> None:
        """Count an entry that was stored, with its size in bytes.

        Raises:
            InvalidInput: The key is no text, or the size no whole number of bytes.
        """
        self._stored(_text(key), _whole(size, "size"))

    def record_cache_eviction(self, key: str | None = None) -> None:
        """Count an entry that had to go; one whose size is known takes up no room any more.

        Raises:
            InvalidInput: The key is no text.
        """
        key = None if key is None else _text(key)
        self._add(_REMOVALS["evicted"])
        self._gone(key)

    def record_cache_delete(self, key: str | None = None) -> None:
        """Count an entry that was deleted.

        Raises:
            InvalidInput: The key is no text.
        """
        key = None if key is None else _text(key)
        self._add(_REMOVALS["delete"])
        self._gone(key)

    def record_get_latency(self, latency_ms: float) -> None:
        """Note how long a lookup took, in milliseconds.

        Raises:
            InvalidInput: It is no number of milliseconds, 0 or more.
        """
        self._took(_GETS["unknown"], _milliseconds(latency_ms) / 1000)

    def record_set_latency(self, latency_ms: float) -> None:
        """Note how long storing an entry took, in milliseconds.

        Raises:
            InvalidInput: It is no number of milliseconds, 0 or more.
        """
        self._took(_SETS, _milliseconds(latency_ms) / 1000)

    # What was found out.

    def get_cache_metrics(self) -> CacheMetrics:
        """Return what this process counted."""
        with self._cells.lock:
            row = self._cells.row
            return CacheMetrics(
                hits=int(sum(row[place] for place in _HITS.values())),
                semantic_hits=int(row[_HITS["semantic"]]),
                misses=int(sum(row[place] for place in _MISSES.values())),
                sets=int(row[_STORES]),
                evictions=int(row[_REMOVALS["evicted"]]),
                deletes=int(row[_REMOVALS["delete"]]),
                size_bytes=self._size_bytes,
                tokens_saved=int(row[_TOKENS]),
            )

    def get_performance_metrics(self) -> PerformanceMetrics:
        """Return the latencies of this process."""
        with self._cells.lock:
            every = [distribution(self._cells.row, place) for place in _GETS.values()]
            sets = distribution(self._cells.row, _SETS)
        columns = zip(*(each.counts for each in every), strict=True)
        gets = Distribution([sum(column) for column in columns], sum(each.sum_seconds for each in every))
        return PerformanceMetrics(
            gets=gets.count,
            avg_get_latency_ms=gets.mean_seconds * 1000,
            p50_get_latency_ms=gets.quantile(0.50) * 1000,
            p95_get_latency_ms=gets.quantile(0.95) * 1000,
            p99_get_latency_ms=gets.quantile(0.99) * 1000,
            sets=sets.count,
            avg_set_latency_ms=sets.mean_seconds * 1000,
            p50_set_latency_ms=sets.quantile(0.50) * 1000,
            p95_set_latency_ms=sets.quantile(0.95) * 1000,
            p99_set_latency_ms=sets.quantile(0.99) * 1000,
        )

    def get_hot_keys(self, limit: int = 10) -> list[tuple[str, int]]:
        """Return the keys that this process was asked for most, with how often, the most first.

        Of a thousand and more keys a count may be a little too large (a Space-Saving sketch, see
        `cluster/hot_keys.py`).
        """
        with self._cells.lock:
            return self._hot.hot(1)[: max(0, limit)]

    def families(self) -> list[Family]:
        """Return all metrics: those of every process that counts into the folder, or of this one.

        Raises:
            OSError: The folder cannot be read.
        """
        if self._cells.folder is not None:
            return families(read_folder(self._cells.folder))
        with self._cells.lock:
            row, size = list(self._cells.row), self._size_bytes
        told = Family("cache_size_bytes", "gauge", "Bytes set by this process, each key once.", (), [])
        told.samples.append(Sample((), float(size)))
        return [*families(row), told]

    def export_prometheus(self) -> str:
        """Return all metrics in the text format of Prometheus.

        Raises:
            ImportError: The extra `monitoring` is not installed.
        """
        return as_text(self.families)

    def reset(self) -> None:
        """Begin anew at zero, in this process; with a folder the totals of all keep what was counted."""
        with self._cells.lock:
            self._cells.clear()
            self._forget()

    def _forget(self) -> None:
        """Begin what is not in the cells anew: also in a forked child, where a thread may have been at changing it."""
        self._hot = HotKeys(_HOT_KEYS, half_life_seconds=None)
        self._sizes = {}
        self._size_bytes = 0

    # How it is counted.

    def _add(self, place: int, number: float = 1.0) -> None:
        cells = self._cells
        with cells.lock:
            cells.row[place] += number

    def _took(self, place: int, seconds: float) -> None:
        bucket = place + bucket_of(seconds)
        cells = self._cells
        with cells.lock:
            row = cells.row
            row[bucket] += 1.0
            row[place + BUCKETS] += seconds

    def _note(self, key: str) -> None:
        with self._cells.lock:
            self._hot.note(_short(key))

    def _stored(self, key: str, size: int) -> None:
        name = hash(key)
        with self._cells.lock:
            row = self._cells.row
            row[_STORES] += 1.0
            row[_STORED_BYTES] += size
            self._size_bytes += size - self._sizes.pop(name, 0)
            self._sizes[name] = size
            if len(self._sizes) > _SIZES_KEPT:
                del self._sizes[next(iter(self._sizes))]

    def _gone(self, key: str | None) -> None:
        if key is not None:
            with self._cells.lock:
                self._size_bytes -= self._sizes.pop(hash(key), 0)

    def _hit(self, event: HitEvent) -> None:
        self._looked_up(_HITS[event.kind], _GETS[event.kind], event.latency_ms / 1000, event.key, event.tokens)

    def _miss(self, event: MissEvent) -> None:
        place = _MISSES.get(event.reason, _MISSES[OTHER])
        self._looked_up(place, _GETS["miss"], event.latency_ms / 1000, event.key, 0)

    def _looked_up(self, counter: int, latencies: int, seconds: float, key: str, tokens: int) -> None:
        # Under one lock: every lookup of an application passes here.
        bucket = latencies + bucket_of(seconds)
        cells = self._cells
        with cells.lock:
            row = cells.row
            row[counter] += 1.0
            row[bucket] += 1.0
            row[latencies + BUCKETS] += seconds
            row[_TOKENS] += tokens
            self._hot.note(_short(key))

    def _store(self, event: StoreEvent) -> None:
        self._stored(event.key, event.size_bytes)
        if event.latency_ms:  # what a job stores in bulk says no time
            self._took(_SETS, event.latency_ms / 1000)

    def _remove(self, event: RemoveEvent) -> None:
        if event.of_entries:
            self._add(_REMOVALS[event.reason], event.count)

    def _corrupt(self, _: CorruptEvent) -> None:
        self._add(_CORRUPT)

    def _unavailable(self, event: UnavailableEvent) -> None:
        self._add(_FAILURES.get(event.backend, _FAILURES[OTHER]))

    def _refused(self, event: RefusedEvent) -> None:
        self._add(_REFUSALS.get(event.reason, _REFUSALS[OTHER]))

    def _compute(self, event: ComputeEvent) -> None:
        self._took(_COMPUTATIONS["background" if event.background else "foreground"], event.seconds)

    def _stale(self, event: StaleEvent) -> None:
        self._add(_STALE[event.reason])

    def _veto(self, event: VetoEvent) -> None:
        self._add(_VETOES.get(event.gate, _VETOES[OTHER]))

    def _judged(self, event: JudgedEvent) -> None:
        known = _JUDGEMENTS.get((event.source, event.verdict))
        self._add(_JUDGEMENTS[OTHER, OTHER] if known is None else known)

    def _steps(self, event: StepsEvent) -> None:
        self._add(_STEPS[event.what], event.count)
        if event.what == "reused":
            self._add(_REASONING_TOKENS, event.tokens)

    def _node(self, event: NodeEvent) -> None:
        self._add(_NODES[event.what])


def _short(key: str) -> str:
    """Return a key that is a whole prompt by its beginning and its hash."""
    return key if len(key) <= _KEY_CHARACTERS else f"{key[:_KEY_CHARACTERS]}… {hash(key) & 0xFFFFFFFF:08x}"


def _text(key: object) -> str:
    if not isinstance(key, str):
        raise InvalidInput(f"key must be text, not {_shown(key)}")
    return key


def _whole(number: object, name: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < _TOO_LARGE:
        raise InvalidInput(f"{name} must be a whole number of bytes, 0 or more, not {_shown(number)}")
    return number


def _milliseconds(latency_ms: object) -> float:
    if isinstance(latency_ms, bool) or not isinstance(latency_ms, int | float) or not 0 <= latency_ms < _TOO_LARGE:
        raise InvalidInput(f"latency_ms must be a number of milliseconds, 0 or more, not {_shown(latency_ms)}")
    return float(latency_ms)


def _shown(value: object) -> str:
    """Return how an error shows a value: one of thousands of digits cannot be written."""
    try:
        return repr(value)[:40]
    except ValueError:
        return f"such a large {type(value).__name__}"
