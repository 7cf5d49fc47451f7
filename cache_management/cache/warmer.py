"""CacheWarmer: many answers into a cache, bounded and repeatable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Literal

import msgspec

from cache_management.cache.arguments import check_count
from cache_management.cache.clock import Clock, run_version, system_clock, version_time
from cache_management.cache.errors import InvalidInput
from cache_management.cache.llm import Entry
from cache_management.cache.manager import CacheManager
from cache_management.cache.reasoning.reading import read_result
from cache_management.cache.reasoning.validation import check
from cache_management.cache.records import Record
from cache_management.cache.values import CachedResponse
from cache_management.cache.warm_items import WarmItem, check_items

State = Literal["done", "skipped", "dead"]


class Outcome(msgspec.Struct, frozen=True):
    """What became of one item; `reason` says why it was skipped or could not be stored."""

    key: str
    state: State
    reason: str | None
    size_bytes: int


class WarmReport(msgspec.Struct):
    """Counts of a warm run."""

    stored: int = 0
    skipped: int = 0
    failed: int = 0
    duplicates: int = 0
    errors: list[str] = msgspec.field(default_factory=list)

    @property
    def total(self) -> int:
        """Return how many distinct items were handled."""
        return self.stored + self.skipped + self.failed


class CacheWarmer:
    """Stores responses in batches and makes them findable by meaning.

    Args:
        cache_manager: Where they go.
        workers: How many batches are under way at once.
        batch_size: How many entries go to the store in one call.
    """

    def __init__(
        self, cache_manager: CacheManager, workers: int = 4, batch_size: int = 10, *, clock: Clock = system_clock
    ) -> None:
        self._manager = cache_manager
        self._workers = check_count(workers, "workers")
        self._batch_size = check_count(batch_size, "batch_size")
        self._clock = clock

    async def warm(
        self,
        responses: Iterable[CachedResponse | WarmItem],
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> WarmReport:
        """Store responses under their prompts; of equal keys the last one wins.

        `on_progress` hears how many more items are finished.

        Raises:
            InvalidInput: One of them cannot be stored; nothing was.
            BackendUnavailable: The store is down; what was stored stays.
        """
        by_key: dict[str, WarmItem] = {}
        given = 0
        for item in check_items(responses):
            by_key[item.entry_key] = item
            given += 1
        report = WarmReport(duplicates=given - len(by_key))
        version = run_version(self._clock)
        batches = _batches(by_key.values(), self._batch_size)
        try:
            # One iterator for all runners: each takes the next batch when it is free.
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._run(batches, version, report, on_progress))
        except ExceptionGroup as failed:
            # The first failure stopped the others. Callers catch its class, not a group.
            raise failed.exceptions[0] from None
        return report

    async def store(self, items: Sequence[WarmItem], *, version: int) -> list[Outcome]:
        """Store one batch as of a moment; safe to repeat.

        What was stored by a later write is left alone, and so is an equal entry that still has
        half its life before it. An entry of the same `version` is this very write, done before.

        Raises:
            BackendUnavailable: Nothing is known of this batch; repeat it.
        """
        thought = [item for item in items if item.reasoning is not None]
        answered = [item for item in items if item.reasoning is None]
        held = await self._manager.llm_cache.load_entries([item.entry_key for item in answered])
        outcomes = {item.entry_key: await self._store_reasoning(item, version) for item in thought}
        records: dict[str, Record] = {}
        now = self._clock()
        for item in answered:
            key = item.entry_key
            try:
                record = self._manager.llm_cache.encode(
                    key, item.to_response(now), ttl_seconds=item.ttl_seconds, version=version
                )
            except InvalidInput as exc:
                outcomes[key] = Outcome(key, "dead", str(exc), 0)
                continue
            reason = _why_skip(item, held.get(key), record, now)
            state: State = "done" if reason is None else "skipped"
            outcomes[key] = Outcome(key, state, reason, len(record.value))
            if reason is None:
                records[key] = record
        await self._manager.put_records(records)
        return [outcomes[item.entry_key] for item in items]

    async def _store_reasoning(self, item: WarmItem, version: int) -> Outcome:
        """Store a chain or a tree; one that is there already, or is newer, is left alone."""
        key = item.entry_key
        cache = self._manager.reasoning_cache
        if cache is None:
            return Outcome(key, "dead", "this cache keeps no reasoning", 0)
        try:
            result = check(read_result(item.reasoning)).result  # as it is stored
            size = len(result.model_dump_json())
            found = await cache.find(item.own_key)
            if found is not None and (found.result == result or found.created_at > version_time(version)):
                return Outcome(key, "skipped", "fresh" if found.result == result else "newer", size)
            await self._manager.set_reasoning_cache(item.own_key, result, item.ttl_seconds)
        except InvalidInput as exc:
            return Outcome(key, "dead", str(exc), 0)
        return Outcome(key, "done", None, size)

    async def _run(
        self,
        batches: Iterable[list[WarmItem]],
        version: int,
        report: WarmReport,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        for batch in batches:
            outcomes = await self.store(batch, version=version)
            await self._manager.index([outcome.key for outcome in outcomes if outcome.state != "dead"])
            for outcome in outcomes:
                report.stored += outcome.state == "done"
                report.skipped += outcome.state == "skipped"
                if outcome.state == "dead":
                    report.failed += 1
                    report.errors.append(f"{outcome.key[:60]!r}: {outcome.reason}")
            if on_progress is not None:
                on_progress(len(batch))


def _why_skip(item: WarmItem, held: Entry | None, record: Record, now: float) -> str | None:
    if held is None or held.version == record.version:
        return None
    if held.version > record.version:
        return "newer"
    same = (
        held.response.prompt == item.prompt
        and held.response.response == item.response
        and held.response.model == item.model
        and held.response.token_count == item.token_count
        and held.response.metadata == item.metadata
    )
    return "fresh" if same and _lasts(held.expires_at, record.expires_at, now) else None


def _lasts(held: float | None, wanted: float | None, now: float) -> bool:
    """Tell whether an entry has at least half the life before it that a new one would have."""
    if held is None or wanted is None:
        return held is None and wanted is None
    # A much longer life than asked for is not what was asked for either.
    return (wanted - now) / 2 <= held - now <= (wanted - now) * 2


def _batches(items: Iterable[WarmItem], size: int) -> Iterable[list[WarmItem]]:
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch
