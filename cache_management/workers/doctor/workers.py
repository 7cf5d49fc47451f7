"""Workers, the scheduler, and the queues between them and the jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import assert_never

import msgspec

from cache_management import __version__
from cache_management.cache.config import CacheBackend
from cache_management.cache.findings import Finding
from cache_management.cache.redact import hide_password
from cache_management.models.store.results import Mark
from cache_management.settings import Settings
from cache_management.workers.messages import QUEUES
from cache_management.workers.queues import SILENT_SECONDS, QueueView

BEAT = "beat"
"""The queue under which schedulers are marked; no message ever waits in it."""

_SILENT_WORKER_SECONDS = 300.0
_BACKLOG_SECONDS = 900.0
_BACKLOG_MEANS = {
    "embed": "; new entries are not found by meaning until they have their vector",
    "control": "; jobs are not looked after",
    "evict": "; the store fills up meanwhile",
    "repair": "; copies on the nodes differ meanwhile",
}
_UP = "start one: `cache-cli up`, or `cache-cli beat` under your supervisor"


class About(msgspec.Struct, frozen=True):
    """What a worker, or this command, was configured with; addresses without their passwords."""

    version: str
    model: str
    store: str
    metadata: str


class WorkerFacts(msgspec.Struct, frozen=True):
    """What one worker answered; `about` is None for one of a version that does not say it."""

    name: str
    pool: str
    queues: tuple[str, ...]
    about: About | None


def about(settings: Settings) -> About:
    """Return what settings say, without passwords."""
    return About(
        version=__version__,
        model=str(settings.embedding_model),
        store=_store(settings),
        metadata=hide_password(settings.metadata_url),
    )


def _store(settings: Settings) -> str:
    if settings.distributed.enabled:
        return f"replicated://{','.join(sorted(settings.distributed.nodes))}"
    match settings.backend:
        case CacheBackend.REDIS:
            if settings.url and (settings.is_cluster or settings.sentinels or settings.url.startswith("unix:")):
                return hide_password(settings.url)
            return f"redis://{settings.redis_host}:{settings.redis_port}/{settings.redis_db}"
        case CacheBackend.DISK:
            return f"disk://{settings.disk_path.absolute()}"
        case CacheBackend.MEMORY:
            return "memory://"
        case _:
            assert_never(settings.backend)


def check_beats(marks: Sequence[Mark]) -> Finding:
    """Check that a scheduler is heard: one at least, and two do no harm."""
    ages = {mark.worker: mark.age_seconds for mark in marks if mark.queue == BEAT}
    alive = sorted(name for name, age in ages.items() if age <= SILENT_SECONDS)
    if alive:
        more = "; each period runs once all the same" if len(alive) > 1 else ""
        return Finding("scheduler", "ok", f"{len(alive)} scheduler{'s' * (len(alive) > 1)}: {', '.join(alive)}{more}")
    heard = f"the last was heard {min(ages.values()):,.0f} s ago" if ages else "none was ever heard"
    return Finding(
        "scheduler",
        "fail",
        f"no scheduler is heard; {heard}",
        "lost messages are not sent again, and no maintenance runs",
        f"{_UP}; it is heard only while a worker consumes the queue control",
    )


def check_queues(views: Sequence[QueueView], unknown: Mapping[str, int]) -> list[Finding]:
    """Check that every queue is consumed, and that nothing waits in queues of nobody.

    Args:
        unknown: How much waits in queues that no worker of this version consumes.
    """
    found = []
    idle = []
    for view in views:
        if view.stuck:
            since = "" if view.oldest_seconds is None else f", the oldest for {view.oldest_seconds:,.0f} s"
            found.append(
                Finding(
                    f"queue {view.queue}",
                    "fail",
                    f"{view.depth} messages wait in {view.queue}{since}, and nobody takes them",
                    "these jobs do not go on",
                    f"start a worker: `cache-cli worker --queues {view.queue}`",
                )
            )
        elif not view.workers:
            idle.append(view.queue)
        elif view.oldest_seconds is not None and view.oldest_seconds > _BACKLOG_SECONDS:
            found.append(
                Finding(
                    f"queue {view.queue}",
                    "warn",
                    f"{view.depth} messages wait in {view.queue}, the oldest for {view.oldest_seconds / 60:,.0f} min",
                    "more comes than its workers do" + _BACKLOG_MEANS.get(view.queue, ""),
                    f"start more workers: `cache-cli worker --queues {view.queue}`; or submit with a lower --priority",
                )
            )
    if idle:
        found.append(
            Finding(
                "unconsumed queues",
                "warn",
                f"no worker consumes {', '.join(idle)}",
                "jobs of these kinds would wait",
                f"start a worker: `cache-cli worker --queues {','.join(idle)}`",
            )
        )
    for queue, depth in unknown.items():
        found.append(
            Finding(
                f"queue {queue}",
                "warn",
                f"{depth} messages wait in {queue}, which no worker of this version consumes",
                "they were sent by another version, or by other settings",
                "let a worker of that version finish them",
            )
        )
    return found or [Finding("queues", "ok", f"every queue is consumed: {', '.join(view.queue for view in views)}")]


def check_marks(marks: Sequence[Mark]) -> list[Finding]:
    """Check for workers that consumed of late and do so no more."""
    latest: dict[str, float] = {}
    for mark in marks:
        if mark.queue in QUEUES:
            latest[mark.worker] = min(mark.age_seconds, latest.get(mark.worker, mark.age_seconds))
    silent = {name: age for name, age in latest.items() if age > _SILENT_WORKER_SECONDS}
    return [
        Finding(
            "silent workers",
            "warn",
            f"{name} took nothing for {age / 60:,.0f} min",
            "it was stopped, or hangs",
            "stop it and start it anew; after a day it is forgotten",
        )
        for name, age in sorted(silent.items())
    ]


def check_workers(workers: Sequence[WorkerFacts], own: About) -> list[Finding]:
    """Check the workers that answer: their pools, and whether they were configured as this command is."""
    if not workers:
        return [
            Finding(
                "workers",
                "warn",
                "no worker answers",
                "jobs wait; a worker whose only process is at work answers late",
                "start one: `cache-cli up`, or `cache-cli worker`",
            )
        ]
    names = ", ".join(f"{worker.name} ({worker.pool})" for worker in workers)
    found = [Finding("workers", "ok", f"{len(workers)} answer: {names}")]
    for worker in workers:
        # One that looks after the jobs only has short work: nothing there needs to be ended by force.
        if worker.pool in ("solo", "threads", "thread") and set(worker.queues) != {"control"}:
            found.append(
                Finding(
                    f"pool of {worker.name}",
                    "warn",
                    f"{worker.name} runs its tasks in a pool of kind {worker.pool}",
                    "time limits and `revoke --terminate` do nothing there: a task that hangs holds the worker",
                    "start it with `--pool prefork`; cancelling a job works on every pool, at its next batch",
                )
            )
        found += _differences(worker, own)
    return found


def _differences(worker: WorkerFacts, own: About) -> Iterable[Finding]:
    about = worker.about
    if about is None:
        return
    check = f"settings of {worker.name}"
    if about.model != own.model:
        yield Finding(
            check,
            "fail",
            f"{worker.name} embeds with {about.model}, this command is set to {own.model}",
            "vectors of two models cannot be compared: what it stores is not found",
            "give both one embedding_model and restart the worker",
        )
    for what, theirs, ours, why in (
        ("keeps entries in", about.store, own.store, "what it stores is not what is read here"),
        ("keeps its jobs in", about.metadata, own.metadata, "it does not see the jobs that are submitted here"),
        ("has version", about.version, own.version, "kinds of jobs, and what is stored, may differ"),
    ):
        if theirs != ours:
            yield Finding(
                check,
                "warn",
                f"{worker.name} {what} {theirs}, this command {ours}",
                f"if these are not two names of one thing, {why}",
                "compare `cache-cli config show` of both machines",
            )
