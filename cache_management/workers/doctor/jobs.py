"""What became of jobs, of the audit log, and what was noted in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from cache_management.cache.findings import Finding
from cache_management.models.store.results import AuditRecord, JobView

LOSS = "cluster.data_loss_possible"
LATELY = timedelta(days=1)
_WAITS_LONG = timedelta(minutes=5)
_NAMED = 3


class JobFacts(msgspec.Struct, frozen=True):
    """What was read of jobs: those that ended badly or are held, those that live, and the last check of the audit log.

    `expired` counts, by kind, shards whose lease is over; `losses` are audit rows of data that may be lost.
    """

    now: datetime
    ended: Sequence[JobView] = ()
    live: Sequence[JobView] = ()
    expired: Mapping[str, int] = {}
    last_verified: JobView | None = None
    losses: Sequence[AuditRecord] = ()


def check_jobs(facts: JobFacts) -> list[Finding]:
    """Check jobs that ended badly within a day, wait, are held, or were left by their workers."""
    retried = {job.retry_of for job in (*facts.ended, *facts.live)}
    lately = [
        job
        for job in facts.ended
        if job.finished_at is not None and facts.now - job.finished_at < LATELY and job.id not in retried
    ]
    found = [
        *_failed([job for job in lately if job.state == "failed" and job.kind != "audit-verify"]),
        *_partial([job for job in lately if job.state == "partial"]),
        *_held([job for job in facts.live if job.state == "paused" and job.last_error]),
        *_waiting(facts),
        *_left(facts.expired),
    ]
    return found or [Finding("jobs", "ok", "no job failed within a day, none is held or waits without a worker")]


def _failed(jobs: Sequence[JobView]) -> Iterable[Finding]:
    if jobs:
        yield Finding(
            "failed jobs",
            "warn",
            f"{_jobs(jobs)} failed within a day; the last one: {_said(jobs[0])}",
            "what they were to do is not done",
            f"`cache-cli jobs show {jobs[0].id}` says more; mend the cause, `cache-cli jobs retry {jobs[0].id}`",
        )


def _partial(jobs: Sequence[JobView]) -> Iterable[Finding]:
    if jobs:
        count = sum(job.failed for job in jobs)
        yield Finding(
            "failed items",
            "warn",
            f"{count:,} items of {_jobs(jobs)} failed within a day",
            "these are not stored, embedded, moved or removed; the others are",
            f"`cache-cli jobs items {jobs[0].id} --state failed` says why;"
            f" `cache-cli jobs retry {jobs[0].id} --failed-items`",
        )


def _held(jobs: Sequence[JobView]) -> Iterable[Finding]:
    for job in jobs[:_NAMED]:
        yield Finding(
            "held jobs",
            "warn",
            f"the {job.kind} job {job.id} was paused: {_said(job)}",
            "it goes on only when somebody says so",
            f"mend what it says, then `cache-cli jobs resume {job.id}`",
        )


def _waiting(facts: JobFacts) -> Iterable[Finding]:
    """Find jobs that nobody took, and such as wait for something that is away."""
    unseen = [
        job for job in facts.live if job.state in ("queued", "dispatched") and facts.now - job.created_at > _WAITS_LONG
    ]
    if unseen:
        yield Finding(
            "waiting jobs",
            "warn",
            f"{_jobs(unseen)} were submitted more than {_WAITS_LONG.seconds // 60} minutes ago and have not begun",
            "no worker takes them, or there is more urgent work",
            "`cache-cli queues` shows whether somebody takes from their queue; start a worker: `cache-cli worker`",
        )
    for job in facts.live:
        reasons = sorted(
            {
                shard.reason
                for shard in job.shards
                if shard.reason and shard.state == "open" and shard.not_before and shard.not_before > facts.now
            }
        )
        if job.state == "running" and reasons:
            yield Finding(
                "waiting jobs",
                "warn",
                f"the {job.kind} job {job.id} waits: {reasons[0]}",
                "it goes on by itself when that is over, until its deadline",
                f"mend what it says; `cache-cli jobs show {job.id}` tells until when it waits",
            )


def _left(expired: Mapping[str, int]) -> Iterable[Finding]:
    if expired:
        told = ", ".join(f"{count} of {kind}" for kind, count in sorted(expired.items()))
        yield Finding(
            "expired leases",
            "warn",
            f"shards whose worker went silent wait for another: {told}",
            "a worker was killed or hangs; the reconciler gives its work to another one within a quarter of a minute",
            "where this stays so nobody reconciles: start `cache-cli beat` and a worker of the queue control",
        )


def check_audit(facts: JobFacts) -> list[Finding]:
    """Check what the last proof of the audit log said, and whether it tells of lost data."""
    found = []
    last = facts.last_verified
    if last is not None and last.state == "failed":
        found.append(
            Finding(
                "audit log",
                "fail",
                _said(last),
                "somebody changed or removed what was done here, or the database lost it",
                "`cache-cli audit verify` names the first entry; compare with a backup, or with what"
                " `cache-cli audit export FILE` wrote before",
            )
        )
    elif last is not None and last.state == "succeeded" and last.finished_at is not None:
        found.append(
            Finding("audit log", "ok", f"the audit log was proven whole {last.finished_at:%Y-%m-%d %H:%M} UTC")
        )
    if facts.losses:
        found.append(
            Finding(
                "lost data",
                "warn",
                f"{facts.losses[-1].at:%Y-%m-%d %H:%M} UTC: most nodes of some slots lost what they held",
                "entries that were acknowledged may be gone, and deleted ones be back",
                "`cache-cli audit tail` has the entries; warm again what must be there, delete again what must not",
            )
        )
    return found


def _jobs(jobs: Sequence[JobView]) -> str:
    named = ", ".join(f"{job.kind} {job.id}" for job in jobs[:_NAMED])
    more = f" and {len(jobs) - _NAMED} more" if len(jobs) > _NAMED else ""
    return f"{len(jobs)} job{'s' * (len(jobs) != 1)} ({named}{more})"


def _said(job: JobView) -> str:
    return (job.last_error or job.cancel_reason or "no reason was noted").splitlines()[0]
