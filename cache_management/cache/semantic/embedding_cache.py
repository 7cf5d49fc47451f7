"""Vectors kept by text, so that a repeated question costs no model run."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cache_management.cache.embeddings.base import Embedder

if TYPE_CHECKING:
    from numpy.typing import NDArray


class CachingEmbedder:
    """An embedder in front of an embedder: the `max_size` vectors used last stay in memory."""

    def __init__(self, inner: Embedder, *, max_size: int = 10_000) -> None:
        self.model = inner.model
        self._inner = inner
        self._max_size = max_size
        self._vectors: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    async def load(self) -> None:
        await self._inner.load()

    @property
    def dims(self) -> int:
        return self._inner.dims

    @property
    def space(self) -> str:
        return self._inner.space

    def fits(self, text: str) -> bool:
        return self._inner.fits(text)

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        keys = [hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest() for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._vectors}
        # Taken before the model runs: another call may push them out meanwhile.
        known = {key: self._vectors[key] for key in keys if key not in missing}
        if missing:
            rows = await self._inner.embed(list(missing.values()))
            # Copied, because a row that is kept would keep its whole batch.
            known |= {key: row.copy() for key, row in zip(missing, rows, strict=True)}
        found = [known[key] for key in keys]
        for key, vector in zip(keys, found, strict=True):
            self._vectors[key] = vector
            self._vectors.move_to_end(key)
        while len(self._vectors) > self._max_size:
            self._vectors.popitem(last=False)
        return np.stack(found) if found else np.empty((0, self.dims), dtype=np.float32)
