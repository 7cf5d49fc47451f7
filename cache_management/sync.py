"""The same caches for programs without asyncio: every method runs on one event loop in a thread.

    from cache_management.sync import LLMCache

    with LLMCache(CacheConfig(url="memory://")) as cache:
        answer = cache.get_or_compute("What is Python?", ask_the_model)

There is no second implementation: a method hands its coroutine to the loop and waits. Safe to
share between threads.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401 - see `_call_before_exit`
import contextlib
import functools
import inspect
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Self, TypeVar

from cache_management.cache import llm, manager
from cache_management.cache.reasoning import cache as reasoning
from cache_management.cache.usage import tell_all

T = TypeVar("T")
_REST_SECONDS = 1.0


class _LoopThread:
    """One event loop on a daemon thread, made at first use and again in a forked child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait; interrupted, it is cancelled."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                if self._loop is None:
                    _call_before_exit(self._tell_rest)
                self._pid = os.getpid()
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="cache-sync", daemon=True).start()
            return self._loop

    def _tell_rest(self) -> None:
        """Tell what was counted of caches that a script did not close; its end waits a second for that at most."""
        if self._loop is None or self._pid != os.getpid():
            return
        work = asyncio.wait_for(tell_all(), _REST_SECONDS)
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(work, self._loop).result(_REST_SECONDS + 0.5)


def _call_before_exit(function: Callable[[], None]) -> None:
    """Call a function when the main thread has ended, while executors still take work: the disk store needs one."""
    # `atexit` comes too late for that, and nothing public comes earlier. Executors end by the same list, which is
    # walked from its end: theirs stands there since the import of `concurrent.futures.thread`.
    getattr(threading, "_register_atexit", atexit.register)(function)


_thread = _LoopThread()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop of the synchronous caches.

    Raises:
        RuntimeError: Called on that very loop, which would wait for itself, or while the interpreter
            ends, when the loop runs no more.
    """
    if sys.is_finalizing():
        work.close()
        raise RuntimeError("the interpreter is shutting down: close a synchronous cache before")
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is not None and running is _thread.loop():
        work.close()
        raise RuntimeError("a synchronous cache cannot be used inside its own loop: use the asynchronous one there")
    return _thread.run(work)


class _Face:
    """Answers with the methods of an asynchronous object, made blocking."""

    _async_class: type[Any]
    wrapped: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        parts = {name: value.wrapped if isinstance(value, _Face) else value for name, value in kwargs.items()}
        plain = [value.wrapped if isinstance(value, _Face) else value for value in args]
        self.wrapped = self._async_class(*plain, **parts)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.wrapped, name)
        return _blocking(found) if callable(found) else found

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.wrapped)})

    def close(self) -> None:
        """Free connections and files."""
        run(self.wrapped.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _blocking(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        found = method(*args, **kwargs)
        if inspect.iscoroutine(found):
            return run(found)
        return _Pieces(found) if isinstance(found, AsyncIterator) else found

    return call


class _Pieces(Iterator[T]):
    """The pieces of an asynchronous stream as they come.

    No generator: it would close the stream, and so wait for the loop, wherever it is collected,
    also when the interpreter ends and the loop runs no more. Asyncio closes a stream that nobody holds.
    """

    def __init__(self, pieces: AsyncIterator[T]) -> None:
        self._pieces = pieces

    def __next__(self) -> T:
        try:
            return run(_next(self._pieces))
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Leave the stream; what was read of it is not stored."""
        run(_close(self._pieces))


async def _next(pieces: AsyncIterator[T]) -> T:
    return await anext(pieces)


async def _close(pieces: AsyncIterator[Any]) -> None:
    close = getattr(pieces, "aclose", None)
    if close is not None:
        await close()


class LLMCache(_Face):
    """`cache_management.LLMCache` for programs without asyncio."""

    _async_class = llm.LLMCache


class DistributedCache(_Face):
    """`cache_management.DistributedCache` for programs without asyncio."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Here, as it needs the extra "redis", which the others may do without.
        from cache_management.cache.cluster.distributed import DistributedCache as AsyncCache

        self._async_class = AsyncCache
        super().__init__(*args, **kwargs)


class ReasoningCache(_Face):
    """`cache_management.ReasoningCache` for programs without asyncio."""

    _async_class = reasoning.ReasoningCache


class SimilarityMatcher(_Face):
    """`cache_management.SimilarityMatcher` for programs without asyncio."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Here, as it needs numpy, which exact answers may do without.
        from cache_management.cache.semantic.matcher import SimilarityMatcher as AsyncMatcher

        self._async_class = AsyncMatcher
        super().__init__(*args, **kwargs)


class CacheManager(_Face):
    """`cache_management.CacheManager` for programs without asyncio; takes the parts of this module."""

    _async_class = manager.CacheManager
