"""Metrics as they are told: as the text of Prometheus, or as JSON types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from cache_management.metrics.latencies import Distribution

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class Sample(NamedTuple):
    """One number, or one distribution, with the values of its family's labels."""

    labels: tuple[str, ...]
    value: float | Distribution


class Family(msgspec.Struct, frozen=True):
    """One metric. A counter's name ends with `_total`, a histogram's with its unit."""

    name: str
    type: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...]
    samples: list[Sample]


Families = Callable[[], Iterable[Family]]


def as_text(families: Families) -> str:
    """Return families in the text format of Prometheus.

    Raises:
        ImportError: The extra is missing.
    """
    registry = registry_of(families)
    from prometheus_client import generate_latest

    return generate_latest(registry).decode()


def as_data(families: Iterable[Family]) -> dict[str, Any]:
    """Return families as JSON types: a number, or a list of numbers with their labels."""
    return {
        family.name: [
            dict(zip(family.labels, labels, strict=True), value=_plain(value)) for labels, value in family.samples
        ]
        if family.labels
        else _plain(family.samples[0].value)
        for family in families
    }


def _plain(value: float | Distribution) -> float | dict[str, float]:
    if not isinstance(value, Distribution):
        return value
    quantiles = {f"p{share:g}": value.quantile(share / 100) for share in (50, 95, 99)}
    return {"count": value.count, "sum": value.sum_seconds, **quantiles}


def registry_of(families: Families) -> CollectorRegistry:
    """Return a registry of its own, which asks whenever it is asked.

    Raises:
        ImportError: The extra is missing.
    """
    try:
        from prometheus_client import CollectorRegistry
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
            Metric,
        )
        from prometheus_client.registry import Collector
    except ImportError as exc:
        raise ImportError("Metrics for Prometheus need: pip install 'cache-management[monitoring]'") from exc

    class Reading(Collector):
        def describe(self) -> list[Metric]:
            return []  # else the sources would be asked to register, and could refuse by being away

        def collect(self) -> Iterator[Metric]:
            for family in families():
                told = HistogramMetricFamily(family.name, family.help, labels=family.labels)
                made = CounterMetricFamily if family.type == "counter" else GaugeMetricFamily
                metric = made(family.name, family.help, labels=family.labels)
                for labels, value in family.samples:
                    if isinstance(value, Distribution):
                        told.add_metric(labels, buckets=value.cumulative(), sum_value=value.sum_seconds)
                    else:
                        metric.add_metric(labels, value)
                yield told if family.type == "histogram" else metric

    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(Reading())
    return registry
