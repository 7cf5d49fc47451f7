"""Whether this process was forked: asking for the pid is a system call in every read."""

from __future__ import annotations

import functools
import os


@functools.cache
def forks() -> list[int]:
    """Return a counter, alone in a list, that grows in a forked child."""
    counter = [0]

    def came_out() -> None:
        counter[0] += 1

    os.register_at_fork(after_in_child=came_out)
    return counter
