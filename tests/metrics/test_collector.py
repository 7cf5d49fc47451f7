from __future__ import annotations

import subprocess
import threading
from itertools import product
from shutil import which
from typing import Any, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cache_management import CacheConfig, CachedResponse, LLMCache, MetricsCollector
from cache_management.cache.admission import Refusal
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
from cache_management.cache.semantic.evidence import Source, Verdict
from cache_management.cache.values import LookupReason
from cache_management.metrics.catalogue import CATALOGUE, words

EVENTS: list[tuple[Event, str, dict[str, str], float]] = [
    (HitEvent("semantic", "n", "k", 7, 2.0), "cache_hits_total", {"kind": "semantic"}, 1),
    (HitEvent("exact", "n", "k", 7, 2.0), "cache_tokens_saved_total", {}, 7),
    (HitEvent("exact", "n", "k", 7, 2.0), "cache_get_seconds_sum", {"result": "exact"}, 0.002),
    (MissEvent("vetoed", "n", "k", 2.0), "cache_misses_total", {"reason": "vetoed"}, 1),
    (MissEvent("of a later version", "n", "k", 2.0), "cache_misses_total", {"reason": "other"}, 1),
    (StoreEvent("n", "k", 99, 2.0), "cache_stored_bytes_total", {}, 99),
    (StoreEvent("n", "k", 99, 2.0), "cache_set_seconds_count", {}, 1),
    (RemoveEvent("evicted", "n", 3), "cache_removals_total", {"reason": "evicted"}, 3),
    (CorruptEvent("disk", "k", "sum"), "cache_corrupt_records_total", {}, 1),
    (UnavailableEvent("redis", "get", "down"), "cache_store_failures_total", {"backend": "redis"}, 1),
    (RefusedEvent("truncated", "n"), "cache_refusals_total", {"reason": "truncated"}, 1),
    (ComputeEvent("n", "k", 1.5, True), "cache_compute_seconds_sum", {"where": "background"}, 1.5),
    (StaleEvent("error", "n", "k"), "cache_stale_served_total", {"reason": "error"}, 1),
    (VetoEvent("number", "n"), "cache_vetoes_total", {"gate": "number"}, 1),
    (JudgedEvent("recheck", "same", "n"), "cache_judgements_total", {"source": "recheck", "verdict": "same"}, 1),
    (StepsEvent("reused", "n", 4, tokens=40), "cache_reasoning_steps_total", {"what": "reused"}, 4),
    (StepsEvent("reused", "n", 4, tokens=40), "cache_reasoning_tokens_saved_total", {}, 40),
    (NodeEvent("a:1", "out", ""), "cache_node_changes_total", {"what": "out"}, 1),
]


def sample(metrics: MetricsCollector, name: str, labels: dict[str, str]) -> float:
    for family in text_string_to_metric_families(metrics.export_prometheus()):
        for each in family.samples:
            if each.name == name and each.labels == labels:
                return each.value
    raise AssertionError(f"there is no {name}{labels}")


@pytest.mark.parametrize(("event", "name", "labels", "value"), EVENTS)
def test_an_event_is_counted(event: Event, name: str, labels: dict[str, str], value: float) -> None:
    metrics = MetricsCollector()

    metrics(event)

    assert sample(metrics, name, labels) == pytest.approx(value)


def test_every_kind_of_event_is_counted() -> None:
    assert {type(event) for event, *_ in EVENTS} == set(get_args(Event))


def test_every_word_that_is_told_has_a_series_of_its_own() -> None:
    assert {*get_args(LookupReason), "absent", "corrupt"} - {"exact", "semantic"} <= set(words("cache_misses_total"))
    assert {each.value for each in Refusal} <= set(words("cache_refusals_total"))
    (judgements,) = [metric for metric in CATALOGUE if metric.name == "cache_judgements_total"]
    assert set(get_args(Source)) <= set(judgements.values[0])
    assert set(get_args(Verdict)) <= set(judgements.values[1])


