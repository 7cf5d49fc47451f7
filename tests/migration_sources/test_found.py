"""What is found in another cache, as lines of an export."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.requests import Request
from cache_management.cache.transfer.shelf import Shelf
from cache_management.migration_sources.found import Converter, Found, Report
from cache_management.migration_sources.newest import Line

MOMENT = datetime(2001, 1, 2, tzinfo=UTC)


async def converted(report: Report, **more: Any) -> Line | None:
    """Return the line that a row becomes, in the year 2001."""

    async def no_scope(request: Request) -> None:
        return None

    shelf = Shelf(
        MemoryBackend(max_size=10), namespace="default", clock=lambda: 1e9, limit_bytes=1000, ttl_seconds=None
    )
    converter = Converter(shelf, no_scope, asked={}, report=report)
    row = {"where": "row 1", "asked": {"prompt": "q"}, "response": "a", "timestamp": MOMENT, **more}
    return await converter.line(Found(**row))


@pytest.mark.parametrize(
    ("more", "reason", "is_fault"),
    [
        ({"response": " "}, "no answer", True),
        ({"response": "I'm sorry, but I can't help with that."}, "a refusal", False),
        ({"response": "a" * 2000}, "cannot be stored: larger than max_entry_bytes", True),
        ({"response": "\ud800"}, "cannot be stored: not what a request or an entry may hold", True),
        ({"asked": {"prompt": "\ud800"}}, "cannot be stored: not what a request or an entry may hold", True),
        ({"expires_at": 5.0}, "its life is over", False),
    ],
)
async def test_what_would_not_be_kept_here_does_not_come_along(
    more: dict[str, Any], reason: str, is_fault: bool
) -> None:
    report = Report()

    found = await converted(report, **more)

    assert found is None
    assert (dict(report.counts), report.has_faults) == ({reason: 1}, is_fault)


async def test_calls_of_tools_with_words_like_a_refusal_come_along() -> None:
    report = Report()

    line = await converted(report, response="I'm sorry, I can't do that alone.", has_tool_calls=True)

    assert line is not None
    assert not report.counts


async def test_a_time_to_come_is_none() -> None:
    line = await converted(Report(), timestamp=datetime(2026, 1, 2, tzinfo=UTC))
    past = await converted(Report())

    assert line is not None
    assert line.time is None
    assert datetime.fromisoformat(json.loads(line.encoded)["timestamp"]).timestamp() == 1e9
    assert past is not None
    assert past.time == MOMENT.timestamp()
