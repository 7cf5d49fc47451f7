"""A second opinion refuses what would be served; it never serves what was refused, and its failures refuse."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache_management.cache.config import CacheConfig, SimilarityConfig
from cache_management.cache.embeddings.cross_encoder import CrossEncoderOpinion
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.errors import EmbedderUnavailable, InvalidInput
from cache_management.cache.events import Event, VetoEvent
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.cache.semantic.matcher import SimilarityMatcher

STORED = "how do I reset my password please"
ASKED = "how do I reset my password"
NEAR = "how do I reset my password now please"


def manager_with(opinion: Any, *, heard: list[Event] | None = None, **config: Any) -> CacheManager:
    cache = LLMCache(CacheConfig(url="memory://"), listener=(heard if heard is not None else []).append)
    settings = SimilarityConfig(threshold=0.7, **config)
    matcher = SimilarityMatcher(settings, backend=cache.backend, embedder=HashingEmbedder())
    return CacheManager(cache, matcher, second_opinion=opinion)


async def test_it_is_asked_with_both_questions_and_may_agree() -> None:
    asked: list[tuple[str, str]] = []
    manager = manager_with(lambda *both: asked.append(both) or True)
    await manager.store(STORED, "answer")

    assert (await manager.lookup(ASKED)).hit
    assert asked == [(ASKED, STORED)]


async def later(answer: bool | None) -> bool | None:
    await asyncio.sleep(0)
    return answer


@pytest.mark.parametrize(
    "opinion",
    [lambda *_: False, lambda *_: later(False), lambda *_: np.float32(0.1) > 0.5, lambda *_: 0],
    ids=["plain", "async", "numpy", "number"],
)
async def test_what_it_refuses_is_not_served_and_says_so(opinion: Callable[..., Any]) -> None:
    heard: list[Event] = []
    manager = manager_with(opinion, heard=heard)
    await manager.store(STORED, "answer")
    await manager.store(NEAR, "another")

    found = await manager.lookup(ASKED)

    assert not found.hit
    assert found.reason == "vetoed"
    assert found.vetoes == ("second_opinion",)
    assert {match.vetoes for match in found.candidates} == {("second_opinion",)}  # nor what is further away
    assert VetoEvent("second_opinion", "default") in heard


async def test_who_cannot_tell_refuses_nothing() -> None:
    manager = manager_with(lambda *_: None)
    await manager.store(STORED, "answer")

    assert (await manager.lookup(ASKED)).hit


async def test_nobody_is_asked_about_what_is_sure_or_refused_or_exact() -> None:
    def never(*_: str) -> bool:
        raise AssertionError("asked")

    manager = manager_with(never, sure_from=0.71)
    await manager.store(STORED, "answer")

    assert (await manager.lookup(ASKED)).hit
    assert (await manager.lookup(STORED)).kind == "exact"
    refused = await manager.lookup("how do I not reset my password please")
    assert "gate_error" not in refused.vetoes


def breaks(*_: str) -> bool:
    raise RuntimeError("no such model")


@pytest.mark.parametrize("opinion", [breaks, lambda *_: asyncio.Event().wait()], ids=["breaks", "hangs"])
async def test_a_failing_or_late_opinion_refuses(opinion: Callable[..., Any]) -> None:
    manager = manager_with(opinion, opinion_timeout_seconds=0.01)
    await manager.store(STORED, "answer")

    found = await manager.lookup(ASKED)

    assert not found.hit
    assert found.vetoes == ("gate_error",)
    assert (await manager.get_or_compute(ASKED, lambda: "fresh")).response == "fresh"


async def test_opinions_that_never_come_leave_the_threads_of_others_alone() -> None:
    end = threading.Event()
    heard: list[Event] = []
    manager = manager_with(lambda *_: end.wait(), heard=heard, opinion_timeout_seconds=0.005)
    await manager.store(STORED, "answer")

    found = [await manager.lookup(ASKED) for _ in range(40)]
    others = [thread for thread in threading.enumerate() if thread.name == "cache-opinion"]
    async with asyncio.timeout(10):
        assert await asyncio.to_thread(lambda: "free") == "free"
    end.set()

    assert not any(found)
    assert len(others) <= 32
    assert heard.count(VetoEvent("gate_error", "default")) == 40


async def test_other_namespaces_are_asked_about_too() -> None:
    manager = manager_with(lambda *_: False)
    await manager.store(STORED, "answer", namespace="other")

    assert not (await manager.lookup(ASKED, namespace="other")).hit


def test_a_missing_cross_encoder_says_what_to_give(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")

    with pytest.raises(EmbedderUnavailable, match="give a folder"):
        CrossEncoderOpinion(tmp_path)("a", "b")


@pytest.mark.slow
async def test_a_cross_encoder_is_asked(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("sentence_transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({*STORED.split(), *ASKED.split()})]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        num_labels=1,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    score = CrossEncoderOpinion(tmp_path).score(ASKED, STORED)

    for at_least, hit in ((score - 0.01, True), (score + 0.01, False)):
        manager = manager_with(CrossEncoderOpinion(tmp_path, at_least=at_least), opinion_timeout_seconds=60)
        await manager.store(STORED, "answer")
        assert (await manager.lookup(ASKED)).hit is hit


@pytest.mark.parametrize("said", ["no", "False", 0.1, [], object()])
async def test_an_opinion_that_is_neither_yes_nor_no_refuses(said: Any, caplog: pytest.LogCaptureFixture) -> None:
    manager = manager_with(lambda *_: said)
    await manager.store(STORED, "answer")

    assert (await manager.lookup(ASKED)).vetoes == ("gate_error",)
    assert "answer True, False or None" in caplog.text


@pytest.mark.parametrize("name", ["judge", "second_opinion"])
def test_what_cannot_be_asked_is_refused_at_once(name: str) -> None:
    given: Any = {name: 5}

    with pytest.raises(InvalidInput, match=f"{name} must be a function, not 5"):
        CacheManager(LLMCache(CacheConfig(url="memory://")), **given)


def test_a_cross_encoder_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        CrossEncoderOpinion(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="at_least"):
        CrossEncoderOpinion(tmp_path, at_least=float("nan"))
