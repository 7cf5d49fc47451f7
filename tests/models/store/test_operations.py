"""Slots, marks and statistics."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from cache_management.models.operations import ScheduleSlot
from cache_management.models.store import Stores
from tests.models.acting import HandClock, LossyDatabase


def test_a_slot_is_claimed_once(stores: Stores, clock: HandClock) -> None:
    assert stores.operations.claim_slot("sweep", 60)
    assert not stores.operations.claim_slot("sweep", 60)
    assert stores.operations.claim_slot("repair", 60)

    clock.advance(60)

    assert stores.operations.claim_slot("sweep", 60)


def test_a_clock_set_back_does_not_open_a_slot_again(stores: Stores, clock: HandClock) -> None:
    stores.operations.claim_slot("sweep", 60)
    clock.advance(60)
    stores.operations.claim_slot("sweep", 60)

    clock.advance(-60)

    assert not stores.operations.claim_slot("sweep", 60)


def test_old_slots_are_forgotten(stores: Stores, clock: HandClock, database: LossyDatabase) -> None:
    stores.operations.claim_slot("sweep", 1)
    clock.advance(2000)

    stores.operations.claim_slot("sweep", 1)

    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(ScheduleSlot)).scalar_one() == 1


def test_marks_show_how_long_a_worker_was_silent(stores: Stores, clock: HandClock) -> None:
    stores.operations.touch_mark("warm", "one")
    stores.operations.touch_mark("embed", "two")
    clock.advance(70)
    stores.operations.touch_mark("warm", "one")

    marks = [(mark.queue, mark.worker, mark.age_seconds) for mark in stores.operations.marks()]

    assert marks == [("warm", "one", 0), ("embed", "two", 70)]


def test_marks_of_workers_long_gone_can_be_dropped(stores: Stores, clock: HandClock) -> None:
    stores.operations.touch_mark("warm", "gone")
    clock.advance(100)
    stores.operations.touch_mark("warm", "here")

    assert stores.operations.forget_marks(older_than_seconds=60) == 1
    assert [mark.worker for mark in stores.operations.marks()] == ["here"]


def test_a_token_that_comes_soon_is_taken_before_it_is_there(stores: Stores, clock: HandClock) -> None:
    """So that those who wait do not ask again and again, and come in the order in which they asked."""

    def take() -> float:
        return stores.operations.take_tokens("p", rate_per_second=10, burst=1, patience_seconds=0.25)

    assert [take() for _ in range(5)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.3])
    clock.advance(0.1)
    assert [take(), take()] == pytest.approx([0.2, 0.3])
    clock.advance(10)
    assert take() == 0
    stores.operations.block_bucket("p", 0.2)
    assert [take(), take()] == pytest.approx([0.2, 0.2])
    stores.operations.block_bucket("p", 60)
    assert take() == pytest.approx(60)


def test_a_bucket_opens_although_the_clock_was_set_back(stores: Stores, clock: HandClock) -> None:
    def take() -> float:
        return stores.operations.take_tokens("p", rate_per_second=1, burst=1)

    stores.operations.block_bucket("p", 5)
    clock.advance(-86_400)
    assert take() <= 1
    clock.advance(1)
    assert take() == 0
    stores.operations.block_bucket("p", 5)
    assert take() == 5, "a new block holds"
    clock.advance(6)
    assert take() == 0


def test_statistics_add_up_within_and_across_periods(stores: Stores, clock: HandClock) -> None:
    start = clock.now
    stores.operations.add_stats({"hits": 2, "misses": 1})
    stores.operations.add_stats({"hits": 3}, namespace="shop")
    clock.advance(30)
    stores.operations.add_stats({"hits": 5})
    clock.advance(30)
    stores.operations.add_stats({"hits": 7})
    stores.operations.add_stats({})

    assert stores.operations.sum_stats() == {"hits": 17, "misses": 1}
    assert stores.operations.sum_stats(namespace="shop") == {"hits": 3}
    assert stores.operations.sum_stats(since=start + timedelta(seconds=60)) == {"hits": 7}
    assert stores.operations.sum_stats(until=start + timedelta(seconds=60), namespace="") == {"hits": 7, "misses": 1}
