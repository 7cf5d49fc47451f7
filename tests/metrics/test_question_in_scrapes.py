"""What a scrape asks: one source that breaks down hides no other, and a forked child waits for none of its parent."""

from __future__ import annotations

import os

import pytest

from cache_management.cache.question import Question


def test_a_source_that_breaks_down_is_named_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    question = Question(lambda: int("a secret"), "cache store", 5)

    assert question.ask()() is None

    assert "the cache store cannot be asked: ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_a_child_can_ask_though_a_thread_of_its_parent_was_asking() -> None:
    question = Question(lambda: 7, "cache store", 1)

    with question._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if question._lock.acquire(timeout=1) else 1)

    assert os.waitpid(child, 0)[1] == 0
