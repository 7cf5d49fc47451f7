"""Reads the facts that `doctor` judges: of broker, database, store and model. Nothing is changed or made."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from cache_management.cache.cluster.standing import Standing, look_over
from cache_management.cache.config import CacheBackend
from cache_management.cache.embeddings import open_embedder
from cache_management.cache.embeddings.base import Embedder
from cache_management.cache.errors import BackendRefused, CacheError
from cache_management.cache.findings import reason_of
from cache_management.cache.identity import KeySpace, Kind
from cache_management.cache.manager import CacheManager
from cache_management.models.job import LIVE, VERIFYING_KIND
from cache_management.models.store import Stores
from cache_management.settings import Settings
from cache_management.wiring import Platform, open_platform
from cache_management.workers import doctor
from cache_management.workers.client import JobClient
from cache_management.workers.doctor import (
    About,
    DiskFacts,
    JobFacts,
    MeaningFacts,
    ServerFacts,
    UsageFacts,
    WorkerFacts,
)
from cache_management.workers.messages import QUEUES
from cache_management.workers.queues import Waiting, depth_of, reaching, read_queues
from cache_management.workers.store_watch import is_unmade

if TYPE_CHECKING:
    from cache_management.models.store.results import Mark

_PATIENCE_SECONDS = 5.0
_ASK_WORKERS_SECONDS = 1.5
_COUNTED = 10_000
_PAGE = 1_000
_CLOCKS_READ = 3
_JOBS_LOOKED_AT = 100
_AUDIT_ROWS_LOOKED_AT = 500
_KEYS_LOOKED_AT = 5_000
_SHORT_TEXT = "How do I reset my password?"


class Broker(msgspec.Struct):
    """What was read of the broker; no facts of one that is no Redis. `refused` says what it would not do."""

    facts: ServerFacts | None = None
    waiting: dict[str, Waiting] = {}
    unknown: dict[str, int] = {}
    workers: list[WorkerFacts] | None = None
    refused: str | None = None


class Metadata(msgspec.Struct):
    """What was read of the database; `wrong_schema` says what is wrong with its tables."""

    shown: str
    is_there: bool = True
    is_server: bool = False
    wrong_schema: str | None = None
    skew_seconds: float = 0.0
    doubt_seconds: float = 0.0
    now: datetime | None = None
    marks: list[Mark] | None = None
    jobs: JobFacts | None = None
    usage: UsageFacts | None = None

    @property
    def models(self) -> list[str]:
        """The models of embed jobs that live."""
        live = self.jobs.live if self.jobs is not None else ()
        return [str(job.params.get("model")) for job in live if job.kind == "embed"]


class Store(msgspec.Struct):
    """What was read of the cache store; facts of a Redis only, how the nodes stand of a replicated cache only."""

    shown: str
    facts: ServerFacts | None = None
    standing: Standing | None = None
    slots_differing: int = 0
    disk: DiskFacts | None = None


class Vectors(msgspec.Struct):
    """The space of the configured model, the vectors there are, by space, and what else was seen of it."""

    own: str
    spaces: dict[str, int]
    looked_at_all: bool
    meaning: MeaningFacts = MeaningFacts()


def delivery_limits() -> tuple[float, float]:
    """Return, of the deployment's Celery settings, the visibility timeout and the longest a task may take; seconds."""
    config = import_module(os.environ.get("CACHE_CELERY_CONFIG") or "cache_management.workers.defaults")
    annotations = getattr(config, "task_annotations", None) or {}
    limits = [float(each.get("time_limit", 0)) for each in annotations.values()]
    options = getattr(config, "broker_transport_options", None) or {}
    return float(options.get("visibility_timeout", 3600)), max(limits, default=0.0)


