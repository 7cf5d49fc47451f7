"""LLMCache: answers under plain keys, on any backend."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from typing import Self

import msgspec

from cache_management.cache.backends import open_backend
from cache_management.cache.backends.base import Backend
from cache_management.cache.clock import Clock, VersionClock, system_clock
from cache_management.cache.codec import decode_entry, decode_unknown, encode_entry
from cache_management.cache.config import CacheConfig, check_ttl
from cache_management.cache.errors import BackendUnavailable, CorruptRecord, InvalidEntry
from cache_management.cache.events import (
    CorruptEvent,
    Event,
    HitEvent,
    Listener,
    MissEvent,
    RemoveEvent,
    StoreEvent,
    UnavailableEvent,
    fan_out,
)
from cache_management.cache.identity import KeySpace
from cache_management.cache.patterns import glob_matcher
from cache_management.cache.records import Record
from cache_management.cache.stats import StatsCounter
from cache_management.cache.values import CachedResponse, CacheStats

logger = logging.getLogger("cache_management")

_PAGE = 500


class Entry(msgspec.Struct, frozen=True):
    """A stored response with what the store knows of it.

    `expires_at` is Unix seconds or None; `version` tells which of two writes is newer.
    """

    key: str
    response: CachedResponse
    expires_at: float | None
    version: int


class LLMCache:
    """Keeps model answers under plain keys.

    A store that is down costs a miss and an event, never an exception, unless
    `config.strict`. Deleting is different: it raises, because an entry that is believed
    gone must be gone.

    Args:
        config: Where and how long; the default keeps entries on disk.
        backend: Replaces the one that `config` names.
        listener: Hears what happens, see `cache/events.py`.
        clock: Returns Unix seconds.
    """

    def __init__(
        self,
        config: CacheConfig | None = None,
        *,
        backend: Backend | None = None,
        listener: Listener | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self.config = config or CacheConfig()
        self.namespace = self.config.namespace
        self.stats = StatsCounter()
        self._listener = fan_out([self.stats, *([listener] if listener else [])])
        self._clock = clock
        self._versions = VersionClock(clock)
        self._keys = KeySpace("llm", self.namespace)
        self.backend = backend or open_backend(self.config, clock=clock, listener=self._listener)

    async def get(self, key: str) -> CachedResponse | None:
        """Return the response stored under a key, or None when it is absent, expired or corrupt.

        Raises:
            InvalidKey: The key cannot be used.
            BackendUnavailable: Only with `strict`.
        """
        started = perf_counter()
        storage_key = self._keys.to_storage(key)
        try:
            record = await self.backend.get(storage_key)
        except BackendUnavailable as exc:
            self._tolerate(exc, "get")
            self._miss("degraded", key, started)
            return None
        if record is None:
            self._miss("absent", key, started)
            return None
        response = self._decode(key, storage_key, record)
        if response is None:
            self._miss("corrupt", key, started)
            return None
        self._listener(HitEvent("exact", self.namespace, key, response.token_count, (perf_counter() - started) * 1000))
        return response

    async def set(self, key: str, response: CachedResponse, ttl_seconds: int | None = None) -> None:
        """Store a response.

        `ttl_seconds`: None takes the configured default, -1 never expires.

        Raises:
            InvalidKey: The key cannot be used.
            InvalidEntry: The response or the TTL cannot be stored.
            BackendUnavailable: Only with `strict`.
        """
        await self.set_many({key: response}, ttl_seconds=ttl_seconds)

    async def exists(self, key: str) -> bool:
        """Tell whether a live entry is stored under a key."""
        storage_key = self._keys.to_storage(key)
        try:
            return await self.backend.get(storage_key) is not None
        except BackendUnavailable as exc:
            self._tolerate(exc, "exists")
            return False

    async def delete(self, key: str) -> bool:
        """Remove an entry; return whether one was there.

        Raises:
            BackendUnavailable: It may still be there.
        """
        return await self.delete_many([key]) > 0

    async def get_many(self, keys: Iterable[str]) -> dict[str, CachedResponse]:
        """Return the responses that exist, in one call to the store."""
        started = perf_counter()
        storage_keys = {key: self._keys.to_storage(key) for key in keys}
        try:
            records = await self.backend.get_many(list(storage_keys.values()))
        except BackendUnavailable as exc:
            self._tolerate(exc, "get_many")
            for key in storage_keys:
                self._miss("degraded", key, started)
            return {}
        found = {}
        for key, storage_key in storage_keys.items():
            record = records.get(storage_key)
            response = self._decode(key, storage_key, record) if record is not None else None
            if response is None:
                self._miss("absent" if record is None else "corrupt", key, started)
                continue
            elapsed_ms = (perf_counter() - started) * 1000
            self._listener(HitEvent("exact", self.namespace, key, response.token_count, elapsed_ms))
            found[key] = response
        return found

    async def set_many(self, responses: Mapping[str, CachedResponse], ttl_seconds: int | None = None) -> None:
        """Store responses in one call; nothing is stored when one of them cannot be.

        Raises:
            InvalidKey, InvalidEntry: One of them cannot be stored; the message names it.
            BackendUnavailable: Only with `strict`.
        """
        started = perf_counter()
        records = {}
        sizes = {}
        for key, response in responses.items():
            storage_key = self._keys.to_storage(key)
            records[storage_key] = self.encode(key, response, ttl_seconds=ttl_seconds)
            sizes[key] = len(records[storage_key].value)
        try:
            await self.backend.put_many(records)
        except BackendUnavailable as exc:
            self._tolerate(exc, "set")
            return
        elapsed_ms = (perf_counter() - started) * 1000
        for key, size_bytes in sizes.items():
            self._listener(StoreEvent(self.namespace, key, size_bytes, elapsed_ms))

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Remove entries; return how many were there.

        Raises:
            BackendUnavailable: Some may still be there.
        """
        removed = await self.backend.delete_many([self._keys.to_storage(key) for key in keys])
        if removed:
            self._listener(RemoveEvent("delete", self.namespace, removed))
        return removed

    async def list_keys(self, pattern: str = "*") -> list[str]:
        """Return the keys that match a shell glob, sorted.

        Raises:
            BackendUnavailable: Only with `strict`.
        """
        try:
            return sorted([key for key, _ in await self._matching(pattern)])
        except BackendUnavailable as exc:
            self._tolerate(exc, "list_keys")
            return []

    async def delete_pattern(self, pattern: str) -> int:
        """Remove the entries whose keys match a shell glob; return how many were there.

        Raises:
            BackendUnavailable: Some may still be there.
        """
        storage_keys = [storage_key for _, storage_key in await self._matching(pattern)]
        removed = 0
        for start in range(0, len(storage_keys), _PAGE):
            removed += await self.backend.delete_many(storage_keys[start : start + _PAGE])
        if removed:
            self._listener(RemoveEvent("delete", self.namespace, removed))
        return removed

    async def get_stats(self) -> CacheStats:
        """Return counts of this process and the number of entries in the store."""
        try:
            entries = await self.backend.count(self._keys.prefix)
        except BackendUnavailable as exc:
            self._tolerate(exc, "get_stats")
            entries = 0
        counts = self.stats
        return CacheStats(
            total_entries=entries,
            hits=counts.hits,
            misses=counts.misses,
            semantic_hits=counts.semantic_hits,
            stores=counts.stores,
            deletes=counts.deletes,
            evictions=counts.evictions,
            corrupt_records=counts.corrupt_records,
            backend_failures=counts.backend_failures,
            tokens_saved=counts.tokens_saved,
            size_bytes=None,
            backend=self.backend.name,
            namespace=self.namespace,
        )

    async def load_entries(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return entries with their version and expiry, uncounted: for jobs, not for answering.

        Raises:
            BackendUnavailable: Always, also without `strict`.
        """
        storage_keys = {key: self._keys.to_storage(key) for key in keys}
        records = await self.backend.get_many(list(storage_keys.values()))
        found = {}
        for key, storage_key in storage_keys.items():
            record = records.get(storage_key)
            response = self._decode(key, storage_key, record) if record is not None else None
            if record is not None and response is not None:
                found[key] = Entry(key, response, record.expires_at, record.version)
        return found

    async def put_records(self, records: Mapping[str, Record]) -> None:
        """Store records made by `encode`: for jobs, which must know that it happened.

        Raises:
            BackendUnavailable: Always, also without `strict`.
        """
        await self.backend.put_many({self._keys.to_storage(key): record for key, record in records.items()})
        for key, record in records.items():
            self._listener(StoreEvent(self.namespace, key, len(record.value), 0.0))

    def encode(
        self,
        key: str,
        response: CachedResponse,
        *,
        ttl_seconds: int | None = None,
        version: int | None = None,
    ) -> Record:
        """Return the record that `set` would store; a `version` says that the write belongs to that moment.

        Raises:
            InvalidKey, InvalidEntry: It cannot be stored; the message names the key.
        """
        if not isinstance(response, CachedResponse):
            raise InvalidEntry(f"{_shown(key)}: a CachedResponse is stored, not {type(response).__name__}")
        try:
            ttl = check_ttl(ttl_seconds)
        except ValueError as exc:
            raise InvalidEntry(f"{_shown(key)}: ttl_seconds {ttl_seconds} {exc}") from None
        if ttl is None:
            ttl = self.config.ttl_seconds
        try:
            value = encode_entry(
                key,
                response,
                keep_key=self._keys.is_hashed(self._keys.to_storage(key)),
                limit_bytes=self.config.max_entry_bytes,
            )
        except InvalidEntry as exc:
            raise InvalidEntry(f"{_shown(key)}: {exc}") from None
        expires_at = None if ttl is None or ttl == -1 else self._clock() + ttl
        return Record(value=value, expires_at=expires_at, version=self._versions.next() if version is None else version)

    def tell(self, event: Event) -> None:
        """Let the listeners of this cache hear an event."""
        self._listener(event)

    async def aclose(self) -> None:
        """Free connections and files."""
        await self.backend.aclose()

    async def close(self) -> None:
        """Free connections and files."""
        await self.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _matching(self, pattern: str) -> list[tuple[str, str]]:
        """Return key and storage key of each entry that matches a glob."""
        matches = glob_matcher(pattern)
        found = {}
        hashed = []
        async for storage_key in self.backend.scan(self._keys.prefix):
            key = self._keys.from_storage(storage_key)
            if key is None:
                hashed.append(storage_key)
            elif matches(key):
                found[storage_key] = key
        for start in range(0, len(hashed), _PAGE):
            records = await self.backend.get_many(hashed[start : start + _PAGE])
            for storage_key, record in records.items():
                try:
                    key, _ = decode_unknown(record.value, limit_bytes=self.config.max_entry_bytes)
                except CorruptRecord as exc:
                    self._listener(CorruptEvent(self.backend.name, storage_key, str(exc)))
                    continue
                if matches(key):
                    found[storage_key] = key
        return [(key, storage_key) for storage_key, key in found.items()]

    def _decode(self, key: str, storage_key: str, record: Record) -> CachedResponse | None:
        try:
            return decode_entry(key, record.value, limit_bytes=self.config.max_entry_bytes)
        except CorruptRecord as exc:
            self._listener(CorruptEvent(self.backend.name, storage_key, str(exc)))
            return None

    def _miss(self, reason: str, key: str, started: float) -> None:
        self._listener(MissEvent(reason, self.namespace, key, (perf_counter() - started) * 1000))

    def _tolerate(self, error: BackendUnavailable, operation: str) -> None:
        self._listener(UnavailableEvent(error.backend, operation, error.reason))
        if self.config.strict:
            raise error


def _shown(key: str) -> str:
    return repr(key if len(key) <= 60 else key[:59] + "…")
