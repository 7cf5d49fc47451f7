"""What users store and read back. Checked once, at the door."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

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
    gate that refuses it; when it is empty the match would be served. `age_seconds` is how long
    ago the answer was stored.
    """

    score: float
    prompt: str
    response: str
    key: str
    vetoes: tuple[str, ...] = ()
    age_seconds: float | None = None


LookupKind = Literal["exact", "semantic"]
LookupReason = Literal[
    "exact",
    "semantic",
    "no_candidate",
    "below_threshold",
    "vetoed",
    "unverified",
    "ineligible_turn",
    "bypass",
    "expired",
    "degraded",
]


_MISSES: Final[Mapping[LookupReason, str]] = {
    "no_candidate": "nothing that can be found by meaning was asked in this context: model, system prompt, tools,"
    " parameters and conversation",
    "below_threshold": "the nearest question in this context is further away than the threshold",
    "vetoed": "what is near enough was refused, by a gate, by somebody's word or by a second opinion",
    "unverified": "something is near enough, and too little is known yet of whether its answer would be right",
    "ineligible_turn": "it can be found exactly only: the model does not read the text whole (it is too long, or has"
    " signs that the model does not know), or it is empty or a turn of a tool",
    "bypass": "the caller wanted a new answer",
    "expired": "what is stored is older than it may be, or than the caller takes",
    "degraded": "the store, the model or the index did not answer; the log says which and why",
}
"""What each reason of a miss means, in a sentence."""


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one question, and why. True in a condition when it is a hit.

    `key` is the entry that was served, or the one under which an answer would be stored. `reason`
    says why it missed; on a hit it is the kind. `nearest` is the best candidate that was not served,
    `vetoes` are its gates, `candidates` are all that were weighed, best first. `similarity` is
    that of the answer served, 1.0 when exact. `prompt` is the text that was asked.
    """

    hit: bool
    kind: LookupKind | None = None
    response: CachedResponse | None = None
    key: str
    similarity: float | None = None
    age_seconds: float | None = None
    reason: LookupReason
    vetoes: tuple[str, ...] = ()
    nearest: SimilarityMatch | None = None
    threshold: float
    candidates: tuple[SimilarityMatch, ...] = ()
    scope: str | None = None
    namespace: str = "default"
    timings_ms: dict[str, float] = {}
    decision_id: str = ""
    prompt: str = ""

    def __bool__(self) -> bool:
        return self.hit

    def explain(self) -> str:
        """Return the decision in lines for a person: what was weighed, how close it was, what refused it."""
        kept = f", stored {_ago(self.age_seconds)} ago" if self.age_seconds is not None else ""
        lines = [f"{'hit' if self.hit else 'miss'}: {self.reason}{kept}, threshold {self.threshold:.2f}"]
        if not self.hit and self.reason in _MISSES:
            lines.append(f"  {_MISSES[self.reason]}")
        for match in self.candidates:
            served = self.hit and match.key == self.key and not match.vetoes
            verdict = (
                "served"
                if served
                else "refused by " + ", ".join(match.vetoes)
                if match.vetoes
                else "below the threshold"
                if match.score < self.threshold
                else "not served"
            )
            age = f", stored {_ago(match.age_seconds)} ago" if match.age_seconds is not None else ""
            lines.append(f"  {match.score:.3f}  {match.prompt[:80]!r}: {verdict}{age}")
        took = ", ".join(f"{stage} {spent:.2f} ms" for stage, spent in self.timings_ms.items())
        return "\n".join([*lines, *([f"  took {took}"] if took else [])])


class NearMiss(msgspec.Struct, frozen=True):
    """An answer that was near enough and was not served: what was asked, what was stored, and what refused it.

    `at` is Unix seconds; texts are cut after 500 characters.
    """

    at: float
    namespace: str
    asked: str
    stored: str
    score: float
    vetoes: tuple[str, ...]


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, and where it came from.

    `kind` is None when it was computed for this call; an answer that somebody else's computation brought meanwhile is
    "exact". `similarity` is 1.0 when exact, None when computed. `key` is that of the entry, or the one under which
    the answer was to be stored.
    """

    response: CachedResponse
    kind: LookupKind | None
    key: str
    similarity: float | None
    age_seconds: float


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


class CacheStats(msgspec.Struct, frozen=True):
    """Counts since the cache was opened in this process, and what the store holds now.

    `total_entries` are answers and results of reasoning together, `reasoning_entries` the latter alone.
    """

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
    reasoning_entries: int = 0

    @property
    def hit_rate(self) -> float:
        """Return hits over lookups, 0 to 1; 0.0 when nothing was looked up."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0
