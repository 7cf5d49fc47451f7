"""Asks the provider in this process, where no worker does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cache_management.cache.answering import Pace
from cache_management.cache.clock import run_version
from cache_management.cache.errors import ConfigurationError
from cache_management.cache.manager import CacheManager
from cache_management.cache.warm_items import AskedItem, WarmItem
from cache_management.cache.warmer import WarmReport
from cache_management.wiring import Platform


async def ask_here(
    platform: Platform,
    manager: CacheManager,
    items: Sequence[WarmItem],
    report: WarmReport,
    *,
    max_cost_usd: float | None,
    on_progress: Callable[[int], None],
) -> None:
    """Ask for prompts without a response, a few at once, and add what became of them to a report.

    Raises:
        ProviderBusy: It cannot answer now; what was stored stays.
        ConfigurationError: The provider cannot be started, or the cost of its answers is not known and has a limit.
    """
    given = platform.settings.provider
    answering = platform.answering(Pace(given.rate_per_second).wait)
    version = run_version(platform.llm_cache.clock)
    spent = 0
    for start in range(0, len(items), given.concurrency):
        batch = [AskedItem(**item.model_dump()) for item in items[start : start + given.concurrency]]
        if max_cost_usd is not None and spent >= max_cost_usd * 1_000_000:
            report.skipped += len(batch)
            on_progress(len(batch))
            continue
        answers = await answering.answer(batch, version=version)
        for item, answer in zip(batch, answers.outcomes, strict=True):
            if answer is None:
                continue
            if max_cost_usd is not None and answer.cost_micro is None:
                raise ConfigurationError(
                    "the provider does not say what an answer costs, so --max-cost cannot be kept: let it print"
                    " cost_usd, or set `prices`"
                )
            spent += answer.cost_micro or 0
            report.stored += answer.state == "done"
            report.skipped += answer.state == "skipped"
            if answer.state == "dead":
                report.failed += 1
                report.errors.append(f"{item.entry_key[:60]!r}: {answer.reason}")
        await manager.index([item.entry_key for item in batch])
        on_progress(sum(answer is not None for answer in answers.outcomes))
        if answers.busy is not None:
            raise answers.busy
