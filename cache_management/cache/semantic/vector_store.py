"""The vectors of one namespace and model in the shared store, and the journal that tells of their changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.clock import VersionClock
from cache_management.cache.embeddings.base import Embedder
from cache_management.cache.errors import ConfigurationError, CorruptRecord
from cache_management.cache.events import CorruptEvent, Listener
from cache_management.cache.identity import KeySpace
from cache_management.cache.records import Indexable, Record
from cache_management.cache.semantic.stored_vectors import (
    StoredVector,
    decode_vector,
    encode_vector,
    journal_name,
    space_prefix,
    vector_key,
)


class VectorStore:
    """Reads and writes vectors as records. The embedder must be loaded before anything but `use`."""

    def __init__(
        self, backend: Backend, *, namespace: str, embedder: Embedder, versions: VersionClock, listener: Listener
    ) -> None:
        self._keys = KeySpace("vec", namespace)
        self._embedder = embedder
        self._versions = versions
        self._listener = listener
        self.stream = journal_name(namespace)
        self.use(backend)

    def use(self, backend: Backend) -> None:
        """Keep vectors in a backend from now on.

        Raises:
            ConfigurationError: It keeps no journal.
        """
        if not isinstance(backend, Journal):
            raise ConfigurationError(f"the {backend.name} backend keeps no journal, which meaning needs")
        self.backend = backend
        self.journal: Journal = backend

    @property
    def prefix(self) -> str:
        """Return what the ids of all vectors of the embedder's space begin with."""
        return space_prefix(self._keys, self._embedder.space)

    def id_of(self, key: str) -> str:
        """Return the id of the vector of an entry: its storage key."""
        return vector_key(self._keys, self._embedder.space, key)

    def ids(self) -> AsyncIterator[str]:
        """Return the ids of all vectors of the embedder's space."""
        return self.backend.scan(self.prefix)

    async def load(self, ids: Sequence[str]) -> dict[str, tuple[StoredVector, int]]:
        """Return vectors with their versions; those that are gone or damaged are left out."""
        records = await self.backend.get_many(ids) if ids else {}
        found = {}
        for vector_id, record in records.items():
            try:
                found[vector_id] = decode_vector(record.value, dims=self._embedder.dims), record.version
            except CorruptRecord as exc:
                self._listener(CorruptEvent(self.backend.name, vector_id, str(exc)))
        return found

    async def put(
        self,
        entries: Sequence[Indexable],
        rows: NDArray[np.float32],
        *,
        response: str | None = None,
        version: int | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """Store a vector for each entry, and tell the readers; return the vectors by id.

        With a `response` the vector stands alone, and no entry decides whether it is served; `version` is
        when that was said, now where none is given.
        """
        records: Mapping[str, Record] = {
            self.id_of(entry.key): Record(
                value=encode_vector(entry.key, entry.prompt, response, row, scope=entry.scope),
                expires_at=entry.expires_at,
                version=self._versions.next() if version is None else version,
            )
            for entry, row in zip(entries, rows, strict=True)
        }
        await self.backend.put_many(records)
        # The record first, then the note: a reader that hears of a vector can read it.
        await self.tell(list(records))
        return {self.id_of(entry.key): row for entry, row in zip(entries, rows, strict=True)}

    async def remove(self, ids: Sequence[str]) -> int:
        """Remove vectors, and tell the readers; return how many were there."""
        if not ids:
            return 0
        removed = await self.backend.delete_many(ids)
        await self.tell(ids)
        return removed

    async def tell(self, ids: Sequence[str]) -> None:
        """Tell the readers that vectors were added, changed or removed; to hear of one twice does no harm."""
        await self.journal.append(self.stream, [vector_id.encode() for vector_id in ids])
