from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from cache_management.cache.values import CachedResponse, CacheStats, Lookup, LookupReason

FIELDS = {"prompt": "p", "response": "r", "model": "m", "timestamp": datetime(2026, 1, 2, tzinfo=UTC)}


def response(**changes: Any) -> CachedResponse:
    return CachedResponse(**{**FIELDS, **changes})


def test_naive_timestamp_is_local_time_and_comes_back_in_utc() -> None:
    local = datetime(2026, 7, 1, 12, 30)  # noqa: DTZ001 - that is the point

    moment = response(timestamp=local).timestamp

    assert moment.tzinfo is UTC
    assert moment == local.astimezone()


def test_timestamp_of_another_zone_comes_back_in_utc() -> None:
    moment = response(timestamp=datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=9)))).timestamp

    assert (moment.hour, moment.tzinfo) == (3, UTC)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_moment_that_utc_cannot_hold_is_a_validation_error(text: str) -> None:
    with pytest.raises(ValidationError, match="timestamp"):
        response(timestamp=text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", None),
        ("response", 7),
        ("model", b"\xff"),
        ("timestamp", "yesterday"),
        ("token_count", -1),
        ("token_count", "many"),
        ("metadata", {"a": object()}),
        ("metadata", {1: "a"}),
        ("metadata", ["a"]),
        ("metdata", {}),
    ],
)
def test_wrong_field_is_named(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        response(**{field: value})


def test_response_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        response().response = "other"  # type: ignore[misc]


def test_equal_responses_are_equal_and_others_are_not() -> None:
    assert response() == response()
    assert response() != response(response="other")


def test_token_count_and_metadata_may_be_left_out() -> None:
    assert (response().token_count, response().metadata) == (0, {})


@pytest.mark.parametrize(("hits", "misses", "rate"), [(0, 0, 0.0), (3, 1, 0.75), (0, 5, 0.0), (2, 0, 1.0)])
def test_hit_rate_is_hits_over_lookups(hits: int, misses: int, rate: float) -> None:
    counts = dict.fromkeys(CacheStats.__struct_fields__, 0)
    stats = CacheStats(**{**counts, "hits": hits, "misses": misses})  # type: ignore[arg-type]

    assert stats.hit_rate == rate


@pytest.mark.parametrize("reason", sorted({*get_args(LookupReason)} - {"exact", "semantic"}))
def test_every_reason_of_a_miss_is_explained(reason: LookupReason) -> None:
    said = Lookup(hit=False, key="k", reason=reason, threshold=0.85).explain().splitlines()

    assert said[0] == f"miss: {reason}, threshold 0.85"
    assert len(said[1]) > 20


def test_a_text_that_is_found_exactly_only_is_said_to_be() -> None:
    assert (
        "does not read the text whole" in Lookup(hit=False, key="k", reason="ineligible_turn", threshold=0.85).explain()
    )
