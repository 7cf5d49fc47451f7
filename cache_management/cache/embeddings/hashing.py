"""A deterministic embedder that needs no model. It knows words, not meaning: for tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xxhash

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORD = re.compile(r"\w+")


class HashingEmbedder:
    """Adds up one pseudo-random direction per word, so texts with equal words are close.

    Two texts mean the same to it only if they share words; a paraphrase does not.
    """

    model = "hashing"

    def __init__(self, dims: int = 64) -> None:
        self._dims = dims

    async def load(self) -> None:
        """Do nothing: there is no model."""

    @property
    def dims(self) -> int:
        return self._dims

    @property
    def space(self) -> str:
        return f"hashing-{self._dims}"

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.zeros((len(texts), self._dims), dtype=np.float32)
        for at, text in enumerate(texts):
            for word in _WORD.findall(text.lower()) or [text]:
                rng = np.random.default_rng(xxhash.xxh3_64_intdigest(word.encode(errors="surrogatepass")))
                rows[at] += rng.standard_normal(self._dims, dtype=np.float32)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return rows

    def fits(self, text: str) -> bool:
        return True