def read_broker(settings: Settings) -> Broker:
    """Read what the broker says of itself, what waits in it, and what the workers say that answer.

    One that refuses a part of it, being full or a replica, is told of by the rest.

    Raises:
        BrokerUnavailable: It does not answer.
    """
    client = JobClient(settings)
    found = Broker()
    try:
        with reaching(client.celery) as channel:
            redis = getattr(channel, "client", None)
            if redis is not None:
                found.facts = _facts(client.broker_shown, redis.info(), _nearest_clock(redis))

        def wait() -> None:
            found.waiting = read_queues(client.celery)

        def unknown() -> None:
            with reaching(client.celery) as channel:
                found.unknown = _unknown_queues(channel, channel.client) if hasattr(channel, "client") else {}

        def workers() -> None:
            found.workers = _ask_workers(client.celery)

        for read in (wait, unknown, workers):
            try:
                read()
            except Exception as exc:  # noqa: BLE001 - kombu hands on whatever the server said
                found.refused = found.refused or reason_of(exc)
        return found
    finally:
        client.close()


def _facts(where: str, info: Mapping[str, Any], clock: Mapping[str, float], *, database: int = 0) -> ServerFacts:
    return doctor.server_facts(
        where,
        info,
        skew_seconds=clock["skew_seconds"],
        doubt_seconds=clock["doubt_seconds"],
        database=database,
    )


def _nearest_clock(redis: Any) -> dict[str, float]:
    """Read the clock several times and take what came back soonest: it is the surest."""
    best: dict[str, float] = {}
    for _ in range(_CLOCKS_READ):
        before = time.time()
        seconds, micros = redis.time()
        skew = _skew(before, seconds + micros / 1e6, time.time())
        if not best or skew["doubt_seconds"] < best["doubt_seconds"]:
            best = skew
    return best


def _unknown_queues(channel: Any, redis: Any) -> dict[str, int]:
    """Return how much waits in queues that were bound here and that nobody of this version consumes."""
    names = set()
    for binding in redis.scan_iter(match="_kombu.binding.*", count=1_000):
        for member in redis.smembers(binding):
            names.add(member.decode().split("\x06\x16")[-1])
    # Events and commands are broadcast, and wait in lists of their readers only.
    ours = {name for name in names if "pidbox" not in name and not name.startswith("celeryev")} - set(QUEUES)
    depths = {name: depth_of(channel, name) for name in sorted(ours)}
    return {name: depth for name, depth in depths.items() if depth}


def _ask_workers(app: Any) -> list[WorkerFacts]:
    """Return what the workers say of themselves that answer in time."""
    asking = app.control.inspect(timeout=_ASK_WORKERS_SECONDS)
    stats = asking.stats() or {}
    if not stats:
        return []
    # Now it is known how many answer, so nobody waits for more.
    again = app.control.inspect(destination=list(stats), timeout=_ASK_WORKERS_SECONDS, limit=len(stats))
    queues = again.active_queues() or {}
    abouts = again._request("cache_about") or {}
    return [
        WorkerFacts(
            name=name,
            pool=_pool(each.get("pool", {}).get("implementation", "")),
            queues=tuple(sorted(queue["name"] for queue in queues.get(name) or [])),
            about=_about(abouts.get(name)),
        )
        for name, each in sorted(stats.items())
    ]


def _pool(implementation: str) -> str:
    """Return the short name of a pool, `prefork` of `celery.concurrency.prefork:TaskPool`."""
    return implementation.partition(":")[0].rpartition(".")[2]


def _about(answer: Any) -> About | None:
    try:
        return msgspec.convert(answer, About)
    except msgspec.ValidationError:
        return None


def read_metadata(settings: Settings) -> Metadata:
    """Read the database: its clock, its tables, and what it says of workers, jobs and use.

    Raises:
        MetadataUnavailable: It does not answer.
    """
    from cache_management.models.store import open_stores

    stores = open_stores(settings.metadata_url)
    try:
        file = stores.database.file
        found = Metadata(stores.database.shown, is_server=file is None)
        if file is not None and (not file.exists() or not file.stat().st_size):
            found.is_there = False
            return found
        stores.now()  # the first one also connects
        before = time.time()
        found.now = stores.now()
        skew = _skew(before, found.now.timestamp(), time.time())
        found.skew_seconds, found.doubt_seconds = skew["skew_seconds"], skew["doubt_seconds"]
        try:
            stores.check()
        except CacheError as exc:
            found.wrong_schema = str(exc)
            return found
        found.marks = stores.operations.marks()
        found.jobs = _read_jobs(stores, found.now)
        found.usage = _read_usage(stores, found.now, settings.namespace)
        return found
    finally:
        stores.close()


