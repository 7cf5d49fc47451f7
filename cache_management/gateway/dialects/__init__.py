"""The APIs that are known, one file each; `dialect_of` says which a request speaks."""

from __future__ import annotations

from cache_management.gateway.dialects.base import Dialect
from cache_management.gateway.dialects.chat import Chat

DIALECTS: tuple[Dialect, ...] = (Chat(),)


def dialect_of(method: str, path: str) -> Dialect | None:
    """Return the dialect of a request; None where there is nothing to cache."""
    if method.upper() != "POST":
        return None
    plain = path.partition("?")[0]
    return next((dialect for dialect in DIALECTS if plain.endswith(dialect.suffix)), None)
