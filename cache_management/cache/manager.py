"""CacheManager: one face over answers and meaning, for every namespace of a store."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import msgspec
from pydantic import ValidationError

from cache_management.cache.admission import parse_controls
from cache_management.cache.arguments import (
    check_compute,
    check_count,
    check_keys,
    check_mapping,
    check_similarity,
    check_text,
)
from cache_management.cache.compute import Compute
from cache_management.cache.config import EvictionPolicy, explain_validation
from cache_management.cache.errors import BackendUnavailable, ConfigurationError, InvalidInput
from cache_management.cache.events import Listening, UnavailableEvent
from cache_management.cache.front_door import FrontDoor, index_keys
from cache_management.cache.identity import check_namespace, is_namespace
from cache_management.cache.invalidation import Selection
from cache_management.cache.llm import LLMCache
from cache_management.cache.payloads import check_metadata
from cache_management.cache.reasoning.step_identity import conditions
from cache_management.cache.records import IndexReport, Record
from cache_management.cache.requests import Request, make_request
from cache_management.cache.similar_problems import SUFFIX, SimilarProblems, SimilarReasoning
from cache_management.cache.transfer.exporting import entries_of
from cache_management.cache.transfer.importing import Importer, ImportWanted
from cache_management.cache.transfer.shelf import Shelf
from cache_management.cache.transfer.sources import ListSource
from cache_management.cache.transfer.tally import Tally
from cache_management.cache.values import Answered, CachedResponse, CacheStats, Lookup, NearMiss, SimilarityMatch

if TYPE_CHECKING:
    from cache_management.cache.reasoning.cache import ReasoningCache
    from cache_management.cache.reasoning.result import ReasoningResult, ReasoningType
    from cache_management.cache.reasoning.validation import Finding
    from cache_management.cache.semantic.comparing import Judge
    from cache_management.cache.semantic.evidence import FalseHits
    from cache_management.cache.semantic.matcher import SimilarityMatcher
    from cache_management.cache.semantic.second_opinion import Opinion
    from cache_management.cache.semantic.verifier import Verifier


logger = logging.getLogger("cache_management")

Prompt = str | Sequence[Mapping[str, Any]]

_NEIGHBOURS_KEPT = 256


class CacheManager:
    """Answers whole requests, by `lookup`, `store` and `get_or_compute`, from an LLMCache and a SimilarityMatcher.

    Share one backend between them, so that an answer that is gone is not found by
    meaning either. `namespace=` of a call serves another namespace of the same store; each has an index of
    its own, and those of the 256 used last are kept. One that gives way first finishes what it
    computes in the background.

    Args:
        llm_cache: Keeps the answers; by default on disk, see `CacheConfig`.
        reasoning_cache: Keeps chains and trees of thoughts, for `set_reasoning_cache` and `get_reasoning_cache`.
        eviction_policy: What goes first when the caches are full, in the place of their own `eviction_policy`.
        metrics: A `MetricsCollector`, which hears all parts from now on.
        second_opinion: Says whether one answer serves both what is asked and the question of a stored answer that would
            be served at a similarity below `sure_from`: a function that returns True, False, or None when it cannot
            tell, or a `CrossEncoderOpinion`. May be async. It can only refuse; when it fails, nothing is served.
        judge: In verified mode, says whether two answers to a question say the same: takes the
            question and both; returns True, False, or None when it cannot tell. May be async.
    """

    def __init__(
        self,
        llm_cache: LLMCache | None = None,
        similarity_matcher: SimilarityMatcher | None = None,
        *,
        reasoning_cache: ReasoningCache | None = None,
        eviction_policy: EvictionPolicy | None = None,
        metrics: Listening | None = None,
        judge: Judge | None = None,
        second_opinion: Opinion | None = None,
    ) -> None:
        llm_cache = LLMCache() if llm_cache is None else llm_cache
        self.llm_cache = llm_cache
        self.similarity_matcher = similarity_matcher
        self.reasoning_cache = reasoning_cache
        if eviction_policy is not None:
            llm_cache.use_eviction_policy(eviction_policy)
            if reasoning_cache is not None:
                reasoning_cache.use_eviction_policy(eviction_policy)
        self.metrics = metrics
        if metrics is not None:
            _feed(metrics, llm_cache, similarity_matcher, reasoning_cache)
        if similarity_matcher is not None:
            _check_pair(llm_cache, similarity_matcher)
        for name, given in (("judge", judge), ("second_opinion", second_opinion)):
            if given is not None and not callable(given):
                raise InvalidInput(f"{name} must be a function, not {repr(given)[:40]}")
        self._said_by = (judge, second_opinion)
        self._door = _open_door(llm_cache, similarity_matcher, *self._said_by)
        self._neighbours: OrderedDict[str, FrontDoor] = OrderedDict()
        self._guests: Counter[FrontDoor] = Counter()  # calls that are within a door of a neighbour
        self._closing: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()

    async def lookup(
        self,
        prompt: Prompt | None,
        *,
        model: str | None = None,
        system: Prompt | None = None,
        history: Sequence[Mapping[str, Any]] = (),
        params: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        threshold: float | None = None,
    ) -> Lookup:
        """Return what is stored for a request: the same one, or one that means the same in the same context.

        It calls no model and stores nothing. All that is given counts: another model, system prompt, tool,
        parameter or conversation is another context. See `Lookup` for why it missed.

        Args:
            prompt: Text, or content parts; None when `history` is the whole conversation.
            history: The conversation before the prompt, oldest first, as chat messages.
            params: The rest of the request: temperature, tools, response_format, anything.
            threshold: Cosine similarity, -1 to 1; by default the configured one.

        Raises:
            InvalidInput: A part of the request cannot be used; names it.
            BackendUnavailable: Only with `strict`.
        """
        request = make_request(prompt, model=model, system=system, history=history, params=params)
        with self._within(namespace) as door:
            return await door.lookup(request, threshold)

    async def store(
        self,
        prompt: Prompt | None,
        response: str | CachedResponse,
        *,
        model: str | None = None,
        system: Prompt | None = None,
        history: Sequence[Mapping[str, Any]] = (),
        params: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        ttl_seconds: int | None = None,
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """File an answer under its request, findable exactly and by meaning; return its key.

        `metadata` is added to that of a CachedResponse; the prompt of the request replaces its own. Names under which
        adapters and clients keep more than a text are theirs, and refused.

        Raises:
            InvalidInput, InvalidEntry: The request or the answer cannot be used.
            BackendUnavailable: Only with `strict`.
        """
        request = make_request(prompt, model=model, system=system, history=history, params=params)
        added = {} if metadata is None else check_mapping(metadata, "metadata")
        check_metadata(added, "metadata")
        filed = _as_response(request, response, added, now=self.llm_cache.clock())
        with self._within(namespace) as door:
            return await door.store(request, filed, ttl_seconds=ttl_seconds, tags=tags)

    async def get_or_compute(
        self,
        prompt: Prompt,
        compute: Compute,
        *,
        model: str | None = None,
        system: Prompt | None = None,
        history: Sequence[Mapping[str, Any]] = (),
        params: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        threshold: float | None = None,
        ttl_seconds: int | None = None,
        tags: Sequence[str] = (),
        controls: Mapping[str, object] | None = None,
    ) -> CachedResponse:
        """Return what `lookup` finds, or compute it once and `store` it.

        Callers that ask the same at the same time, in any process, share one computation. Its exceptions
        are the caller's; what is no good answer (cut off, refused, ...) is returned and not stored.

        Args:
            compute: Returns text, a CachedResponse or Computed; may be async. A plain function
                runs on a thread.
            controls: `ttl`, `s-maxage`, `no-cache`, `no-store`, `namespace`, in LiteLLM's words.

        Raises:
            InvalidInput: A part of the request, a tag or a control cannot be used; names it.
        """
        answered = await self.answer(
            prompt,
            compute,
            model=model,
            system=system,
            history=history,
            params=params,
            namespace=namespace,
            threshold=threshold,
            ttl_seconds=ttl_seconds,
            tags=tags,
            controls=controls,
        )
        return answered.response

    async def answer(
        self,
        prompt: Prompt | None,
        compute: Compute,
        *,
        model: str | None = None,
        system: Prompt | None = None,
        history: Sequence[Mapping[str, Any]] = (),
        params: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        threshold: float | None = None,
        ttl_seconds: int | None = None,
        tags: Sequence[str] = (),
        controls: Mapping[str, object] | None = None,
    ) -> Answered:
        """Do what `get_or_compute` does, and say where the answer came from: exact, by meaning, or computed now.

        Raises:
            As `get_or_compute`.
        """
        request = make_request(prompt, model=model, system=system, history=history, params=params)
        check_compute(compute)
        with self._within(parse_controls(controls).namespace if namespace is None else namespace) as door:
            return await door.answer(
                request, compute, threshold=threshold, ttl_seconds=ttl_seconds, tags=tags, controls=controls
            )

    async def feedback(self, lookup: Lookup, *, correct: bool) -> None:
        """Say whether an answer found by meaning was right. A wrong one is not served to that question again.

        Raises:
            InvalidInput: The lookup was no hit by meaning.
            BackendUnavailable, EmbedderUnavailable: It is not noted.
        """
        if not isinstance(lookup, Lookup) or lookup.kind != "semantic" or lookup.similarity is None:
            raise InvalidInput(
                "only an answer found by meaning can be judged; delete a wrong entry with llm_cache.delete(lookup.key)"
            )
        await self.judge(
            lookup.prompt, lookup.key, score=lookup.similarity, correct=correct, namespace=lookup.namespace
        )

    async def judge(self, prompt: str, key: str, *, score: float, correct: bool, namespace: str | None = None) -> None:
        """Say whether the entry of a key is right for a question, whose similarity to it is `score`.

        Raises:
            InvalidInput: This manager has no similarity_matcher, or the score is none.
            BackendUnavailable, EmbedderUnavailable: It is not noted.
        """
        check_text(prompt, "prompt")
        check_text(key, "key")
        check_similarity(score, "score")
        if not isinstance(correct, bool):
            raise InvalidInput(f"correct must be True or False, not {repr(correct)[:40]}")
        with self._within(namespace) as door:
            await _verifier_of(door).feedback(prompt, key, score, correct=correct)
            door.forget_links()

    def near_misses(self) -> list[NearMiss]:
        """Return what was near enough and refused lately in this process, the newest first; of every namespace."""
        with self._lock:
            doors = [self._door, *self._neighbours.values()]
        return sorted((each for door in doors for each in list(door.near_misses)), key=lambda each: -each.at)

    async def false_hits(self, namespace: str | None = None) -> FalseHits:
        """Return how many of the answers found by meaning are wrong, as far as it is known.

        Raises:
            InvalidInput: This manager has no similarity_matcher.
            BackendUnavailable, EmbedderUnavailable: It cannot be read.
        """
        with self._within(namespace) as door:
            evidence = await _verifier_of(door).evidence(at_once=True)
            return evidence.summary(from_score=door.config.threshold)

    async def get_llm_cache(self, key: str) -> CachedResponse | None:
        """Return the response stored under a key, or None."""
        return await self.llm_cache.get(key)

    async def set_llm_cache(self, key: str, response: CachedResponse, ttl_seconds: int | None = None) -> None:
        """Store a response and make it findable by meaning."""
        await self.llm_cache.set(key, response, ttl_seconds)
        await self.index([key])

    async def set_reasoning_cache(
        self, key: str, result: ReasoningResult, ttl_seconds: int | None = None, *, tags: Sequence[str] = ()
    ) -> tuple[Finding, ...]:
        """Store a chain or a tree of thoughts, see `ReasoningCache.set`; its problem can be found by meaning then."""
        cache = self._reasoning()
        warnings = await cache.set(key, result, ttl_seconds, tags=tags)
        if self.similarity_matcher is not None:
            similar = SimilarProblems(cache)
            with self._within(similar.namespace) as door:
                await similar.note(door, result, ttl_seconds=ttl_seconds, tags=tags)
        return warnings

    async def find_reasoning(
        self,
        problem: str,
        *,
        reasoning_type: ReasoningType = "cot",
        model: str | None = None,
        prompt_version: str | None = None,
        params: Mapping[str, Any] | None = None,
        threshold: float | None = None,
    ) -> SimilarReasoning:
        """Return the newest solution of a problem, or of one that means the same, under the same conditions.

        A problem with another number is never the same. A solution of another problem says which (`borrowed_from`).

        Args:
            threshold: Cosine similarity, -1 to 1; by default the configured one.

        Raises:
            InvalidInput: Something cannot be used.
            BackendUnavailable: Only with `strict`.
        """
        under = conditions(reasoning_type, model=model, prompt_version=prompt_version, params=params)
        similar = SimilarProblems(self._reasoning())
        if self.similarity_matcher is None:
            return await similar.find(None, problem, under)
        with self._within(similar.namespace) as door:
            return await similar.find(door, problem, under, threshold=threshold)

    async def get_reasoning_cache(self, key: str) -> ReasoningResult | None:
        """Return what is stored under a key, see `ReasoningCache.get`."""
        return await self._reasoning().get(key)

    def _reasoning(self) -> ReasoningCache:
        if self.reasoning_cache is None:
            raise ConfigurationError("this manager keeps no reasoning: give it a reasoning_cache")
        return self.reasoning_cache

    async def find_similar(self, query: str, threshold: float | None = None, limit: int = 5) -> list[SimilarityMatch]:
        """Return stored prompts that mean nearly the same, see `SimilarityMatcher.find_similar`.

        What evidence refuses has the veto "unverified", what somebody called wrong "feedback_block".
        """
        return await self._door.find_similar(query, threshold, limit)

    async def index(self, keys: Sequence[str]) -> IndexReport:
        """Make stored entries findable by meaning; keys without an entry are passed over.

        Fails open like every write: a store that is down leaves the entries exact-only.
        """
        if self.similarity_matcher is None:
            return IndexReport(0, 0, 0)
        keys = check_keys(keys)
        try:
            return await index_keys(self.llm_cache, self.similarity_matcher, keys)
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
        check_count(limit, "limit")
        missing = await self.similarity_matcher.without_vector(await self.llm_cache.list_keys())
        await self.index(missing[:limit])
        return max(0, len(missing) - limit)

    async def scope_of(self, request: Request) -> str | None:
        """Return where the answer of a request is found by meaning, see `Facts`; None when only exactly."""
        return await self._door.scope_or_none(request, self._door.config.threshold)

    async def put_records(self, records: Mapping[str, Record]) -> None:
        """Store encoded entries without indexing them; see `index`."""
        await self.llm_cache.put_records(records)

    def shelf(self, namespace: str | None = None) -> Shelf:
        """Return the entries of a namespace as an export or an import takes them."""
        cache = self.llm_cache
        return Shelf(
            cache.backend,
            namespace=cache.namespace if namespace is None else check_namespace(namespace),
            clock=cache.clock,
            limit_bytes=cache.config.max_entry_bytes,
            ttl_seconds=cache.config.ttl_seconds,
            listener=cache.tell,
        )

    async def export_entries(self, pattern: str | None = None, *, namespace: str | None = None) -> list[dict[str, Any]]:
        """Return entries as JSON objects, those whose keys match a shell glob or all of them.

        They hold all that `import_entries` needs to store equal ones. What cannot be read is left out, with an
        event. All of them are in memory at once: for large caches there is `cache-cli export`.

        Raises:
            BackendUnavailable: The store cannot be read.
        """
        if pattern is not None:
            check_text(pattern, "pattern")
        return await entries_of(self.shelf(namespace), pattern)

    async def import_entries(
        self, entries: Iterable[Mapping[str, Any]], merge: bool = True, *, namespace: str | None = None
    ) -> Tally:
        """Store what `export_entries` returned, and make it findable by meaning; return what became of it.

        All of it is checked before anything is changed. With `merge` an entry is written that is absent, or older
        by version; else the entries replace those of the namespace, and what is not among them goes.

        Args:
            entries: Objects with `key`, `response` and `timestamp`; the rest has defaults, see `EntryLine`.

        Raises:
            InvalidInput: One of them cannot be stored; names its number. Nothing was changed.
            BackendUnavailable: Part of it may be done; replacing is completed by the next import.
            EmbedderUnavailable: They are stored, and can only be found exactly.
        """
        source = ListSource.of_objects(entries, namespace=self.llm_cache.namespace if namespace is None else namespace)
        with self._within(namespace) as door:
            importer = Importer(
                self.shelf(namespace), source, ImportWanted(replace=not merge), where="entries", keep_written=True
            )
            place = importer.begin()
            while place.step != "done":
                try:
                    place = await importer.advance(place)
                except InvalidInput:
                    await importer.abandon(place)
                    raise
                if door.matcher is not None and importer.written:
                    await index_keys(door.cache, door.matcher, importer.written)
                importer.written.clear()
            if not merge:
                await door.cache.note_invalidation(Selection(everything=True))
        return place.tally

    async def get_stats(self) -> CacheStats:
        """Return counts of this process and the number of entries in the store, of answers and reasoning together."""
        answers = await self.llm_cache.get_stats()
        if self.reasoning_cache is None:
            return answers
        thoughts = await self.reasoning_cache.get_stats()
        results = await self.reasoning_cache.count()
        return msgspec.structs.replace(
            answers,
            total_entries=answers.total_entries + results,
            reasoning_entries=results,
            hits=answers.hits + thoughts.hits,
            misses=answers.misses + thoughts.misses,
            stores=answers.stores + thoughts.stores,
            tokens_saved=answers.tokens_saved + thoughts.tokens_saved,
        )

    async def invalidate(self, selection: Selection, *, namespace: str | None = None, dry_run: bool = False) -> int:
        """Remove the answers and the results of reasoning of a selection; return how many there were.

        None of them is found by meaning from then on. Reasoning is that of the namespace of `reasoning_cache`, and is
        left alone when another one is named. See `LLMCache.invalidate` for what is being computed meanwhile. With
        `dry_run` nothing is removed.

        Raises:
            InvalidInput: The selection says nothing, or something that cannot be.
            BackendUnavailable: Some may still be there.
        """
        with self._within(namespace) as door:
            removed = await door.cache.invalidate(selection, dry_run=dry_run)
            if not dry_run:
                door.near_misses.clear()  # they repeat what was stored
                await door.cache.forget_near_misses()
        thoughts = self.reasoning_cache
        if thoughts is None or namespace not in (None, thoughts.namespace):
            return removed
        removed += await thoughts.invalidate(selection, dry_run=dry_run)
        # What makes solved problems findable by meaning repeats them, under keys of its own.
        hidden = thoughts.namespace + SUFFIX
        by_key = (selection.pattern, selection.regex, selection.model) != (None, None, None)
        if not by_key and not dry_run and is_namespace(hidden):  # else it was too long for that
            with self._within(hidden) as door:
                await door.cache.invalidate(selection)
        return removed

    async def invalidate_all(self, *, namespace: str | None = None) -> int:
        """Remove all answers and all reasoning of a namespace; return how many entries there were.

        Raises:
            BackendUnavailable: Some may still be there.
        """
        return await self.invalidate(Selection(everything=True), namespace=namespace)

    async def invalidate_pattern(self, pattern: str, *, regex: bool = False, namespace: str | None = None) -> int:
        """Remove entries whose keys match a shell glob, or with `regex` hold a match of a regular expression.

        Raises:
            InvalidInput: It is no pattern, or an expression that takes too long.
            BackendUnavailable: Some may still be there.
        """
        check_text(pattern, "pattern")
        selection = Selection(regex=pattern) if regex else Selection(pattern=pattern)
        return await self.invalidate(selection, namespace=namespace)

    async def invalidate_older_than(self, seconds: float, *, namespace: str | None = None) -> int:
        """Remove entries that were stored so long ago, or longer; return how many there were.

        Raises:
            InvalidInput: It is no number of seconds.
            BackendUnavailable: Some may still be there.
        """
        return await self.invalidate(Selection(older_than_seconds=seconds), namespace=namespace)

    async def aclose(self) -> None:
        """Wait for what is computed in the background, then free connections and files."""
        loop = asyncio.get_running_loop()
        while closing := [task for task in list(self._closing) if task.get_loop() is loop]:
            await asyncio.wait(closing)
        while self._neighbours:
            await self._neighbours.popitem()[1].aclose()
        await self._door.aclose()
        await self.llm_cache.aclose()
        if self.reasoning_cache is not None:
            await self.reasoning_cache.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    @contextmanager
    def _within(self, namespace: str | None) -> Iterator[FrontDoor]:
        """Give the door to a namespace, which stays open meanwhile."""
        if namespace is None or namespace == self.llm_cache.namespace:
            yield self._door
            return
        check_namespace(namespace)
        with self._lock:
            door = self._neighbours.get(namespace)
            if door is None:
                door = self._neighbours[namespace] = _neighbour(self._door, namespace, *self._said_by)
            self._neighbours.move_to_end(namespace)
            self._guests[door] += 1
        try:
            self._make_room()
            yield door
        finally:
            with self._lock:
                self._guests[door] -= 1
                if not self._guests[door]:
                    del self._guests[door]

    def _make_room(self) -> None:
        """Close the doors that were not used for longest, in the background; one that is in use stays."""
        if len(self._neighbours) <= _NEIGHBOURS_KEPT:
            return
        with self._lock:
            idle = [name for name, door in self._neighbours.items() if not self._guests[door]]
            left = [self._neighbours.pop(name) for name in idle[: max(0, len(self._neighbours) - _NEIGHBOURS_KEPT)]]
        for door in left:
            task = asyncio.get_running_loop().create_task(door.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.warning("the index of a namespace was not closed as it should be", exc_info=task.exception())


def _feed(
    metrics: Listening, cache: LLMCache, matcher: SimilarityMatcher | None, reasoning: ReasoningCache | None
) -> None:
    cache.listen(metrics)
    if matcher is not None and not matcher.tells(cache.tell):
        matcher.listen(metrics)
    if reasoning is not None:
        reasoning.listen(metrics.of_reasoning)


def _verifier_of(door: FrontDoor) -> Verifier:
    if door.verifier is None:
        raise InvalidInput("this manager has no similarity_matcher: give it one to judge what is found by meaning")
    return door.verifier


def _open_door(
    cache: LLMCache, matcher: SimilarityMatcher | None, judge: Judge | None, ask: Opinion | None
) -> FrontDoor:
    if matcher is None:
        return FrontDoor(cache)
    from cache_management.cache.semantic.verifier import Verifier

    verifier = Verifier(matcher, clock=cache.clock, listener=cache.tell, judge=judge)
    if ask is None:
        return FrontDoor(cache, matcher, verifier)
    from cache_management.cache.semantic.second_opinion import SecondOpinion

    opinion = SecondOpinion(
        ask,
        sure_from=matcher.config.sure_from,
        timeout_seconds=matcher.config.opinion_timeout_seconds,
        namespace=cache.namespace,
        listener=cache.tell,
    )
    return FrontDoor(cache, matcher, verifier, opinion)


def _neighbour(door: FrontDoor, namespace: str, judge: Judge | None, ask: Opinion | None) -> FrontDoor:
    """Return a door to another namespace of the same store; only its keys and its index are its own."""
    cache = LLMCache(
        door.cache.config.model_copy(update={"namespace": namespace}),
        backend=door.cache.backend,
        # What makes problems findable is no answer, and not counted as one.
        listener=None if namespace.endswith(SUFFIX) else door.cache.listener,
        clock=door.cache.clock,
    )
    matcher = None if door.matcher is None else door.matcher.in_namespace(namespace, listener=cache.tell)
    return _open_door(cache, matcher, judge, ask)


def _as_response(
    request: Request, response: str | CachedResponse, metadata: Mapping[str, Any], *, now: float
) -> CachedResponse:
    """Return an answer as it is filed: under the text that was asked."""
    prompt = request.last_text or ""
    if isinstance(response, str):
        moment = datetime.fromtimestamp(now, UTC)
        model = request.model or "unknown"
        try:
            return CachedResponse(
                prompt=prompt, response=response, model=model, timestamp=moment, metadata=dict(metadata)
            )
        except ValidationError as exc:
            raise InvalidInput(explain_validation(exc, what="the answer")) from None
    if not isinstance(response, CachedResponse):
        raise InvalidInput(f"response must be text or a CachedResponse, not {type(response).__name__}")
    if response.prompt == prompt and not metadata:
        return response
    return response.model_copy(update={"prompt": prompt, "metadata": {**response.metadata, **metadata}})


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
