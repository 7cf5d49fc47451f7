"""jobs: submit, list, show, items, watch, logs, cancel, pause, resume, retry."""

from __future__ import annotations

import json
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from cache_management.cli.context import CliContext, is_new_sqlite, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.numbers import Seconds
from cache_management.cli.output import json_option, note, plain, print_json, print_pairs, print_table
from cache_management.cli.watching import end_of, follow, print_job, waiting_options, watch_job

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from cache_management.models.job import ItemState
    from cache_management.models.store.results import Action, Event

_LOOK_EVERY_SECONDS = 0.25
_DEAD_SHOWN = 20
_JOBS_COMPLETED = 50
_STATES = ["queued", "dispatched", "running", "pausing", "paused", "cancelling", "cancelled"]
_STATES += ["succeeded", "partial", "failed"]


def known_jobs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Return the newest jobs whose id begins so, for a shell; none where that would make a database or take long."""
    from click.shell_completion import CompletionItem

    from cache_management.wiring import read_settings

    try:
        url = read_settings(ctx.find_root().params.get("config")).settings.metadata_url
        if not url.startswith("sqlite:///") or is_new_sqlite(url):
            return []
        from cache_management.models.store import open_stores

        stores = open_stores(url)
        try:
            found = stores.jobs.list(limit=_JOBS_COMPLETED)
        finally:
            stores.close()
    except Exception:  # noqa: BLE001 - nobody who presses TAB wants to read why
        return []
    return [CompletionItem(job.id, help=f"{job.kind}, {job.state}") for job in found if job.id.startswith(incomplete)]


@click.group()
def jobs() -> None:
    """Look at background jobs and steer them. A job's id may be shortened to its first letters."""


