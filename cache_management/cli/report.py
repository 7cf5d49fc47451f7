"""stats: what the cache holds, how it was used, how its jobs stand."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from cache_management.cache.config import SimilarityConfig
from cache_management.cache.errors import BackendUnavailable, MetadataUnavailable
from cache_management.cache.one_line import on_one_line
from cache_management.cache.usage import load_asks
from cache_management.cache.values import CacheStats
from cache_management.cli.context import CliContext, is_new_sqlite, pass_cli
from cache_management.cli.output import json_option, note, plain, print_json, print_pairs, print_table, print_yaml
from cache_management.wiring import Platform

if TYPE_CHECKING:
    from cache_management.models.store import Stores
    from cache_management.models.usage import HotKeyView, UsageRow


_DAYS_BY_HOUR = 14
_KEY_CHARACTERS = 120


@click.command()
@click.option(
    "-f", "--format", "form", type=click.Choice(["json", "table", "yaml"]), default="table", show_default=True
)
@click.option("--days", type=click.IntRange(1, 3650), default=1, show_default=True, help="Usage of so many days.")
@click.option("--hot", type=click.IntRange(0, 1000), default=10, show_default=True, help="Keys asked for most.")
@json_option
@pass_cli
def stats(cli: CliContext, form: str, days: int, hot: int, as_json: bool) -> None:
    """Print what the cache holds, how it was used by all applications, and how its jobs stand.

    Applications tell their store of their use every ten seconds, and a job adds it up (`cache-cli up`, or `beat` and a
    worker); what none has added up yet is counted along.
    """

    meaning = cli.settings.similarity()
    learns = meaning.serves != "static"

    stores = _readable_stores(cli)

    async def work(platform: Platform) -> tuple[CacheStats, dict[str, Any] | None, dict[str, Any] | None]:
        judged = plain(await platform.manager.false_hits()) if learns else None
        usage = await _usage(platform, stores, days, hot)
        if usage is not None:
            await _name_keys(platform, usage)
        return await platform.llm_cache.get_stats(), judged, usage

    found, judged, usage = cli.run(work)
    data: dict[str, Any] = {
        "backend": found.backend,
        "namespace": found.namespace,
        "total_entries": found.total_entries,
        "semantic_mode": meaning.serves,
        "similarity_threshold": meaning.threshold,
        "jobs": {} if stores is None else _job_counts(stores),
        "usage": usage,
    }
    if judged is not None:
        data["false_hits"] = judged
    if as_json or form == "json":
        print_json(data)
    elif form == "yaml":
        print_yaml(data)
    else:
        jobs = data.pop("jobs")
        data.pop("usage")
        data.pop("false_hits", None)
        print_pairs("Cache", data)
        if judged is not None:
            print_pairs("Wrong answers by meaning", _in_words(judged, meaning))
        if usage is not None and usage["by_model"]:
            _print_usage(usage)
        if jobs:
            print_table("Jobs", ("state", "number"), sorted(jobs.items()))


async def _usage(platform: Platform, stores: Stores | None, days: int, hot: int) -> dict[str, Any] | None:
    """Read how the applications used the namespace; None when nobody knows."""
    from cache_management.workers.usage import Uncounted

    namespace, uncounted = platform.settings.namespace, Uncounted(platform.settings)
    now, counted = datetime.now(UTC), ""
    rows: list[UsageRow] = []
    keys: list[HotKeyView] = []
    # Hours are kept for some months, days for ever; whole days are told when many are asked for.
    seconds = 3600 if days <= _DAYS_BY_HOUR else 86_400
    if stores is not None:
        operations = stores.operations
        try:
            now = operations.now()
            rows = operations.usage(since=now - timedelta(days=days), period_seconds=seconds)
            if hot:
                keys = operations.hot_keys(namespace=namespace, since=now - timedelta(days=days + 1), limit=hot)
            counted = operations.usage_cursor(uncounted.stream)
        except MetadataUnavailable as exc:
            note(f"Usage is not shown: {exc}")
            return None
    with contextlib.suppress(BackendUnavailable):  # it is told of by what the cache holds
        await uncounted.look(platform.llm_cache.backend, counted, now=now)
    rows = uncounted.rows(rows, since=now - timedelta(days=days), period_seconds=seconds)
    rows = [row for row in rows if row.namespace == namespace]
    keys = uncounted.hot_keys(keys, namespace=namespace, limit=hot)
    if stores is None and not rows:
        return None
    return {
        "days": days,
        "by_model": [{**plain(row), "hit_rate": row.hit_rate, "saved_usd": row.saved_micro / 1e6} for row in rows],
        "hot_keys": [{**plain(each), "key": None} for each in keys],
    }


async def _name_keys(platform: Platform, usage: dict[str, Any]) -> None:
    """Add the keys to their digests, as far as the store still knows them: this is the owner's own terminal."""
    asks = await load_asks(
        platform.llm_cache.backend, platform.settings.namespace, [each["key_digest"] for each in usage["hot_keys"]]
    )
    for each in usage["hot_keys"]:
        ask = asks.get(each["key_digest"])
        if ask is not None:
            each["key"] = (ask.request.last_text if ask.request is not None else None) or ask.key


def _print_usage(usage: dict[str, Any]) -> None:
    print_table(
        f"Usage of the last {usage['days']} days" if usage["days"] > 1 else "Usage of the last day",
        ("model", "hits", "by meaning", "misses", "hit rate", "tokens saved", "USD saved"),
        [
            (
                row["model"] or "-",
                *(row[name] for name in ("hits", "semantic_hits", "misses")),
                "-" if row["hit_rate"] is None else f"{row['hit_rate']:.1%}",
                row["tokens_saved"],
                f"{row['saved_usd']:,.2f}",
            )
            for row in usage["by_model"]
        ],
    )
    if usage["hot_keys"]:
        print_table(
            "Asked for most",
            ("hits", "misses", "prompt or key"),
            [
                (each["hits"], each["misses"], on_one_line(each["key"] or each["key_digest"], _KEY_CHARACTERS))
                for each in usage["hot_keys"]
            ],
        )


def _in_words(judged: dict[str, Any], meaning: SimilarityConfig) -> dict[str, object]:
    served = judged["served"]
    known = f"{served['rate']:.3f} [{served['low']:.3f}, {served['high']:.3f}], {served['audited']} computed again"
    threshold = judged["threshold"]
    # Evidence knows of scores that the configured threshold keeps from being served.
    floor = "none yet" if threshold is None else f"{max(threshold, meaning.threshold):.2f}"
    is_shadow = meaning.serves == "shadow"
    return {
        "mode": "shadow: nothing is served by meaning" if is_shadow else meaning.serves,
        "error budget": judged["budget"],
        "of those served": known if served["audited"] else "not yet verified",
        "would be served from a score of" if is_shadow else "served from a score of": floor,
        "compared and not served": judged["candidates"],
        "wrong among them": judged["wrong"],
        "unsure among them": judged["unsure"],
        "pairs that somebody called wrong": judged["blocked"],
    }


def _job_counts(stores: Stores) -> dict[str, int]:
    """Count jobs by state."""
    try:
        return stores.jobs.count_by_state()
    except MetadataUnavailable as exc:
        note(f"Jobs are not shown: {exc}")
        return {}


def _readable_stores(cli: CliContext) -> Stores | None:
    """Open the database if it is there; one that is away must not hide what the cache holds."""
    if is_new_sqlite(cli.settings.metadata_url):
        return None
    try:
        return cli.stores()
    except (MetadataUnavailable, ImportError) as exc:
        note(f"Jobs and usage are not shown: {exc}")
        return None
