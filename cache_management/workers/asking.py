"""Warm jobs that ask a provider: which prompts, at what pace, and for how much money."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import msgspec
from pydantic import ValidationError

from cache_management.cache.answering import life_of
from cache_management.cache.compute import Held
from cache_management.cache.errors import ConfigurationError, MetadataUnavailable, ProviderBusy, ProviderStuck
from cache_management.cache.requests import has_secrets
from cache_management.cache.usage import Ask, load_asks
from cache_management.cache.warm_items import AskedItem
from cache_management.models.store.results import Claim, ItemOutcome
from cache_management.wiring import Platform
from cache_management.workers.chunk import ComeBackLater, ShardFailed
from cache_management.workers.messages import WarmParams

BUCKET = "provider"
CEILING = "the cost ceiling of the job is reached"
_BLOCKED_SECONDS = 5.0
_SHORT_WAIT_SECONDS = 1.0
# A question may be tried three times beside others and three times alone: an outage of a quarter of an hour kills none.
_STUCK_SECONDS = 150.0
_LONGEST_WAIT_SECONDS = 300.0  # a message that waits longer than the visibility timeout comes twice
_LOOKED_AT = 4  # times as many keys as are wanted: some have an answer by now
_KEYS_AT_ONCE = 200
_LIVED = 0.75  # of its life at most is left when an entry is computed again
_MICRO = 1_000_000


class _TooSoon(ProviderBusy):
    """Our own pace keeps us from asking: the others need not be told."""


class Asked(msgspec.Struct, frozen=True):
    """What became of some items that were asked, up to the first that could not be."""

    outcomes: list[ItemOutcome]
    size_bytes: int
    cost_micro: int


async def ask(platform: Platform, claim: Claim, params: WarmParams, items: dict[int, AskedItem]) -> Asked:
    """Ask for the items at these positions at once, and store the answers.

    Raises:
        ComeBackLater: The provider cannot answer now, or not yet.
        ShardFailed: There is no provider, or the cost ceiling could not be kept.
    """
    positions = sorted(items)
    ceiling = None if params.max_cost_usd is None else round(params.max_cost_usd * _MICRO)
    if ceiling is not None and platform.stores.jobs.spent_micro(claim.job_id) >= ceiling:
        return Asked([ItemOutcome(at, "skipped", CEILING) for at in positions], 0, 0)
    try:
        answers = await (
            platform.in_namespace(claim.namespace)
            .answering(lambda: _wait(platform))
            .answer(
                [items[at] for at in positions],
                version=params.version,
                refresh_before_seconds=params.expire_within_seconds if params.take == "expiring" else 0.0,
            )
        )
    except ConfigurationError as exc:
        raise ShardFailed(f"{exc}, for this worker") from exc
    settled = answers.settled
    if ceiling is not None and any(answer.cost_micro is None for answer in settled):
        raise ShardFailed(
            "the provider does not say what an answer costs, so max_cost_usd cannot be kept: let it print cost_usd,"
            " or set `prices`"
        )
    if isinstance(answers.busy, ProviderStuck) and not settled:
        raise ComeBackLater(answers.busy.reason, seconds=_STUCK_SECONDS, blame=True)
    if answers.busy is not None and not isinstance(answers.busy, ProviderStuck):
        later = answers.busy.retry_after_seconds
        seconds = _BLOCKED_SECONDS if later is None else min(max(later, 0.1), _LONGEST_WAIT_SECONDS)
        if not isinstance(answers.busy, _TooSoon):
            # For everybody: whoever asks next would hear the same.
            platform.stores.operations.block_bucket(BUCKET, seconds)
        if not settled:
            raise ComeBackLater(answers.busy.reason, seconds=seconds)
    return Asked(
        [ItemOutcome(at, answer.state, answer.reason) for at, answer in zip(positions, settled, strict=False)],
        size_bytes=sum(answer.size_bytes for answer in settled),
        cost_micro=sum(answer.cost_micro or 0 for answer in settled),
    )


async def _wait(platform: Platform) -> None:
    """Wait for a token that the provider's rate permits; a long wait is the shard's, not this process's."""
    given = platform.settings.provider
    try:
        seconds = await asyncio.to_thread(
            platform.stores.operations.take_tokens,
            BUCKET,
            rate_per_second=given.rate_per_second,
            burst=given.burst,
            patience_seconds=_SHORT_WAIT_SECONDS,
        )
    except MetadataUnavailable as exc:
        # What is asked already goes on to its end, and is committed when the database is back.
        raise _TooSoon("the database that keeps its rate is away", retry_after_seconds=1.0) from exc
    if seconds > _SHORT_WAIT_SECONDS:
        raise _TooSoon("it was asked as often as is permitted", retry_after_seconds=seconds)
    await asyncio.sleep(seconds)


