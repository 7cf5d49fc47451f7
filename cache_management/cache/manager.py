"""CacheManager: one face over answers and meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

from cache_management.cache.errors import BackendUnavailable, ConfigurationError, InvalidInput
from cache_management.cache.events import UnavailableEvent
from cache_management.cache.llm import LLMCache
from cache_management.cache.records import Indexable, IndexReport, Record
from cache_management.cache.values import CachedResponse, CacheStats, SimilarityMatch

if TYPE_CHECKING:
    from cache_management.cache.semantic.matcher import SimilarityMatcher


class CacheManager:
    """Keeps an LLMCache and a SimilarityMatcher in step.

    Share one backend between them, so that an answer that is gone is not found by
    meaning either.
    """

    def __init__(self, llm_cache: LLMCache, similarity_matcher: SimilarityMatcher | None = None) -> None:
        self.llm_cache = llm_cache
        self.similarity_matcher = similarity_matcher
        if similarity_matcher is not None:
            _check_pair(llm_cache, similarity_matcher)

    async def get_llm_cache(self, key: str) -> CachedResponse | None:
        """Return the response stored under a key, or None."""
        return await self.llm_cache.get(key)

    async def set_llm_cache(self, key: str, response: CachedResponse, ttl_seconds: int | None = None) -> None:
        """Store a response and make it findable by meaning."""
        await self.llm_cache.set(key, response, ttl_seconds)
        await self.index([key])

    async def find_similar(self, query: str, threshold: float | None = None, limit: int = 5) -> list[SimilarityMatch]:
        """Return stored prompts that mean nearly the same, see `SimilarityMatcher.find_similar`."""
        if self.similarity_matcher is None:
            raise InvalidInput("this manager has no similarity_matcher: give it one to search by meaning")
        return await self.similarity_matcher.find_similar(query, threshold, limit)

    async def index(self, keys: Sequence[str]) -> IndexReport:
        """Make stored entries findable by meaning; keys without an entry are passed over.

        Fails open like every write: a store that is down leaves the entries exact-only.
        """
        if self.similarity_matcher is None:
            return IndexReport(0, 0, 0)
        try:
            entries = await self.llm_cache.load_entries(keys)
            return await self.similarity_matcher.index_entries(
                [Indexable(entry.key, entry.response.prompt, entry.expires_at) for entry in entries.values()]
            )
        except BackendUnavailable as exc:
            if self.llm_cache.config.strict:
                raise
            self.llm_cache.tell(UnavailableEvent(exc.backend, "index", exc.reason))
            return IndexReport(0, 0, 0)

    async def index_missing(self, *, limit: int) -> int:
        """Make up to `limit` entries findable that have no vector yet; return how many are left.

        Raises:
            BackendUnavailable: The store cannot be read.
        """
        if self.similarity_matcher is None:
            return 0
        missing = await self.similarity_matcher.without_vector(await self.llm_cache.list_keys())
        await self.index(missing[:limit])
        return max(0, len(missing) - limit)

    async def put_records(self, records: Mapping[str, Record]) -> None:
        """Store encoded entries without indexing them; see `index`."""
        await self.llm_cache.put_records(records)

    async def get_stats(self) -> CacheStats:
        """Return counts of this process and the number of entries in the store."""
        return await self.llm_cache.get_stats()

    async def aclose(self) -> None:
        """Free connections and files."""
        if self.similarity_matcher is not None:
            await self.similarity_matcher.aclose()
        await self.llm_cache.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


def _check_pair(llm_cache: LLMCache, matcher: SimilarityMatcher) -> None:
    """Make sure that what the matcher finds are entries of this cache.

    A matcher that was made without a store takes the cache's.

    Raises:
        ConfigurationError: Another namespace, or another store.
    """
    if matcher.namespace != llm_cache.namespace:
        raise ConfigurationError(
            f"the matcher serves namespace {matcher.namespace!r} and the cache {llm_cache.namespace!r}: give both one"
        )
    if matcher.stands_alone:
        matcher.use_backend(llm_cache.backend)
    elif matcher.backend is not llm_cache.backend:
        raise ConfigurationError("the matcher and the cache use two stores: give both the same backend=")
