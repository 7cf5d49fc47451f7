"""What an adapter asks of a manager: nothing that fails here fails the application.

Only a store that is down is raised, and only with `strict`; removing fails closed, as everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from cache_management import sync
from cache_management.cache.admission import Controls, may_serve, may_store
from cache_management.cache.arguments import check_life, check_similarity
from cache_management.cache.compute import as_tags
from cache_management.cache.errors import BackendUnavailable, ConfigurationError, InvalidInput
from cache_management.cache.events import CorruptEvent, RefusedEvent, UnavailableEvent
from cache_management.cache.identity import check_namespace, digest
from cache_management.cache.manager import CacheManager
from cache_management.cache.values import CachedResponse, Lookup

logger = logging.getLogger("cache_management")

T = TypeVar("T")

MARK = "cache_management"
"""The name under which an answer of a framework says that it came from here."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request in the words of `make_request`; what a framework's call is here."""

    prompt: str | Sequence[Mapping[str, Any]] | None = None
    model: str | None = None
    history: Sequence[Mapping[str, Any]] = ()
    params: Mapping[str, Any] = {}

    def arguments(self) -> dict[str, Any]:
        """Return it as arguments by name."""
        return msgspec.structs.asdict(self)


class GuardedManager:
    """A manager as adapters use it, in one namespace.

    Args:
        manager: A `CacheManager`, or that of `cache_management.sync`.
        namespace: By default that of the manager.
        ttl_seconds: The life of what is stored; by default that of the cache, -1 for ever.
        threshold: Cosine similarity, -1 to 1; by default the configured one.
        adapter: The framework, for events and the log.
    """

    def __init__(
        self,
        manager: CacheManager | sync.CacheManager,
        *,
        namespace: str | None,
        ttl_seconds: int | None,
        threshold: float | None,
        tags: Sequence[str],
        adapter: str,
    ) -> None:
        inner = manager.wrapped if isinstance(manager, sync.CacheManager) else manager
        if not isinstance(inner, CacheManager):
            raise InvalidInput(f"an adapter needs a CacheManager, not {type(manager).__name__}")
        check_life(ttl_seconds)
        if threshold is not None:
            check_similarity(threshold)
        self.manager = inner
        self.namespace = inner.llm_cache.namespace if namespace is None else check_namespace(namespace)
        self._ttl_seconds = ttl_seconds
        self._threshold = threshold
        self._tags = as_tags(tags)
        self._adapter = adapter
        self._told: set[type[BaseException]] = set()

    async def find(self, asked: Asked, *, controls: Controls | None = None) -> Lookup | None:
        """Return what is stored for a request, or None.

        Raises:
            BackendUnavailable: Only with `strict`.
        """
        if controls is not None and controls.no_cache:
            return None
        try:
            found = await self.manager.lookup(
                **asked.arguments(), namespace=self._namespace(controls), threshold=self._threshold
            )
        except Exception as exc:  # noqa: BLE001 - the edge to an application that goes on without a cache
            self.survive("lookup", exc)
            return None
        if not found.hit or may_serve(found.age_seconds or 0.0, controls) is not None:
            return None
        return found

    async def keep(self, asked: Asked, response: CachedResponse, *, controls: Controls | None = None) -> None:
        """File an answer under its request.

        Raises:
            BackendUnavailable: Only with `strict`.
        """
        if controls is not None and controls.no_store:
            return
        life = self._ttl_seconds if controls is None or controls.ttl is None else controls.ttl
        try:
            await self.manager.store(
                response=response,
                **asked.arguments(),
                namespace=self._namespace(controls),
                ttl_seconds=life,
                tags=self._tags,
            )
        except Exception as exc:  # noqa: BLE001 - as in `find`
            self.survive("store", exc)

    async def clear(self) -> int:
        """Remove the answers of the namespace; return how many there were.

        Raises:
            BackendUnavailable: Some may still be there.
        """
        return await self.manager.invalidate_all(namespace=self.namespace)

    def may_keep(
        self,
        text: str,
        *,
        finish_reason: str | None,
        has_tool_calls: bool,
        refusal: str | None,
        aborted: bool = False,
    ) -> bool:
        """Tell whether an answer is good enough to be stored, and the listeners why it is not."""
        cache = self.manager.llm_cache
        refused = may_store(
            text,
            size_bytes=len(text),
            limit_bytes=cache.config.max_entry_bytes,
            finish_reason=finish_reason,
            has_tool_calls=has_tool_calls,
            refusal=refusal,
            aborted=aborted,
        )
        if refused is not None:
            cache.tell(RefusedEvent(refused.value, self.namespace))
        return refused is None

    def corrupt(self, key: str, detail: str) -> None:
        """Tell that an entry was found that is none of this framework's."""
        cache = self.manager.llm_cache
        cache.tell(CorruptEvent(cache.backend.name, digest(key), f"{self._adapter}: {detail}"))

    def run(self, work: Coroutine[Any, Any, T], otherwise: T) -> T:
        """Run a coroutine for a caller without asyncio, on the loop of the synchronous caches.

        Raises:
            BackendUnavailable: Only with `strict`.
        """
        try:
            return sync.run(work)
        except RuntimeError as exc:  # called on that very loop, or while the interpreter ends
            self.survive("wait", exc)
            return otherwise

    def survive(self, operation: str, exc: Exception) -> None:
        """Go on without the cache; what is not the caller's own doing is told, and logged once for each class.

        Raises:
            BackendUnavailable: A store is down, with `strict`: else nobody raises it.
        """
        if isinstance(exc, BackendUnavailable):
            raise exc
        if isinstance(exc, InvalidInput) and not isinstance(exc, ConfigurationError):
            # Such as a message that is no valid Unicode: this one request cannot be known again. Its text is not told.
            logger.debug("%s: a request cannot be cached", self._adapter)
            return
        self.manager.llm_cache.tell(UnavailableEvent(self._adapter, operation, type(exc).__name__))
        if type(exc) not in self._told:
            self._told.add(type(exc))
            logger.warning("%s goes on without the cache, %s failed", self._adapter, operation)

    def _namespace(self, controls: Controls | None) -> str:
        return self.namespace if controls is None or controls.namespace is None else controls.namespace


def mark_of(found: Lookup) -> dict[str, Any]:
    """Return what an answer says of its way here."""
    return {
        "kind": found.kind,
        "similarity": None if found.similarity is None else round(found.similarity, 4),
        "age_seconds": round(found.age_seconds or 0.0, 3),
    }
