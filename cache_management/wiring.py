"""Reads settings and builds the objects that have more than one part."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache_management.cache.errors import ConfigurationError
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.services.supervisor import State, read_state
from cache_management.settings import Loaded, Settings, load_settings

if TYPE_CHECKING:
    from cache_management.models.store import Stores

RUN_FOLDER = "run"


def read_settings(file: Path | None = None, *, arguments: Mapping[str, Any] | None = None) -> Loaded:
    """Read the settings; a running embedded set (`cache-cli up`) fills in what nobody set.

    Raises:
        ConfigurationError: Names the key, the bad value and the fix.
    """
    first = load_settings(file, arguments=arguments)
    state = running_set(first.settings)
    if state is None:
        return first
    offers: dict[str, Any] = {}
    if "broker" in state.urls:
        offers["broker_url"] = state.urls["broker"]
    if "cache" in state.urls and "backend" not in first.sources:
        offers["url"] = state.urls["cache"]
    return load_settings(file, arguments=arguments, running=offers)


def running_set(settings: Settings) -> State | None:
    """Return what `cache-cli up` started for this data directory, if it still runs."""
    return read_state(settings.data_dir / RUN_FOLDER)


class Platform:
    """The objects of one process, built when they are first asked for.

    `entries` stores and reads answers and needs no model; `manager` adds meaning.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.distributed.enabled:
            raise ConfigurationError(
                "distributed.enabled: the replicated cache is not part of this version; set it to false and use one"
                " backend"
            )
        self.settings = settings

    @cached_property
    def llm_cache(self) -> LLMCache:
        return LLMCache(self.settings)

    @cached_property
    def entries(self) -> CacheManager:
        return CacheManager(self.llm_cache)

    @cached_property
    def manager(self) -> CacheManager:
        from cache_management.cache.semantic.matcher import SimilarityMatcher

        matcher = SimilarityMatcher(
            self.settings.similarity(), backend=self.llm_cache.backend, listener=self.llm_cache.tell
        )
        return CacheManager(self.llm_cache, matcher)

    @cached_property
    def stores(self) -> Stores:
        from cache_management.models.store import open_stores

        return open_stores(self.settings.metadata_url)

    async def aclose(self) -> None:
        """Close what was opened."""
        if "manager" in self.__dict__:
            await self.manager.aclose()
        elif "llm_cache" in self.__dict__:
            await self.llm_cache.aclose()
        if "stores" in self.__dict__:
            self.stores.close()


def open_platform(settings: Settings) -> Platform:
    """Return the objects that settings describe; nothing is connected yet.

    Raises:
        ConfigurationError: The settings ask for what this version does not have.
    """
    return Platform(settings)
