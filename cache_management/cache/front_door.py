"""The one way in for a whole request: exact, else by meaning, else computed once and stored.

    exact      the entry of the whole request
    semantic   the nearest entries asked in the same context: the best that no gate refuses
    compute    see cache/compute.py; what is stored becomes findable by meaning

One door serves one namespace. Nothing that fails on the way to an answer is raised, unless `strict`.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from cache_management.cache.admission import Controls, parse_controls
from cache_management.cache.arguments import check_life, check_similarity
from cache_management.cache.clock import version_time
from cache_management.cache.codec import Facts
from cache_management.cache.compute import Answer, Compute, Computing, Held, Start, Wanted, as_tags, call, why_not_kept
from cache_management.cache.config import SimilarityConfig
from cache_management.cache.errors import BackendUnavailable, ConfigurationError, EmbedderUnavailable, InvalidInput
from cache_management.cache.events import UnavailableEvent
from cache_management.cache.llm import LLMCache
from cache_management.cache.records import Indexable, IndexReport
from cache_management.cache.requests import Request, entry_key, is_reserved_key
from cache_management.cache.semantic.decision import decide
from cache_management.cache.semantic.finding import Finder
from cache_management.cache.semantic.stored_entries import has_place
from cache_management.cache.values import Answered, CachedResponse, Lookup, LookupReason, NearMiss, SimilarityMatch

if TYPE_CHECKING:
    from cache_management.cache.semantic.matcher import Candidate, SimilarityMatcher
    from cache_management.cache.semantic.second_opinion import SecondOpinion
    from cache_management.cache.semantic.verifier import Verifier

logger = logging.getLogger("cache_management")

_NEAR_MISSES_KEPT = 50
_SHOWN_CHARACTERS = 500

_NO_MEANING = (EmbedderUnavailable, ImportError, TimeoutError, ConfigurationError)  # the last one by an index


class FrontDoor:
    """Answers requests from one LLMCache and the matcher over its entries.

    Args:
        matcher: Finds by meaning; without one only exact hits are served.
        verifier: Adds what evidence refuses.
        opinion: Adds what it refuses of what would be served.
    """

    def __init__(
        self,
        cache: LLMCache,
        matcher: SimilarityMatcher | None = None,
        verifier: Verifier | None = None,
        opinion: SecondOpinion | None = None,
    ) -> None:
        self.cache = cache
        self.matcher = matcher
        self.config = matcher.config if matcher is not None else SimilarityConfig(namespace=cache.namespace)
        self.verifier = verifier
        self.near_misses: deque[NearMiss] = deque(maxlen=_NEAR_MISSES_KEPT)
        self._older = None if matcher is None else matcher.older()
        self._shelf = _RequestShelf(cache, self._filed)
        self._computing = Computing(self._shelf, cache.flights, clock=cache.clock)
        self._finder = Finder(
            self.config,
            matcher,
            self._older,
            verifier=verifier,
            opinion=opinion,
            held=self._shelf.held,
            left_out=self._without_meaning,
        )
        self._warned = False

    async def lookup(self, request: Request, threshold: float | None = None) -> Lookup:
        """Return what is stored for a request, exactly or by meaning; it computes and changes nothing.

        Raises:
            InvalidInput: The threshold is outside -1 to 1.
            BackendUnavailable: Only with `strict`.
        """
        started = perf_counter()
        floor = self._floor(threshold)
        key = self._asked(request)
        held = await self._shelf.load(key)
        now = self.cache.clock()
        if isinstance(held, Held) and (held.fresh_until is None or held.fresh_until > now):
            response = held.stored.response
            self.cache.hit(key, response, started, held.stored.facts.cost_micro)
            return Lookup(
                hit=True,
                kind="exact",
                response=response,
                key=key,
                similarity=1.0,
                age_seconds=max(0.0, now - version_time(held.version)),
                reason="exact",
                threshold=floor,
                scope=held.stored.facts.scope,
                prompt=request.last_text or "",
                namespace=self.cache.namespace,
                timings_ms={"exact": (perf_counter() - started) * 1000},
                decision_id=secrets.token_hex(8),
            )
        missed: LookupReason = (
            "degraded" if held == "degraded" else "expired" if isinstance(held, Held) else "no_candidate"
        )
        return await self.by_meaning(request, floor, missed=missed, started=started)

    async def store(
        self,
        request: Request,
        response: CachedResponse,
        *,
        ttl_seconds: int | None = None,
        tags: Sequence[str] = (),
    ) -> str:
        """File an answer under its request and make it findable by meaning; return its key.

        Raises:
            InvalidEntry, InvalidInput: It cannot be stored.
            BackendUnavailable: Only with `strict`.
        """
        known = as_tags(tags)
        key = self._asked(request, tags=known, ttl_seconds=ttl_seconds)
        scope = await self.scope_or_none(request, self.config.threshold)
        await self.cache.store(key, response, Facts(tags=known, scope=scope), ttl_seconds)
        if scope is not None:
            await self._filed(key, response.response)
        return key

    async def get_or_compute(
        self,
        request: Request,
        compute: Compute,
        *,
        threshold: float | None = None,
        ttl_seconds: int | None = None,
        tags: Sequence[str] = (),
        controls: Mapping[str, object] | None = None,
    ) -> CachedResponse:
        """Return what `lookup` finds, or compute it once and store it, see `LLMCache.get_or_compute`."""
        answered = await self.answer(
            request, compute, threshold=threshold, ttl_seconds=ttl_seconds, tags=tags, controls=controls
        )
        return answered.response

    async def answer(
        self,
        request: Request,
        compute: Compute,
        *,
        threshold: float | None = None,
        ttl_seconds: int | None = None,
        tags: Sequence[str] = (),
        controls: Mapping[str, object] | None = None,
    ) -> Answered:
        """Do what `get_or_compute` does, and say where the answer came from."""
        check_life(ttl_seconds)
        read = parse_controls(controls)
        known = as_tags(tags)
        life = ttl_seconds if read.ttl is None else read.ttl
        meaning = _Meaning(self, request, self._floor(threshold), read, compute)
        wanted = Wanted(
            entry_key(request) if read.no_store else self._asked(request, tags=known, ttl_seconds=life),
            request.last_text or "",
            request.model or "unknown",
            ttl_seconds,
            known,
            read,
            meaning,
        )
        is_ours = False

        async def compute_here() -> Answer:
            nonlocal is_ours
            answer = await call(compute)
            is_ours = True
            return answer

        response = await self._computing.run(wanted, compute_here)
        found = meaning.found
        if found is not None and response is found.response:
            return Answered(
                response=response,
                kind="semantic",
                key=found.key,
                similarity=found.similarity,
                age_seconds=found.age_seconds or 0.0,
            )
        if is_ours:
            return Answered(response=response, kind=None, key=wanted.key, similarity=None, age_seconds=0.0)
        age = max(0.0, self.cache.clock() - response.timestamp.timestamp())
        return Answered(response=response, kind="exact", key=wanted.key, similarity=1.0, age_seconds=age)

    async def find_similar(self, query: str, threshold: float | None, limit: int) -> list[SimilarityMatch]:
        """List stored prompts close to a text in any context, with the gates and the evidence that refuse them.

        An index that all processes share (`semantic.index_url`) lists what was stored for a prompt alone.

        Raises:
            InvalidInput: There is no matcher, or the threshold or the limit cannot be used.
            EmbedderUnavailable: The model cannot be loaded.
        """
        if self.matcher is None:
            raise InvalidInput("this manager has no similarity_matcher: give it one to search by meaning")
        try:
            found = await self._finder.close_to(query, threshold, limit)
        except BackendUnavailable as exc:
            self.cache.tell(UnavailableEvent(exc.backend, "find_similar", exc.reason))
            return []
        return [candidate.match for candidate in found]

    async def finish(self) -> None:
        """Wait for what is computed in the background of this event loop."""
        await self._computing.finish()
        if self.verifier is not None:
            await self.verifier.finish()

    async def aclose(self) -> None:
        """Wait for what goes on, tell what was counted, and free the indexes; the cache is its maker's."""
        await self.finish()
        if self.cache.usage is not None:
            await self.cache.usage.aclose()
        for matcher in (self.matcher, self._older):
            if matcher is not None:
                await matcher.aclose()

    async def by_meaning(
        self,
        request: Request,
        threshold: float,
        *,
        missed: LookupReason = "no_candidate",
        started: float | None = None,
        max_age_seconds: float | None = None,
        compute: Compute | None = None,
    ) -> Lookup:
        """Return the best answer in the scope of a request that has no entry, and tell the listeners.

        `missed` is the reason when nothing is near. What was stored longer ago than `max_age_seconds` is not
        served. With `compute` what is served may be computed again.
        """
        began = perf_counter()
        started = began if started is None else started
        spent = {"exact": (began - started) * 1000}
        candidates: Sequence[Candidate] = ()
        scope: str | None = None
        if self.matcher is not None and missed != "degraded":
            try:
                scope = await self._finder.scope(request, threshold, spent)
                found = None
                if scope is not None:
                    found = await self._finder.candidates(
                        request, scope, threshold, spent, max_age_seconds=max_age_seconds
                    )
            except (BackendUnavailable, *_NO_MEANING) as exc:
                self._without_meaning(exc)
                missed = "degraded"
            else:
                if found is None and missed == "no_candidate":
                    missed = "ineligible_turn"
                candidates = found or ()
        asked = request.last_text or ""
        matches = tuple(candidate.match for candidate in candidates)
        at, reason = decide(matches, threshold)
        lookup = Lookup(
            hit=False,
            key=entry_key(request),
            reason=reason if matches else missed,
            vetoes=matches[0].vetoes if matches else (),
            nearest=next((match for match in matches if match.vetoes or at is None), None),
            threshold=threshold,
            candidates=matches,
            scope=scope,
            namespace=self.cache.namespace,
            timings_ms=spent,
            decision_id=secrets.token_hex(8),
            prompt=asked,
        )
        if at is None:
            if lookup.reason == "vetoed":
                self._remember(request, lookup, matches[0])
            if self.verifier is not None:
                self.verifier.remember(lookup.key, asked, candidates)
            self.cache.miss(lookup.reason, lookup.key, started)
            return lookup
        served = candidates[at]
        if self.verifier is not None and compute is not None:
            self.verifier.recheck(asked, served, partial(_kept_text, compute, self.cache.config.max_entry_bytes))
        self.cache.semantic_hit(served.match.key, served.response, started, asked=lookup.key)
        return msgspec.structs.replace(
            lookup,
            hit=True,
            kind="semantic",
            response=served.response,
            key=served.match.key,
            similarity=served.match.score,
            age_seconds=served.match.age_seconds,
            vetoes=(),
        )

    def _remember(self, request: Request, lookup: Lookup, match: SimilarityMatch) -> None:
        near = NearMiss(
            self.cache.clock(),
            self.cache.namespace,
            lookup.prompt[:_SHOWN_CHARACTERS],
            match.prompt[:_SHOWN_CHARACTERS],
            match.score,
            match.vetoes,
        )
        self.near_misses.appendleft(near)
        if self.cache.usage is not None:
            self.cache.usage.near_miss(lookup.key, request, near)

    async def scope_or_none(self, request: Request, threshold: float) -> str | None:
        """Return where a request is filed; what cannot be told is filed for exact hits only."""
        try:
            return await self._finder.scope(request, threshold)
        except (BackendUnavailable, *_NO_MEANING) as exc:
            self._without_meaning(exc)
            return None

    def forget_links(self) -> None:
        """Resolve the earlier turns of conversations anew: what answered them was judged."""
        self._finder.forget_links()

    async def _filed(self, key: str, response: str) -> None:
        await self._make_findable(key)
        if self.verifier is not None:
            self.verifier.learn(key, response)

    async def _make_findable(self, key: str) -> None:
        """Store the vector of an entry; one that cannot be made leaves the entry exact-only."""
        if self.matcher is None:
            return
        try:
            await self.matcher.embedder.load()
            await index_keys(self.cache, self.matcher, [key], embed_timeout_seconds=self.config.embed_timeout_seconds)
        except (BackendUnavailable, *_NO_MEANING) as exc:
            self._without_meaning(exc)

    def _without_meaning(self, error: Exception) -> None:
        """Tell that a step by meaning was left out.

        Raises:
            BackendUnavailable: Only with `strict`.
        """
        if isinstance(error, BackendUnavailable):
            self.cache.tell(UnavailableEvent(error.backend, "lookup", error.reason))
            if self.cache.config.strict:
                raise error
            return
        reason = "no vector in time" if isinstance(error, TimeoutError) else str(error)
        part = "index" if isinstance(error, ConfigurationError) else "embedder"
        self.cache.tell(UnavailableEvent(part, "lookup", reason))
        if not self._warned:
            self._warned = True
            logger.warning("answers are found exactly only, not by meaning: %s", reason)

    def _asked(self, request: Request, *, tags: tuple[str, ...] = (), ttl_seconds: int | None = None) -> str:
        """Return the key of a request; who counts what is asked remembers the request."""
        key = entry_key(request)
        if self.cache.usage is not None:
            known = None if key == request.prompt else request
            self.cache.usage.asked(key, known, tags=tags, ttl_seconds=ttl_seconds)
        return key

    def _floor(self, threshold: float | None) -> float:
        if threshold is None:
            return self.config.threshold
        return check_similarity(threshold)


