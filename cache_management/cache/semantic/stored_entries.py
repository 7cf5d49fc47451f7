"""Entries as their vectors must know them: read by storage key, a page at a time."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cache_management.cache.backends.base import Backend
from cache_management.cache.clock import Clock
from cache_management.cache.codec import decode_stored, decode_unknown
from cache_management.cache.errors import CorruptRecord
from cache_management.cache.events import CorruptEvent, Listener
from cache_management.cache.identity import KeySpace
from cache_management.cache.records import Indexable, Record
from cache_management.cache.requests import is_reserved_key


class StoredEntry(msgspec.Struct, frozen=True, gc=False):
    """What of an entry its vector holds too. `findable` is False for one that is served exactly only."""

    key: str
    prompt: str
    expires_at: float | None
    scope: str
    findable: bool
    version: int

    def indexable(self) -> Indexable:
        """Return it as it is indexed."""
        return Indexable(self.key, self.prompt, self.expires_at, self.scope)


class StoredEntries:
    """The entries of one namespace in a store.

    Args:
        limit_bytes: The `max_entry_bytes` of the cache that stored them.
    """

    def __init__(self, backend: Backend, *, namespace: str, clock: Clock, limit_bytes: int, listener: Listener) -> None:
        self.backend = backend
        self._keys = KeySpace("llm", namespace)
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._listener = listener
        self.prefix = self._keys.prefix

    def name_of(self, key: str) -> str:
        """Return the storage key of an entry."""
        return self._keys.to_storage(key)

    async def load(self, names: Iterable[str]) -> dict[str, StoredEntry]:
        """Return entries by storage key; those that are gone or cannot be read are left out."""
        names = list(names)
        found = {}
        for name, record in (await self.backend.get_many(names) if names else {}).items():
            try:
                found[name] = self._decode(name, record)
            except CorruptRecord as exc:
                self._listener(CorruptEvent(self.backend.name, name, str(exc)))
        return found

    def _decode(self, name: str, record: Record) -> StoredEntry:
        key = self._keys.from_storage(name)
        if key is None:
            key, _ = decode_unknown(record.value, limit_bytes=self._limit_bytes)
        response, facts = decode_stored(key, record.value, limit_bytes=self._limit_bytes)
        # What is past its life is kept for bad times, and not found by meaning.
        is_fresh = facts.fresh_until is None or facts.fresh_until > self._clock()
        findable = has_place(key, facts.scope) and is_fresh
        return StoredEntry(key, response.prompt, record.expires_at, facts.scope or "", findable, record.version)


def has_place(key: str, scope: str | None) -> bool:
    """Tell whether an entry may be found by meaning: it is known in which context it is right.

    A fingerprint without a scope was stored by somebody who did not say that; None is exact hits only.
    """
    return scope is not None and (scope != "" or not is_reserved_key(key))
