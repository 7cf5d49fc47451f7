"""Asks something that may hang, for many who want to know at once, each within a time limit."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from cache_management.cache.errors import CacheError

T = TypeVar("T")

logger = logging.getLogger("cache_management")


class Question(Generic[T]):
    """Asks on a thread of its own, which may be left behind; who comes meanwhile gets the same answer.

    Args:
        whom: Who is asked, for the log.
        seconds: How long an answer is waited for, from the moment it is asked for.
        keep_seconds: For how long an answer, or a failure, is given again without asking.
    """

    def __init__(self, work: Callable[[], T], whom: str, seconds: float, *, keep_seconds: float = 0.0) -> None:
        self._work, self._whom, self._seconds, self._keep_seconds = work, whom, seconds, keep_seconds
        self._lock = threading.Lock()
        self._under_way: Future[T] | None = None
        self._ended_at = 0.0
        _questions.add(self)

    def begin(self) -> Callable[[], T]:
        """Begin; call what is returned for the answer.

        It raises TimeoutError when there is none in time, and whatever went wrong.
        """
        until = time.monotonic() + self._seconds
        with self._lock:
            if self._under_way is None or self._is_over(self._under_way):
                self._under_way = Future()
                threading.Thread(target=self._run, args=(self._under_way,), name="cache-question", daemon=True).start()
            asked = self._under_way
        return lambda: asked.result(timeout=max(0.0, until - time.monotonic()))

    def ask(self) -> Callable[[], T | None]:
        """Begin; call what is returned for the answer, which is None when there is none in time."""
        answer = self.begin()

        def told() -> T | None:
            try:
                return answer()
            except TimeoutError:
                logger.warning("the %s does not answer within %g s", self._whom, self._seconds)
            except CacheError as exc:
                logger.warning("the %s cannot be asked: %s", self._whom, exc)
            except Exception as exc:  # noqa: BLE001 - what others answer is told all the same
                # Without its text, which may hold what was stored, or a password.
                logger.warning("the %s cannot be asked: %s", self._whom, type(exc).__name__)
            return None

        return told

    def _begin_anew(self) -> None:
        """Forget, in a forked child: the thread that asks, and one that held the lock, stayed in the parent."""
        self._lock = threading.Lock()
        self._under_way = None

    def _is_over(self, asked: Future[T]) -> bool:
        return asked.done() and time.monotonic() - self._ended_at >= self._keep_seconds

    def _run(self, asked: Future[T]) -> None:
        try:
            found = self._work()
        except BaseException as exc:  # noqa: BLE001 - it belongs to whoever asked
            self._ended_at = time.monotonic()
            asked.set_exception(exc)
        else:
            self._ended_at = time.monotonic()
            asked.set_result(found)


_questions: weakref.WeakSet[Question[Any]] = weakref.WeakSet()


def _begin_all_anew() -> None:
    for question in list(_questions):
        question._begin_anew()


os.register_at_fork(after_in_child=_begin_all_anew)
