from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.semantic.embedding_cache import CachingEmbedder


class CountingEmbedder(HashingEmbedder):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.append(list(texts))
        await self.may_answer.wait()
        return await super().embed(texts)


async def test_same_text_is_embedded_once() -> None:
    inner = CountingEmbedder()
    embedder = CachingEmbedder(inner)

    first = await embedder.embed(["a", "b"])
    second = await embedder.embed(["b", "c", "a"])

    assert inner.asked == [["a", "b"], ["c"]]
    assert np.array_equal(second[[2, 0]], first)


async def test_rows_are_those_of_the_inner_embedder_in_order() -> None:
    texts = ["x", "y", "x", "", "ü\ud800"]

    rows = await CachingEmbedder(HashingEmbedder()).embed(texts)

    assert np.array_equal(rows, await HashingEmbedder().embed(texts))


async def test_repeated_text_in_one_batch_is_asked_once() -> None:
    inner = CountingEmbedder()

    await CachingEmbedder(inner).embed(["a", "a", "a"])

    assert inner.asked == [["a"]]


async def test_vectors_used_last_stay() -> None:
    inner = CountingEmbedder()
    embedder = CachingEmbedder(inner, max_size=2)
    await embedder.embed(["a", "b"])
    await embedder.embed(["a"])
    await embedder.embed(["c"])
    inner.asked.clear()

    await embedder.embed(["a", "b"])

    assert inner.asked == [["b"]]


async def test_batch_larger_than_the_memory_is_answered() -> None:
    texts = [str(at) for at in range(10)]

    rows = await CachingEmbedder(HashingEmbedder(), max_size=3).embed(texts)

    assert np.array_equal(rows, await HashingEmbedder().embed(texts))


async def test_nothing_asked_gives_no_rows() -> None:
    assert (await CachingEmbedder(HashingEmbedder(32)).embed([])).shape == (0, 32)


async def test_vector_forgotten_while_the_model_runs_is_still_returned() -> None:
    inner = CountingEmbedder()
    embedder = CachingEmbedder(inner, max_size=1)
    await embedder.embed(["kept"])
    held_up = inner.may_answer = asyncio.Event()
    slow = asyncio.ensure_future(embedder.embed(["kept", "new"]))
    await asyncio.sleep(0)
    inner.may_answer = asyncio.Event()
    inner.may_answer.set()

    await embedder.embed(["another"])
    held_up.set()

    assert (await slow).shape == (2, 64)


async def test_kept_vector_does_not_hold_on_to_its_whole_batch() -> None:
    embedder = CachingEmbedder(HashingEmbedder(), max_size=1)
    await embedder.embed([str(at) for at in range(100)])

    (kept,) = embedder._vectors.values()

    assert kept.base is None or kept.base.size == kept.size


async def test_description_is_that_of_the_inner_embedder() -> None:
    inner = HashingEmbedder(16)
    embedder = CachingEmbedder(inner)
    await embedder.load()

    assert (embedder.model, embedder.dims, embedder.space) == (inner.model, inner.dims, inner.space)
    assert embedder.fits("x" * 10**6)


@pytest.mark.parametrize("text", ["What is Python?", "日本語 🙂", "", "  ", "\x00"])
async def test_hashing_embedder_gives_the_same_unit_vector_every_time(text: str) -> None:
    (first,) = await HashingEmbedder().embed([text])
    (second,) = await HashingEmbedder().embed([text])

    assert np.array_equal(first, second)
    assert np.linalg.norm(first) == pytest.approx(1.0, abs=1e-5)
