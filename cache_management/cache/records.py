"""What moves on the hot path: small, frozen, trusted."""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, frozen=True, gc=False):
    """What a backend stores under one key.

    `expires_at` is Unix seconds, or None to keep until evicted. When two writers
    disagree, the larger `version` wins. `cost_micro` is what making the value anew would cost, in
    micro-dollars; it tells a store what to keep, and need not come back from it.
    """

    value: bytes
    expires_at: float | None
    version: int
    cost_micro: int = 0

    def is_expired(self, now: float) -> bool:
        """Tell whether the record must not be served at `now`."""
        return self.expires_at is not None and self.expires_at <= now


class Head(msgspec.Struct, frozen=True, gc=False):
    """What is known of a record without reading its value; `size_bytes` as its store counts it.

    A record whose head cannot be read has version 0.
    """

    version: int
    expires_at: float | None
    size_bytes: int


class Weight(msgspec.Struct, frozen=True, gc=False):
    """What an evictor knows of an entry.

    `cost` is what regenerating it would cost, in micro-dollars; 0 means unknown.
    """

    size_bytes: int
    cost: float = 0.0
    expires_at: float | None = None


class Neighbour(msgspec.Struct, frozen=True, gc=False):
    """One answer of a vector index; `similarity` is cosine, -1 to 1, larger is closer."""

    id: str
    similarity: float


class Indexable(msgspec.Struct, frozen=True, gc=False):
    """An entry of the LLM cache that shall be found by meaning, within its scope."""

    key: str
    prompt: str
    expires_at: float | None
    scope: str = ""


class IndexReport(msgspec.Struct, frozen=True, gc=False):
    """What became of entries to be indexed: texts the model cannot read whole stay exact-only."""

    added: int
    unchanged: int
    too_long: int
