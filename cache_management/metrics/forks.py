"""What a forked child must do first: it inherits locks that nobody frees, files, and sockets."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_watched: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()
_whole = threading.RLock()


def in_child(whose: T, do: Callable[[T], None]) -> None:
    """Call `do` with an object in every child that this process forks, as long as the object lives."""
    with unforked():
        _watched[whose] = do


@contextmanager
def unforked() -> Iterator[None]:
    """Keep other threads from forking for a moment: what is opened and noted here is noted in a child, too."""
    with _whole:
        yield


def _begin_anew() -> None:
    global _whole
    _whole = threading.RLock()
    for whose, do in list(_watched.items()):
        with contextlib.suppress(OSError):
            do(whose)


def _hold() -> None:
    _whole.acquire()


def _let_go() -> None:
    _whole.release()


# On import: once for all, and before the first object can be half made in another thread.
os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_begin_anew)
