"""Looks at every part of a set-up, each within a time limit of its own, and lets `doctor` judge.

A part that is broken, or silent, says so itself and hides no other. Nothing is changed or made.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from cache_management.cache.cluster.standing import Standing, look_over
from cache_management.cache.config import CacheBackend
from cache_management.cache.errors import BackendRefused, CacheError
from cache_management.cache.findings import reason_of
from cache_management.cache.identity import KeySpace
from cache_management.models.job import LIVE
from cache_management.settings import Settings
from cache_management.wiring import open_platform
from cache_management.workers import doctor
from cache_management.workers.client import JobClient
from cache_management.workers.doctor import About, Finding, ServerFacts, WorkerFacts
from cache_management.workers.health import is_unmade
from cache_management.workers.messages import QUEUES
from cache_management.workers.queues import Waiting, depth_of, reaching, read_queues, view_queues

if TYPE_CHECKING:
    from cache_management.models.store.results import Mark

logger = logging.getLogger("cache_management.workers")

SECONDS = 10.0
MODEL_SECONDS = 20.0
_ASK_WORKERS_SECONDS = 1.5
_VECTORS_LOOKED_AT = 10_000
_PAGE = 1_000

T = TypeVar("T")


class Broker(msgspec.Struct):
    """What was read of the broker; no facts of one that is no Redis."""

    facts: ServerFacts | None
    waiting: dict[str, Waiting]
    unknown: dict[str, int]
    workers: list[WorkerFacts]


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
    models: list[str] = []


class Store(msgspec.Struct):
    """What was read of the cache store; facts of a Redis only, how the nodes stand of a replicated cache only."""

    shown: str
    facts: ServerFacts | None = None
    standing: Standing | None = None
    slots_differing: int = 0


class Vectors(msgspec.Struct):
    """The space of the configured model, and the vectors there are, by space."""

    own: str
    spaces: dict[str, int]
    looked_at_all: bool


class Read(msgspec.Struct, Generic[T]):
    """What came of one part: what was read, or why nothing was."""

    value: T | None = None
    failed: str | None = None


def examine(settings: Settings, *, with_model: bool = True) -> list[Finding]:
    """Look at everything, and return what was found.

    Args:
        with_model: Load the embedding model, to tell its vectors from those of others.
    """
    parts: dict[str, tuple[Callable[[], Any], float]] = {
        "metadata": (lambda: _read_metadata(settings), SECONDS),
        "store": (lambda: asyncio.run(_read_store(settings)), SECONDS),
    }
    if settings.broker_url:
        parts["broker"] = (lambda: _read_broker(settings), SECONDS)
    if with_model:
        parts["vectors"] = (lambda: asyncio.run(_read_vectors(settings)), MODEL_SECONDS)
    read = read_all(parts)
    return list(_judge(settings, read))


def read_all(parts: Mapping[str, tuple[Callable[[], Any], float]]) -> dict[str, Read[Any]]:
    """Read all parts at once; one that takes longer than its seconds has failed, and is left alone."""
    answers: queue.SimpleQueue[tuple[str, Read[Any]]] = queue.SimpleQueue()

    def read(name: str, part: Callable[[], Any]) -> None:
        try:
            answers.put((name, Read(value=part())))
        except Exception as exc:  # whatever is wrong with a part is what is looked for
            logger.debug("reading the %s failed", name, exc_info=True)
            answers.put((name, Read(failed=reason_of(exc))))

    started = time.monotonic()
    for name, (part, _) in parts.items():
        threading.Thread(target=read, args=(name, part), name=f"cache-doctor-{name}", daemon=True).start()
    found: dict[str, Read[Any]] = {}
    while len(found) < len(parts):
        open_parts = {name: seconds for name, (_, seconds) in parts.items() if name not in found}
        left = started + min(open_parts.values()) - time.monotonic()
        try:
            name, answer = answers.get(timeout=max(0.0, left))
            found.setdefault(name, answer)
        except queue.Empty:
            late = min(open_parts, key=open_parts.__getitem__)
            found[late] = Read(failed=f"no answer within {open_parts[late]:g} s")
    return found


def _judge(settings: Settings, read: Mapping[str, Read[Any]]) -> Iterable[Finding]:
    """Yield what all checks say; a check that itself fails says that."""
    for check in (_judge_broker, _judge_metadata, _judge_store, _judge_vectors, _judge_here):
        try:
            yield from check(settings, read)
        except Exception as exc:  # one check that is wrong must not hide the others
            logger.debug("%s failed", check.__name__, exc_info=True)
            name = check.__name__.removeprefix("_judge_")
            yield Finding(name, "fail", f"the check itself failed: {reason_of(exc)}", "", "run it with --debug")


def _judge_broker(settings: Settings, read: Mapping[str, Read[Any]]) -> Iterable[Finding]:
    part: Read[Broker] | None = read.get("broker")
    if part is None:
        yield Finding(
            "broker",
            "warn",
            "no broker is configured",
            "warm, embed and evict run in the command's own process; nothing is scheduled",
            "set broker_url, or start an embedded set with `cache-cli up`",
        )
        return
    broker = part.value
    if broker is None:
        yield doctor.unreached("broker", part.failed or "")
    elif broker.facts is None:
        yield Finding("broker", "ok", "the broker answers; it is no Redis, and not looked at further")
    else:
        yield from doctor.check_broker(broker.facts)
        yield doctor.check_skew("broker", broker.facts.where, broker.facts.skew_seconds, broker.facts.doubt_seconds)
    yield doctor.check_visibility(*_delivery_limits())
    if broker is not None:
        yield from doctor.check_workers(broker.workers, doctor.about(settings))
        metadata: Metadata | None = read["metadata"].value
        if metadata is not None and metadata.marks is not None and metadata.now is not None:
            views = view_queues(broker.waiting, metadata.marks, now=metadata.now)
            yield from doctor.check_queues(views, broker.unknown)


def _judge_metadata(settings: Settings, read: Mapping[str, Read[Any]]) -> Iterable[Finding]:
    part: Read[Metadata] = read["metadata"]
    metadata = part.value
    if metadata is None:
        yield doctor.unreached("metadata", part.failed or "")
        return
    if not metadata.is_there:
        yield Finding("metadata", "ok", f"{metadata.shown} is not there yet; the first command that needs it makes it")
        return
    if metadata.is_server:
        yield doctor.check_skew("database", metadata.shown, metadata.skew_seconds, metadata.doubt_seconds)
    if metadata.wrong_schema is not None:
        yield doctor.unreached("metadata", metadata.wrong_schema)
        return
    yield Finding("metadata", "ok", f"{metadata.shown} answers, and has this version's tables")
    yield from doctor.check_jobs_models(metadata.models, str(settings.embedding_model))
    if settings.broker_url and metadata.marks is not None:
        yield doctor.check_beats(metadata.marks)
        yield from doctor.check_marks(metadata.marks)


def _judge_store(settings: Settings, read: Mapping[str, Read[Any]]) -> Iterable[Finding]:
    part: Read[Store] = read["store"]
    store = part.value
    broker: Broker | None = read["broker"].value if "broker" in read else None
    if store is None:
        yield doctor.unreached("cache store", part.failed or "", on_nodes=settings.distributed.enabled)
    elif store.standing is not None:
        yield from doctor.check_nodes(
            store.standing,
            differing=store.slots_differing,
            consistency=settings.distributed.consistency,
            broker=broker.facts if broker else None,
        )
    elif store.facts is not None:
        yield from doctor.check_cache_server(store.facts, broker.facts if broker else None)
        yield doctor.check_skew("cache store", store.facts.where, store.facts.skew_seconds, store.facts.doubt_seconds)
    elif settings.backend is CacheBackend.MEMORY and settings.broker_url:
        yield Finding(
            "cache store",
            "warn",
            "entries are kept in the memory of each process",
            "what workers warm is seen by nobody else",
            "set backend to disk or redis",
        )
    else:
        yield Finding("cache store", "ok", f"{store.shown} can be used")


def _judge_vectors(settings: Settings, read: Mapping[str, Read[Any]]) -> Iterable[Finding]:
    part: Read[Vectors] | None = read.get("vectors")
    if part is None:
        return
    if part.value is None:
        yield Finding(
            "vectors",
            "warn",
            f"{settings.embedding_model} cannot be compared with the vectors of the store: {part.failed}",
            "where it does not load nothing is found by meaning; exact answers are served",
            "install 'cache-management[semantic]', set embedding_model, or mend what is named",
        )
        return
    found = part.value
    previous = settings.semantic.previous_model
    yield doctor.check_embedder(
        found.own,
        found.spaces,
        previous_model=None if previous is None else str(previous),
        looked_at_all=found.looked_at_all,
    )


def _judge_here(settings: Settings, read: Mapping[str, Read[Any]]) -> Iterable[Finding]:
    folder = settings.data_dir.absolute()
    there = next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))
    yield from doctor.check_folder(
        str(folder),
        exists=folder.is_dir(),
        is_writable=there.is_dir() and os.access(there, os.W_OK | os.X_OK),
        mode=folder.stat().st_mode if folder.is_dir() else None,
    )
    usage = shutil.disk_usage(there)
    yield doctor.check_space(str(folder), free_bytes=usage.free, total_bytes=usage.total)


def _delivery_limits() -> tuple[float, float]:
    """Return, of the deployment's Celery settings, the visibility timeout and the longest a task may take; seconds."""
    config = import_module(os.environ.get("CACHE_CELERY_CONFIG") or "cache_management.workers.defaults")
    annotations = getattr(config, "task_annotations", None) or {}
    limits = [float(each.get("time_limit", 0)) for each in annotations.values()]
    options = getattr(config, "broker_transport_options", None) or {}
    return float(options.get("visibility_timeout", 3600)), max(limits, default=0.0)


