"""One lock for what threads of this process share."""

from __future__ import annotations

import functools
import os
import threading


@functools.cache
def local_lock() -> threading.Lock:
    """Return the lock; it is held for microseconds and never across an `await`, a listener or a clock.

    One for all, because a fork waits for it: nothing is half-changed in the child, and nothing is locked.
    """
    lock = threading.Lock()
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
