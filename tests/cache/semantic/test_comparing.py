"""A judge of the application, whatever it does."""

from __future__ import annotations

import threading

import pytest

from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.semantic import comparing
from cache_management.cache.semantic.comparing import compare


async def test_a_plain_judge_blocks_no_event_loop_and_cannot_tell_when_it_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comparing, "_JUDGE_SECONDS", 0.05)
    end = threading.Event()

    found = await compare("q", "one answer", "another", embedder=HashingEmbedder(), judge=lambda *_: end.wait())
    end.set()

    assert found == "unsure"


@pytest.mark.parametrize(
    ("stored", "fresh", "verdict"),
    [
        ("", "", "unsure"),
        (" ", "\n", "unsure"),
        ('[{"name": "f", "args": {"a": 1}}]', '[{"args": {"a": 1}, "name": "f"}]', "same"),
        ('[{"name": "f", "args": {"city": "Paris"}}]', '[{"name": "f", "args": {"city": "paris"}}]', "different"),
        ('[{"name": "f", "args": {"a": "-5"}}]', '[{"name": "f", "args": {"a": 5}}]', "different"),
        ('Looking.\n[{"name": "f"}]', 'looking\n[{"name": "f"}]', "same"),
        ('Looking.\n[{"name": "f"}]', 'Looking.\n[{"name": "g"}]', "different"),
        ('Looking.\n[{"name": "f"}]', "Looking.", "different"),
        ("{not json", "{Not JSON", "same"),
    ],
)
async def test_calls_of_tools_are_the_same_when_they_are_equal(stored: str, fresh: str, verdict: str) -> None:
    assert await compare("q", stored, fresh, embedder=HashingEmbedder()) == verdict


async def test_a_judge_may_say_that_other_json_says_the_same() -> None:
    texts = ('{"answer": "yes, it is"}', '{"answer": "indeed"}')

    assert await compare("q", *texts, embedder=HashingEmbedder(), judge=lambda *_: True) == "same"
    assert await compare("q", *texts, embedder=HashingEmbedder()) == "different"
