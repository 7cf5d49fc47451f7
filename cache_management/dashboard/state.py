"""What the dashboard shows, as JSON types: of database, broker, store and the folder of metrics, each in its time.

A source that is away is named in `problems`, and what it would have said is None: the page says so, and shows the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from cache_management import __version__
from cache_management.cache.question import Question
from cache_management.cache.semantic.intervals import wilson
from cache_management.cache.usage import load_asks
from cache_management.cache.values import NearMiss
from cache_management.metrics.catalogue import LENGTH, distribution, places, words
from cache_management.metrics.cells import read_folder
from cache_management.metrics.latencies import Distribution
from cache_management.models.store import Stores, open_stores
from cache_management.models.store.operations import DAY_SECONDS
from cache_management.models.store.results import HotKeyView, JobView, Mark, UsageRow
from cache_management.settings import Settings
from cache_management.wiring import open_platform
from cache_management.workers.client import JobClient
from cache_management.workers.queues import read_queues, view_queues
from cache_management.workers.store_watch import StoreView, is_unmade, look_at_store

ANSWER_SECONDS = 4.0
_HOURS = 24
_DAYS = 14
_JOBS = 12
_HOT = 10
_TEXT = 160


class _Kept(msgspec.Struct):
    """What the database said."""

    now: datetime
    hours: list[tuple[datetime, dict[str, int]]]
    days: list[tuple[datetime, dict[str, int]]]
    models: list[UsageRow]
    ever: list[UsageRow]
    hot: list[HotKeyView]
    jobs: list[JobView]
    marks: list[Mark]


class Dashboard:
    """Asks for all that the page shows. Close what is no longer needed.

    Args:
        refused: Returns what was refused lately, the newest first; only a process that answers itself knows.
        everywhere: Show the use of all namespaces together, as of a proxy whose callers have one each.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        refused: Callable[[], Sequence[NearMiss]] | None = None,
        everywhere: bool = False,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._settings = settings
        self._namespace = None if everywhere else settings.namespace
        self._refused = refused
        self._stores: Stores = open_stores(settings.metadata_url)
        self._client = JobClient(settings, stores=self._stores)
        self._database = Question(self._ask_database, "database", answer_seconds)
        self._broker = Question(lambda: read_queues(self._client.celery), "broker", answer_seconds)
        self._store = Question(
            lambda: look_at_store(settings, timeout_seconds=answer_seconds / 4), "cache store", answer_seconds
        )
        self._names: dict[str, str] = {}
        self._unknown: list[str] = []
        self._asked_names = Question(
            lambda: asyncio.run(_names(settings, self._unknown)), "names of keys", answer_seconds / 2
        )

    def state(self) -> dict[str, Any]:
        """Return what there is to show now; takes a few seconds at most."""
        asked = {"database": self._database.ask(), "cache store": self._store.ask()}
        if self._settings.broker_url:
            asked["broker"] = self._broker.ask()  # type: ignore[assignment]
        found: dict[str, Any] = {name: answer() for name, answer in asked.items()}
        kept: _Kept | None = found["database"]
        store: StoreView | None = found["cache store"]
        row = self._counted()
        queues = found.get("broker")
        return {
            "at": time.time(),
            "version": __version__,
            "namespace": self._namespace or "all namespaces",
            "problems": [f"the {name} does not answer" for name, answer in found.items() if answer is None],
            "usage": None if kept is None else _usage(kept),
            "hot_keys": None if kept is None else self._hot(kept, store),
            "jobs": None if kept is None else [_job(each) for each in kept.jobs],
            "queues": None
            if queues is None or kept is None
            else msgspec.to_builtins(view_queues(queues, kept.marks, now=kept.now)),
            "has_broker": self._settings.broker_url is not None,
            "store": None if store is None else {"used": store.used_bytes, "limit": store.limit_bytes},
            "nodes": None if store is None else [_node(each) for each in store.nodes],
            "latency": _latencies(row),
            "misses": _told(row, "cache_misses_total"),
            "vetoes": _told(row, "cache_vetoes_total"),
            "false_hits": _false_hits(row),
            "refused": None if self._refused is None else msgspec.to_builtins(list(self._refused())),
        }

    def close(self) -> None:
        """Close connections."""
        self._client.close()
        self._stores.close()

    def _ask_database(self) -> _Kept:
        if self._stores.is_unmade:
            return _Kept(datetime.now(UTC), [], [], [], [], [], [], [])
        operations = self._stores.operations
        now = operations.now()
        namespace = self._namespace
        ever = operations.usage(since=datetime(2000, 1, 1, tzinfo=UTC), period_seconds=DAY_SECONDS)
        day = operations.usage(since=now - timedelta(days=1), period_seconds=3600)
        return _Kept(
            now=now,
            hours=operations.usage_over_time(
                since=now - timedelta(hours=_HOURS), period_seconds=3600, namespace=namespace
            ),
            days=operations.usage_over_time(
                since=now - timedelta(days=_DAYS), period_seconds=DAY_SECONDS, namespace=namespace
            ),
            models=[each for each in day if namespace in (None, each.namespace)],
            ever=[each for each in ever if namespace in (None, each.namespace)],
            hot=[]
            if namespace is None
            else operations.hot_keys(namespace=namespace, since=now - timedelta(days=2), limit=_HOT),
            jobs=self._stores.jobs.list(limit=_JOBS),
            marks=operations.marks(),
        )

    def _counted(self) -> list[float]:
        folder = self._settings.metrics_folder
        if folder is None:
            return [0.0] * LENGTH
        try:
            return read_folder(folder) if folder.is_dir() else [0.0] * LENGTH
        except OSError:
            return [0.0] * LENGTH

    def _hot(self, kept: _Kept, store: StoreView | None) -> list[dict[str, Any]]:
        """Return the keys asked for most with their names, as far as the store knows them: this is the owner's page."""
        unknown = [each.key_digest for each in kept.hot if each.key_digest not in self._names]
        if unknown and store is not None and not is_unmade(self._settings):
            self._unknown = unknown
            # What the store does not know is not asked again at each look.
            self._names |= dict.fromkeys(unknown, "") | (self._asked_names.ask()() or {})
        return [
            {"key": self._names.get(each.key_digest) or each.key_digest, "hits": each.hits, "misses": each.misses}
            for each in kept.hot
        ]


