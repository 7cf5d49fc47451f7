"""What the dashboard shows, as JSON types: of database, broker, store and the folder of metrics, each in its time.

A source that is away is named in `problems`, and what it would have said is None: the page says so, and shows the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from cache_management import __version__
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.near_misses import load_near_misses
from cache_management.cache.one_line import on_one_line
from cache_management.cache.question import Question
from cache_management.cache.semantic.intervals import wilson
from cache_management.cache.usage import MARK_LIFE_SECONDS, load_asks, mark_as_looked_at
from cache_management.cache.values import NearMiss
from cache_management.metrics.catalogue import LENGTH, distribution, places, words
from cache_management.metrics.cells import read_folder
from cache_management.metrics.latencies import Distribution
from cache_management.models.store import Stores, open_stores
from cache_management.models.store.results import JobView, Mark
from cache_management.models.usage import DAY_SECONDS, USAGE_NAMES, HotKeyView, UsageRow
from cache_management.settings import Settings
from cache_management.wiring import open_platform
from cache_management.workers.client import JobClient
from cache_management.workers.queues import read_queues, view_queues
from cache_management.workers.store_watch import StoreView, is_unmade, look_at_store
from cache_management.workers.usage import Uncounted

ANSWER_SECONDS = 4.0
_EVER = datetime(2000, 1, 1, tzinfo=UTC)
_DAYS = 14
_JOBS = 12
_HOT = 10
_TEXT = 160


_Key = tuple[str, str]
"""A namespace and the digest of a key in it."""


class _Kept(msgspec.Struct, frozen=True):
    """What the database said; `counted` is how far it knows the notes of the applications."""

    now: datetime
    counted: str
    hours: list[tuple[datetime, dict[str, int]]]
    days: list[tuple[datetime, dict[str, int]]]
    models: list[UsageRow]
    ever: list[UsageRow]
    hot: list[HotKeyView]
    jobs: list[JobView]
    marks: list[Mark]
    refused: list[NearMiss] = []


class Dashboard:
    """Asks for all that the page shows. Close what is no longer needed.

    Args:
        refused: Returns what was refused lately, the newest first; else applications are asked by way of the store.
        everywhere: Show the use of all namespaces together, as of a proxy whose callers have one each.
        is_live: Let applications know now and then that somebody looks, so that they tell keys and what they refuse.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        refused: Callable[[], Sequence[NearMiss]] | None = None,
        everywhere: bool = False,
        is_live: bool = False,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._settings = settings
        self._namespace = None if everywhere else settings.namespace
        self._refused = refused
        self._is_live = is_live
        self._marked_at = -MARK_LIFE_SECONDS
        self._stores: Stores = open_stores(settings.metadata_url)
        self._client = JobClient(settings, stores=self._stores)
        self._database = Question(self._ask_database, "database", answer_seconds)
        self._broker = Question(lambda: read_queues(self._client.celery), "broker", answer_seconds)
        self._store = Question(
            lambda: look_at_store(settings, timeout_seconds=answer_seconds / 4), "cache store", answer_seconds
        )
        self._kept: _Kept | None = None
        self._uncounted = Uncounted(settings)
        self._notes = Question(self._with_uncounted, "cache store, of its use,", answer_seconds / 2)
        self._names: dict[_Key, str] = {}
        self._unknown: list[_Key] = []
        self._asked_names = Question(
            lambda: asyncio.run(_names(settings, self._unknown)), "names of keys", answer_seconds / 2
        )

    def state(self) -> dict[str, Any]:
        """Return what there is to show now; takes a few seconds at most.

        What no job has added up yet is counted along, so that the page lives without a worker too.
        """
        asked = {"database": self._database.ask(), "cache store": self._store.ask()}
        if self._settings.broker_url:
            asked["broker"] = self._broker.ask()  # type: ignore[assignment]
        found: dict[str, Any] = {name: answer() for name, answer in asked.items()}
        kept = self._kept = found["database"]
        if kept is not None:
            kept = self._notes.ask()() or kept
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
            "counted": _sums_of_processes(row),
            "misses": _told(row, "cache_misses_total"),
            "vetoes": _told(row, "cache_vetoes_total"),
            "false_hits": _false_hits(row),
            "refused": self._told_refused(kept),
        }

    def close(self) -> None:
        """Close connections."""
        self._client.close()
        self._stores.close()

    def _ask_database(self) -> _Kept:
        if self._stores.is_unmade:
            return _Kept(datetime.now(UTC), "", [], [], [], [], [], [], [])
        kept = self._read_database()
        # Once more when a job added up notes meanwhile: they would be shown twice, or not at all.
        if self._stores.operations.usage_cursor(self._uncounted.stream) != kept.counted:
            kept = self._read_database()
        return kept

    def _read_database(self) -> _Kept:
        operations = self._stores.operations
        counted = operations.usage_cursor(self._uncounted.stream)
        now = operations.now()
        day, days = _since(now)
        namespace = self._namespace
        ever = operations.usage(since=_EVER, period_seconds=DAY_SECONDS)
        models = operations.usage(since=day, period_seconds=3600)
        return _Kept(
            now=now,
            counted=counted,
            hours=operations.usage_over_time(since=day, period_seconds=3600, namespace=namespace),
            days=operations.usage_over_time(since=days, period_seconds=DAY_SECONDS, namespace=namespace),
            models=[each for each in models if namespace in (None, each.namespace)],
            ever=[each for each in ever if namespace in (None, each.namespace)],
            hot=operations.hot_keys(namespace=namespace, since=now - timedelta(days=2), limit=_HOT),
            jobs=self._stores.jobs.list(limit=_JOBS),
            marks=operations.marks(),
        )

    def _with_uncounted(self) -> _Kept | None:
        kept, namespace, uncounted = self._kept, self._namespace, self._uncounted
        if kept is None or is_unmade(self._settings):
            return kept
        refused = asyncio.run(self._look(kept))
        day, days = _since(kept.now)
        models = uncounted.rows(kept.models, since=day, period_seconds=3600)
        ever = uncounted.rows(kept.ever, since=_EVER, period_seconds=DAY_SECONDS)
        return msgspec.structs.replace(
            kept,
            hours=uncounted.over_time(kept.hours, since=day, period_seconds=3600, namespace=namespace),
            days=uncounted.over_time(kept.days, since=days, period_seconds=DAY_SECONDS, namespace=namespace),
            models=[each for each in models if namespace in (None, each.namespace)],
            ever=[each for each in ever if namespace in (None, each.namespace)],
            refused=refused,
            hot=uncounted.hot_keys(kept.hot, namespace=namespace, limit=_HOT),
        )

    async def _look(self, kept: _Kept) -> list[NearMiss]:
        """Read what applications told the store of their use; return what they refused."""
        platform = open_platform(self._settings.model_copy(update={"timeout_seconds": 1.0}))
        backend = platform.llm_cache.backend
        try:
            await self._uncounted.look(backend, kept.counted, now=kept.now)
            if self._is_live and time.monotonic() - self._marked_at > MARK_LIFE_SECONDS / 4:
                self._marked_at = time.monotonic()
                with contextlib.suppress(BackendUnavailable):  # it may be read and not written
                    await mark_as_looked_at(backend, platform.llm_cache.clock())
            return await load_near_misses(backend, self._settings.namespace)
        finally:
            await platform.aclose()

    def _told_refused(self, kept: _Kept | None) -> list[Any] | None:
        if self._refused is not None:
            return [msgspec.to_builtins(each) for each in self._refused()]
        return None if kept is None else [msgspec.to_builtins(each) for each in kept.refused]

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
        shown = [(each.namespace, each.key_digest) for each in kept.hot]
        self._names = {name: self._names[name] for name in shown if name in self._names}
        self._unknown = [name for name in shown if name not in self._names]
        if self._unknown and store is not None and not is_unmade(self._settings):
            asked = self._unknown
            answered = self._asked_names.ask()()
            if answered is not None:
                # What the store does not know is not asked again at each look.
                self._names |= dict.fromkeys(asked, "") | answered
        return [
            {
                "key": self._names.get((each.namespace, each.key_digest)) or each.key_digest,
                "hits": each.hits,
                "misses": each.misses,
            }
            for each in kept.hot
        ]


