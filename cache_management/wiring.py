"""Reads settings and builds the objects that have more than one part.

What an object is made of is loaded when it is first asked for: reading the settings must not load a store.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cache_management.cache.config import ShardingStrategy
from cache_management.cache.errors import ConfigurationError
from cache_management.cache.events import Listening
from cache_management.cache.prices import price_of
from cache_management.settings import Loaded, Settings, load_settings

if TYPE_CHECKING:
    from cache_management.cache.answering import Answering, Wait
    from cache_management.cache.cluster.distributed import DistributedCache
    from cache_management.cache.llm import LLMCache
    from cache_management.cache.manager import CacheManager
    from cache_management.cache.reasoning.cache import ReasoningCache
    from cache_management.cache.semantic.re_embedding import ReEmbedding
    from cache_management.cache.sweeping import Sweeping
    from cache_management.cache.transfer.shelf import Shelf
    from cache_management.models.store import Stores
    from cache_management.services.supervisor import State

RUN_FOLDER = "run"
NODE_SERVICE = "cache-"
"""How the services of an embedded set that are cache nodes begin."""
NAMESPACES_KEPT = 16


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
    if "backend" not in first.sources and not first.settings.distributed.enabled:
        if "cache" in state.urls:
            offers["url"] = state.urls["cache"]
        if (nodes := node_addresses(state.urls)) and "url" not in first.sources:
            offers["distributed"] = {"enabled": True, "nodes": nodes}
    return load_settings(file, arguments=arguments, running=offers)


def node_addresses(urls: Mapping[str, str]) -> list[str]:
    """Return the addresses of the cache nodes among the services of an embedded set."""
    found = [(name, url) for name, url in urls.items() if name.startswith(NODE_SERVICE)]
    return [f"{parts.hostname}:{parts.port}" for parts in (urlsplit(url) for _, url in sorted(found))]


def running_set(settings: Settings) -> State | None:
    """Return what `cache-cli up` started for this data directory, if it still runs."""
    folder = settings.data_dir / RUN_FOLDER
    if not folder.is_dir():  # nothing was ever started here: most commands load nothing of what starts servers
        return None
    from cache_management.services.supervisor import read_state

    return read_state(folder)


class Platform:
    """The objects of one process, built when they are first asked for.

    `entries` stores and reads answers and needs no model; `manager` adds meaning.
    """

    def __init__(self, settings: Settings, metrics: Listening | None = None) -> None:
        self.settings = settings
        self.metrics = metrics
        self._namespaces: OrderedDict[str, _Neighbour] = OrderedDict()

    def in_namespace(self, namespace: str) -> Platform:
        """Return the same store, model and database with another namespace's entries.

        Close this platform, not what is returned here.
        """
        if namespace == self.settings.namespace:
            return self
        found = self._namespaces.get(namespace)
        if found is None:
            found = _Neighbour(self, namespace)
            self._namespaces[namespace] = found
        self._namespaces.move_to_end(namespace)
        while len(self._namespaces) > NAMESPACES_KEPT:
            self._namespaces.popitem(last=False)
        return found

    @cached_property
    def llm_cache(self) -> LLMCache:
        from cache_management.cache.backends import enclose
        from cache_management.cache.llm import LLMCache

        if not self.settings.distributed.enabled:
            return LLMCache(self.settings, listener=self.metrics)
        replicated = self.replicated
        cache = LLMCache(self.settings, backend=enclose(replicated.backend, self.settings), listener=self.metrics)
        replicated.listener = cache.tell
        return cache

    @cached_property
    def replicated(self) -> DistributedCache:
        """The cache over several nodes, on whose backend the entries are kept.

        Raises:
            ConfigurationError: `distributed.enabled` is not set.
        """
        from cache_management.cache.cluster.distributed import DistributedCache

        require_nodes(self.settings)
        given = self.settings.distributed
        return DistributedCache(
            given.nodes, ShardingStrategy(given.sharding), given.replication(), config=self.settings
        )

    @cached_property
    def reasoning(self) -> ReasoningCache:
        from cache_management.cache.reasoning.cache import ReasoningCache

        listener = None if self.metrics is None else self.metrics.of_reasoning
        return ReasoningCache(self.settings, backend=self.llm_cache.backend, listener=listener)

    @cached_property
    def entries(self) -> CacheManager:
        from cache_management.cache.manager import CacheManager

        return CacheManager(self.llm_cache, reasoning_cache=self.reasoning)

    @cached_property
    def manager(self) -> CacheManager:
        from cache_management.cache.manager import CacheManager
        from cache_management.cache.semantic.matcher import SimilarityMatcher

        matcher = SimilarityMatcher(
            self.settings.similarity(), backend=self.llm_cache.backend, listener=self.llm_cache.tell
        )
        return CacheManager(self.llm_cache, matcher, reasoning_cache=self.reasoning)

    def answering(self, wait: Wait) -> Answering:
        """Return the work that asks the configured provider for answers, at the pace of `wait`.

        Raises:
            ConfigurationError: No provider is configured, or it cannot be loaded.
        """
        from cache_management.cache.answering import Answering
        from cache_management.cache.provider import open_provider

        given = self.settings.provider
        provider = open_provider(command=given.command, function=given.callable, timeout_seconds=given.timeout_seconds)
        if provider is None:
            raise ConfigurationError("nobody answers prompts here: set provider.command or provider.callable")
        return Answering(
            self.entries,
            provider,
            price=lambda model: price_of(model, self.settings.prices),
            wait=wait,
            clock=self.llm_cache.clock,
        )

    def re_embedding(self) -> ReEmbedding:
        """Return the work that gives every entry of the namespace its vector; close what is returned."""
        from cache_management.cache.semantic.re_embedding import ReEmbedding

        matcher = self.manager.similarity_matcher
        if matcher is None:
            raise ConfigurationError("there is no model to embed with: set embedding_model")
        cache = self.llm_cache
        return ReEmbedding(
            matcher, clock=cache.clock, entry_limit_bytes=cache.config.max_entry_bytes, listener=cache.tell
        )

    def shelf(self, *, of_reasoning: bool = False) -> Shelf:
        """Return the answers, or the reasoning, of the namespace as an export or an import takes them."""
        if not of_reasoning:
            return self.entries.shelf()
        from cache_management.cache.reasoning_transfer import ReasoningShelf

        return ReasoningShelf(self.reasoning)

    def sweeping(self, *, dry: bool = False, keys_per_second: float = 0) -> Sweeping:
        """Return the work that removes what is not to be kept, or with `dry` only counts it."""
        from cache_management.cache.sweeping import Sweeping

        return Sweeping(self.llm_cache, dry=dry, keys_per_second=keys_per_second)

    @cached_property
    def stores(self) -> Stores:
        from cache_management.models.store import open_stores

        return open_stores(self.settings.metadata_url)

    async def aclose(self) -> None:
        """Close what was opened."""
        while self._namespaces:
            await self._namespaces.popitem()[1].aclose()
        if "manager" in self.__dict__:
            await self.manager.aclose()
        elif "llm_cache" in self.__dict__:
            await self.llm_cache.aclose()
        elif "replicated" in self.__dict__:
            await self.replicated.close()
        if "stores" in self.__dict__:
            self.stores.close()


def require_nodes(settings: Settings) -> None:
    """Return if the settings describe a replicated cache.

    Raises:
        ConfigurationError: They do not.
    """
    if settings.distributed.enabled:
        return
    if settings.is_cluster:
        raise ConfigurationError(
            "the nodes of a Redis Cluster are its own affair: see `redis-cli --cluster help`; the replicated cache"
            " over nodes of its own is set up by distributed.enabled and distributed.nodes"
        )
    raise ConfigurationError(
        "there is one store and no nodes: set distributed.enabled and distributed.nodes for a replicated cache"
    )


class _Neighbour(Platform):
    """Another namespace of a platform: only its keys and its index are its own."""

    def __init__(self, owner: Platform, namespace: str) -> None:
        super().__init__(owner.settings.model_copy(update={"namespace": namespace}), owner.metrics)
        self._owner = owner

    def in_namespace(self, namespace: str) -> Platform:
        return self._owner.in_namespace(namespace)

    @cached_property
    def llm_cache(self) -> LLMCache:
        from cache_management.cache.llm import LLMCache

        return LLMCache(self.settings, backend=self._owner.llm_cache.backend, listener=self.metrics)

    @cached_property
    def manager(self) -> CacheManager:
        from cache_management.cache.manager import CacheManager

        owners = self._owner.manager.similarity_matcher
        matcher = None
        if owners is not None:
            matcher = owners.in_namespace(self.settings.namespace, listener=self.llm_cache.tell)
        return CacheManager(self.llm_cache, matcher)

    @cached_property
    def stores(self) -> Stores:
        return self._owner.stores

    async def aclose(self) -> None:
        """Close the index; the rest is the owner's."""
        if "manager" in self.__dict__ and self.manager.similarity_matcher is not None:
            await self.manager.similarity_matcher.aclose()


def open_platform(settings: Settings, *, metrics: Listening | None = None) -> Platform:
    """Return the objects that settings describe, all of which `metrics` hears; nothing is connected yet.

    Raises:
        ConfigurationError: The settings ask for what this version does not have.
    """
    return Platform(settings, metrics)