async def _names(settings: Settings, digests: Sequence[str]) -> dict[str, str]:
    platform = open_platform(settings.model_copy(update={"timeout_seconds": 1.0}))
    try:
        asks = await load_asks(platform.llm_cache.backend, settings.namespace, digests)
    finally:
        await platform.aclose()
    return {
        name: _short((ask.request.last_text if ask.request is not None else None) or ask.key)
        for name, ask in asks.items()
    }


def _short(text: str) -> str:
    line = " ".join(text[:_TEXT].split())
    return line if len(text) <= _TEXT else line + " …"


def _usage(kept: _Kept) -> dict[str, Any]:
    return {
        "hours": [_point(at, amounts) for at, amounts in kept.hours],
        "days": [_point(at, amounts) for at, amounts in kept.days],
        "day": _sums(kept.models),
        "ever": _sums(kept.ever),
        "models": [{"model": row.model or "unknown", "hit_rate": row.hit_rate, **_sums([row])} for row in kept.models],
    }


def _point(at: datetime, amounts: dict[str, int]) -> dict[str, Any]:
    return {
        "at": at.timestamp(),
        "exact": amounts.get("hits", 0),
        "semantic": amounts.get("semantic_hits", 0),
        "misses": amounts.get("misses", 0),
        "tokens": amounts.get("tokens_saved", 0),
        "usd": amounts.get("saved_micro", 0) / 1e6,
    }


def _sums(rows: Sequence[UsageRow]) -> dict[str, Any]:
    return {
        "exact": sum(row.hits for row in rows),
        "semantic": sum(row.semantic_hits for row in rows),
        "misses": sum(row.misses for row in rows),
        "tokens": sum(row.tokens_saved for row in rows),
        "usd": sum(row.saved_micro for row in rows) / 1e6,
    }


def _job(job: JobView) -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "ended": job.ended,
        "total": job.total,
        "settled": job.done + job.skipped + job.failed + job.cancelled,
        "failed": job.failed,
        "usd": job.cost_micro / 1e6,
        "created": job.created_at.timestamp(),
        "error": job.last_error,
    }


def _node(node: Any) -> dict[str, Any]:
    return {"address": node.address, "state": node.state, "why": node.why, "used": node.used_bytes, "keys": node.keys}


def _latencies(row: Sequence[float]) -> dict[str, Any]:
    found = {name: distribution(row, place) for name, place in words("cache_get_seconds").items()}
    found |= {
        "store": distribution(row, places("cache_set_seconds")[()]),
        "compute": distribution(row, words("cache_compute_seconds")["foreground"]),
    }
    return {name: _percentiles(each) for name, each in found.items() if each.count}


def _percentiles(found: Distribution) -> dict[str, float]:
    return {"count": found.count, **{f"p{share}": found.quantile(share / 100) * 1000 for share in (50, 95, 99)}}


def _told(row: Sequence[float], name: str) -> dict[str, int]:
    return {word: int(row[place]) for word, place in words(name).items() if row[place]}


def _false_hits(row: Sequence[float]) -> dict[str, Any] | None:
    """Return the share of wrong ones among answers by meaning that were computed again, None before there are any."""
    judged = places("cache_judgements_total")
    wrong, same = (int(row[judged["recheck", verdict]]) for verdict in ("different", "same"))
    if not wrong + same:
        return None
    share = wilson(wrong, wrong + same)
    return {"share": share.share, "low": share.low, "high": share.high, "wrong": wrong, "checked": wrong + same}
