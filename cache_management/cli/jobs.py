"""jobs: list, show, watch, cancel, pause, resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.output import json_option, print_json, print_table
from cache_management.cli.watching import Seconds, exit_code_of, print_job, watch_job

if TYPE_CHECKING:
    from cache_management.models.store.results import Action

_STATES = ["queued", "dispatched", "running", "pausing", "paused", "cancelling", "cancelled"]
_STATES += ["succeeded", "partial", "failed"]


@click.group()
def jobs() -> None:
    """Look at background jobs and steer them. A job's id may be shortened to its first letters."""


@jobs.command("list")
@click.option("--state", type=click.Choice(_STATES), help="Only jobs in this state.")
@click.option("--kind", help="Only jobs of this kind.")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@json_option
@pass_cli
def list_jobs(cli: CliContext, state: str | None, kind: str | None, limit: int, as_json: bool) -> None:
    """List jobs, the newest first."""
    found = cli.stores().jobs.list(state=state, kind=kind, limit=limit)  # type: ignore[arg-type]  # a click.Choice
    if as_json:
        print_json(found)
        return
    print_table(
        "Jobs",
        ("id", "kind", "state", "items", "done", "failed", "created"),
        [(j.id, j.kind, j.state, j.total, j.done, j.failed, j.created_at) for j in found],
    )


@jobs.command()
@click.argument("job_id")
@json_option
@pass_cli
def show(cli: CliContext, job_id: str, as_json: bool) -> None:
    """Show one job: counts, timeline, and the items that failed with their reasons."""
    stores = cli.stores()
    job = stores.jobs.get(job_id)
    events = stores.jobs.events(job.id)
    dead = stores.jobs.dead_items(job.id)
    if as_json:
        print_json({"job": job, "events": events, "failed_items": dead})
        return
    print_job(job)
    print_table(
        "Timeline",
        ("at", "event", "shard", "detail"),
        [(e.at, e.event, e.shard, ", ".join(f"{k}={v}" for k, v in e.detail.items())) for e in events],
    )
    if dead:
        print_table("Failed items", ("position", "item", "reason"), [(i.position, i.item_key, i.reason) for i in dead])


@jobs.command()
@click.argument("job_id")
@click.option("--timeout", type=Seconds(), help="Stop watching after so many seconds; the job goes on.")
@json_option
@pass_cli
def watch(cli: CliContext, job_id: str, timeout: float | None, as_json: bool) -> int:
    """Follow a job to its end; the exit code tells how it ended."""
    job, timed_out = watch_job(cli.client(), job_id, timeout=timeout, quiet=as_json)
    print_json(job) if as_json else print_job(job)
    return ExitCode.TIMEOUT if timed_out else exit_code_of(job)


def _request(cli: CliContext, job_id: str, action: Action, as_json: bool) -> None:
    job = cli.client().request(job_id, action).job
    print_json(job) if as_json else click.echo(f"Job {job.id} is {job.state}.")


@jobs.command()
@click.argument("job_id")
@json_option
@pass_cli
def cancel(cli: CliContext, job_id: str, as_json: bool) -> None:
    """Stop a job at its next batch; what it has done stays."""
    _request(cli, job_id, "cancel", as_json)


@jobs.command()
@click.argument("job_id")
@json_option
@pass_cli
def pause(cli: CliContext, job_id: str, as_json: bool) -> None:
    """Hold a job at its next batch."""
    _request(cli, job_id, "pause", as_json)


@jobs.command()
@click.argument("job_id")
@json_option
@pass_cli
def resume(cli: CliContext, job_id: str, as_json: bool) -> None:
    """Let a paused job go on where it stopped."""
    _request(cli, job_id, "resume", as_json)
