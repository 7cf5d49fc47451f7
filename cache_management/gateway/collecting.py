"""Puts a stream together while it passes by."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from cache_management.cache.compute import Computed
from cache_management.gateway import sse
from cache_management.gateway.calls import BrokenStream, NotUnderstood
from cache_management.gateway.dialects.base import Collector

logger = logging.getLogger("cache_management")


class Collected:
    """A stream that is put together; what cannot be spoils it, and the rest is only passed on."""

    def __init__(self, collector: Collector, limit_bytes: int) -> None:
        self._collector = collector
        self._parser = sse.Parser()
        self._left = limit_bytes
        self._why: str | None = None

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        self._left -= len(data)
        if self._left < 0:
            self._why = self._why or "it is too long"
        if self._why is not None:
            return
        try:
            for event in self._parser.feed(data):
                self._collector.take(event)
        except (NotUnderstood, sse.StreamSyntaxError) as exc:
            self._why = str(exc)
        except Exception as exc:
            logger.warning("a stream is not kept, for it could not be read", exc_info=True)
            self._why = type(exc).__name__

    def check(self) -> None:
        """Look whether it came to its end.

        Raises:
            BrokenStream: It did not, or cannot be put together.
        """
        if not self._collector.has_ended:
            self.add(b"\n\n")  # some close behind their last line, without the empty one that ends an event
        if self._why is None and not self._collector.has_ended:
            self._why = "it ended before its end"
        if self._why is not None:
            raise BrokenStream(self._why)

    def finish(self, finished: Callable[[dict[str, Any]], Computed]) -> Computed:
        """Return what was collected.

        Raises:
            BrokenStream: It cannot be kept.
        """
        try:
            return finished(self._collector.body())
        except NotUnderstood as exc:
            raise BrokenStream(str(exc)) from exc
        except Exception as exc:
            logger.warning("a stream is not kept, for it could not be read", exc_info=True)
            raise BrokenStream(type(exc).__name__) from exc
