"""SimilarityMatcher: stored prompts that mean the same as a question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.clock import Clock, VersionClock, system_clock
from cache_management.cache.codec import decode_fresh
from cache_management.cache.config import SimilarityConfig, check_ttl
from cache_management.cache.embeddings import open_embedder
from cache_management.cache.embeddings.base import Embedder
from cache_management.cache.errors import (
    BackendUnavailable,
    ConfigurationError,
    CorruptRecord,
    InvalidInput,
)
from cache_management.cache.events import (
    CorruptEvent,
    Listener,
    RemoveEvent,
    UnavailableEvent,
    VetoEvent,
    fan_out,
    ignore,
)
from cache_management.cache.identity import KeySpace
from cache_management.cache.records import Indexable, IndexReport, Neighbour, Record
from cache_management.cache.semantic import gates
from cache_management.cache.semantic.embedding_cache import CachingEmbedder
from cache_management.cache.semantic.follow import Follower
from cache_management.cache.semantic.stored_vectors import (
    StoredVector,
    decode_vector,
    encode_vector,
    journal_name,
    space_prefix,
    vector_key,
)
from cache_management.cache.values import SimilarityMatch
from cache_management.cache.vectors import open_index
from cache_management.cache.vectors.base import VectorIndex

_STANDALONE_SIZE = 1_000_000
_ENTRY_LIMIT_BYTES = 64 * 2**20
_ROUNDING = 1e-6  # of a product in 32 bits: an identical text must reach a threshold of 1
_OVERFETCH = 8  # gates refuse some and entries vanish; asking for more costs next to nothing


class SimilarityMatcher:
    """Finds stored prompts by meaning.

    Vectors live in a backend beside the entries, so what one process indexes, another finds
    within 50 ms. Without `backend=` they live in this process.

    Args:
        config: Model, threshold and namespace.
        backend: A store with a journal; share it with the LLMCache whose entries are matched.
        embedder, index: Replace what `config` chooses.
        listener: Hears vetoes, corrupt records and failures.
        entry_limit_bytes: The `max_entry_bytes` of the cache whose entries are matched.
    """

    def __init__(
        self,
        config: SimilarityConfig | None = None,
        *,
        backend: Backend | None = None,
        embedder: Embedder | None = None,
        index: VectorIndex | None = None,
        listener: Listener = ignore,
        clock: Clock = system_clock,
        entry_limit_bytes: int = _ENTRY_LIMIT_BYTES,
    ) -> None:
        self.config = config or SimilarityConfig()
        self.namespace = self.config.namespace
        self._clock = clock
        self._versions = VersionClock(clock)
        self._listener = fan_out([listener])
        self._entry_limit_bytes = entry_limit_bytes
        self.stands_alone = backend is None
        self.backend = backend or MemoryBackend(max_size=_STANDALONE_SIZE, clock=clock, listener=self._listener)
        if not isinstance(self.backend, Journal):
            raise ConfigurationError(f"the {self.backend.name} backend keeps no journal, which meaning needs")
        self._journal: Journal = self.backend
        inner = embedder or open_embedder(self.config.model)
        self.embedder: Embedder = CachingEmbedder(inner) if self.config.cache_embeddings else inner
        self.index = index or open_index()
        self._entries = KeySpace("llm", self.namespace)
        self._vectors = KeySpace("vec", self.namespace)
        self._follower: Follower | None = None
        self._indexed = False

    def use_backend(self, backend: Backend) -> None:
        """Keep vectors in another store from now on; only while nothing was indexed yet.

        Raises:
            ConfigurationError: Something was, or the store keeps no journal.
        """
        if self._indexed:
            raise ConfigurationError("the matcher holds entries of its own: give it backend= when it is made")
        if not isinstance(backend, Journal):
            raise ConfigurationError(f"the {backend.name} backend keeps no journal, which meaning needs")
        self.backend = self._journal = backend
        self.stands_alone = False
        self._follower = None

    async def index_entry(
        self, prompt: str, response: str, *, key: str | None = None, ttl_seconds: int | None = None
    ) -> None:
        """Make an answer findable by meaning; it stands alone, no LLMCache entry is needed.

        Raises:
            InvalidInput: The prompt is empty or longer than the model reads, or the TTL means nothing.
            EmbedderUnavailable, BackendUnavailable: Nothing was stored.
        """
        if not prompt.strip():
            raise InvalidInput("an empty prompt means nothing that could be found")
        _check_text(prompt)
        _check_text(response)
        try:
            ttl = check_ttl(ttl_seconds)
        except ValueError as exc:
            raise InvalidInput(f"ttl_seconds {ttl_seconds} {exc}") from None
        expires_at = None if ttl is None or ttl == -1 else self._clock() + ttl
        await self.embedder.load()
        if not self.embedder.fits(prompt):
            raise InvalidInput(f"the prompt is longer than {self.embedder.model} reads; it can only be found exactly")
        rows = await self.embedder.embed([prompt])
        await self._put([(key or prompt, prompt, response, expires_at)], rows)

    async def index_entries(self, entries: Iterable[Indexable]) -> IndexReport:
        """Make entries of the LLM cache findable; texts that are indexed already are not embedded again.

        Raises:
            EmbedderUnavailable, BackendUnavailable: Nothing was stored.
        """
        entries = list(entries)
        await self.embedder.load()
        readable = [entry for entry in entries if entry.prompt.strip() and self.embedder.fits(entry.prompt)]
        held = await self._load([self._vector_key(entry.key) for entry in readable])
        fresh: list[Indexable] = []
        renewed: list[Indexable] = []
        for entry in readable:
            found = held.get(self._vector_key(entry.key))
            known = found is not None and found.prompt == entry.prompt and found.response is None
            (renewed if known else fresh).append(entry)
        if renewed:
            # Written again all the same: the entry's expiry may have moved, and the vector goes with it.
            rows = np.stack([held[self._vector_key(entry.key)].as_array() for entry in renewed])
            await self._put([(entry.key, entry.prompt, None, entry.expires_at) for entry in renewed], rows)
        if fresh:
            rows = await self.embedder.embed([entry.prompt for entry in fresh])
            await self._put([(entry.key, entry.prompt, None, entry.expires_at) for entry in fresh], rows)
        return IndexReport(added=len(fresh), unchanged=len(renewed), too_long=len(entries) - len(readable))

    async def without_vector(self, keys: Sequence[str]) -> list[str]:
        """Return those keys of the LLM cache that cannot be found by meaning yet."""
        await self.embedder.load()
        prefix = space_prefix(self._vectors, self.embedder.space)
        held = {storage_key async for storage_key in self.backend.scan(prefix)}
        return [key for key in keys if self._vector_key(key) not in held]

    async def remove_entry(self, key: str) -> bool:
        """Forget a vector; return whether there was one."""
        await self.embedder.load()
        storage_key = self._vector_key(key)
        removed = await self.backend.delete_many([storage_key])
        await self.index.remove(self.embedder.space, [storage_key])
        await self._journal.append(journal_name(self.namespace), [storage_key.encode()])
        return removed > 0

    async def find_similar(self, query: str, threshold: float | None = None, limit: int = 5) -> list[SimilarityMatch]:
        """Return stored prompts whose similarity reaches the threshold, best first.

        Refused candidates are listed too, with the gates that refuse them in `.vetoes`.
        An answer whose entry is gone or expired is never returned. A store that is down
        gives an empty list and an event.

        Raises:
            InvalidInput: The threshold is outside -1 to 1, or the limit below 1.
            EmbedderUnavailable: The model cannot be loaded.
        """
        floor = self.config.threshold if threshold is None else threshold
        if not -1.0 <= floor <= 1.0:
            raise InvalidInput(f"threshold {threshold} is no cosine similarity; take a number from -1 to 1")
        if limit < 1:
            raise InvalidInput(f"limit {limit} is below 1")
        await self.embedder.load()
        if not query.strip() or not self.embedder.fits(query):
            return []
        (vector,) = await self.embedder.embed([query])
        try:
            matches = await self._match(query, vector, floor, limit)
        except BackendUnavailable as exc:
            self._listener(UnavailableEvent(exc.backend, "find_similar", exc.reason))
            return []
        for match in matches:
            for gate in match.vetoes:
                self._listener(VetoEvent(gate, self.namespace))
        return matches

    async def clear_index(self) -> int:
        """Forget all vectors of this namespace and model; entries stay. Return how many went."""
        await self.embedder.load()
        prefix = space_prefix(self._vectors, self.embedder.space)
        gone = [key async for key in self.backend.scan(prefix)]
        removed = await self.backend.delete_many(gone) if gone else 0
        await self.index.drop(self.embedder.space)
        if gone:
            await self._journal.append(journal_name(self.namespace), [key.encode() for key in gone])
            self._listener(RemoveEvent("delete", self.namespace, removed))
        return removed

    async def size(self) -> int:
        """Return how many vectors can be found."""
        await self.embedder.load()
        await self._level().catch_up()
        return await self.index.size(self.embedder.space)

    async def aclose(self) -> None:
        """Free the index; the backend belongs to whoever made it."""
        await self.index.aclose()
        self._follower = None

    async def _match(self, query: str, vector: NDArray[np.float32], floor: float, limit: int) -> list[SimilarityMatch]:
        await self._level().catch_up()
        wanted = limit + _OVERFETCH
        while True:
            neighbours = await self.index.search(self.embedder.space, vector, k=wanted)
            close = [each for each in neighbours if each.similarity >= floor - _ROUNDING]
            matches = []
            for response, stored in (await self._answers(close)).values():
                # The index may be behind the store: the score is that of the vector read just now.
                score = float(stored.as_array() @ vector)
                if score >= floor - _ROUNDING:
                    matches.append(
                        SimilarityMatch(
                            score=max(-1.0, min(score, 1.0)),
                            prompt=stored.prompt,
                            response=response,
                            key=stored.key,
                            vetoes=gates.vetoes(query, stored.prompt),
                        )
                    )
            # Entries that vanished left the index above: look again, further out, before saying there is no more.
            if len(matches) >= limit or len(close) < wanted:
                return sorted(matches, key=lambda match: -match.score)[:limit]
            wanted *= 2

    async def _answers(self, neighbours: Sequence[Neighbour]) -> dict[str, tuple[str, StoredVector]]:
        """Return response and vector by vector id; what has no live answer leaves the index."""
        held = await self._load([each.id for each in neighbours])
        linked = {self._entries.to_storage(vector.key): vector for vector in held.values() if vector.response is None}
        entries = await self.backend.get_many(list(linked)) if linked else {}
        found = {}
        for vector_id, vector in held.items():
            response = vector.response
            if response is None:
                response = self._response_of(vector, entries.get(self._entries.to_storage(vector.key)))
            if response is not None:
                found[vector_id] = (response, vector)
        ghosts = [each.id for each in neighbours if each.id not in found]
        if ghosts:
            await self.index.remove(self.embedder.space, ghosts)
        return found

    def _response_of(self, vector: StoredVector, record: Record | None) -> str | None:
        if record is None:
            return None
        try:
            entry = decode_fresh(vector.key, record.value, limit_bytes=self._entry_limit_bytes, now=self._clock)
        except CorruptRecord as exc:
            self._listener(CorruptEvent(self.backend.name, self._entries.to_storage(vector.key), str(exc)))
            return None
        # The entry may have been replaced by one for another prompt since it was embedded.
        return entry.response if entry is not None and entry.prompt == vector.prompt else None

    async def _load(self, vector_ids: Sequence[str]) -> dict[str, StoredVector]:
        records = await self.backend.get_many(vector_ids) if vector_ids else {}
        found = {}
        for vector_id, record in records.items():
            try:
                found[vector_id] = decode_vector(record.value, dims=self.embedder.dims)
            except CorruptRecord as exc:
                self._listener(CorruptEvent(self.backend.name, vector_id, str(exc)))
        return found

    async def _put(self, items: Sequence[tuple[str, str, str | None, float | None]], rows: NDArray[np.float32]) -> None:
        records = {
            self._vector_key(key): Record(
                value=encode_vector(key, prompt, response, row), expires_at=expires_at, version=self._versions.next()
            )
            for (key, prompt, response, expires_at), row in zip(items, rows, strict=True)
        }
        self._indexed = True
        await self.backend.put_many(records)
        # The record first, then the note: a reader that hears of a vector can read it.
        await self._journal.append(journal_name(self.namespace), [key.encode() for key in records])
        # A process that only writes keeps no index; its first search reads everything anyway.
        if self._follower is not None:
            await self.index.add(self.embedder.space, [self._vector_key(key) for key, *_ in items], rows)

    def _vector_key(self, key: str) -> str:
        return vector_key(self._vectors, self.embedder.space, key)

    def _level(self) -> Follower:
        if self._follower is None:
            self._follower = Follower(
                self.backend,
                self._journal,
                self.index,
                stream=journal_name(self.namespace),
                prefix=space_prefix(self._vectors, self.embedder.space),
                partition=self.embedder.space,
                dims=self.embedder.dims,
                listener=self._listener,
            )
        return self._follower


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"the text is not valid Unicode at character {exc.start}: {exc.reason}") from None
