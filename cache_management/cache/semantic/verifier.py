"""Verified and shadow mode: weighs candidates by the evidence, and gathers it.

What is computed anyway is compared with the nearest stored answer; of what is served, a random share
is computed again in the background; and users say what was wrong. A judged pair is refused in every mode.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from cache_management.cache.clock import Clock, VersionClock
from cache_management.cache.errors import BackendUnavailable, EmbedderUnavailable, InvalidInput
from cache_management.cache.events import JudgedEvent, Listener, UnavailableEvent
from cache_management.cache.identity import digest
from cache_management.cache.semantic.decision import UNVERIFIED, reaches
from cache_management.cache.semantic.evidence import Evidence, Observation, Source, Verdict
from cache_management.cache.semantic.ledger import Ledger
from cache_management.cache.semantic.per_loop import PerLoop

if TYPE_CHECKING:
    from cache_management.cache.semantic.comparing import Judge
    from cache_management.cache.semantic.matcher import Candidate, SimilarityMatcher

logger = logging.getLogger("cache_management")

_REMEMBERED = 1_000
_RECHECKS_AT_ONCE = 4


class Verifier:
    """Belongs to one matcher.

    Args:
        judge: Says whether two answers say the same, see `comparing.Judge`.
        rng: Returns numbers from 0 to 1; decides what is computed again.
    """

    def __init__(
        self,
        matcher: SimilarityMatcher,
        *,
        clock: Clock,
        listener: Listener,
        judge: Judge | None = None,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._matcher = matcher
        self._config = matcher.config
        self._versions = VersionClock(clock)
        self._listener = listener
        self._judge = judge
        self._rng = rng
        self._ledgers = PerLoop(self._open_ledger)
        self._near: OrderedDict[str, tuple[str, Candidate]] = OrderedDict()  # what a miss came nearest to, by its key
        self._tasks: set[asyncio.Task[None]] = set()
        self._rechecks = 0

    @property
    def is_learning(self) -> bool:
        """Tell whether answers are compared."""
        return self._config.serves != "static"

    async def evidence(self, *, at_once: bool = False) -> Evidence:
        """Return what is known.

        Raises:
            BackendUnavailable: The store cannot be read.
        """
        return await (await self._open()).catch_up(at_once=at_once)

    async def weigh(self, asked: str, candidates: Sequence[Candidate], threshold: float) -> list[Candidate]:
        """Return the candidates with the vetoes that evidence adds to those that no gate refuses.

        Raises:
            BackendUnavailable: The store cannot be read.
        """
        evidence = await self.evidence()
        found = []
        for each in candidates:
            match = each.match
            if not match.vetoes and reaches(match.score, threshold):
                why = self._why_not(evidence, asked, each)
                if why is not None:
                    match = msgspec.structs.replace(match, vetoes=(why,))
            found.append(msgspec.structs.replace(each, match=match))
        return found

    def remember(self, key: str, asked: str, candidates: Sequence[Candidate]) -> None:
        """Keep the nearest answer that only evidence refused, to compare it with the one that will be stored."""
        near = next(
            (each for each in candidates if each.match.vetoes == (UNVERIFIED,) and not each.of_older_model), None
        )
        if near is not None and self.is_learning:
            self._near[key] = asked, near
            while len(self._near) > _REMEMBERED:
                self._near.popitem(last=False)

    def learn(self, key: str, fresh: str) -> None:
        """Compare an answer that was just stored with the nearest one before it, in the background."""
        found = self._near.pop(key, None)
        if found is not None:
            self._begin(self._compare("near_miss", *found, fresh))

    def recheck(self, asked: str, served: Candidate, compute: Callable[[], Awaitable[str | None]]) -> None:
        """Compute a random share of what is served again, in the background, and compare; None tells nothing."""
        rate = self._config.recheck_rate
        if self.is_learning and self._rechecks < _RECHECKS_AT_ONCE and self._rng() < rate:
            self._rechecks += 1
            self._begin(self._recompute(asked, served, compute, 1 / rate))

    async def feedback(self, asked: str, key: str, score: float, *, correct: bool) -> None:
        """Take somebody's word for an answer: a wrong one is not served to that question again.

        Raises:
            BackendUnavailable, EmbedderUnavailable: It is not noted.
        """
        cluster = await self._matcher.cluster_of(asked)
        if cluster is None:
            raise InvalidInput("this text can only be found exactly: there is nothing to learn about its meaning")
        verdict: Verdict = "same" if correct else "different"
        await self._note(Observation("feedback", verdict, score, digest(asked), digest(key), cluster))
        await self.evidence(at_once=True)

    async def finish(self) -> None:
        """Wait for what is compared in the background of this event loop."""
        loop = asyncio.get_running_loop()
        while mine := [task for task in list(self._tasks) if task.get_loop() is loop]:
            await asyncio.wait(mine)

    def _why_not(self, evidence: Evidence, asked: str, candidate: Candidate) -> str | None:
        why = evidence.refuses(
            candidate.match.score, asked=digest(asked), entry=digest(candidate.match.key), cluster=candidate.cluster
        )
        if self._config.serves == "shadow" or (self._config.serves == "verified" and candidate.of_older_model):
            return why if why == "feedback_block" else UNVERIFIED
        return None if why == UNVERIFIED and self._config.serves == "static" else why

    async def _recompute(
        self, asked: str, served: Candidate, compute: Callable[[], Awaitable[str | None]], weight: float
    ) -> None:
        try:
            fresh = await compute()
            if fresh is not None:
                await self._compare("recheck", asked, served, fresh, weight)
        finally:
            self._rechecks -= 1

    async def _compare(self, source: Source, asked: str, stored: Candidate, fresh: str, weight: float = 1.0) -> None:
        from cache_management.cache.semantic.comparing import compare

        match = stored.match
        verdict = await compare(asked, match.response, fresh, embedder=self._matcher.embedder, judge=self._judge)
        seen = Observation(source, verdict, match.score, digest(asked), digest(match.key), stored.cluster, weight)
        await self._note(seen)

    async def _note(self, seen: Observation) -> None:
        await (await self._open()).note([seen])
        self._listener(JudgedEvent(seen.source, seen.verdict, self._matcher.namespace))

    async def _open(self) -> Ledger:
        await self._matcher.embedder.load()
        return self._ledgers.get()

    def _open_ledger(self) -> Ledger:
        return Ledger(
            self._matcher.backend,
            self._matcher.journal,
            namespace=self._matcher.namespace,
            space=self._matcher.embedder.space,
            budget=self._config.budget,
            versions=self._versions,
        )

    def _begin(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            except BackendUnavailable as exc:
                self._listener(UnavailableEvent(exc.backend, "verify", exc.reason))
            except (EmbedderUnavailable, ImportError) as exc:
                self._listener(UnavailableEvent("embedder", "verify", str(exc)))
            except Exception:
                # The model's errors and the judge's: nothing was learned, and nobody waits for it.
                logger.warning("an answer could not be compared with a fresh one", exc_info=True)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