async def gather(platform: Platform, claim: Claim, params: WarmParams) -> list[AskedItem]:
    """Find the items of a job that finds them itself, the most wanted first."""
    found: list[AskedItem] = []
    async for ask, held in _wanted(platform, claim, params):
        item = item_of(ask, held)
        if item is not None:
            found.append(item)
        if len(found) == params.top:
            break
    return found


async def _wanted(platform: Platform, claim: Claim, params: WarmParams) -> AsyncIterator[tuple[Ask, Held | None]]:
    """Yield what is worth asking: misses that have no answer yet, or popular entries that expire soon."""
    operations = platform.stores.operations
    cache = platform.in_namespace(claim.namespace).llm_cache
    misses = params.take == "misses"
    rows = operations.hot_keys(
        namespace=claim.namespace,
        # Counted by day, and a new one has just begun at midnight: all of yesterday and today so far.
        since=operations.now() - timedelta(days=2),
        by="misses" if misses else "hits",
        limit=_LOOKED_AT * params.top,
    )
    digests = [row.key_digest for row in rows]
    for start in range(0, len(digests), _KEYS_AT_ONCE):
        page = digests[start : start + _KEYS_AT_ONCE]
        asks = await load_asks(cache.backend, claim.namespace, page)
        held = await cache.load_many([ask.key for ask in asks.values()])
        now = cache.clock()
        for each in page:
            if each not in asks:
                continue
            known = held.get(asks[each].key)
            is_wanted = _is_gone(known, now) if misses else _ends_soon(known, now, params.expire_within_seconds)
            if is_wanted:
                yield asks[each], known


def _is_gone(held: Held | None, now: float) -> bool:
    return held is None or (held.fresh_until is not None and held.fresh_until <= now)


def _ends_soon(held: Held | None, now: float, within_seconds: float) -> bool:
    """Tell whether an entry is to be computed again; one that is gone already is a miss, which is another job's."""
    if held is None or held.fresh_until is None or held.fresh_until > now + within_seconds:
        return False
    # One with a short life always ends soon: each job would pay for it anew.
    life = life_of(held)
    return life is None or held.fresh_until - now <= life * _LIVED


def item_of(ask: Ask, held: Held | None) -> AskedItem | None:
    """Return the item that asks for a key again, whose entry is `held`; None for what cannot be asked.

    That is a key of which nobody knows a question: it may be any name, and an answer to the name would be served. So
    is a request without a text, with a secret that is known by a digest only, or of what JSON cannot hold.
    """
    prompt, model, request = ask.key, None, None
    if ask.request is None:
        if held is not None and held.stored.response.model != "unknown":
            model = held.stored.response.model
        if not ask.is_question and (held is None or held.stored.response.prompt != ask.key):
            return None
    else:
        if has_secrets(ask.request):
            return None
        prompt, model = ask.request.last_text or "", ask.request.model
        try:
            request = msgspec.json.decode(msgspec.json.encode(ask.request))
        except (TypeError, ValueError, msgspec.MsgspecError):
            return None
    try:
        given = {"prompt": prompt, "key": ask.key, "request": request}
        given |= {"tags": ask.tags, "ttl_seconds": ask.ttl_seconds}
        return AskedItem.model_validate(given if model is None else {**given, "model": model})
    except ValidationError:
        return None
