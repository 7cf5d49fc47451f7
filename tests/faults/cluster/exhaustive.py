"""Tries every order of a few operations: the truth that `checker.py` is compared with. Knows no times to live."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from tests.faults.cluster.history import Operation


def is_linearizable(operations: Sequence[Operation]) -> bool:
    """Tell whether some order, true to real time, explains every read of one key. Exponential: at most 12 operations.

    Source: Wing and Gong, "Testing and verifying concurrent objects", 1993, with remembered states.
    """
    given = [each for each in operations if not each.is_refused]
    needed = sum(1 << at for at, each in enumerate(given) if each.returned is not None)
    failed: set[tuple[int, str | None]] = set()

    def explains(done: int, value: str | None) -> bool:
        if done & needed == needed:
            return True
        if (done, value) in failed:
            return False
        left = [at for at in range(len(given)) if not done >> at & 1]
        # Whatever begins after another has ended comes after it.
        first_end = min((_end(given[at]) for at in left), default=inf)
        for at in left:
            operation = given[at]
            if operation.invoked > first_end:
                continue
            if operation.kind in ("set", "delete"):
                after = operation.value if operation.kind == "set" else None
                if explains(done | 1 << at, after):
                    return True
            elif _fits(operation, value) and explains(done | 1 << at, value):
                return True
        failed.add((done, value))
        return False

    return explains(0, None)


def _fits(read: Operation, value: str | None) -> bool:
    if read.kind == "exists":
        return (read.value is None) == (value is None)
    return read.value == value


def _end(operation: Operation) -> float:
    return inf if operation.returned is None else operation.returned
