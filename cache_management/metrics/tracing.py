"""Spans of OpenTelemetry for what caches do: children of whatever span the application is in.

A span is made when its work has ended, from the latency that the event tells: nothing is measured twice, and an
application without a tracer pays for an event only. No key, prompt or answer is in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cache_management import __version__
from cache_management.cache.events import ComputeEvent, Event, HitEvent, MissEvent, StoreEvent, UnavailableEvent

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


class Spans:
    """A listener that makes spans `cache.get`, `cache.set`, `cache.compute` and `cache.failure`.

    As in `LLMCache(config, listener=Spans())` or `cache.listen(Spans())`.

    Args:
        provider: By default the application's own, see `opentelemetry.trace.set_tracer_provider`.

    Raises:
        ImportError: The extra is missing.
    """

    def __init__(self, provider: TracerProvider | None = None, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        try:
            from opentelemetry import trace
        except ImportError as exc:
            raise ImportError("Spans need: pip install 'cache-management[tracing]'") from exc
        self._tracer = trace.get_tracer("cache_management", __version__, tracer_provider=provider)
        self._failed = trace.StatusCode.ERROR
        self._clock_ns = clock_ns

    def __call__(self, event: Event) -> None:
        """Hear of an event of answers."""
        self._tell(event, "answers")

    def of_reasoning(self, event: Event) -> None:
        """Hear of an event of reasoning."""
        self._tell(event, "reasoning")

    def _tell(self, event: Event, what: str) -> None:
        match event:
            case HitEvent():
                said: dict[str, Any] = {
                    "cache.hit": True,
                    "cache.hit_kind": event.kind,
                    "cache.tokens_saved": event.tokens,
                }
                self._span("cache.get", event.namespace, event.latency_ms / 1000, what, said)
            case MissEvent():
                said = {"cache.hit": False, "cache.miss_reason": event.reason}
                self._span("cache.get", event.namespace, event.latency_ms / 1000, what, said)
            case StoreEvent():
                said = {"cache.item_size": event.size_bytes}
                self._span("cache.set", event.namespace, event.latency_ms / 1000, what, said)
            case ComputeEvent():
                self._span(
                    "cache.compute", event.namespace, event.seconds, what, {"cache.background": event.background}
                )
            case UnavailableEvent():
                span = self._tracer.start_span(
                    "cache.failure", attributes={"cache.backend": event.backend, "cache.operation": event.operation}
                )
                span.set_status(self._failed, event.reason)
                span.end()
            case _:
                pass

    def _span(self, name: str, namespace: str, seconds: float, what: str, said: dict[str, Any]) -> None:
        now = self._clock_ns()
        attributes = {"cache.namespace": namespace, "cache.of": what, **said}
        self._tracer.start_span(name, start_time=now - round(seconds * 1e9), attributes=attributes).end(now)