def test_reasoning_has_metrics_of_its_own() -> None:
    metrics = MetricsCollector()

    metrics.of_reasoning(HitEvent("exact", "n", "k", 7, 2.0))
    metrics.of_reasoning(MissEvent("absent", "n", "k", 2.0))
    metrics.of_reasoning(StoreEvent("n", "k", 99, 2.0))
    metrics.of_reasoning(RemoveEvent("delete", "n", 2))

    assert sample(metrics, "cache_reasoning_hits_total", {}) == 1
    assert sample(metrics, "cache_reasoning_misses_total", {}) == 1
    assert sample(metrics, "cache_reasoning_stores_total", {}) == 1
    assert metrics.get_cache_metrics().hits == 0
    assert metrics.get_cache_metrics().deletes == 2


def test_names_keep_the_conventions_of_prometheus() -> None:
    text = MetricsCollector().export_prometheus()

    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        assert family.type == "histogram" or family.name.endswith(("_bytes", "_seconds")) or family.type == "counter"
    for metric in CATALOGUE:
        assert metric.name.endswith("_total" if metric.type == "counter" else "_seconds")
    promtool = which("promtool")
    if promtool is not None:
        said = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stdout + said.stderr


def test_size_is_that_of_each_key_once() -> None:
    metrics = MetricsCollector()

    metrics.record_cache_set("a", size=100)
    metrics.record_cache_set("a", size=40)
    metrics.record_cache_set("b", size=10)
    metrics.record_cache_eviction("b")
    metrics.record_cache_delete("never set")

    assert metrics.get_cache_metrics().size_bytes == 40
    assert (metrics.get_cache_metrics().sets, metrics.get_cache_metrics().evictions) == (3, 1)


def test_reset_begins_at_zero() -> None:
    metrics = MetricsCollector()
    metrics.record_cache_hit("k")
    metrics.record_cache_set("k", size=9)
    metrics.record_get_latency(3.0)

    metrics.reset()

    assert metrics.get_cache_metrics() == MetricsCollector().get_cache_metrics()
    assert metrics.get_performance_metrics() == MetricsCollector().get_performance_metrics()
    assert metrics.get_hot_keys() == []


@pytest.mark.parametrize("latency", [-1, float("nan"), float("inf"), "3", None, True, 10**400])
def test_a_latency_that_is_none_is_refused(latency: Any) -> None:
    with pytest.raises(InvalidInput, match="latency_ms must be"):
        MetricsCollector().record_get_latency(latency)


def test_a_latency_of_more_digits_than_python_writes_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not such a large int"):
        MetricsCollector().record_get_latency(10**5000)


@pytest.mark.parametrize("size", [-1, 1.5, "3", None, 10**400])
def test_a_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(InvalidInput, match="size must be"):
        MetricsCollector().record_cache_set("k", size=size)


@pytest.mark.parametrize(
    ("what", "key"),
    [
        *product(["hit", "miss", "set", "eviction", "delete"], [1, b"x"]),
        *product(["hit", "miss", "set"], [None]),  # what is removed may be without a key
    ],
)
def test_a_key_that_is_no_text_is_refused_and_counts_nothing(what: str, key: Any) -> None:
    metrics = MetricsCollector()

    with pytest.raises(InvalidInput, match="key must be text, not"):
        getattr(metrics, f"record_cache_{what}")(key)

    assert metrics.get_cache_metrics() == MetricsCollector().get_cache_metrics()


def test_hot_keys_are_those_asked_for_most_and_long_ones_are_short() -> None:
    metrics = MetricsCollector()
    for _ in range(3):
        metrics.record_cache_hit("often")
    metrics.record_cache_miss("p" * 100_000)

    often, long = metrics.get_hot_keys()

    assert often == ("often", 3)
    assert len(long[0]) < 200


def test_threads_lose_no_count() -> None:
    metrics = MetricsCollector()

    def work() -> None:
        for _ in range(2_000):
            metrics.record_cache_hit("k")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert metrics.get_cache_metrics().hits == 16_000


async def test_a_cache_is_heard_by_itself() -> None:
    metrics = MetricsCollector()
    async with LLMCache(CacheConfig(url="memory://", max_size=1), listener=metrics) as cache:
        for key in ("a", "b"):
            await cache.set(key, CachedResponse(prompt="p", response="r", model="m", timestamp=0, token_count=5))  # type: ignore[arg-type]
        await cache.get("a")
        await cache.get("b")

    found = metrics.get_cache_metrics()
    assert (found.hits, found.misses, found.evictions, found.tokens_saved) == (1, 1, 1, 5)
    assert metrics.get_performance_metrics().gets == 2
