"""What users store and read back. Checked once, at the door."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue


def _to_utc(moment: datetime) -> datetime:
    """Read a naive moment as local time and return it in UTC."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside the years 1 to 9999 in UTC") from None


UtcDatetime = Annotated[datetime, AfterValidator(_to_utc)]


class CachedResponse(BaseModel):
    """One model answer, as the application stored it.

    A naive `timestamp` is taken as local time; it comes back timezone-aware, in UTC.
    `metadata` holds any JSON value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    prompt: str
    response: str
    model: str
    timestamp: UtcDatetime
    token_count: int = Field(default=0, ge=0)
    metadata: dict[str, JsonValue] = Field(default_factory=dict)


class SimilarityMatch(msgspec.Struct, frozen=True):
    """One stored prompt that means nearly the same as the query.

    `score` is the cosine similarity, -1 to 1, larger is closer. `vetoes` names every
    gate that refuses it; when it is empty the match would be served.
    """

    score: float
    prompt: str
    response: str
    key: str
    vetoes: tuple[str, ...] = ()


class CacheStats(msgspec.Struct, frozen=True):
    """Counts since the cache was opened in this process, and what the store holds now."""

    total_entries: int
    hits: int
    misses: int
    semantic_hits: int
    stores: int
    deletes: int
    evictions: int
    corrupt_records: int
    backend_failures: int
    tokens_saved: int
    size_bytes: int | None
    backend: str
    namespace: str

    @property
    def hit_rate(self) -> float:
        """Return hits over lookups, 0 to 1; 0.0 when nothing was looked up."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0
