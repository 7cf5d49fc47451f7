"""What a model costs, as somebody wrote it down."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase


def price_of(model: str, prices: Mapping[str, float]) -> float | None:
    """Return what a token of a model costs in micro-dollars, which is dollars for a million; None when nobody said.

    The name as it stands wins over a shell glob, and the longest glob over shorter ones.
    """
    if model in prices:
        return prices[model]
    fitting = [pattern for pattern in prices if fnmatchcase(model, pattern)]
    return prices[max(fitting, key=len)] if fitting else None