async def index_keys(
    cache: LLMCache, matcher: SimilarityMatcher, keys: Sequence[str], *, embed_timeout_seconds: float | None = None
) -> IndexReport:
    """Make stored entries findable by meaning; keys without an entry, or with an exact-only one, are passed over.

    Raises:
        EmbedderUnavailable, BackendUnavailable: Nothing was stored.
        TimeoutError: Texts were not embedded within `embed_timeout_seconds`.
    """
    entries = await cache.load_entries(keys)
    return await matcher.index_entries(
        [
            Indexable(entry.key, entry.response.prompt, entry.expires_at, entry.scope or "")
            for entry in entries.values()
            if has_place(entry.key, entry.scope)
        ],
        embed_timeout_seconds=embed_timeout_seconds,
    )


async def _kept_text(compute: Compute, limit_bytes: int) -> str | None:
    """Return the text of a fresh answer; None of one that would not be stored, which says nothing of what is."""
    answer = await call(compute)
    text = answer if isinstance(answer, str) else answer.response
    return text if why_not_kept(answer, text, limit_bytes=limit_bytes) is None else None


class _RequestShelf:
    """An LLMCache as whole requests see it: an entry under a key that is not theirs is none."""

    def __init__(self, cache: LLMCache, stored: Callable[[str, str], Awaitable[None]]) -> None:
        self._cache = cache
        self._stored = stored
        self.config = cache.config
        self.namespace = cache.namespace
        self.start = cache.start
        self.hit = cache.hit
        self.miss = cache.miss
        self.personal = cache.personal
        self.tell = cache.tell

    async def load(self, key: str) -> Held | str:
        held = await self._cache.load(key, operation="lookup")
        return held if isinstance(held, str) or _is_ours(key, held) else "absent"

    async def held(self, keys: Sequence[str]) -> set[str]:
        """Return the keys that have an entry, stale ones too.

        Raises:
            BackendUnavailable: The store cannot be read.
        """
        return {key for key, held in (await self._cache.load_many(keys)).items() if _is_ours(key, held)}

    async def store_computed(
        self, key: str, response: CachedResponse, facts: Facts, ttl_seconds: int | None, start: Start
    ) -> str | None:
        refused = await self._cache.store_computed(key, response, facts, ttl_seconds, start)
        if refused is None and facts.scope is not None:
            await self._stored(key, response.response)
        return refused


