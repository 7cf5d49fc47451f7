"""What is found in another cache, as entries of this one, and what cannot come along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from cache_management.cache.admission import Refusal, may_store
from cache_management.cache.errors import EntryTooLarge, InvalidInput
from cache_management.cache.requests import Request, entry_key, make_request
from cache_management.cache.transfer.lines import EntryLine, line_of
from cache_management.cache.transfer.shelf import Shelf
from cache_management.migration_sources.newest import Line

_EXAMPLES = 3
_SHOWN = 60
_REFUSED: Mapping[Refusal, str] = {
    Refusal.TRUNCATED: "a cut-off answer",
    Refusal.CONTENT_FILTER: "a filtered answer",
    Refusal.REFUSAL: "a refusal",
    Refusal.EMPTY: "no answer",
    Refusal.ABORTED_STREAM: "a stream that does not say that it ended",
}
# What the other cache may have held for good reasons.
_MISSED = frozenset({Refusal.EMPTY, Refusal.ABORTED_STREAM})


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One answer: `asked` are arguments of `make_request`, `where` is its name over there.

    `model` is that of the answer. An `expires_at` that is left out is the life that this cache gives. What
    `says_all` was asked with nothing else. Without `has_time` the `timestamp` is a guess, and an entry that is here
    stays.
    """

    where: str
    asked: Mapping[str, Any]
    response: str
    timestamp: datetime
    model: str | None = None
    token_count: int = 0
    metadata: dict[str, Any] = {}
    has_tool_calls: bool = False
    says_all: bool = False
    has_time: bool = True
    expires_at: float | UnsetType | None = UNSET


class LeftOut(msgspec.Struct, frozen=True):
    """Something that does not come along. `is_fault` is False for what nobody would miss."""

    reason: str
    where: str
    prompt: str = ""
    is_fault: bool = True


def left_out_for(refusal: Refusal, where: str, prompt: str) -> LeftOut:
    """Return an answer that would not be kept if it were given here."""
    reason = _REFUSED.get(refusal, "an answer that did not end well")
    return LeftOut(reason, where, prompt, is_fault=refusal in _MISSED)


class ForeignCache(Protocol):
    """Another cache, open to be read."""

    def count(self) -> int:
        """Return about how many rows there are, for a progress bar."""

    def rows(self) -> Iterator[Found | LeftOut]:
        """Yield everything that it holds."""

    def close(self) -> None:
        """Free files and connections."""


class Report:
    """Counts what did not come along, with a few examples."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.has_faults = False

    def add(self, left: LeftOut) -> None:
        """Count one."""
        self.counts[left.reason] += 1
        self.has_faults = self.has_faults or left.is_fault
        examples = self.examples.setdefault(left.reason, [])
        if len(examples) < _EXAMPLES:
            shown = left.prompt[:_SHOWN] + ("…" if len(left.prompt) > _SHOWN else "")
            examples.append(f"{left.where}: {shown!r}" if shown else left.where)


class Converter:
    """Turns what is found into lines of an export, each as it could be stored.

    Args:
        asked: What all of it was asked with, as far as the other cache does not say it.
        scope_of: Where an answer is found by meaning.
    """

    def __init__(
        self,
        shelf: Shelf,
        scope_of: Callable[[Request], Awaitable[str | None]],
        *,
        asked: Mapping[str, Any],
        report: Report,
    ) -> None:
        self._shelf = shelf
        self._scope_of = scope_of
        self._asked = asked
        self._report = report
        self._now = shelf.clock()

    async def line(self, row: Found | LeftOut) -> Line | None:
        """Return the line of an entry, or None for what is left out."""
        if isinstance(row, LeftOut):
            self._report.add(row)
            return None
        prompt = row.asked.get("prompt")
        shown = prompt if isinstance(prompt, str) else ""
        if isinstance(row.expires_at, float) and row.expires_at <= self._now:
            self._report.add(LeftOut("its life is over", row.where, shown, is_fault=False))
            return None
        # Its size is checked with the whole entry.
        refused = may_store(row.response, size_bytes=0, limit_bytes=0, has_tool_calls=row.has_tool_calls)
        if refused is not None:
            self._report.add(left_out_for(refused, row.where, shown))
            return None
        if row.timestamp.timestamp() > self._now:
            # A clock or a zone that is wrong: as the newest of all it would take the place of what is here.
            row = replace(row, timestamp=datetime.fromtimestamp(self._now, UTC), has_time=False)
        try:
            request = make_request(**(row.asked if row.says_all else {**self._asked, **row.asked}))
            key = entry_key(request)
            entry = EntryLine(
                key=key,
                prompt=request.last_text or "",
                response=row.response,
                model=row.model or request.model or "unknown",
                timestamp=row.timestamp,
                token_count=row.token_count,
                metadata=row.metadata,
                expires_at=row.expires_at,
                scope=await self._scope_of(request),
            )
            name, _ = self._shelf.record(entry, now=self._now)
            return Line(
                name,
                line_of(entry, where=row.where),
                row.timestamp.timestamp() if row.has_time else None,
                row.where,
                shown or request.last_text or "",
            )
        except InvalidInput as exc:
            self._report.add(LeftOut(f"cannot be stored: {_in_short(exc)}", row.where, shown))
            return None


def _in_short(error: InvalidInput) -> str:
    """Return the kind of an error: sizes and places would make a reason of each row."""
    return (
        "larger than max_entry_bytes" if isinstance(error, EntryTooLarge) else "not what a request or an entry may hold"
    )