def _read_broker(settings: Settings) -> Broker:
    client = JobClient(settings)
    try:
        waiting = read_queues(client.celery)
        with reaching(client.celery) as channel:
            redis = getattr(channel, "client", None)
            facts = None
            unknown: dict[str, int] = {}
            if redis is not None:
                info = redis.info()
                before = time.time()
                seconds, micros = redis.time()
                after = time.time()
                facts = doctor.server_facts(client.broker_shown, info, **_skew(before, seconds + micros / 1e6, after))
                unknown = _unknown_queues(channel, redis)
        return Broker(facts, waiting, unknown, _ask_workers(client.celery))
    finally:
        client.close()


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


def _read_metadata(settings: Settings) -> Metadata:
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
        live = [job for job in stores.jobs.list(kind="embed", limit=100) if job.state in LIVE]
        found.models = [str(job.params.get("model")) for job in live]
        return found
    finally:
        stores.close()


async def _read_store(settings: Settings) -> Store:
    shown = doctor.about(settings).store
    if settings.distributed.enabled:
        return await _read_nodes(settings, shown)
    if settings.backend is not CacheBackend.REDIS or settings.is_cluster:  # a cluster has no INFO of its own
        if is_unmade(settings):
            return Store(f"{shown}, which is made at first use,")
        platform = open_platform(settings.model_copy(update={"strict": True, "timeout_seconds": SECONDS / 2}))
        try:
            await platform.llm_cache.backend.ping()
        finally:
            await platform.aclose()
        return Store(shown)
    from cache_management.cache.backends.redis_node import RedisNode

    node = RedisNode(settings.model_copy(update={"timeout_seconds": SECONDS / 2}))
    try:
        await node.call("PING")
        try:
            info = (await node.call("INFO")).decode()
            before = time.time()
            seconds, micros = await node.call("TIME")
            skew = _skew(before, int(seconds) + int(micros) / 1e6, time.time())
        except BackendRefused:
            return Store(f"{shown} answers, lets nobody look at INFO and TIME, and")
        lines = (line.partition(":") for line in info.splitlines())
        return Store(shown, doctor.server_facts(shown, {name: value for name, colon, value in lines if colon}, **skew))
    finally:
        await node.aclose()


