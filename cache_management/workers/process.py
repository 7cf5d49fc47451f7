"""What a worker's processes do when they begin, end, and take something from a queue.

A module of its own, and one that the app includes: a child that is spawned instead of forked gets a
copy of the app and never sees the module that made it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from billiard import current_process
from celery import Task, signals
from kombu.exceptions import OperationalError

from cache_management.cache.errors import CacheError
from cache_management.logs import FORM_OF_SERVICES, open_log
from cache_management.models.store import open_stores
from cache_management.services.processes import bind_to_parent
from cache_management.wiring import read_settings
from cache_management.workers import runtime, watchdog
from cache_management.workers.cores import fit_threads
from cache_management.workers.doctor import BEAT
from cache_management.workers.heartbeat import HEARTBEAT

logger = logging.getLogger("cache_management.workers")

QUEUES_VARIABLE = "CACHE_WORKER_QUEUES"
EMBED_QUEUE = "embed"
# Far above what a child with a model takes (MiniLM: half a gigabyte): against leaks only.
EMBED_MEMORY_KIB = 4_000_000
_MARK_EVERY_SECONDS = 5.0
_LOAD_SECONDS = 90.0  # below worker_proc_alive_timeout: a child that is slower would be killed and begin anew

_marked: dict[tuple[int, str, str], float] = {}
_scheduler: str | None = None


@signals.celeryd_init.connect
def _fit_worker(conf: Any, options: Mapping[str, Any], **_: Any) -> None:
    """Adapt the settings to what this worker consumes, before anything is made of them."""
    queues = _queues_of(options.get("queues"))
    os.environ[QUEUES_VARIABLE] = ",".join(queues)
    concurrency = options.get("concurrency") or conf.worker_concurrency
    fit_threads(int(concurrency) if str(concurrency).isdecimal() else os.cpu_count() or 1)
    if queues == [EMBED_QUEUE]:
        # To load the model again is dear, and one that is larger than the limit would be loaded for each task.
        conf.worker_max_tasks_per_child = None
        conf.worker_max_memory_per_child = EMBED_MEMORY_KIB


@signals.worker_process_init.connect
def _begin_process(**_: Any) -> None:
    if current_process().name != "MainProcess":  # where it is, the pool is `solo` and has no children
        # A pool child must not outlive a killed worker: it would go on with a chunk that nobody waits for.
        bind_to_parent()
    runtime.forget()
    _marked.clear()
    if os.environ.get(QUEUES_VARIABLE) == EMBED_QUEUE:
        _load_model()


@signals.worker_process_shutdown.connect
def _end_process(**_: Any) -> None:
    runtime.close()


@signals.before_task_publish.connect
def _note_when_sent(headers: dict[str, Any], **_: Any) -> None:
    # Beat cannot: its entries are fixed. Without it nobody could tell how long a queue has been waiting.
    headers.setdefault("sent_at", datetime.now(UTC).isoformat())
    if _scheduler is not None:
        headers.setdefault("beat", _scheduler)


@signals.after_task_publish.connect
def _note_that_scheduler_sends(**_: Any) -> None:
    # The time of the file is what a health check looks at: a scheduler that hangs, or reaches no broker, goes stale.
    ready_file = os.environ.get("CACHE_READY_FILE")
    if _scheduler is not None and ready_file:
        Path(ready_file).write_text(str(os.getpid()))


@signals.beat_init.connect
def _begin_scheduler(sender: Any, **_: Any) -> None:
    # It has no database of its own to mark: whoever takes its messages does, and so it is heard, not only alive.
    global _scheduler
    _scheduler = f"{socket.gethostname()}:{os.getpid()}"
    if sender is None:
        return
    try:
        # At once, not after the first period: what was lost while none ran has waited long enough.
        sender.app.send_task("control.reconcile", queue="control", expires=14, retry=False)
    except (OperationalError, OSError) as exc:
        logger.warning("the broker took no message yet: %s", exc)


@signals.worker_ready.connect
def _begin_worker(sender: Any, **_: Any) -> None:
    worker = sender.controller
    _mark_first(worker)
    watchdog.watch_over(worker)
    ready_file = os.environ.get("CACHE_READY_FILE")
    if ready_file:
        Path(ready_file).write_text(str(os.getpid()))


@signals.task_prerun.connect
def _mark(task: Task, **_: Any) -> None:
    """Note that something was taken from a queue: what is measured is consumption, not life."""
    _touch((task.request.delivery_info or {}).get("routing_key"), task.request.hostname)
    _touch(BEAT, (task.request.headers or {}).get("beat") or getattr(task.request, "beat", None))


def _touch(queue: str | None, name: str | None) -> None:
    now = time.monotonic()
    if not queue or not name:
        return
    if now - _marked.get((os.getpid(), queue, name), -_MARK_EVERY_SECONDS) < _MARK_EVERY_SECONDS:
        return
    _marked[os.getpid(), queue, name] = now
    try:
        runtime.current().platform.stores.operations.touch_mark(queue, name)
    except CacheError as exc:
        # The work itself will find out; a mark is no reason to fail it.
        logger.warning("the mark of queue %s cannot be written: %s", queue, exc)


@signals.setup_logging.connect
def _keep_logging(loglevel: int | str | None = None, logfile: str | None = None, **_: Any) -> None:
    """Log to what `celery --logfile` says, else to logging.file, else to standard error."""
    try:
        file = Path(logfile) if logfile else read_settings().settings.logging.file
        handler = open_log(file, FORM_OF_SERVICES)
    except CacheError as exc:
        # Celery would only log an exception of ours, and go on without a log.
        sys.exit(f"Error: {exc}")
    logging.basicConfig(level=loglevel or logging.INFO, handlers=[handler], force=True)
    if logging.getLogger().level > logging.DEBUG:
        for name in ("celery.worker.strategy", "celery.app.trace"):
            logging.getLogger(name).addFilter(_tells_of_work)


def _tells_of_work(record: logging.LogRecord) -> bool:
    """Leave out that heartbeats come and go: two lines for each queue every 15 s."""
    return getattr(record, "data", {}).get("name") != HEARTBEAT or record.levelno > logging.INFO


def _queues_of(given: Any) -> list[str]:
    names = given.split(",") if isinstance(given, str) else given or []
    return sorted({str(name).strip() for name in names})


def _mark_first(worker: Any) -> None:
    """Mark the queues of a worker that has just begun: from now on its silence means something."""
    settings = read_settings().settings
    stores = open_stores(settings.metadata_url)
    try:
        for queue in sorted(worker.app.amqp.queues.consume_from):
            stores.operations.touch_mark(queue, worker.hostname)
    except CacheError as exc:
        logger.warning("the marks of this worker cannot be written yet: %s", exc)
    finally:
        stores.close()


def _load_model() -> None:
    """Load the model before the first chunk asks for it."""
    here = runtime.current()

    async def load() -> None:
        matcher = here.platform.manager.similarity_matcher
        if matcher is not None:
            async with asyncio.timeout(_LOAD_SECONDS):
                await matcher.embedder.load()

    try:
        here.run(load())
    except Exception:  # an engine may raise anything; the chunk that needs it tells the person who waits
        logger.warning("the model is not loaded yet", exc_info=True)
