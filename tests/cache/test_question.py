"""One question for many, each within its time."""

from __future__ import annotations

import threading
import time

import pytest

from cache_management.cache.question import Question


def test_who_comes_while_it_is_asked_gets_the_same_answer() -> None:
    may_answer, asked = threading.Event(), []

    def work() -> int:
        asked.append(1)
        may_answer.wait(10)
        return len(asked)

    question = Question(work, "oracle", 5)
    answers = [question.begin() for _ in range(20)]
    may_answer.set()

    assert [answer() for answer in answers] == [1] * 20
    assert question.begin()() == 2


def test_an_answer_and_a_failure_are_kept_for_a_while() -> None:
    asked = []

    def work() -> int:
        asked.append(1)
        if len(asked) == 1:
            raise ValueError("not yet")
        return 7

    kept = Question(work, "oracle", 5, keep_seconds=3600)

    for _ in range(2):
        with pytest.raises(ValueError, match="not yet"):
            kept.begin()()
    assert len(asked) == 1

    fresh = Question(work, "oracle", 5, keep_seconds=0)

    assert [fresh.begin()() for _ in range(2)] == [7, 7]
    assert len(asked) == 3


def test_the_time_counts_from_the_question_and_not_from_the_wait() -> None:
    may_end = threading.Event()
    slow = [Question(lambda: may_end.wait(30), "oracle", 0.4) for _ in range(4)]
    started = time.monotonic()
    answers = [each.begin() for each in slow]

    for answer in answers:
        with pytest.raises(TimeoutError):
            answer()
    may_end.set()

    assert time.monotonic() - started < 1.2  # four waits in turn would take 1.6