def _read_jobs(stores: Stores, now: datetime) -> JobFacts:
    jobs = stores.jobs
    ended = [
        *jobs.list(state="failed", limit=_JOBS_LOOKED_AT),
        *jobs.list(state="partial", limit=_JOBS_LOOKED_AT),
    ]
    # Of a great many live jobs the newest: what holds one up holds up the others.
    live = [job for state in LIVE for job in jobs.list(state=state, limit=_JOBS_LOOKED_AT)]
    verified = [job for job in jobs.list(kind=VERIFYING_KIND, limit=_JOBS_LOOKED_AT) if job.ended]
    audited = stores.audit.tail(_AUDIT_ROWS_LOOKED_AT)
    return JobFacts(
        now=now,
        ended=ended,
        live=live,
        expired={kind: count for kind, count in stores.census.take().expired.items() if count},
        last_verified=verified[0] if verified else None,
        losses=[row for row in audited if row.action == doctor.LOSS and now - row.at < doctor.LATELY],
    )


def _read_usage(stores: Stores, now: datetime, namespace: str) -> UsageFacts:
    operations = stores.operations
    rows = operations.usage(since=now - timedelta(days=1))
    ours = [row for row in rows if row.namespace == namespace]
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return UsageFacts(
        hits=sum(row.hits for row in ours),
        semantic_hits=sum(row.semantic_hits for row in ours),
        misses=sum(row.misses for row in ours),
        missed_most=operations.hot_keys(
            namespace=namespace, since=midnight - timedelta(days=1), by="misses", limit=_KEYS_LOOKED_AT
        ),
        is_recorded=any(row.hits or row.semantic_hits or row.misses for row in rows),
    )


async def read_store(settings: Settings) -> Store:
    """Read the store, or all nodes of it.

    Raises:
        BackendUnavailable: It does not answer.
    """
    shown = doctor.about(settings).store
    if settings.distributed.enabled:
        return await _read_nodes(settings, shown)
    if settings.backend is not CacheBackend.REDIS or settings.is_cluster:  # a cluster has no INFO of its own
        if is_unmade(settings):
            return Store(f"{shown}, which is made at first use,")
        platform = open_platform(settings.model_copy(update={"strict": True, "timeout_seconds": _PATIENCE_SECONDS}))
        try:
            await platform.llm_cache.backend.ping()
            disk = await _read_disk(platform) if settings.backend is CacheBackend.DISK else None
        finally:
            await platform.aclose()
        return Store(shown, disk=disk)
    from cache_management.cache.backends.redis_node import RedisNode

    node = RedisNode(settings.model_copy(update={"timeout_seconds": _PATIENCE_SECONDS}))
    try:
        await node.call("PING")
        try:
            info = (await node.call("INFO")).decode()
            clocks = []
            for _ in range(_CLOCKS_READ):
                before = time.time()
                seconds, micros = await node.call("TIME")
                clocks.append(_skew(before, int(seconds) + int(micros) / 1e6, time.time()))
        except BackendRefused:
            return Store(f"{shown} answers, lets nobody look at INFO and TIME, and")
        skew = min(clocks, key=lambda each: each["doubt_seconds"])
        lines = (line.partition(":") for line in info.splitlines())
        told = {name: value for name, colon, value in lines if colon}
        return Store(shown, _facts(shown, told, skew, database=settings.redis_db))
    finally:
        await node.aclose()