@jobs.command()
@click.argument("kind")
@click.option(
    "-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter; the value may be JSON."
)
@click.option("-s", "--source", help="Of a warm job: a file of items, or - for standard input.")
@click.option("--priority", type=click.IntRange(0, 9), default=5, show_default=True, help="More is sooner.")
@click.option("--deadline", type=Seconds(), default=86_400, show_default=True, help="Seconds until it is given up.")
@click.option("--idem", metavar="KEY", help="While a job with this key lives, take that one; queue nothing new.")
@click.option("--dry-run", is_flag=True, help="Check everything, and queue nothing.")
@waiting_options
@pass_cli
def submit(
    cli: CliContext,
    kind: str,
    params: tuple[str, ...],
    source: str | None,
    priority: int,
    deadline: float,
    idem: str | None,
    dry_run: bool,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Submit a job of any KIND with its parameters, such as `prune -p jobs_days=7`."""
    from cache_management.cache.warm_items import read_warm_file
    from cache_management.cli.items_files import as_file, print_dry_run
    from cache_management.workers.client import submit_warm_file
    from cache_management.workers.messages import check_params

    given = dict(_parse_param(each) for each in params)
    needs_source = kind == "warm" and given.get("take", "inputs") == "inputs"
    if (source is not None) != needs_source:
        raise click.UsageError(
            "a warm job needs --source, the file of its items, or -p take=misses or -p take=expiring"
            if source is None
            else "a job of this kind reads no --source"
        )
    options: dict[str, Any] = {"idem_key": idem, "priority": priority, "deadline_seconds": deadline}
    if source is None:
        checked = check_params(kind, given)
        if dry_run:
            shown = {name: value for name, value in checked.items() if value is not None}
            print_json({"kind": kind, "params": checked}) if as_json else print_pairs(f"A job of kind {kind}", shown)
            return ExitCode.OK
        client = cli.client()
        client.check_broker()
        return follow(client, client.submit(kind, checked, **options), wait=wait, timeout=timeout, as_json=as_json)[1]
    foreign = sorted(given.keys() - set(_WITH_SOURCE))
    if foreign:
        raise click.UsageError(
            f"a warm job with --source has no parameter {foreign[0]!r}; it has {', '.join(_WITH_SOURCE)}"
        )
    checked = check_params(kind, given)
    given = {name: checked[name] for name in given if name != "take"}
    with as_file(source) as path:
        if dry_run:
            return print_dry_run(cli, path, as_json=as_json)
        # Read once before asking for servers: a wrong file should say so whatever else is wrong.
        for _ in read_warm_file(path, may_ask=cli.settings.provider.is_set):
            pass
        client = cli.client()
        client.check_broker()
        submitted = submit_warm_file(client, path, **given, **options)
    return follow(client, submitted, wait=wait, timeout=timeout, as_json=as_json)[1]


_WITH_SOURCE = ("batch_size", "embed", "max_cost_usd", "shards", "take")


def _parse_param(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.UsageError(f"--param {text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@jobs.command("list")
@click.option("--state", type=click.Choice(_STATES), help="Only jobs in this state.")
@click.option("--kind", help="Only jobs of this kind.")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("-a", "--all", "every", is_flag=True, help="Also what the scheduler submitted and went well.")
@json_option
@pass_cli
def list_jobs(cli: CliContext, state: str | None, kind: str | None, limit: int, every: bool, as_json: bool) -> None:
    """List jobs, the newest first: those that somebody submitted, and of scheduled ones what did not go well."""
    every = every or state is not None or kind is not None
    found = cli.stores().jobs.list(state=state, kind=kind, limit=limit, scheduled=every)  # type: ignore[arg-type]  # a click.Choice
    if as_json:
        print_json(found)
        return
    print_table(
        "Jobs",
        ("id", "kind", "state", "items", "done", "failed", "created"),
        [(j.id, j.kind, j.state, j.total, j.done, j.failed, j.created_at) for j in found],
    )


@jobs.command()
@click.argument("job_id", shell_complete=known_jobs)
@json_option
@pass_cli
def show(cli: CliContext, job_id: str, as_json: bool) -> None:
    """Show one job: counts, timeline, and the items that failed with their reasons."""
    stores = cli.stores()
    job = stores.jobs.get(job_id)
    events = stores.jobs.events(job.id)
    dead = list(islice(stores.jobs.items_of(job.id, states=["dead"]), None if as_json else _DEAD_SHOWN + 1))
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
        shown = [(item.position, item.item_key, item.reason) for item in dead[:_DEAD_SHOWN]]
        print_table("Failed items", ("position", "item", "reason"), shown)
    if len(dead) > _DEAD_SHOWN:
        note(f"These are the first {_DEAD_SHOWN}; `cache-cli jobs items {job.id} --state failed` lists more.")


_ITEM_STATES = {"pending": "pending", "done": "done", "skipped": "skipped", "failed": "dead", "cancelled": "cancelled"}


@jobs.command()
@click.argument("job_id", shell_complete=known_jobs)
@click.option("--state", type=click.Choice(list(_ITEM_STATES)), help="Only items in this state.")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json", "jsonl"]), default="table", show_default=True, help="Form."
)
@click.option("-n", "--limit", type=click.IntRange(1), help="Most items  [default: 100 in a table, else all]")
@json_option
@pass_cli
def items(cli: CliContext, job_id: str, state: str | None, output: str, limit: int | None, as_json: bool) -> None:
    """List the items of a job: their place in its source, how each ended, and why."""
    form = "json" if as_json else output
    states: list[ItemState] = [_ITEM_STATES[state]] if state else []  # type: ignore[list-item]  # a click.Choice
    found = cli.stores().jobs.items_of(job_id, states=states)
    most = limit or (100 if form == "table" else None)
    shown = found if most is None else islice(found, most)
    if form == "jsonl":
        for item in shown:
            click.echo(json.dumps(plain(item), ensure_ascii=False))
    elif form == "json":
        print_json(list(shown))
    else:
        said = {state: name for name, state in _ITEM_STATES.items()}
        rows = [(i.shard, i.position, i.part, i.part_index, said[i.state], i.item_key, i.reason) for i in shown]
        print_table("Items", ("shard", "position", "part", "in part", "state", "item", "reason"), rows)
        if next(found, None) is not None:
            note(f"These are the first {most}; --limit shows more, -o jsonl all.")


@jobs.command()
@click.argument("job_id", shell_complete=known_jobs)
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on until the job ends.")
@json_option
@pass_cli
def logs(cli: CliContext, job_id: str, follows: bool, as_json: bool) -> None:
    """Print the timeline of a job, one line for each thing that happened to it."""
    jobs = cli.stores().jobs
    found = jobs.get(job_id).id
    after = 0
    while True:
        # Before the events: what happens in between is seen at the next look.
        ended = jobs.get(found).ended
        for event in jobs.events(found, after):
            click.echo(json.dumps(plain(event), ensure_ascii=False) if as_json else _line(event))
            after = event.id
        if ended or not follows:
            return
        time.sleep(_LOOK_EVERY_SECONDS)


def _line(event: Event) -> str:
    shard = "" if event.shard is None else f" shard {event.shard}"
    detail = ", ".join(f"{name}={value}" for name, value in event.detail.items())
    return f"{event.at.astimezone():%Y-%m-%d %H:%M:%S}{shard} {event.event}{' ' if detail else ''}{detail}"


@jobs.command()
@click.argument("job_id", shell_complete=known_jobs)
@click.option("--timeout", type=Seconds(), help="Stop watching after so many seconds; the job goes on.")
@json_option
@pass_cli
def watch(cli: CliContext, job_id: str, timeout: float | None, as_json: bool) -> int:
    """Follow a job to its end; the exit code tells how it ended."""
    job, timed_out = watch_job(cli.client(), job_id, timeout=timeout, quiet=as_json)
    print_json(job) if as_json else print_job(job)
    return ExitCode.TIMEOUT if timed_out else end_of(job)


def _request(cli: CliContext, job_id: str, action: Action, as_json: bool) -> None:
    job = cli.client().request(job_id, action).job
    print_json(job) if as_json else click.echo(f"Job {job.id} is {job.state}.")


@jobs.command()
@click.argument("job_id", shell_complete=known_jobs)
@json_option
@pass_cli
def cancel(cli: CliContext, job_id: str, as_json: bool) -> None:
    """Stop a job at its next batch; what it has done stays."""
    _request(cli, job_id, "cancel", as_json)


@jobs.command()
@click.argument("job_id", shell_complete=known_jobs)
@json_option
@pass_cli
def pause(cli: CliContext, job_id: str, as_json: bool) -> None:
    """Hold a job at its next batch."""
    _request(cli, job_id, "pause", as_json)


@jobs.command()
@click.argument("job_id", shell_complete=known_jobs)
@json_option
@pass_cli
def resume(cli: CliContext, job_id: str, as_json: bool) -> None:
    """Let a paused job go on where it stopped."""
    _request(cli, job_id, "resume", as_json)


@jobs.command()
@click.argument("job_id", shell_complete=known_jobs)
@click.option("--failed-items", is_flag=True, help="Only what failed, not what was cancelled.")
@waiting_options
@pass_cli
def retry(cli: CliContext, job_id: str, failed_items: bool, wait: bool, timeout: float | None, as_json: bool) -> int:
    """Do what a job left undone, as a new job: its failed and cancelled items, or all of a job without items."""
    client = cli.client()
    client.check_broker()
    submitted = client.retry(job_id, failed_only=failed_items)
    return follow(client, submitted, wait=wait, timeout=timeout, as_json=as_json)[1]
