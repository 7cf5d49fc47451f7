"""What every embedder promises. Implementations inherit this suite."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

import numpy as np
import pytest

from cache_management.cache.embeddings.base import Embedder, checked_rows

VARIED = (
    "What is the capital of France?",
    "",
    "   ",
    "日本語のプロンプト 🙂",
    "شكرا جزيلا على المساعدة",
    "x\x00y",
    "\ud800 half of a pair",
    "the sign ∮ in maths",
    "a few more words " * 20,
    "word " * 8000,
)


class EmbedderContract(ABC):
    @abstractmethod
    async def make(self) -> Embedder:
        """Return a loaded embedder; it may be the same each time."""

    async def test_any_text_has_a_unit_row_of_float32(self) -> None:
        embedder = await self.make()

        rows = await embedder.embed(VARIED)

        assert rows.dtype == np.float32
        checked_rows(rows, model=embedder.model, texts=len(VARIED), dims=embedder.dims)

    async def test_nothing_asked_gives_no_rows(self) -> None:
        embedder = await self.make()

        assert (await embedder.embed([])).shape == (0, embedder.dims)

    async def test_text_has_the_same_row_alone_and_among_others(self) -> None:
        embedder = await self.make()

        together = await embedder.embed(VARIED)

        for text, row in zip(VARIED, together, strict=True):
            (alone,) = await embedder.embed([text])
            assert float(alone @ row) == pytest.approx(1.0, abs=1e-4), text[:40]

    async def test_callers_at_once_each_get_their_own_rows(self) -> None:
        embedder = await self.make()
        texts = [f"question number {at}" for at in range(40)]

        answers = await asyncio.gather(*[embedder.embed([text]) for text in texts])

        wanted = await embedder.embed(texts)
        assert np.allclose(np.concatenate(answers), wanted, atol=1e-4)

    async def test_cancelled_caller_leaves_the_others_alone(self) -> None:
        embedder = await self.make()
        calls = [asyncio.ensure_future(embedder.embed([f"cancelled or not {at}"])) for at in range(10)]
        await asyncio.sleep(0)

        for call in calls[::2]:
            call.cancel()

        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, np.ndarray) for answer in answers[1::2])
        assert (await embedder.embed(["afterwards"])).shape == (1, embedder.dims)

    async def test_plain_words_fit(self) -> None:
        assert (await self.make()).fits("What is the capital of France?")

    @pytest.mark.parametrize("text", ["", "🙂", "word " * 8000, "日本語 " * 4000, "a" * 100_000, "\ud800", "\x00"])
    async def test_whether_any_text_fits_can_be_told(self, text: str) -> None:
        assert (await self.make()).fits(text) in {True, False}

    async def test_space_and_model_have_names(self) -> None:
        embedder = await self.make()

        assert embedder.model
        assert embedder.space
        assert embedder.dims > 0
