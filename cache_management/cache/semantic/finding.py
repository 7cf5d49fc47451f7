"""Which stored entries may answer a request by meaning: the nearest ones asked in its context and conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from cache_management.cache.config import SimilarityConfig
from cache_management.cache.errors import EmbedderUnavailable
from cache_management.cache.requests import Request
from cache_management.cache.semantic.chains import Held, Links
from cache_management.cache.semantic.decision import decide, reaches

if TYPE_CHECKING:
    from cache_management.cache.semantic.matcher import Candidate, SimilarityMatcher
    from cache_management.cache.semantic.second_opinion import SecondOpinion
    from cache_management.cache.semantic.verifier import Verifier


_Known = Callable[[Sequence[str]], Awaitable[list["Candidate"]]]
"""Takes keys, and returns what those of their entries that the newer model embedded are to it."""


class Finder:
    """Finds candidates in the scope of a request, with all that refuses them.

    Args:
        matcher: None finds nothing, and still tells scopes.
        older: Knows what the model before this one embedded.
        verifier, opinion: Add what they refuse.
        held: Tells which keys have an entry.
        left_out: Hears why the older model was not asked.
    """

    def __init__(
        self,
        config: SimilarityConfig,
        matcher: SimilarityMatcher | None,
        older: SimilarityMatcher | None = None,
        *,
        verifier: Verifier | None = None,
        opinion: SecondOpinion | None = None,
        held: Held,
        left_out: Callable[[Exception], None],
    ) -> None:
        self._config = config
        self._matcher = matcher
        self._older = older
        self._verifier = verifier
        self._opinion = opinion
        self._left_out = left_out
        self._judgements = 0
        self._links = Links(config.conversations, held=held)

    async def scope(self, request: Request, threshold: float, spent: dict[str, float] | None = None) -> str | None:
        """Return where a request may be found by meaning, or None when only exactly.

        `threshold` decides which entries answer the earlier turns of its conversation.

        Raises:
            BackendUnavailable, EmbedderUnavailable, ImportError, TimeoutError: It cannot be told.
        """
        if self._verifier is not None and request.history and not self._links.is_empty:
            judgements = (await self._verifier.evidence()).judgements
            if judgements != self._judgements:
                # Another process may have heard that what answered an earlier turn was wrong.
                self._judgements = judgements
                self._links.forget()
        answer = partial(self._answer_of, threshold=threshold, spent={} if spent is None else spent)
        return await self._links.scope(request, threshold, answer)

    def forget_links(self) -> None:
        """Resolve earlier turns anew: what answered them was judged."""
        self._links.forget()

    async def candidates(
        self,
        request: Request,
        scope: str,
        threshold: float,
        spent: dict[str, float],
        *,
        max_age_seconds: float | None = None,
    ) -> list[Candidate] | None:
        """Return the nearest entries of a scope, or None for a text that the model cannot read whole.

        `spent` is added to: the earlier turns of a request and its own text share one deadline for embedding.
        """
        if self._matcher is None:
            return []
        text = request.last_text or ""
        began = perf_counter()
        await self._matcher.embedder.load()  # once, and it may take seconds: no deadline
        embedding = spent.get("embed", 0.0)
        async with asyncio.timeout(self._config.embed_timeout_seconds - embedding / 1000):
            vector = await self._matcher.vector_of(text)
        embedded = perf_counter()
        spent["embed"] = embedding + (embedded - began) * 1000
        if vector is None:
            return None
        found = await self._matcher.nearest(text, vector, scope, threshold, max_age_seconds=max_age_seconds)
        if self._older is not None:
            older = await self._from_older(self._older, text, scope, threshold, max_age_seconds=max_age_seconds)
            known = partial(self._matcher.candidates_of, text, vector, scope=scope, max_age_seconds=max_age_seconds)
            found = await _joined(found, older, threshold, known)
        if self._verifier is not None:
            found = await self._verifier.weigh(text, found, threshold)
        if self._opinion is not None:
            found = await self._opinion.weigh(text, found, threshold)
        spent["search"] = spent.get("search", 0.0) + (perf_counter() - embedded) * 1000
        return found

    async def close_to(self, text: str, threshold: float | None, limit: int) -> list[Candidate]:
        """Return what is close to a text in any context, by the model and the one before it, with what refuses it.

        Raises:
            InvalidInput: The text, the threshold or the limit cannot be used.
            BackendUnavailable: What refuses them, or what the model says of what the older one found, cannot be read.
            EmbedderUnavailable: The model cannot be loaded.
        """
        if self._matcher is None:
            return []
        found = await self._matcher.list_candidates(text, threshold, limit)
        floor = self._config.threshold if threshold is None else threshold
        if self._older is not None:
            try:
                older = (
                    [] if await self._older.is_empty() else await self._older.list_candidates(text, threshold, limit)
                )
            except (EmbedderUnavailable, ImportError) as exc:
                self._left_out(exc)
            else:
                vector = await self._matcher.vector_of(text) if older else None
                known = None if vector is None else partial(self._matcher.candidates_of, text, vector)
                found = (await _joined(found, older, floor, known))[:limit]
        if self._verifier is not None:
            found = await self._verifier.weigh(text, found, floor)
        return found

    async def _from_older(
        self, older: SimilarityMatcher, text: str, scope: str, threshold: float, *, max_age_seconds: float | None
    ) -> list[Candidate]:
        """Return the nearest entries that the model before this one embedded; without that model there are none."""
        try:
            # Once everything is embedded anew, the older model has nothing to say and is not asked.
            vector = None if await older.is_empty() else await older.vector_of(text)
        except (EmbedderUnavailable, ImportError) as exc:
            self._left_out(exc)
            return []
        if vector is None:
            return []
        return await older.nearest(text, vector, scope, threshold, max_age_seconds=max_age_seconds)

    async def _answer_of(self, turn: Request, scope: str, *, threshold: float, spent: dict[str, float]) -> str | None:
        """Return the key of the entry that answers an earlier turn by meaning, or None."""
        if self._matcher is None or (self._older is None and not await self._matcher.may_hold(scope)):
            return None  # so it is with most turns of a long conversation: nothing is embedded for them
        candidates = await self.candidates(turn, scope, threshold, spent)
        at, _ = decide([candidate.match for candidate in candidates or ()], threshold)
        return None if at is None or not candidates else candidates[at].match.key


async def _joined(
    newer: Sequence[Candidate], older: Sequence[Candidate], threshold: float, known: _Known | None
) -> list[Candidate]:
    """Join what two models found, best first; of an entry that both embedded, the newer one's word counts.

    `known` is asked for that word on what the newer one did not find itself: far away, behind its limit, or too
    new for its index.
    """
    found = list(newer)
    listed = {candidate.match.key for candidate in newer}
    left = {candidate.match.key: candidate for candidate in older if candidate.match.key not in listed}
    for candidate in await known(list(left)) if left and known is not None else ():
        left.pop(candidate.match.key, None)
        if reaches(candidate.match.score, threshold):
            found.append(candidate)
    return sorted([*found, *left.values()], key=lambda candidate: -candidate.match.score)
