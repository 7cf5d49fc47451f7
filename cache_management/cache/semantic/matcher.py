"""SimilarityMatcher: stored prompts that mean the same as a question."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
import numpy as np
from numpy.typing import NDArray

from cache_management.cache.arguments import check_count, check_life, check_similarity, check_text
from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.clock import Clock, VersionClock, system_clock, version_time
from cache_management.cache.codec import decode_stored
from cache_management.cache.config import EmbeddingModel, SimilarityConfig
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
from cache_management.cache.records import Indexable, IndexReport, Record
from cache_management.cache.semantic import gates
from cache_management.cache.semantic.decision import EXPIRED, reaches
from cache_management.cache.semantic.embedding_cache import CachingEmbedder, embed_anew
from cache_management.cache.semantic.follow import Follower
from cache_management.cache.semantic.per_loop import PerLoop
from cache_management.cache.semantic.shared import SharedVectors
from cache_management.cache.semantic.snapshots import Snapshot
from cache_management.cache.semantic.stored_vectors import StoredVector, cluster_of
from cache_management.cache.semantic.vector_store import VectorStore
from cache_management.cache.values import CachedResponse, SimilarityMatch
from cache_management.cache.vectors import open_index
from cache_management.cache.vectors.auto import AutoIndex
from cache_management.cache.vectors.base import VectorIndex

logger = logging.getLogger("cache_management")

_STANDALONE_SIZE = 1_000_000
_ENTRY_LIMIT_BYTES = 64 * 2**20
_PAGE = 500
_INDEX_ERROR = 0.005  # of a similarity that an index keeps in fewer bits
_OVERFETCH = 8  # gates refuse some and entries vanish; asking for more costs next to nothing


class Candidate(msgspec.Struct, frozen=True):
    """A stored answer close to a question, with all that the decision to serve it needs.

    `cluster` names the entries that are like it. With `of_older_model` score and cluster are those of the model before,
    of which this one's evidence says nothing.
    """

    match: SimilarityMatch
    response: CachedResponse
    cluster: int
    of_older_model: bool = False


class _Side:
    """What one event loop searches in: an index is never changed by one thread while another one reads it."""

    def __init__(self, index: VectorIndex) -> None:
        self.index = index
        self.follower: Follower | SharedVectors | None = None


class SimilarityMatcher:
    """Finds stored prompts by meaning.

    Vectors live in a backend beside the entries, so what one process indexes, another finds
    within 50 ms. Without `backend=` they live in this process. Each event loop that uses a matcher
    keeps an index of its own, and follows the store as another process would.

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
        self._listeners = [listener]
        self._listener = fan_out(self._listeners)
        self._entry_limit_bytes = entry_limit_bytes
        self.stands_alone = backend is None
        self._made: list[CachingEmbedder] = []  # ours to close
        self.embedder = self._open_embedder(self.config.model, embedder)
        self._older_embedder: CachingEmbedder | None = None
        self._given = index
        self._sides = PerLoop(self._open_side)
        self._entries = KeySpace("llm", self.namespace)
        self._versions = VersionClock(clock)
        self._vectors = VectorStore(
            backend or MemoryBackend(max_size=_STANDALONE_SIZE, clock=clock, listener=self._listener),
            namespace=self.namespace,
            embedder=self.embedder,
            versions=self._versions,
            listener=self._listener,
        )
        self._indexed = False
        self._is_older = False

    @property
    def index(self) -> VectorIndex:
        """Return the index of the running event loop; one at a PostgreSQL needs the model to be loaded."""
        return self._sides.get().index

    @property
    def backend(self) -> Backend:
        """Return the store that holds the vectors."""
        return self._vectors.backend

    @property
    def journal(self) -> Journal:
        """Return what tells other processes of changes."""
        return self._vectors.journal

    def listen(self, listener: Listener) -> None:
        """Let somebody more hear what happens."""
        if listener not in self._listeners:
            self._listeners.append(listener)

    def tells(self, listener: Listener) -> bool:
        """Tell whether somebody hears what happens."""
        return listener in self._listeners

    def use_backend(self, backend: Backend) -> None:
        """Keep vectors in another store from now on; only while nothing was indexed yet.

        Raises:
            ConfigurationError: Something was, or the store keeps no journal.
        """
        if self._indexed:
            raise ConfigurationError("the matcher holds entries of its own: give it backend= when it is made")
        self._vectors.use(backend)
        self.stands_alone = False
        self._sides.clear()

    def in_namespace(self, namespace: str, *, listener: Listener = ignore) -> SimilarityMatcher:
        """Return a matcher for another namespace of the same store, with the same model."""
        neighbour = SimilarityMatcher(
            self.config.model_copy(update={"namespace": namespace}),
            backend=self.backend,
            embedder=self.embedder,
            listener=listener,
            clock=self._clock,
            entry_limit_bytes=self._entry_limit_bytes,
        )
        neighbour._older_embedder = self._embedder_before()
        return neighbour

    def older(self) -> SimilarityMatcher | None:
        """Return a matcher for what the configured `previous_model` embedded, or None where none is named."""
        embedder = self._embedder_before()
        if embedder is None:
            return None
        older = SimilarityMatcher(
            self.config.model_copy(update={"model": self.config.previous_model, "previous_model": None}),
            backend=self.backend,
            embedder=embedder,
            listener=self._listener,
            clock=self._clock,
            entry_limit_bytes=self._entry_limit_bytes,
        )
        older._is_older = True
        return older

    async def index_entry(
        self, prompt: str, response: str, *, key: str | None = None, ttl_seconds: int | None = None
    ) -> None:
        """Make an answer findable by meaning; it stands alone, no LLMCache entry is needed.

        Raises:
            InvalidInput: The prompt is empty or longer than the model reads, or the TTL means nothing.
            EmbedderUnavailable, BackendUnavailable: Nothing was stored.
        """
        if not check_text(prompt, "prompt").strip():
            raise InvalidInput("an empty prompt means nothing that could be found")
        check_text(response, "response")
        if key is not None:
            check_text(key, "key")
        ttl = check_life(ttl_seconds)
        expires_at = None if ttl is None or ttl == -1 else self._clock() + ttl
        await self.embedder.load()
        if not self.embedder.fits(prompt):
            raise InvalidInput(f"the prompt is longer than {self.embedder.model} reads; it can only be found exactly")
        rows = await self.embedder.embed([prompt])
        await self._put([Indexable(key or prompt, prompt, expires_at)], rows, response=response)

    async def index_entries(
        self, entries: Iterable[Indexable], *, anew: bool = False, embed_timeout_seconds: float | None = None
    ) -> IndexReport:
        """Make entries of the LLM cache findable; only with `anew` are texts embedded that are indexed already.

        Raises:
            EmbedderUnavailable, BackendUnavailable: Nothing was stored.
            TimeoutError: Texts were not embedded within `embed_timeout_seconds`.
        """
        entries = list(entries)
        await self.embedder.load()
        readable = [entry for entry in entries if entry.prompt.strip() and self.embedder.fits(entry.prompt)]
        held = await self._vectors.load([self._vectors.id_of(entry.key) for entry in readable])
        fresh: list[Indexable] = []
        renewed: list[Indexable] = []
        for entry in readable:
            found = held.get(self._vectors.id_of(entry.key))
            known = found is not None and found[0].prompt == entry.prompt and found[0].response is None
            (renewed if known and not anew else fresh).append(entry)
        if renewed:
            # Written again all the same: the entry's expiry may have moved, and the vector goes with it.
            rows = [held[self._vectors.id_of(entry.key)][0].as_array() for entry in renewed]
            await self._put(renewed, np.stack(rows))
        if fresh:
            texts = [entry.prompt for entry in fresh]
            # The model only: a store is not given up between a vector and the note that tells of it.
            async with asyncio.timeout(embed_timeout_seconds):
                new = await (embed_anew(self.embedder, texts) if anew else self.embedder.embed(texts))
            await self._put(fresh, new)
        return IndexReport(added=len(fresh), unchanged=len(renewed), too_long=len(entries) - len(readable))

    async def tell_again(self, vectors: Mapping[str, StoredVector]) -> None:
        """Tell the readers of vectors that are stored, by id: whoever stored them may have died before it could.

        Raises:
            BackendUnavailable: Not all may have heard.
        """
        if not vectors:
            return
        await self._vectors.tell(list(vectors))
        if self._writes_through:
            rows = {name: vector.as_array() for name, vector in vectors.items()}
            await self._follow().put(rows, {name: vector.scope for name, vector in vectors.items()})

    async def unshared(self, vectors: Mapping[str, StoredVector]) -> set[str]:
        """Return which of some stored vectors, by id, a shared index lacks; one of this process follows the store.

        Raises:
            BackendUnavailable: The index cannot be asked.
        """
        if not vectors or not self.index.is_shared:
            return set()
        shared = SharedVectors(self.index, prefix=self._vectors.prefix)
        return await shared.absent({name: vector.scope for name, vector in vectors.items()})

    async def share(self, vectors: Mapping[str, StoredVector]) -> set[str]:
        """Put those of some stored vectors into a shared index that it lacks; return which.

        Raises:
            BackendUnavailable: Part of it may be done.
        """
        lacked = await self.unshared(vectors)
        if lacked:
            await self._follow().put(
                {name: vectors[name].as_array() for name in lacked}, {name: vectors[name].scope for name in lacked}
            )
        return lacked

    async def without_vector(self, keys: Sequence[str]) -> list[str]:
        """Return those keys of the LLM cache that cannot be found by meaning yet."""
        await self.embedder.load()
        held = {vector_id async for vector_id in self._vectors.ids()}
        return [key for key in keys if self._vectors.id_of(key) not in held]

    async def remove_entry(self, key: str) -> bool:
        """Forget a vector; return whether there was one."""
        check_text(key, "key")
        await self.embedder.load()
        gone = [self._vectors.id_of(key)]
        scopes = {name: found.scope for name, (found, _) in (await self._vectors.load(gone)).items()}
        removed = await self._vectors.remove(gone)
        if self._writes_through:
            await self._follow().remove(gone, scopes)
        return removed > 0

    async def find_similar(
        self, query: str, threshold: float | None = None, limit: int = 5, *, scope: str | None = None
    ) -> list[SimilarityMatch]:
        """Return stored prompts whose similarity reaches the threshold, best first.

        Refused candidates are listed too, with the gates that refuse them in `.vetoes`; those asked in
        another context than `scope` have the veto "scope". An answer whose entry is gone or expired
        is never returned. A store that is down gives an empty list and an event.

        What evidence refuses is known to the CacheManager, whose `find_similar` adds it.

        Raises:
            InvalidInput: The threshold is outside -1 to 1, or the limit below 1.
            EmbedderUnavailable: The model cannot be loaded.
        """
        return [candidate.match for candidate in await self.list_candidates(query, threshold, limit, scope=scope)]

    async def list_candidates(
        self, query: str, threshold: float | None = None, limit: int = 5, *, scope: str | None = None
    ) -> list[Candidate]:
        """Return what `find_similar` lists, with all that is known of each.

        Raises:
            As `find_similar`.
        """
        check_text(query, "query")
        floor = self.config.threshold if threshold is None else check_similarity(threshold)
        check_count(limit, "limit")
        if scope is not None:
            check_text(scope, "scope")
        vector = await self.vector_of(query)
        if vector is None:
            return []
        try:
            follower = await self._level()
            found: list[Candidate] = []
            for each in {*follower.scopes(), scope or ""}:
                candidates = await self._match(query, vector, each, floor, limit)
                if scope is not None and each != scope:
                    candidates = [_refused(candidate, ("scope", *candidate.match.vetoes)) for candidate in candidates]
                found += candidates
        except BackendUnavailable as exc:
            self._listener(UnavailableEvent(exc.backend, "find_similar", exc.reason))
            return []
        best = sorted(found, key=lambda candidate: -candidate.match.score)[:limit]
        self._tell_vetoes([candidate.match for candidate in best])
        return best

    async def vector_of(self, text: str) -> NDArray[np.float32] | None:
        """Return the vector of a text, shape (d,), or None for a text that the model cannot read whole.

        Raises:
            EmbedderUnavailable: The model cannot be loaded.
        """
        await self.embedder.load()
        if not text.strip() or not self.embedder.fits(text):
            return None
        row: NDArray[np.float32] = (await self.embedder.embed([text]))[0]
        return row

    async def nearest(
        self,
        text: str,
        vector: NDArray[np.float32],
        scope: str,
        threshold: float,
        *,
        max_age_seconds: float | None = None,
    ) -> list[Candidate]:
        """Return the candidates of one scope that reach the threshold, best first; or the best one below it.

        Those stored longer ago than `max_age_seconds` have the veto "expired". When every one of
        them is refused, it looks once more, further out.

        Raises:
            BackendUnavailable: The store cannot be read.
        """
        await self._level()
        found = await self._match(text, vector, scope, threshold, _OVERFETCH, max_age_seconds)
        if len(found) == _OVERFETCH and all(candidate.match.vetoes for candidate in found):
            found = await self._match(text, vector, scope, threshold, 4 * _OVERFETCH, max_age_seconds)
        if found:
            self._tell_vetoes([candidate.match for candidate in found])
            return found
        return await self._match(text, vector, scope, -1.0, 1, max_age_seconds)

    async def candidates_of(
        self,
        text: str,
        vector: NDArray[np.float32],
        keys: Sequence[str],
        *,
        scope: str | None = None,
        max_age_seconds: float | None = None,
    ) -> list[Candidate]:
        """Return what some entries are to a text by their stored vectors, however far away, whatever the index knows.

        Entries without a vector of this model, or with one in another scope, are left out.

        Raises:
            BackendUnavailable: The store cannot be read.
        """
        found = []
        for response, stored, version in (await self._answers([self._vectors.id_of(key) for key in keys])).values():
            if scope is None or stored.scope == scope:
                score = float(stored.as_array() @ vector)
                found.append(_limited(self._candidate(text, score, response, stored, version), max_age_seconds))
        return found

    async def may_hold(self, scope: str) -> bool:
        """Tell whether a search in a scope could find something. Of a shared index, which is far away, always.

        Raises:
            BackendUnavailable: The store cannot be read.
        """
        await self.embedder.load()
        follower = await self._level()
        return self.index.is_shared or await self.index.size(follower.partition(scope)) > 0

    async def cluster_of(self, text: str) -> int | None:
        """Return which part of the space a text lies in, or None for one that cannot be read whole.

        Raises:
            EmbedderUnavailable: The model cannot be loaded.
        """
        vector = await self.vector_of(text)
        return None if vector is None else cluster_of(vector)

    async def clear_index(self) -> int:
        """Forget all vectors of this namespace and model; entries stay. Return how many went."""
        await self.embedder.load()
        gone = [vector_id async for vector_id in self._vectors.ids()]
        removed = 0
        for start in range(0, len(gone), _PAGE):
            page = gone[start : start + _PAGE]
            scopes = {name: found.scope for name, (found, _) in (await self._vectors.load(page)).items()}
            removed += await self._vectors.remove(page)
            if self._writes_through:
                await self._follow().remove(page, scopes)
        if gone:
            self._listener(RemoveEvent("delete", self.namespace, removed, of_entries=False))
        return removed

    async def size(self) -> int:
        """Return how many vectors can be found."""
        await self.embedder.load()
        await self._level()
        return await self.index.size()

    async def is_empty(self) -> bool:
        """Tell whether it is known that nothing can be found; of an index that is shared it is not.

        Raises:
            EmbedderUnavailable: The model cannot be loaded.
            BackendUnavailable: The store cannot be read.
        """
        await self.embedder.load()
        if self.index.is_shared:
            return False  # counting would cost as much as searching
        await self._level()
        return await self.index.size() == 0

    async def aclose(self) -> None:
        """Keep the index for the next start, where there is somewhere to, and free it; the backend is its maker's."""
        for side in self._sides.all():
            if side.follower is not None:
                await side.follower.aclose()
                side.follower = None
            await side.index.aclose()
        for embedder in self._made:
            embedder.close()

    async def _match(  # noqa: PLR0917 - private, one search handed on
        self,
        query: str,
        vector: NDArray[np.float32],
        scope: str,
        floor: float,
        limit: int,
        max_age_seconds: float | None = None,
    ) -> list[Candidate]:
        follower = self._follow()
        wanted = limit + _OVERFETCH
        while True:
            neighbours = await self.index.search(follower.partition(scope), vector, k=wanted)
            close = [each for each in neighbours if reaches(each.similarity, floor - _INDEX_ERROR)]
            found = []
            answers = await self._answers([each.id for each in close])
            ghosts = [each.id for each in close if each.id not in answers]
            if ghosts:
                await follower.remove(ghosts, dict.fromkeys(ghosts, scope))
            for response, stored, version in answers.values():
                # The index may be behind the store: the score is that of the vector read just now.
                score = float(stored.as_array() @ vector)
                if reaches(score, floor) and stored.scope == scope:
                    candidate = self._candidate(query, score, response, stored, version)
                    found.append(_limited(candidate, max_age_seconds))
            # Entries that vanished left the index above: look again, further out, before saying there is no more.
            if len(found) >= limit or len(close) < wanted:
                return sorted(found, key=lambda each: -each.match.score)[:limit]
            wanted *= 2

    def _candidate(
        self, query: str, score: float, response: CachedResponse, stored: StoredVector, version: int
    ) -> Candidate:
        age = max(0.0, self._clock() - version_time(version))
        match = SimilarityMatch(
            score=max(-1.0, min(score, 1.0)),
            prompt=stored.prompt,
            response=response.response,
            key=stored.key,
            vetoes=gates.vetoes(
                query,
                stored.prompt,
                age_seconds=age,
                fresh_seconds=self.config.fresh_seconds,
                off=self.config.gates_off,
            ),
            age_seconds=age,
        )
        return Candidate(match, response, cluster_of(stored.as_array()), self._is_older)

    async def _answers(self, ids: Sequence[str]) -> dict[str, tuple[CachedResponse, StoredVector, int]]:
        """Return response, vector and version of the answer by vector id; what has no live answer is left out."""
        held = await self._vectors.load(ids)
        linked = [self._entries.to_storage(vector.key) for vector, _ in held.values() if vector.response is None]
        entries = await self.backend.get_many(linked) if linked else {}
        found = {}
        for vector_id, (vector, version) in held.items():
            if vector.response is not None:
                found[vector_id] = _standing_alone(vector, version), vector, version
                continue
            record = entries.get(self._entries.to_storage(vector.key))
            response = None if record is None else self._response_of(vector, record)
            if record is not None and response is not None:
                found[vector_id] = response, vector, record.version
        return found

    def _response_of(self, vector: StoredVector, record: Record) -> CachedResponse | None:
        try:
            stored = decode_stored(vector.key, record.value, limit_bytes=self._entry_limit_bytes)
        except CorruptRecord as exc:
            self._listener(CorruptEvent(self.backend.name, self._entries.to_storage(vector.key), str(exc)))
            return None
        # The entry may have been replaced since it was embedded: by one for another prompt, or, under the key of a
        # request, by one that was stored for no request.
        if stored.response.prompt != vector.prompt or stored.facts.scope != vector.scope:
            return None
        until = stored.facts.fresh_until
        return stored.response if until is None or until > self._clock() else None

    async def _put(
        self, entries: Sequence[Indexable], rows: NDArray[np.float32], *, response: str | None = None
    ) -> None:
        """Store vectors and tell of them; who is cancelled meanwhile waits until both is done."""
        self._indexed = True
        # A task of its own: a vector without its note is one that no running reader ever finds.
        writing = asyncio.create_task(self._write(entries, rows, response))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait((writing,))
            raise

    async def _write(self, entries: Sequence[Indexable], rows: NDArray[np.float32], response: str | None) -> None:
        stored = await self._vectors.put(entries, rows, response=response)
        if self._writes_through:
            await self._follow().put(stored, {self._vectors.id_of(entry.key): entry.scope for entry in entries})

    def _open_embedder(self, model: EmbeddingModel | str, given: Embedder | None = None) -> CachingEmbedder:
        """Return an embedder that keeps vectors as configured, and looks at what the model gives in any case."""
        if isinstance(given, CachingEmbedder):
            return given
        config = self.config
        inner = given or open_embedder(model, engine=config.engine, device=config.device)
        folder = None if config.folder is None else config.folder / "texts"
        made = CachingEmbedder(inner, folder=folder) if config.cache_embeddings else CachingEmbedder(inner, max_size=0)
        self._made.append(made)
        return made

    def _embedder_before(self) -> CachingEmbedder | None:
        """Return what runs the configured `previous_model`; one for all namespaces, for it takes much memory."""
        if self._older_embedder is None and self.config.previous_model is not None:
            self._older_embedder = self._open_embedder(self.config.previous_model)
        return self._older_embedder

    def _tell_vetoes(self, matches: Sequence[SimilarityMatch]) -> None:
        for match in matches:
            for gate in match.vetoes:
                self._listener(VetoEvent(gate, self.namespace))

    @property
    def _writes_through(self) -> bool:
        # A process that only writes keeps no index of its own; its first search reads everything anyway.
        return self._sides.get().follower is not None or self.index.is_shared

    async def _level(self) -> Follower | SharedVectors:
        follower = self._follow()
        await follower.catch_up()
        return follower

    def _follow(self) -> Follower | SharedVectors:
        side = self._sides.get()
        if side.follower is None and side.index.is_shared:
            side.follower = SharedVectors(side.index, prefix=self._vectors.prefix)
        elif side.follower is None:
            side.follower = Follower(
                self.backend,
                self._vectors.journal,
                side.index,
                stream=self._vectors.stream,
                prefix=self._vectors.prefix,
                dims=self.embedder.dims,
                listener=self._listener,
                snapshot=self._snapshot(),
                # The space of an older model is empty once everything is embedded anew, as it should be.
                on_others=None if self._is_older else self._warn_of_others,
            )
        return side.follower

    def _open_side(self) -> _Side:
        given = self._given
        if given is not None:
            # One of this process serves one loop; the next loop gets one of the usual kind.
            self._given = given if given.is_shared else None
            return _Side(given)
        url = self.config.index_url
        return _Side(open_index() if url is None else open_index(url.get_secret_value(), dims=self.embedder.dims))

    def _warn_of_others(self) -> None:
        way_out = "run `cache-cli embed`"
        if self.config.previous_model is None:
            way_out += ", and until it is through set semantic.previous_model to that model"
        logger.warning(
            "%s has embedded nothing of namespace %r yet, and another model has, so its entries are not found by"
            " meaning: %s",
            self.embedder.model,
            self.namespace,
            way_out,
        )

    def _snapshot(self) -> Snapshot | None:
        folder = self.config.folder
        if folder is None or self.stands_alone or not isinstance(self.index, AutoIndex):
            return None
        return Snapshot(
            folder / "indexes",
            self.index,
            backend=self.backend,
            namespace=self.namespace,
            prefix=self._vectors.prefix,
            versions=self._versions,
        )


def _limited(candidate: Candidate, max_age_seconds: float | None) -> Candidate:
    """Return a candidate, refused when it is older than its reader takes."""
    if max_age_seconds is None or (candidate.match.age_seconds or 0.0) <= max_age_seconds:
        return candidate
    return _refused(candidate, (*candidate.match.vetoes, EXPIRED))


def _refused(candidate: Candidate, vetoes: tuple[str, ...]) -> Candidate:
    return msgspec.structs.replace(candidate, match=msgspec.structs.replace(candidate.match, vetoes=vetoes))


def _standing_alone(vector: StoredVector, version: int) -> CachedResponse:
    return CachedResponse(
        prompt=vector.prompt,
        response=vector.response or "",
        model="unknown",
        timestamp=datetime.fromtimestamp(version_time(version), UTC),
    )
