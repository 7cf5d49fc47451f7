"""Looks at every part of a set-up, each within a time limit of its own, and lets `doctor` judge.

A part that is broken, or silent, says so itself and hides no other. Nothing is changed or made.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from cache_management.cache.config import CacheBackend
from cache_management.cache.findings import reason_of
from cache_management.settings import Settings
from cache_management.wiring import running_set
from cache_management.workers import doctor, reading
from cache_management.workers.doctor import Finding
from cache_management.workers.queues import view_queues
from cache_management.workers.reading import Broker, Metadata, Store, Vectors

logger = logging.getLogger("cache_management.workers")

SECONDS = 10.0
MODEL_SECONDS = 14.0
NODES_SECONDS = 25.0
"""A client that starts waits for a frozen node some times before it goes on without it."""
_LISTENS_SECONDS = 1.0

T = TypeVar("T")


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
        "metadata": (lambda: reading.read_metadata(settings), SECONDS),
        "store": (
            lambda: asyncio.run(reading.read_store(settings)),
            NODES_SECONDS if settings.distributed.enabled else SECONDS,
        ),
    }
    if settings.broker_url:
        parts["broker"] = (lambda: reading.read_broker(settings), SECONDS)
    if with_model:
        parts["vectors"] = (lambda: asyncio.run(reading.read_vectors(settings)), MODEL_SECONDS)
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
    for check in (_judge_broker, _judge_metadata, _judge_store, _judge_vectors, _judge_usage, _judge_here):
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
    elif broker.facts is None and broker.refused is None:
        yield Finding("broker", "ok", "the broker answers; it is no Redis, and not looked at further")
    elif broker.facts is not None:
        yield from doctor.check_broker(broker.facts)
        yield doctor.check_skew("broker", broker.facts.where, broker.facts.skew_seconds, broker.facts.doubt_seconds)
    if broker is not None and broker.refused is not None:
        yield msgspec.structs.replace(doctor.unreached("broker", broker.refused), check="broker at work")
    yield doctor.check_visibility(*reading.delivery_limits())
    if broker is not None and broker.workers is not None:
        yield from doctor.check_workers(broker.workers, doctor.about(settings))
        metadata: Metadata | None = read["metadata"].value
        if broker.waiting and metadata is not None and metadata.marks is not None and metadata.now is not None:
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
    if metadata.jobs is not None:
        yield from doctor.check_jobs(metadata.jobs)
        yield from doctor.check_audit(metadata.jobs)


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
        yield from doctor.check_server_room(settings, store.facts)
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
        if store.disk is not None:
            yield doctor.check_disk_room(settings, store.disk)


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
    yield from doctor.check_meaning(found.meaning, settings, machine_bytes=_machine_bytes())


def _judge_usage(settings: Settings, read: Mapping[str, Read[Any]]) -> Iterable[Finding]:
    metadata: Metadata | None = read["metadata"].value
    if metadata is None or metadata.usage is None:
        return
    store: Store = read["store"].value or Store("")
    vectors: Vectors | None = read["vectors"].value if "vectors" in read else None
    facts = msgspec.structs.replace(
        metadata.usage,
        is_added_up=doctor.check_beats(metadata.marks or []).level == "ok",
        store_is_full=doctor.is_full(settings, store.facts, store.disk),
        # What was not looked at is no reason for advice.
        meaning_works=vectors is None or vectors.meaning.vectors > 0,
    )
    yield from doctor.check_usage(facts, settings)


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
    yield from doctor.check_copies(settings, _machine_bytes())
    answers = _listens("127.0.0.1", settings.metrics.port)
    yield from doctor.check_set(running_set(settings), settings, answers=answers)
    yield from doctor.check_unused(settings)


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_LISTENS_SECONDS):
            return True
    except OSError:
        return False