def _is_ours(key: str, held: Held) -> bool:
    """Tell whether the entry of a key answers a request: the key is its prompt, or a fingerprint.

    Under a fingerprint only a request's entry may stand, which a plain one is not.
    """
    return held.stored.facts.scope != "" if is_reserved_key(key) else held.stored.response.prompt == key


class _Meaning:
    """What `compute.Meaning` asks, for one request."""

    def __init__(
        self, door: FrontDoor, request: Request, threshold: float, controls: Controls, compute: Compute
    ) -> None:
        self._door = door
        self._compute = compute
        self._request = request
        self._threshold = threshold
        self._controls = controls
        self._scope: str | None = None
        self.found: Lookup | None = None

    async def find(self, held: str) -> CachedResponse | None:
        missed: LookupReason = "degraded" if held == "degraded" else "expired" if held == "expired" else "no_candidate"
        found = await self._door.by_meaning(
            self._request,
            self._threshold,
            missed=missed,
            max_age_seconds=self._controls.s_maxage,
            compute=None if self._controls.no_store else self._compute,
        )
        self._scope = found.scope
        self.found = found if found.hit else None
        return found.response

    async def scope(self) -> str | None:
        if self._scope is None:
            self._scope = await self._door.scope_or_none(self._request, self._threshold)
        return self._scope
