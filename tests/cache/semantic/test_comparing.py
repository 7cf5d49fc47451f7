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
