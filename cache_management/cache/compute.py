"""get_or_compute: serve what is stored, else compute it once, store it if it may be stored.

    fresh      serve; now and then, close to its end, compute again in the background (XFetch)
    stale      within stale_while_revalidate: serve, compute again in the background; when that
               brought nothing to store, not again for 5 seconds
    absent     an answer by meaning, where that is asked for (also when what is held is past its
               time); else one computation among all callers and processes; the others get its value
    failing    within stale_if_error: serve what is stored; else the exception is the caller's

A store that is down never keeps anybody from computing.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import msgspec
from pydantic import ValidationError

from cache_management.cache.admission import (
    NO_CONTROLS,
    Controls,
    Freshness,
    Refusal,
    freshness,
    may_serve,
    may_store,
    should_refresh_early,
)
from cache_management.cache.clock import Clock, version_time
from cache_management.cache.codec import Facts, Stored
from cache_management.cache.config import CacheConfig, explain_validation
from cache_management.cache.errors import InvalidEntry, InvalidInput
from cache_management.cache.events import ComputeEvent, Event, RefusedEvent, StaleEvent
from cache_management.cache.identity import LAYOUT, digest
from cache_management.cache.on_thread import on_thread
from cache_management.cache.single_flight import ALONE, Holder, SingleFlight
from cache_management.cache.values import CachedResponse

_REPLAY_CHARACTERS = 64
_REST_SECONDS = 5.0
_MOST_RESTING = 1000


class Computed(msgspec.Struct, frozen=True, kw_only=True):
    """What a computation gives when a text alone does not say enough.

    `finish_reason`, `status` and `refusal` are the provider's words; they decide whether the
    answer is stored. `cost_micro` is what it cost, in micro-dollars; None: nobody said.
    """

    response: str
    model: str | None = None
    token_count: int = 0
    metadata: dict[str, Any] = {}
    finish_reason: str | None = None
    status: int | None = None
    refusal: str | None = None
    personalised: bool = False
    has_tool_calls: bool = False
    cost_micro: int | None = None


_NO_DETAILS = Computed(response="")

Answer = str | CachedResponse | Computed
Compute = Callable[[], Awaitable[Answer] | Answer]
ComputeStream = Callable[[], AsyncIterator[str]]


class Meaning(Protocol):
    """What else may answer a request, and how its answer is found by others."""

    async def find(self, held: str) -> CachedResponse | None:
        """Return an answer found by meaning, or None, and tell the listeners.

        `held` says why there is no exact one: "absent", "corrupt", "degraded" or "expired".
        """

    async def scope(self) -> str | None:
        """Return the scope of the request, see `Facts`."""


class Wanted(msgspec.Struct, frozen=True):
    """One request for an entry: where it is filed and how it shall be kept."""

    key: str
    prompt: str
    model: str
    ttl_seconds: int | None
    tags: tuple[str, ...]
    controls: Controls
    meaning: Meaning | None = None


class Held(msgspec.Struct, frozen=True):
    """An entry as the shelf has it."""

    stored: Stored
    version: int
    expires_at: float | None

    @property
    def fresh_until(self) -> float | None:
        until = self.stored.facts.fresh_until
        return self.expires_at if until is None else until


class Start(msgspec.Struct, frozen=True, gc=False):
    """When a computation started: a version, and a moment of `Removals` (None: the store was down)."""

    version: int
    moment: str | None


class Shelf(Protocol):
    """What computing needs of a cache."""

    config: CacheConfig
    namespace: str

    async def load(self, key: str) -> Held | str:
        """Return an entry, stale ones too, or why there is none: "absent", "corrupt" or "degraded"."""

    async def start(self) -> Start:
        """Return the moment at which a computation starts."""

    async def store_computed(
        self, key: str, response: CachedResponse, facts: Facts, ttl_seconds: int | None, start: Start
    ) -> str | None:
        """Store what was computed since, unless it was removed or overwritten; return why it was not stored."""

    def hit(self, key: str, response: CachedResponse, started: float, cost_micro: int = 0) -> None:
        """Tell the listeners of a hit, and what computing it would have cost."""

    def miss(self, reason: str, key: str, started: float) -> None:
        """Tell the listeners of a miss."""

    def personal(self, key: str) -> None:
        """Hear that what answers a key is meant for one person."""

    def tell(self, event: Event) -> None:
        """Tell the listeners."""


class Computing:
    """Runs computations for one cache."""

    def __init__(
        self,
        shelf: Shelf,
        flights: SingleFlight[CachedResponse],
        *,
        clock: Clock,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._shelf = shelf
        self._flights = flights
        self._clock = clock
        self._rng = rng
        self._background: set[asyncio.Task[CachedResponse]] = set()
        self._resting: dict[str, float] = {}  # until when, by key

    async def run(self, wanted: Wanted, compute: Compute) -> CachedResponse:
        """Return the stored answer, or the computed one."""
        started = perf_counter()
        if wanted.controls.no_cache:
            self._shelf.miss("bypass", wanted.key, started)
            return await self._compute(wanted, compute, ALONE)
        held = await self._shelf.load(wanted.key)
        if isinstance(held, str):
            found = await self._other(wanted, held, started)
            return found or await self._fly(wanted, compute, newer_than=None)
        response = held.stored.response
        now = self._clock()
        state = self._state(held, wanted.controls, now)
        if state == "stale_usable":
            self._shelf.tell(StaleEvent("revalidate", self._shelf.namespace, wanted.key))
        if state == "stale_usable" or (state == "fresh" and self._refreshes_early(held, now)):
            self._refresh(wanted, compute, held.version)
        if state in {"fresh", "stale_usable"}:
            self._shelf.hit(wanted.key, response, started, held.stored.facts.cost_micro)
            return response
        found = await self._other(wanted, "expired", started)
        if found is not None:
            return found
        try:
            return await self._fly(wanted, compute, newer_than=None)
        except Exception:
            # Whatever went wrong in the caller's code: an old answer was asked for in this case.
            if state != "stale_if_error":
                raise
            self._shelf.tell(StaleEvent("error", self._shelf.namespace, wanted.key))
            return response

    async def _other(self, wanted: Wanted, held: str, started: float) -> CachedResponse | None:
        """Return what else answers a request without a usable entry of its own, and tell of a miss."""
        if wanted.meaning is not None:
            return await wanted.meaning.find(held)
        self._shelf.miss(held, wanted.key, started)
        return None

    async def stream(self, wanted: Wanted, compute: ComputeStream) -> AsyncIterator[str]:
        """Yield the stored answer in pieces, or the computed one as it comes.

        Only a stream that came to its end is stored: an error in it, or a reader that leaves,
        leaves nothing behind. A reader that takes nothing for a lease's time keeps nobody else
        from computing, and its stream is not stored either.
        """
        started = perf_counter()
        held = "bypass" if wanted.controls.no_cache else await self._shelf.load(wanted.key)
        # A stale one is not served: nothing would compute it again once its reader has it.
        if isinstance(held, Held) and self._state(held, wanted.controls, self._clock()) == "fresh":
            self._shelf.hit(wanted.key, held.stored.response, started, held.stored.facts.cost_micro)
            for piece in _pieces(held.stored.response.response):
                yield piece
            return
        self._shelf.miss(held if isinstance(held, str) else "expired", wanted.key, started)
        holder, found = await self._flights.turn(self._name(wanted.key), partial(self._look, wanted, None))
        failed = False
        try:
            if found is not None and not wanted.controls.no_cache:
                for piece in _pieces(found.response):
                    yield piece
                return
            pieces = []
            loop = asyncio.get_running_loop()
            start = None if wanted.controls.no_store else await self._shelf.start()
            async for piece in compute():
                pieces.append(piece)
                # A reader that takes no more, and does not say so, must not keep the key from everybody.
                holder.idle_since = loop.time()
                yield piece
                holder.idle_since = None
            await self._keep(wanted, "".join(pieces), holder, start, perf_counter() - started, background=False)
        except Exception:
            failed = True
            raise
        finally:
            await holder.release(failed=failed)

    def begin_anew(self, keys: Iterable[str] | None = None) -> None:
        """Let callers from now on join no computation that is under way (None: for any key)."""
        self._flights.forget(None if keys is None else [self._name(key) for key in keys])

    async def finish(self) -> None:
        """Wait for what is computed in the background of this event loop; no other can be waited for."""
        loop = asyncio.get_running_loop()
        while mine := [task for task in list(self._background) if task.get_loop() is loop]:
            await asyncio.wait(mine)
        self._background = {task for task in list(self._background) if not task.get_loop().is_closed()}

    def _state(self, held: Held, controls: Controls, now: float) -> Freshness:
        stored_at = version_time(held.version)
        if controls is not NO_CONTROLS and may_serve(now - stored_at, controls) is not None:
            return "expired"
        config = self._shelf.config
        return freshness(
            now,
            stored_at,
            held.fresh_until,
            stale_while_revalidate_s=config.stale_while_revalidate_seconds,
            stale_if_error_s=config.stale_if_error_seconds,
        )

    def _refreshes_early(self, held: Held, now: float) -> bool:
        facts = held.stored.facts
        return facts.compute_seconds > 0 and should_refresh_early(
            now,
            held.fresh_until,
            delta_seconds=facts.compute_seconds,
            beta=self._shelf.config.early_refresh_beta,
            random_value=self._rng(),
        )

    def _refresh(self, wanted: Wanted, compute: Compute, version: int) -> None:
        if self._rests(wanted.key):
            return

        async def refresh() -> CachedResponse:
            try:
                return await self._fly(wanted, compute, newer_than=version, background=True)
            except Exception:
                self._rest(wanted.key)
                raise

        task = asyncio.get_running_loop().create_task(refresh())
        self._background.add(task)
        task.add_done_callback(self._forget)

    def _rest(self, key: str) -> None:
        """Leave a key alone for a while: its refresh brought nothing, and each hit would start another."""
        self._resting.pop(key, None)
        while len(self._resting) >= _MOST_RESTING:
            self._resting.pop(next(iter(self._resting)), None)  # the oldest
        self._resting[key] = self._clock() + _REST_SECONDS

    def _rests(self, key: str) -> bool:
        until = self._resting.get(key)
        # Also over when the clock was set back.
        return until is not None and 0 < until - self._clock() <= _REST_SECONDS

    def _forget(self, task: asyncio.Task[CachedResponse]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # Nobody waits for it, and what is stored is still served: told, not raised.
            self._shelf.tell(RefusedEvent(Refusal.ERROR.value, self._shelf.namespace))

    async def _fly(
        self, wanted: Wanted, compute: Compute, *, newer_than: int | None, background: bool = False
    ) -> CachedResponse:
        if wanted.controls.no_store:
            return await self._compute(wanted, compute, ALONE)

        return await self._flights.run(
            self._name(wanted.key),
            partial(self._compute, wanted, compute, background=background),
            partial(self._look, wanted, newer_than),
        )

    async def _look(self, wanted: Wanted, newer_than: int | None) -> CachedResponse | None:
        held = await self._shelf.load(wanted.key)
        if isinstance(held, str) or self._state(held, wanted.controls, self._clock()) != "fresh":
            return None
        return held.stored.response if newer_than is None or held.version > newer_than else None

    async def _compute(
        self, wanted: Wanted, compute: Compute, holder: Holder, *, background: bool = False
    ) -> CachedResponse:
        start = None if wanted.controls.no_store else await self._shelf.start()
        started = perf_counter()
        answer = await call(compute)
        return await self._keep(wanted, answer, holder, start, perf_counter() - started, background=background)

    async def _keep(
        self, wanted: Wanted, answer: Answer, holder: Holder, start: Start | None, seconds: float, *, background: bool
    ) -> CachedResponse:
        """Store an answer if it may be stored; return it in any case. `start` is None when it may not."""
        self._shelf.tell(ComputeEvent(self._shelf.namespace, wanted.key, seconds, background))
        response = self._to_response(wanted, answer)
        details = answer if isinstance(answer, Computed) else _NO_DETAILS
        reason: str | None = why_not_kept(
            answer, response.response, limit_bytes=self._shelf.config.max_entry_bytes, controls=wanted.controls
        )
        if reason is None and not await holder.still_holds():
            reason = "lease_lost"
        if reason is None and start is not None:
            scope = "" if wanted.meaning is None else await wanted.meaning.scope()
            facts = Facts(compute_seconds=seconds, cost_micro=details.cost_micro or 0, tags=wanted.tags, scope=scope)
            ttl = wanted.controls.ttl if wanted.controls.ttl is not None else wanted.ttl_seconds
            try:
                reason = await self._shelf.store_computed(wanted.key, response, facts, ttl, start)
            except InvalidEntry:
                reason = Refusal.OVERSIZE
        if reason is not None:
            self._shelf.tell(RefusedEvent(str(reason), self._shelf.namespace))
            if reason == Refusal.PERSONALISED:
                self._shelf.personal(wanted.key)
            if background:
                self._rest(wanted.key)
        return response

    def _to_response(self, wanted: Wanted, answer: Answer) -> CachedResponse:
        if isinstance(answer, CachedResponse):
            if wanted.meaning is None or answer.prompt == wanted.prompt:
                return answer
            # It is found by its prompt, so that must be what was asked.
            return answer.model_copy(update={"prompt": wanted.prompt})
        if isinstance(answer, str):
            answer = Computed(response=answer)
        if not isinstance(answer, Computed):
            raise InvalidInput(f"compute must return text, a CachedResponse or Computed, not {type(answer).__name__}")
        try:
            return CachedResponse(
                prompt=wanted.prompt,
                response=answer.response,
                model=answer.model or wanted.model,
                timestamp=datetime.fromtimestamp(self._clock(), UTC),
                token_count=answer.token_count,
                metadata=answer.metadata,
            )
        except ValidationError as exc:
            raise InvalidInput(explain_validation(exc, what="what compute returned")) from None

    def _name(self, key: str) -> str:
        return f"{LAYOUT}:lease:{self._shelf.namespace}:{digest(key)}"


def as_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Return tags that can be stored.

    Raises:
        InvalidInput: One of them is no text, empty, or longer than 200 characters.
    """
    if tags == ():
        return ()
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise InvalidInput(f"tags must be a list of texts, not {repr(tags)[:40]}")
    for tag in tags:
        if not isinstance(tag, str) or not 0 < len(tag) <= 200:
            raise InvalidInput(f"the tag {str(tag)[:40]!r} cannot be used: take 1 to 200 characters")
    return tuple(dict.fromkeys(tags))


def why_not_kept(answer: Answer, text: str, *, limit_bytes: int, controls: Controls | None = None) -> Refusal | None:
    """Return why what a computation gave must not be stored, or None."""
    details = answer if isinstance(answer, Computed) else _NO_DETAILS
    return may_store(
        text,
        size_bytes=len(text),
        limit_bytes=limit_bytes,
        controls=controls,
        finish_reason=details.finish_reason,
        status=details.status,
        refusal=details.refusal,
        personalised=details.personalised,
        has_tool_calls=details.has_tool_calls,
    )


async def call(compute: Compute) -> Answer:
    """Run a computation; one that is not async gets a thread, so that it cannot block the loop."""
    found = compute() if inspect.iscoroutinefunction(compute) else await on_thread(compute, name="cache-compute")
    if inspect.isawaitable(found):
        awaited: Answer = await found
        return awaited
    return found


def _pieces(text: str) -> list[str]:
    """Cut a text for replaying; an empty one is one empty piece."""
    return [text[at : at + _REPLAY_CHARACTERS] for at in range(0, len(text), _REPLAY_CHARACTERS)] or [""]
