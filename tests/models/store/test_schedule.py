"""A slot of a schedule gets one job, whoever asks and however clocks step."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy.exc import StatementError

from cache_management.models.store import Stores, open_stores
from cache_management.models.store.results import Submitted
from tests.models.acting import Acting, HandClock

HOUR = 3600.0


def ask(stores: Stores, name: str = "nightly", **options: Any) -> Submitted | None:
    given = {"every_seconds": HOUR, "namespace": "", "submitted_by": "scheduler", **options}
    return stores.jobs.create_scheduled(name, "prune", {}, **given)


def test_two_schedulers_get_one_job(stores: Stores) -> None:
    first, second = ask(stores), ask(stores)

    assert first is not None
    assert first.created
    assert first.ring is not None
    assert second is None
    assert [job.id for job in stores.jobs.list()] == [first.job_id]


def test_the_next_slot_gets_the_next_job(acting: Acting, stores: Stores, clock: HandClock) -> None:
    first = ask(stores)
    assert first is not None
    stores.jobs.request(first.job_id, "cancel", by="me")
    clock.advance(HOUR)

    second = ask(stores)

    assert second is not None
    assert second.created
    assert second.job_id != first.job_id


def test_a_run_that_outlasts_its_slot_is_not_doubled(stores: Stores, clock: HandClock) -> None:
    first = ask(stores)
    clock.advance(HOUR)

    second = ask(stores)

    assert first is not None
    assert second is not None
    assert (second.job_id, second.created, second.ring) == (first.job_id, False, None)


def test_slots_missed_while_nobody_asked_are_caught_up_on_once(stores: Stores, clock: HandClock) -> None:
    first = ask(stores)
    assert first is not None
    stores.jobs.request(first.job_id, "cancel", by="me")
    clock.advance(10 * HOUR)

    assert ask(stores) is not None
    assert ask(stores) is None


def test_a_clock_that_steps_back_opens_no_slot_again(stores: Stores, clock: HandClock) -> None:
    for _ in range(3):
        submitted = ask(stores)
        assert submitted is not None
        stores.jobs.request(submitted.job_id, "cancel", by="me")
        clock.advance(HOUR)
    clock.advance(-2 * HOUR)

    assert ask(stores) is None


def test_an_offset_moves_the_beginning_of_a_slot(stores: Stores, clock: HandClock) -> None:
    # The clock stands at midnight UTC.
    day: dict[str, Any] = {"every_seconds": 24 * HOUR, "offset_seconds": 3 * HOUR}
    yesterdays = ask(stores, **day)
    assert yesterdays is not None
    stores.jobs.request(yesterdays.job_id, "cancel", by="me")
    clock.advance(3 * HOUR - 1)
    assert ask(stores, **day) is None

    clock.advance(1)

    assert ask(stores, **day) is not None


def test_schedules_of_other_names_have_slots_of_their_own(stores: Stores) -> None:
    assert ask(stores, "one") is not None
    assert ask(stores, "two") is not None


def test_a_slot_whose_transaction_failed_is_still_free(stores: Stores) -> None:
    with pytest.raises((StatementError, TypeError)):
        stores.jobs.create_scheduled(
            "nightly", "prune", {"no": {"JSON"}}, every_seconds=HOUR, namespace="", submitted_by="scheduler"
        )

    assert ask(stores) is not None


def test_many_at_once_get_one_job(url: str, stores: Stores, clock: HandClock) -> None:
    opened = [open_stores(url, clock=clock) for _ in range(4)]
    together = threading.Barrier(4)
    got: list[Submitted | None] = []

    def run(mine: Stores) -> None:
        together.wait()
        got.append(ask(mine))

    threads = [threading.Thread(target=run, args=(mine,)) for mine in opened]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine in opened:
        mine.close()

    assert sum(each is not None for each in got) == 1
    assert len(stores.jobs.list()) == 1
