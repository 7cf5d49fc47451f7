from __future__ import annotations

import logging

import pytest

from cache_management.cache.events import (
    CorruptEvent,
    Event,
    HitEvent,
    MissEvent,
    RemoveEvent,
    StoreEvent,
    UnavailableEvent,
    VetoEvent,
    fan_out,
    ignore,
)
from cache_management.cache.stats import StatsCounter

HIT = HitEvent("exact", "n", "k", 12, 0.5)


def test_raising_listener_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    before: list[Event] = []
    behind: list[Event] = []

    def broken(event: Event) -> None:
        raise RuntimeError("a listener's own fault")

    with caplog.at_level(logging.ERROR, logger="cache_management"):
        fan_out([before.append, broken, behind.append])(HIT)

    assert before == behind == [HIT]
    assert "a cache listener failed on HitEvent" in caplog.text


def test_log_of_a_failed_listener_shows_no_key(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("oops")

    fan_out([broken])(HitEvent("exact", "n", "a private question", 1, 0.1))

    assert "a private question" not in caplog.text


def test_interrupt_passes_through() -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fan_out([interrupted])(HIT)


def test_nobody_need_listen() -> None:
    fan_out([])(HIT)
    ignore(HIT)


def test_counter_counts_each_kind_of_event() -> None:
    counter = StatsCounter()

    for event in (
        HIT,
        HitEvent("semantic", "n", "k", 30, 0.5),
        MissEvent("absent", "n", "k", 0.1),
        StoreEvent("n", "k", 10, 0.1),
        RemoveEvent("delete", "n", 3),
        RemoveEvent("evicted", "n", 2),
        RemoveEvent("expired", "n", 9),
        CorruptEvent("disk", "k", "why"),
        UnavailableEvent("redis", "get", "why"),
        VetoEvent("number", "n"),
    ):
        counter(event)

    assert {name: value for name, value in vars(counter).items() if not name.startswith("_")} == {
        "hits": 2,
        "semantic_hits": 1,
        "misses": 1,
        "stores": 1,
        "deletes": 3,
        "evictions": 2,
        "corrupt_records": 1,
        "backend_failures": 1,
        "tokens_saved": 42,
    }