async def _read_nodes(settings: Settings, shown: str) -> Store:
    from cache_management.cache.cluster.repair import Repair, lasting_differences

    platform = open_platform(settings.model_copy(update={"strict": True, "timeout_seconds": SECONDS / 5}))
    try:
        cache = platform.replicated
        standing = await look_over(cache.backend.membership)
        differing = 0
        if standing.epoch:
            differing = len((await lasting_differences(Repair(cache.backend.membership, listener=cache.tell))).slots)
        return Store(shown, standing=standing, slots_differing=differing)
    finally:
        await platform.aclose()


async def _read_vectors(settings: Settings) -> Vectors:
    from cache_management.cache.semantic.stored_vectors import space_of

    patient = {"strict": True, "timeout_seconds": SECONDS / 2}
    platform = open_platform(settings.model_copy(update=patient))
    try:
        matcher = platform.manager.similarity_matcher
        if matcher is None:
            return Vectors("none", {}, looked_at_all=True)
        await matcher.embedder.load()
        keys = KeySpace("vec", settings.namespace)
        spaces: dict[str, int] = {}
        looked = 0
        bookmark: str | None = None if is_unmade(settings) else ""
        while bookmark is not None and looked < _VECTORS_LOOKED_AT:
            names, bookmark = await platform.llm_cache.backend.scan_page(keys.prefix, bookmark, _PAGE)
            looked += len(names)
            for name in names:
                space = space_of(keys, name)
                if space is not None:
                    spaces[space] = spaces.get(space, 0) + 1
        return Vectors(matcher.embedder.space, spaces, looked_at_all=bookmark is None)
    finally:
        await platform.aclose()


def _skew(before: float, theirs: float, after: float) -> dict[str, float]:
    """Return how far another clock, read between two moments of ours, is ahead, and by how much that may be wrong."""
    return {"skew_seconds": theirs - (before + after) / 2, "doubt_seconds": (after - before) / 2}
