"""What one worker process has: one event loop on a thread of its own, one Platform.

Both are made at first use in the process that uses them, because neither sockets nor
threads survive a fork.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import uuid
from collections.abc import Coroutine
from functools import cached_property
from importlib.util import find_spec
from typing import Any, TypeVar

from cache_management.cache.events import Listening
from cache_management.metrics.collector import MetricsCollector
from cache_management.metrics.several import Several
from cache_management.metrics.tracing import Spans
from cache_management.settings import Settings
from cache_management.wiring import Platform, open_platform, read_settings
from cache_management.workers.client import JobClient

T = TypeVar("T")


class Runtime:
    """The loop thread and the Platform of one process."""

    def __init__(self, settings: Settings) -> None:
        self.pid = os.getpid()
        # Who holds a lease; a pid alone comes again.
        self.owner = f"{socket.gethostname()}:{self.pid}:{uuid.uuid4().hex[:8]}"
        # A worker must know that a write happened, so it never reads or writes "as if".
        self.settings = settings.model_copy(
            update={"strict": True, "timeout_seconds": max(5.0, settings.timeout_seconds)}
        )
        self.platform: Platform = open_platform(self.settings, metrics=_listening(settings))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cache-loop", daemon=True)
        self._thread.start()

    @cached_property
    def client(self) -> JobClient:
        """The way to the broker, kept: a connection for each message would be a new one for each."""
        return JobClient(self.settings, stores=self.platform.stores)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it; an exception here (a time limit) cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Close the client and the Platform, and end the loop."""
        if "client" in self.__dict__:
            self.client.close()
        self.run(self.platform.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()


def _listening(settings: Settings) -> Listening:
    """Return what hears the caches of this process: metrics, and spans where the library for them is there."""
    heard: list[Listening] = []
    if settings.metrics_folder is not None:
        # In a folder: children of a worker come and go, and what they counted has to stay.
        heard.append(MetricsCollector(settings.metrics_folder))
    if find_spec("opentelemetry") is not None:
        heard.append(Spans())
    return Several(heard)


_current: Runtime | None = None
_making = threading.Lock()


def current() -> Runtime:
    """Return this process's runtime, made at the first call."""
    global _current
    with _making:  # the tasks of a pool of threads share it
        if _current is None or _current.pid != os.getpid():
            _current = Runtime(read_settings().settings)
        return _current


def forget() -> None:
    """Drop what was inherited through a fork, without closing it: it belongs to the parent."""
    global _current, _making
    _current, _making = None, threading.Lock()


def close() -> None:
    """Close this process's runtime, if it has one."""
    global _current
    if _current is not None and _current.pid == os.getpid():
        _current.close()
    _current = None
