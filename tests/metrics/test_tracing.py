from __future__ import annotations

from collections.abc import Mapping

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cache_management import CacheConfig, LLMCache
from cache_management.cache.events import MissEvent, UnavailableEvent
from cache_management.metrics.tracing import Spans


def traced() -> tuple[TracerProvider, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


async def test_spans_are_children_of_the_request_and_tell_no_prompt() -> None:
    provider, exporter = traced()
    async with LLMCache(CacheConfig(url="memory://"), listener=Spans(provider)) as cache:
        with provider.get_tracer("app").start_as_current_span("request") as request:
            await cache.get_or_compute("a secret prompt", lambda: "an answer", model="m")
            await cache.get("a secret prompt")

    spans = {span.name: span for span in exporter.get_finished_spans()}
    names = [span.name for span in exporter.get_finished_spans()]
    assert sorted(names) == ["cache.compute", "cache.get", "cache.get", "cache.set", "request"]
    for name in ("cache.get", "cache.set", "cache.compute"):
        parent = spans[name].parent
        assert parent is not None
        assert parent.span_id == request.get_span_context().span_id
    assert attributes(spans["cache.get"].attributes)["cache.hit"] is True
    assert "secret" not in "".join(span.to_json() for span in exporter.get_finished_spans())


def test_a_span_lasts_as_long_as_the_event_says() -> None:
    provider, exporter = traced()
    spans = Spans(provider, clock_ns=lambda: 2_000_000_000)

    spans(MissEvent("absent", "n", "k", 500.0))

    (span,) = exporter.get_finished_spans()
    assert (span.start_time, span.end_time) == (1_500_000_000, 2_000_000_000)
    assert attributes(span.attributes)["cache.miss_reason"] == "absent"


def test_a_failing_store_is_an_error() -> None:
    provider, exporter = traced()

    Spans(provider).of_reasoning(UnavailableEvent("redis", "get", "refused"))

    (span,) = exporter.get_finished_spans()
    assert (span.name, span.status.is_ok, span.status.description) == ("cache.failure", False, "refused")


def attributes(found: Mapping[str, object] | None) -> Mapping[str, object]:
    return found or {}
