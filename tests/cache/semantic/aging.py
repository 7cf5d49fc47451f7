"""A store with two models: what the old one embedded is to be embedded by the new one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from pydantic import SecretStr

from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.config import CacheConfig, SimilarityConfig
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.cache.records import Record
from cache_management.cache.semantic.matcher import SimilarityMatcher
from cache_management.cache.semantic.re_embedding import Place, ReEmbedding, Wanted, first_place
from cache_management.cache.values import CachedResponse
from tests.contracts.clock import ManualClock

DAY = 24 * 3600


class Counting(HashingEmbedder):
    """Notes which texts it embedded, and reads a hundred characters."""

    def __init__(self, dims: int = 64) -> None:
        super().__init__(dims)
        self.texts: list[str] = []

    def fits(self, text: str) -> bool:
        return len(text) <= 100

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += texts
        return await super().embed(texts)


def response(prompt: str) -> CachedResponse:
    return CachedResponse(
        prompt=prompt, response=f"answer to {prompt}", model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC)
    )


class Aging:
    """One store; `old` and `new` are managers over it with a model each."""

    def __init__(
        self, backend: FullBackend | None = None, *, namespace: str = "default", index_url: str | None = None
    ) -> None:
        self.clock = ManualClock()
        self.backend = backend or MemoryBackend(max_size=100_000, clock=self.clock)
        self.embedder = Counting()
        self.namespace = namespace
        self._index_url = index_url
        self.new = self.manager(self.embedder)
        self.old = self.manager(HashingEmbedder(32))

    def manager(self, embedder: HashingEmbedder) -> CacheManager:
        config = CacheConfig(url="memory://", namespace=self.namespace, strict=True, ttl_seconds=DAY)
        matcher = SimilarityMatcher(
            SimilarityConfig(
                model="hashing",
                namespace=self.namespace,
                threshold=0.9,
                cache_embeddings=False,
                index_url=None if self._index_url is None else SecretStr(self._index_url),
            ),
            backend=self.backend,
            embedder=embedder,
            clock=self.clock,
        )
        return CacheManager(LLMCache(config, backend=self.backend, clock=self.clock), matcher)

    @property
    def matcher(self) -> SimilarityMatcher:
        assert self.new.similarity_matcher is not None
        return self.new.similarity_matcher

    @property
    def work(self) -> ReEmbedding:
        """The work as a fresh process would do it."""
        return ReEmbedding(self.matcher, clock=self.clock, entry_limit_bytes=2**20, keep_up_seconds=0)

    async def store(self, prompts: Sequence[str], *, by: CacheManager) -> None:
        for prompt in prompts:
            await by.set_llm_cache(prompt, response(prompt))
        self.clock.advance(120)

    def begin(self, wanted: Wanted) -> Place:
        return first_place(wanted, self.clock())

    async def run(self, wanted: Wanted = Wanted(), *, limit: int = 20) -> Place:  # noqa: B008 - frozen
        """Do all of it, each page as a fresh process would."""
        place = self.begin(wanted)
        while place.step != "done":
            work = self.work
            place = await work.advance(place, wanted, limit=limit)
            await work.aclose()
            self.clock.advance(1)
        await self.work.advance(place, wanted)
        return place

    async def found(self, prompts: Sequence[str], *, by: CacheManager) -> list[str]:
        """Return those prompts that a manager finds by meaning."""
        return [prompt for prompt in prompts if any(m.key == prompt for m in await by.find_similar(prompt, 0.9))]

    async def vectors(self) -> dict[str, Record]:
        """Return the records of all vectors of the namespace, by id."""
        return await self.backend.get_many([key async for key in self.backend.scan(f"cm1:vec:{self.namespace}:")])