def _since(now: datetime) -> tuple[datetime, datetime]:
    """Return when the last day began, of which hours are shown, and the days that are shown."""
    return now - timedelta(days=1), now - timedelta(days=_DAYS)


async def _names(settings: Settings, keys: Sequence[_Key]) -> dict[_Key, str]:
    platform = open_platform(settings.model_copy(update={"timeout_seconds": 1.0}))
    found = {}
    try:
        for namespace in {namespace for namespace, _ in keys}:
            wanted = [name for within, name in keys if within == namespace]
            for name, ask in (await load_asks(platform.llm_cache.backend, namespace, wanted)).items():
                said = (ask.request.last_text if ask.request is not None else None) or ask.key
                found[namespace, name] = on_one_line(said, _TEXT)
    finally:
        await platform.aclose()
    return found


def _usage(kept: _Kept) -> dict[str, Any]:
    return {
        "hours": [_point(at, amounts) for at, amounts in kept.hours],
        "days": [_point(at, amounts) for at, amounts in kept.days],
        "day": _sums(kept.models),
        "ever": _sums(kept.ever),
        "models": [
            {"model": row.model or "unknown", "hit_rate": row.hit_rate, **_sums([row])}
            for row in _by_model(kept.models)
        ],
    }


def _by_model(rows: Sequence[UsageRow]) -> list[UsageRow]:
    """Return one row a model: where all namespaces are shown, each of them has its own."""
    found: dict[str, list[UsageRow]] = {}
    for row in rows:
        found.setdefault(row.model, []).append(row)
    return [
        UsageRow("", model, **{name: sum(getattr(row, name) for row in its) for name in USAGE_NAMES})
        for model, its in found.items()
    ]


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


def _sums_of_processes(row: Sequence[float]) -> dict[str, int]:
    hits = _told(row, "cache_hits_total")
    return {
        "exact": hits.get("exact", 0),
        "semantic": hits.get("semantic", 0),
        "misses": sum(_told(row, "cache_misses_total").values()),
        "tokens": int(row[places("cache_tokens_saved_total")[()]]),
    }


def _false_hits(row: Sequence[float]) -> dict[str, Any] | None:
    """Return the share of wrong ones among answers by meaning that were computed again, None before there are any."""
    judged = places("cache_judgements_total")
    wrong, same = (int(row[judged["recheck", verdict]]) for verdict in ("different", "same"))
    if not wrong + same:
        return None
    share = wilson(wrong, wrong + same)
    return {"share": share.share, "low": share.low, "high": share.high, "wrong": wrong, "checked": wrong + same}
