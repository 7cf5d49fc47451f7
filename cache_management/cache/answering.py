"""Prompts without an answer get one: asked of a provider, admitted like any other, stored as of the run's beginning."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from math import ceil
from time import perf_counter
from typing import Any, Literal

import msgspec
from pydantic import ValidationError

from cache_management.cache.clock import Clock, system_clock, version_time
from cache_management.cache.codec import NO_FACTS, Facts
from cache_management.cache.compute import Computed, Held, Start, why_not_kept
from cache_management.cache.errors import InvalidInput, ProviderBusy, ProviderRefused, ProviderStuck
from cache_management.cache.manager import CacheManager
from cache_management.cache.provider import Provider, Question, wrong_fields
from cache_management.cache.requests import Request, entry_key
from cache_management.cache.values import CachedResponse
from cache_management.cache.warm_items import AskedItem

Wait = Callable[[], Awaitable[None]]
"""Returns when one more question may be asked, or raises ProviderBusy."""


class Answered(msgspec.Struct, frozen=True):
    """What became of one item; `cost_micro` is what its answer cost, None when nobody knows."""

    state: Literal["done", "skipped", "dead"]
    reason: str | None = None
    size_bytes: int = 0
    cost_micro: int | None = 0


class Answers(msgspec.Struct, frozen=True):
    """What became of items, in their order; None stands where the provider could not answer, and `busy` says why.

    It is a ProviderStuck only if no other reason was heard: then these questions themselves may be to blame.
    """

    outcomes: list[Answered | None]
    busy: ProviderBusy | None = None

    @property
    def settled(self) -> list[Answered]:
        """Return the outcomes before the first item that has none."""
        whole = []
        for outcome in self.outcomes:
            if outcome is None:
                break
            whole.append(outcome)
        return whole


class Answering:
    """Asks for what is missing, and stores the answers.

    Args:
        price: Gives what a token of a model costs, in micro-dollars; None when nobody knows.
        wait: Keeps the pace that the provider permits.
    """

    def __init__(
        self,
        manager: CacheManager,
        provider: Provider,
        *,
        price: Callable[[str], float | None],
        wait: Wait,
        clock: Clock = system_clock,
    ) -> None:
        self._manager = manager
        self._cache = manager.llm_cache
        self._provider = provider
        self._price = price
        self._wait = wait
        self._clock = clock

    async def answer(self, items: Sequence[AskedItem], *, version: int, refresh_before_seconds: float = 0.0) -> Answers:
        """Answer items at once, as of the moment of `version`; safe to repeat.

        What has an answer is left alone, unless that one expires within `refresh_before_seconds`; so is what was stored
        since `version`, or removed while it is asked. An entry of this very version is this very work, done before.
        Tags and life of an answer that is replaced pass on to the new one, unless the item has its own.

        Raises:
            BackendUnavailable: Nothing is known of these items; repeat them.
            ConfigurationError: The provider cannot be started.
        """
        held = await self._cache.load_many([item.entry_key for item in items])
        moment = await self._cache.start()
        now = self._clock()
        outcomes: list[Answered | None] = [
            self._known(held.get(item.entry_key), version, now + refresh_before_seconds) for item in items
        ]
        busy: ProviderBusy | None = None

        async def fill(at: int) -> None:
            nonlocal busy
            try:
                await self._wait()
                item = items[at]
                outcomes[at] = await self._ask(item, held.get(item.entry_key), Start(version, moment.moment))
            except ProviderBusy as exc:
                if busy is None or isinstance(busy, ProviderStuck):
                    busy = exc

        asking = [asyncio.ensure_future(fill(at)) for at, outcome in enumerate(outcomes) if outcome is None]
        try:
            # To the end of each: what is asked already will be paid for, so let it be stored.
            await asyncio.gather(*asking, return_exceptions=True)
        finally:
            # Whoever cancels this ends them all: commands must not go on unseen.
            for each in asking:
                each.cancel()
            if asking:
                await asyncio.wait(asking)
        for each in asking:
            each.result()
        return Answers(outcomes, busy)

    def _known(self, held: Held | None, version: int, lasts_until: float) -> Answered | None:
        """Return what became of an item without asking, or None."""
        if held is None:
            return None
        if held.version == version:
            return Answered("done", size_bytes=0, cost_micro=held.stored.facts.cost_micro)
        if held.version > version:
            return Answered("skipped", "newer")
        until = held.fresh_until
        return Answered("skipped", "fresh") if until is None or until > lasts_until else None

    async def _ask(self, item: AskedItem, held: Held | None, start: Start) -> Answered:
        request = request_of(item)
        if isinstance(request, str):
            return Answered("dead", request)
        began = perf_counter()
        try:
            said = await self._provider(question_of(item, request))
        except ProviderRefused as exc:
            return Answered("dead", str(exc))
        seconds = perf_counter() - began
        cost = self._cost(said, item.model)
        refused = why_not_kept(said, said.response, limit_bytes=self._cache.config.max_entry_bytes)
        if refused is not None:
            return Answered("dead", f"its answer is not kept: {refused}", cost_micro=cost)
        try:
            response = self._to_response(item, said)
            before = NO_FACTS if held is None else held.stored.facts
            scope = before.scope if request is None else await self._manager.scope_of(request)
            facts = Facts(compute_seconds=seconds, cost_micro=cost or 0, tags=item.tags or before.tags, scope=scope)
            ttl = life_of(held) if item.ttl_seconds is None else item.ttl_seconds
            # Says why it cannot be stored without naming the key, which may be a prompt: jobs keep the reason.
            self._cache.encode(item.entry_key, response, ttl_seconds=ttl, version=start.version, facts=facts)
            reason = await self._cache.store_computed(item.entry_key, response, facts, ttl, start)
        except InvalidInput as exc:
            return Answered("dead", str(exc), cost_micro=cost)
        if reason is not None:
            return Answered("skipped", reason, cost_micro=cost)
        return Answered("done", size_bytes=len(said.response.encode()), cost_micro=cost)

    def _cost(self, said: Computed, model: str) -> int | None:
        if said.cost_micro is not None:
            return said.cost_micro
        price = self._price(said.model or model)
        if price is None or (price and not said.token_count):
            return None
        # Rounded up: many cheap answers are not free.
        return ceil(said.token_count * price)

    def _to_response(self, item: AskedItem, said: Computed) -> CachedResponse:
        try:
            return CachedResponse(
                prompt=item.prompt,
                response=said.response,
                model=said.model or item.model,
                timestamp=datetime.fromtimestamp(self._clock(), UTC),
                token_count=said.token_count,
                metadata={**item.metadata, **said.metadata},
            )
        except ValidationError as exc:
            raise InvalidInput(f"its answer has a wrong {wrong_fields(exc)}") from None


class Pace:
    """Keeps one process to a rate; workers share a bucket in the database instead."""

    def __init__(self, rate_per_second: float) -> None:
        self._pause = 1 / rate_per_second if rate_per_second else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        """Return when one more question may be asked."""
        if not self._pause:
            return
        now = asyncio.get_running_loop().time()
        at = max(now, self._next)
        self._next = at + self._pause
        await asyncio.sleep(at - now)


def life_of(held: Held | None) -> int | None:
    """Return for how many seconds an entry was stored; None when there is none, or nobody can tell."""
    if held is None or held.fresh_until is None:
        return None
    # An answer that took long to compute counts as written when that began, but lives from when it was there.
    answered = held.stored.response.timestamp.timestamp()
    began = version_time(held.version)
    since = answered if began <= answered < held.fresh_until else began
    return max(1, round(held.fresh_until - since))


def request_of(item: AskedItem) -> Request | str | None:
    """Return the request of an item, None for a prompt alone, or why it cannot be asked."""
    if item.request is None:
        return None
    try:
        request = msgspec.convert(item.request, Request)
    except msgspec.ValidationError:
        return "its request cannot be read"
    # A fingerprint of another layout, or of a request that JSON could not hold.
    return request if entry_key(request) == item.entry_key else "its request belongs to another key"


def question_of(item: AskedItem, request: Request | None) -> Question:
    """Return what a provider is asked; what nobody said is left out."""
    if request is None:
        return {"prompt": item.prompt, "model": item.model}
    said: dict[str, Any] = msgspec.to_builtins(request)
    question = {name: said[name] for name in _ASKED if said.get(name)}
    return {"model": item.model, **question}


_ASKED = ("prompt", "model", "system", "history", "params", "tools", "tool_choice", "response_format", "tenant")