async def _read_disk(platform: Platform) -> DiskFacts:
    folder = platform.settings.disk_path
    sizes = [path.stat().st_size for path in folder.glob("cache.sqlite*")]
    return DiskFacts((await platform.llm_cache.get_stats()).total_entries, sum(sizes))


async def _read_nodes(settings: Settings, shown: str) -> Store:
    from cache_management.cache.cluster.repair import Repair, lasting_differences

    platform = open_platform(settings.model_copy(update={"strict": True, "timeout_seconds": _PATIENCE_SECONDS / 2.5}))
    try:
        cache = platform.replicated
        standing = await look_over(cache.backend.membership)
        differing = 0
        if standing.epoch:
            differing = len((await lasting_differences(Repair(cache.backend.membership, listener=cache.tell))).slots)
        return Store(shown, standing=standing, slots_differing=differing)
    finally:
        await platform.aclose()


async def read_vectors(settings: Settings) -> Vectors:
    """Load the model, and count the entries and vectors of the namespace.

    Raises:
        CacheError, ImportError: The model does not load, or the store does not answer.
    """
    from cache_management.cache.semantic.matcher import SimilarityMatcher
    from cache_management.cache.semantic.stored_vectors import space_of

    meaning = settings.similarity()
    # Not one that keeps vectors: looking at it would fill its folder.
    embedder = open_embedder(meaning.model, engine=meaning.engine, device=meaning.device)
    await embedder.load()
    platform = open_platform(settings.model_copy(update={"strict": True, "timeout_seconds": _PATIENCE_SECONDS}))
    try:
        spaces: dict[str, int] = {}
        keys = KeySpace("vec", settings.namespace)

        def count(name: str) -> None:
            space = space_of(keys, name)
            if space is not None:
                spaces[space] = spaces.get(space, 0) + 1

        entries = 0

        def add(_: str) -> None:
            nonlocal entries
            entries += 1

        looked_at_all = counted_all = True
        false_hits = None
        if not is_unmade(settings):
            looked_at_all = await _walk(platform, "vec", count)
            counted_all = await _walk(platform, "llm", add)
            if meaning.serves != "static":
                matcher = SimilarityMatcher(meaning, backend=platform.llm_cache.backend, embedder=embedder)
                false_hits = await CacheManager(platform.llm_cache, matcher).false_hits()
                await matcher.aclose()
        took = await _time_to_embed(embedder)
        return Vectors(
            embedder.space,
            spaces,
            looked_at_all=looked_at_all,
            meaning=MeaningFacts(
                engine=getattr(embedder, "engine", None),
                has_onnx=importlib.util.find_spec("onnxruntime") is not None,
                embed_seconds=took,
                dims=embedder.dims,
                entries=entries,
                vectors=spaces.get(embedder.space, 0),
                counted_all=looked_at_all and counted_all,
                false_hits=false_hits,
            ),
        )
    finally:
        await platform.aclose()


async def _walk(platform: Platform, kind: Kind, see: Callable[[str], None]) -> bool:
    """Show the first thousands of names of a kind; return whether there were no more."""
    prefix = KeySpace(kind, platform.settings.namespace).prefix
    looked = 0
    bookmark: str | None = ""
    while bookmark is not None and looked < _COUNTED:
        names, bookmark = await platform.llm_cache.backend.scan_page(prefix, bookmark, _PAGE)
        looked += len(names)
        for name in names:
            see(name)
    return bookmark is None


async def _time_to_embed(embedder: Embedder) -> float:
    """Return the seconds that a short text takes, the first one aside, which warms the model up."""
    took = []
    for _ in range(_CLOCKS_READ):
        began = time.monotonic()
        await embedder.embed([_SHORT_TEXT])
        took.append(time.monotonic() - began)
    return min(took[1:])


def _skew(before: float, theirs: float, after: float) -> dict[str, float]:
    """Return how far another clock, read between two moments of ours, is ahead, and by how much that may be wrong."""
    return {"skew_seconds": theirs - (before + after) / 2, "doubt_seconds": (after - before) / 2}
