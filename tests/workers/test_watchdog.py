"""When a worker that is up must go, told without a clock."""

from __future__ import annotations

from collections.abc import Container

import pytest

from cache_management.workers.watchdog import PATIENCE_SECONDS, Look, Watch, patience_of

EMPTY = Look(waiting=None, received=0, running=())
WAITING = Look(waiting="warm", received=0, running=())
RECEIVED = Look(waiting="warm", received=1, running=())


def busy(limit: float | None = 90) -> Look:
    return Look(waiting="warm", received=0, running=(("id", "warm.chunk", limit),))


def first_word(
    *spans: tuple[int, Look], taken: Container[int] = (), not_looked: Container[int] = ()
) -> tuple[int, str] | None:
    """Show looks, each up to its second, to a fresh watch with a patience of 60 s; return when it speaks, and what.

    It looks every second but those in `not_looked`; messages are taken in those in `taken`.
    """
    watch = Watch(0, patience_seconds=60, start_seconds=120)
    now = 0
    for until, look in spans:
        while now < until:
            now += 1
            if now in taken:
                watch.took(now)
            why = None if now in not_looked else watch.judge(now, look)
            if why is not None:
                return now, why
    return None


def test_a_queue_that_waits_longer_than_the_patience_is_named() -> None:
    assert first_word((500, WAITING)) == (61, "the queue warm is not empty, and nothing was taken for 61 s")


def test_an_empty_queue_or_a_silent_broker_is_no_reason() -> None:
    assert first_word((1000, EMPTY), (1060, WAITING)) is None


def test_a_queue_that_was_empty_in_between_is_waited_for_anew() -> None:
    assert first_word((50, WAITING), (51, EMPTY), (111, WAITING)) is None


def test_whoever_takes_something_is_not_deaf() -> None:
    assert first_word((150, WAITING), taken=(30, 90)) is None


def test_a_busy_slot_is_a_reason_to_wait_and_its_end_the_beginning_of_the_patience() -> None:
    spoken = first_word((100, busy()), (500, WAITING))

    assert spoken is not None
    assert spoken[0] == 161


def test_a_pool_that_starts_gets_the_time_that_a_model_takes_to_load() -> None:
    assert first_word((500, RECEIVED)) == (181, "1 tasks were taken and none has begun for 181 s")


def test_a_task_far_beyond_its_hard_limit_is_a_reason_although_it_runs() -> None:
    spoken = first_word((500, busy()))

    assert spoken == (152, "warm.chunk has run for more than 90 s and 60 s beyond, and cannot be ended")


def test_a_task_without_a_limit_may_take_its_time() -> None:
    assert first_word((10_000, busy(None))) is None


def test_a_time_in_which_nobody_looked_is_not_held_against_the_worker() -> None:
    spoken = first_word((500, WAITING), not_looked=range(40, 300))

    assert spoken is not None
    assert spoken[0] == 361, "it was stopped itself, or could not ask the broker"


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(None, PATIENCE_SECONDS), ("", PATIENCE_SECONDS), ("7.5", 7.5), ("0", 0), ("-3", 0), ("soon", PATIENCE_SECONDS)],
)
def test_the_environment_sets_the_patience(given: str | None, seconds: float) -> None:
    assert patience_of({} if given is None else {"CACHE_DEAF_AFTER_SECONDS": given}) == seconds
