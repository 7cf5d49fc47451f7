"""Shows a job while it runs, and when it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cache_management.cache.errors import MetadataUnavailable
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.numbers import Seconds
from cache_management.cli.output import json_option, note, print_json, print_pairs, progress

if TYPE_CHECKING:
    from cache_management.models.store.results import JobView, Submitted
    from cache_management.workers.client import JobClient


Command = TypeVar("Command", bound=Callable[..., Any])

_LOOK_EVERY_SECONDS = 0.25
_PATIENCE_SECONDS = 15.0
_AWAY_SECONDS = 30.0


def waiting_options(command: Command) -> Command:
    """Give a command that submits a job `--wait`, `--timeout` and `--json`, for `follow`."""
    for option in (
        json_option,
        click.option("--timeout", type=Seconds(), help="Stop waiting after so many seconds; the job goes on."),
        click.option("--wait/--no-wait", default=True, show_default=True, help="Show the progress until the job ends."),
    ):
        command = option(command)
    return command


def follow(
    client: JobClient,
    submitted: Submitted,
    *,
    wait: bool,
    timeout: float | None,
    as_json: bool,
    doing: str = "the same",
) -> tuple[JobView, ExitCode]:
    """Say what became of a submit, wait for the job if that is wanted, and print it; return how the command ends.

    Args:
        doing: What a job that was there already has in common with the one that was asked for.
    """
    if not submitted.created:
        note(f"Job {submitted.job_id} does {doing} already; nothing new was queued.")
    if not wait:
        job = client.get(submitted.job_id)
        print_json(job) if as_json else click.echo(f"Job {job.id} is {job.state}; `cache-cli jobs watch {job.id}`")
        return job, ExitCode.OK
    job, timed_out = watch_job(client, submitted.job_id, timeout=timeout, quiet=as_json)
    print_json(job) if as_json else print_job(job)
    return job, ExitCode.TIMEOUT if timed_out else end_of(job)


def watch_job(
    client: JobClient, job_id: str, *, timeout: float | None = None, quiet: bool = False
) -> tuple[JobView, bool]:
    """Follow a job to its end; return it, and whether the waiting was given up."""
    try:
        return _follow(client, job_id, timeout=timeout, quiet=quiet)
    except KeyboardInterrupt:
        note(f"The job goes on; `cache-cli jobs watch {job_id}` shows it, `cache-cli jobs cancel {job_id}` stops it.")
        raise


def _follow(client: JobClient, job_id: str, *, timeout: float | None, quiet: bool) -> tuple[JobView, bool]:
    started = seen = time.monotonic()
    told = told_away = False
    with progress(quiet=quiet) as advance:
        while True:
            try:
                job = client.get(job_id)
            except MetadataUnavailable as exc:
                # A restart of the database is no reason to leave: the job outlives it, too.
                if time.monotonic() - seen > _AWAY_SECONDS:
                    raise
                if not told_away:
                    note(f"The database is away, the job is looked for again: {exc}")
                told_away = True
                time.sleep(_LOOK_EVERY_SECONDS)
                continue
            seen, told_away = time.monotonic(), False
            advance("items", job.done + job.skipped + job.failed + job.cancelled, job.total)
            if job.embed_total:
                advance("embedded", job.embedded + job.embed_skipped + job.embed_failed, job.embed_total)
            if job.summary.get("verified"):
                advance("verified", job.summary["verified"], job.total)
            if job.summary.get("checked"):
                advance("vectors", job.summary["checked"], None)
            if job.summary.get("brought"):
                advance("brought", job.summary["brought"], None)
            if job.summary.get("nodes"):
                advance("nodes", job.summary["nodes_read"], job.summary["nodes"])
            if job.ended or job.state == "paused":
                return job, False
            waited = time.monotonic() - started
            if timeout is not None and waited > timeout:
                note(f"The job goes on; `cache-cli jobs watch {job.id}` shows it.")
                return job, True
            if not told and job.started_at is None and waited > _PATIENCE_SECONDS:
                told = True
                note("No worker has taken the job yet; is one running? (`cache-cli up`, or `cache-cli worker`)")
            time.sleep(_LOOK_EVERY_SECONDS)


def end_of(job: JobView) -> ExitCode:
    """Return what a command ends with that waited for a job; what is not done is told on standard error, too."""
    code = exit_code_of(job)
    why = f": {job.last_error}" if job.last_error else ""
    if job.state == "paused":
        note(f"Job {job.id} is paused{why}; `cache-cli jobs resume {job.id}` lets it go on.")
    elif code is ExitCode.FAILED:
        note(f"Error: job {job.id} {'failed' if job.state == 'failed' else 'was cancelled'}{why}")
    return code


def exit_code_of(job: JobView) -> ExitCode:
    """Return how much of a job is done, as an exit code."""
    match job.state:
        case "partial":
            return ExitCode.PARTIAL
        case "failed" | "cancelled" | "paused":
            return ExitCode.FAILED
        case _:
            return ExitCode.OK


def print_job(job: JobView) -> None:
    """Print a job for a person."""
    took = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else None
    rows: dict[str, object] = {
        "state": job.state,
        "kind": job.kind,
        "namespace": job.namespace or None,
        **_ROWS.get(job.kind, _other_job_rows)(job),
        "waits": _why_it_waits(job),
        "retry of": job.retry_of,
        "submitted by": job.submitted_by,
        "created": job.created_at,
        "took": f"{took:.1f} s" if took is not None else None,
        "last error": job.last_error,
    }
    print_pairs(f"Job {job.id}", {name: value for name, value in rows.items() if value is not None})
    if job.failed or job.embed_failed:
        note(f"`cache-cli jobs show {job.id}` tells what failed, and why.")


def _why_it_waits(job: JobView) -> str | None:
    """Return what keeps a part of a job from going on by itself."""
    waiting = (shard for shard in job.shards if shard.state == "open" and shard.lease_owner is None)
    return None if job.ended else next((shard.reason for shard in waiting if shard.reason), None)


def embed_rows(summary: Mapping[str, Any]) -> dict[str, object]:
    """Return what an embed job did, for a table; zeros that say nothing are left out."""
    always = {"entries": summary.get("entries", 0), "embedded": summary.get("embedded", 0)}
    rows = {
        "already there": summary.get("present"),
        "put into the index that all share": summary.get("shared"),
        "exact-only (the model does not read the whole text)": summary.get("too_long"),
        "exact-only (stored so)": summary.get("exact_only"),
        "gone meanwhile, or not readable": summary.get("gone"),
        "vectors checked": summary.get("checked"),
        "vectors compared with the model": summary.get("compared"),
        "removed: the entry is gone": summary.get("orphans"),
        "removed: damaged": summary.get("damaged"),
        "mended: of another prompt or scope": summary.get("foreign"),
        "mended: wrong (`--all` embeds all anew)": summary.get("wrong"),
        "left: nothing near them can be read (encryption keys?)": summary.get("unreadable"),
        "removed: of other models": summary.get("dropped"),
        "left of other models (`--drop-old` removes them)": summary.get("left"),
    }
    return always | {name: count for name, count in rows.items() if count}


def _embed_job_rows(job: JobView) -> dict[str, object]:
    mode = [f"--{name.replace('_', '-')}" for name in ("check", "all", "drop_old") if job.params.get(name)]
    return {"mode": " ".join(mode) or None, "model": job.params.get("model"), **embed_rows(job.summary)}


def evict_rows(summary: Mapping[str, Any]) -> dict[str, object]:
    """Return what an evict job removed, for a table; zeros that say nothing are left out."""
    removed = {
        "past their life": "expired",
        "above the bounds of the store": "policy",
        "past their life, kept for bad times": "stale",
        "vectors whose entry is gone": "vectors",
        "chosen": "chosen",
    }
    rows: dict[str, object] = {
        f"removed: {why}": f"{summary[name]:,} ({summary[f'{name}_bytes']:,} bytes)"
        for why, name in removed.items()
        if summary.get(name)
    }
    rest = {
        "names that lead nowhere": summary.get("names"),
        "left: stored since": summary.get("kept"),
        "gone meanwhile": summary.get("gone"),
    }
    return (rows or {"removed": 0}) | {name: count for name, count in rest.items() if count}


def _evict_job_rows(job: JobView) -> dict[str, object]:
    told = ("policy", "expired", "leftovers", "stale", "everything")
    chosen = ("pattern", "regex", "older_than_seconds", "tag", "model")
    mode = [name for name in told if job.params.get(name)]
    mode += [f"{name}={job.params[name]}" for name in chosen if job.params.get(name) is not None]
    planned = job.summary.get("planned") if job.total is None else job.total
    return {"what": ", ".join(mode), "planned": planned, "removed": job.done, **evict_rows(job.summary)}


def repair_rows(summary: Mapping[str, Any]) -> dict[str, object]:
    """Return what a repair did, for a table; zeros that say nothing are left out."""
    always = {"keys looked at": summary.get("looked_at", 0), "copies made": summary.get("copied", 0)}
    rows = {
        "brought to nodes that were behind": summary.get("brought"),
        "bytes copied": summary.get("copied_bytes"),
        "slots that differed": summary.get("slots_differing"),
        "values past their time, dropped": summary.get("dropped"),
        "forgotten: old deletions, hand-offs, strays": summary.get("cleared"),
        "passed over: they do not count now": ", ".join(summary.get("passed_over", ())),
        "nodes or moves that had to be left": summary.get("waits"),
    }
    return always | {name: value for name, value in rows.items() if value}


def _repair_job_rows(job: JobView) -> dict[str, object]:
    mode = "every key" if job.params.get("full") else "slots that differ"
    return {"what": mode, "nodes": job.summary.get("nodes"), **repair_rows(job.summary)}


def export_rows(summary: Mapping[str, Any]) -> dict[str, object]:
    """Return what an export wrote, for a table."""
    rows = {
        "not readable, left out": summary.get("unreadable"),
        "digests of their keys": ", ".join(summary.get("unreadable_keys", ())),
        "not chosen by the filter, or gone meanwhile": max(
            0, summary.get("seen", 0) - summary.get("exported", 0) - summary.get("unreadable", 0)
        ),
    }
    always = {"exported": summary.get("exported", 0), "bytes": f"{summary.get('bytes', 0):,}"}
    return always | {name: value for name, value in rows.items() if value}


def _export_job_rows(job: JobView) -> dict[str, object]:
    return {"file": job.params.get("path"), "filter": job.params.get("pattern"), **export_rows(job.summary)}


def import_rows(summary: Mapping[str, Any]) -> dict[str, object]:
    """Return what an import did, for a table; zeros that say nothing are left out."""
    always = {"entries in the file": summary.get("entries", summary.get("verified", 0))}
    rows = {
        "added": summary.get("added"),
        "updated": summary.get("updated"),
        "there already": summary.get("present"),
        "left: the store has a newer one": summary.get("newer"),
        "left out: past their life": summary.get("expired"),
        "left out: once more in the file": summary.get("duplicates"),
        "removed: not in the file": summary.get("removed"),
        "kept: stored since the replacing began": summary.get("kept"),
        "not readable where they were exported": summary.get("unreadable_there"),
        "completed by a later import": summary.get("completed_elsewhere"),
    }
    return always | {name: count for name, count in rows.items() if count}


def _import_job_rows(job: JobView) -> dict[str, object]:
    mode = "replace" if job.params.get("replace") else "merge"
    embed = {"made findable by": job.summary.get("embed_job")}
    return {"file": job.params.get("path"), "mode": mode, **import_rows(job.summary), **embed}


def _warm_job_rows(job: JobView) -> dict[str, object]:
    # One that found nothing to ask has no total, like one that has not been planned.
    always = {"items": 0 if job.ended and job.total is None else job.total, "stored": job.done}
    ceiling = job.params.get("max_cost_usd")
    is_spent = ceiling is not None and job.cost_micro >= ceiling * 1e6
    rows = {
        "cost": _cost(job.cost_micro, ceiling) if job.cost_micro or ceiling is not None else None,
        "skipped (has an answer, or the ceiling is reached)" if is_spent else "skipped (equal and fresh, or newer)": (
            job.skipped
        ),
        "failed": job.failed,
        "cancelled": job.cancelled,
        "embedded": f"{job.embedded} of {job.embed_total}" if job.embed_total else None,
        "not embedded (not there, or read only in part)": job.embed_skipped,
        "duplicate prompts (the last one won)": job.summary.get("duplicates"),
    }
    return {**always, **{name: value for name, value in rows.items() if value}}


def _cost(micro: int, ceiling: float | None) -> str:
    spent = f"{micro / 1e6:,.4f} USD"
    return spent if ceiling is None else f"{spent} of at most {ceiling:,g}"


def _other_job_rows(job: JobView) -> dict[str, object]:
    """Return what a job of any kind says for itself: its counts and its summary."""
    counts = {"total": job.total, "done": job.done, "skipped": job.skipped or None, "failed": job.failed or None}
    shown = {name.replace("_", " "): value for name, value in job.summary.items() if value}
    return {**counts, **{name: value for name, value in shown.items() if name not in counts}}


_ROWS: dict[str, Callable[[JobView], dict[str, object]]] = {
    "embed": _embed_job_rows,
    "evict": _evict_job_rows,
    "export": _export_job_rows,
    "import": _import_job_rows,
    "repair": _repair_job_rows,
    "warm": _warm_job_rows,
}
