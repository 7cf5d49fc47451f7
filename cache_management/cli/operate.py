"""audit, db, worker, beat."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from cache_management.cache.errors import InvalidInput
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.jobs import known_jobs
from cache_management.cli.output import counted, json_option, note, plain, print_json, print_table
from cache_management.cli.pages import new_page, refuse_to_overwrite
from cache_management.workers.messages import QUEUES

if TYPE_CHECKING:
    from celery import Celery


_loglevel_option = click.option(
    "--loglevel",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]),
    help="How much to log  [default: as -v or -d say, else the setting logging.level]",
)


@click.group()
def audit() -> None:
    """Read and check the audit log: who did what, when, and how it ended. It holds no prompts."""


@audit.command()
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option("--job", "job_id", shell_complete=known_jobs, help="Only what belongs to this job.")
@json_option
@pass_cli
def tail(cli: CliContext, limit: int, job_id: str | None, as_json: bool) -> None:
    """Print the newest entries, oldest first."""
    stores = cli.stores()
    wanted = stores.jobs.get(job_id).id if job_id else None
    found = stores.audit.tail(limit, job_id=wanted)
    if as_json:
        print_json(found)
        return
    print_table(
        "Audit log",
        ("id", "at", "actor", "action", "job", "outcome"),
        [(row.id, row.at, row.actor, row.action, row.job_id, row.outcome) for row in found],
    )


class _Head(click.ParamType[tuple[int, str]]):
    """An entry's id and hash, as `audit export` prints them."""

    name = "id:hash"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, str]:
        number, _, found = str(value).partition(":")
        if not number.isdecimal() or not re.fullmatch("[0-9a-f]{64}", found):
            self.fail(f"{value!r} is not ID:HASH, such as the head that `cache-cli audit export` prints", param, ctx)
        return int(number), found


@audit.command()
@click.option("--head", type=_Head(), help="Also check that the log still holds this entry: the head of an export.")
@json_option
@pass_cli
def verify(cli: CliContext, head: tuple[int, str] | None, as_json: bool) -> int:
    """Check the chain of hashes; exit code 1 names the first entry that was changed or removed.

    The log must also hold the head that the last job of kind audit-verify saw, which beat asks for every day.
    """
    log = cli.stores().audit
    broken = log.verify(head=head or log.proven())
    if as_json:
        print_json({"intact": broken is None, "first_broken": broken})
    else:
        click.echo("The audit log is intact." if broken is None else f"The audit log is broken at entry {broken}.")
    return ExitCode.OK if broken is None else ExitCode.FAILED


@audit.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--after", type=click.IntRange(min=0), default=0, show_default=True, help="Only entries behind this id.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@json_option
@pass_cli
def export_log(cli: CliContext, file: Path, after: int, force: bool, as_json: bool) -> int:
    """Write the log to FILE as JSON Lines, checked before; the last line is the head of the chain.

    Kept elsewhere, a head shows whether the log lost its end or was written anew: `cache-cli audit verify --head`.
    """
    if str(file) == "-":
        raise InvalidInput("the log is not written to standard output: name a file, such as audit.jsonl")
    refuse_to_overwrite("FILE", file, force=force)
    store = cli.stores().audit
    broken = store.verify(head=store.proven())
    if broken is not None:
        note(f"The audit log is broken at entry {broken}; it is exported as it is.")
    count = 0
    with new_page(file) as page:
        last = None
        for last in store.rows(after=after):
            page.write(json.dumps(plain(last), ensure_ascii=False).encode() + b"\n")
            count += 1
        head_id, head_hash = (last.id, last.hash) if last else store.head()
        head = {"head_id": head_id, "head_hash": head_hash}
        page.write(json.dumps(head).encode() + b"\n")
    if as_json:
        print_json({"file": file, "entries": count, "intact": broken is None, **head})
    else:
        click.echo(f"{counted(count, 'entry', 'entries')} written to {file}; the head is {head_id}:{head_hash}")
    return ExitCode.OK if broken is None else ExitCode.FAILED


@click.group()
def db() -> None:
    """Set up and check the metadata database."""


@db.command()
@json_option
@pass_cli
def upgrade(cli: CliContext, as_json: bool) -> None:
    """Bring the tables to this version's schema."""
    stores = cli.unchecked_stores()
    stores.upgrade()
    stores.check()
    print_json({"up_to_date": True}) if as_json else click.echo("The metadata database is up to date.")


@db.command()
@json_option
@pass_cli
def check(cli: CliContext, as_json: bool) -> None:
    """Tell whether the tables have this version's schema; exit code 5 when not."""
    cli.unchecked_stores().check()
    print_json({"up_to_date": True}) if as_json else click.echo("The metadata database is up to date.")


@db.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@json_option
@pass_cli
def dump(cli: CliContext, file: Path, force: bool, as_json: bool) -> None:
    """Write the whole database to FILE, as it is at one moment; NAME.jsonl.zst is compressed.

    Jobs, their inputs, audit log and statistics. The inputs of unfinished jobs hold prompts and answers: only you can
    read the file (mode 600). `cache-cli db restore` makes a database of it, of either kind.
    """
    from cache_management.models.store.dump import dump as write_dump

    refuse_to_overwrite("FILE", file, force=force)
    with new_page(file, private=True) as page:
        end = write_dump(cli.unchecked_stores().database, page, compressed=file.suffix == ".zst")
    _print_rows(f"Dumped to {file}", file, end.rows, as_json=as_json)


@db.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@pass_cli
def restore(cli: CliContext, file: Path, as_json: bool) -> None:
    """Fill an empty database from a FILE of `cache-cli db dump`, and bring it to this version's schema.

    All of it or nothing: the file is verified, and nothing else may be in the database.
    """
    from cache_management.models.store.audit import digest
    from cache_management.models.store.dump import restore as read_dump
    from cache_management.workers.client import whoami

    stores = cli.unchecked_stores()
    end = read_dump(stores.database, file)
    # Only now: before, it would be the first row of a database that has to be empty.
    stores.audit.append(actor=whoami(), action="db.restore", args_digest=digest({"sha256": end.sha256}))
    _print_rows(f"Restored from {file}", file, end.rows, as_json=as_json)


def _print_rows(title: str, file: Path, rows: dict[str, int], *, as_json: bool) -> None:
    if as_json:
        print_json({"file": file, "rows": rows})
    else:
        print_table(title, ("table", "rows"), sorted(rows.items()))


@click.command()
@click.option("-Q", "--queues", default=",".join(QUEUES), show_default=True, help="What to consume, with commas.")
@click.option("-w", "--concurrency", type=click.IntRange(1, 64), help="Processes, or threads  [default: 2; solo: 1]")
@click.option("-n", "--name", default="worker", show_default=True, help="Name, shown before the host's.")
@click.option(
    "--pool",
    type=click.Choice(["prefork", "spawn", "solo", "threads"]),
    help="Who does the work  [default: spawn for the queue embed alone, else prefork]",
)
@_loglevel_option
@pass_cli
def worker(
    cli: CliContext, queues: str, concurrency: int | None, name: str, pool: str | None, loglevel: str | None
) -> int:
    """Run a worker until it is stopped. Give the queue `embed` a worker of its own: it loads the model.

    `prefork` and `spawn` run processes; a spawned one shares no memory with the worker, which models want.
    `threads` and `solo` run in the worker itself and cannot end a task that hangs.
    """
    wanted = list(dict.fromkeys(queue.strip() for queue in queues.split(",")))
    unknown = sorted(set(wanted) - set(QUEUES))
    if unknown:
        raise click.UsageError(f"unknown queue {unknown[0]!r}; choose from {', '.join(QUEUES)}")
    pool = pool or ("spawn" if wanted == ["embed"] else "prefork")
    if pool == "solo" and concurrency not in (None, 1):
        raise click.UsageError("--pool solo does one thing at a time: leave out --concurrency")
    number = 1 if pool == "solo" else concurrency or 2
    level = cli.log_as_service(loglevel)
    cli.stores().close()
    return run_worker(
        _celery(cli, processes=number if pool in ("prefork", "spawn") else 1),
        queues=wanted,
        concurrency=number,
        name=name,
        pool=pool,
        loglevel=level,
    )


def run_worker(app: Celery, *, queues: list[str], concurrency: int, name: str, pool: str, loglevel: str) -> int:
    """Run a worker in this process; return what it ends with: 1 when it ended itself, 130 after Ctrl-C."""
    from celery.bin.celery import celery
    from celery.signals import worker_shutting_down

    interrupts: list[str] = []

    def notice(sig: str, **_: object) -> None:
        if sig == "SIGINT":
            interrupts.append(sig)

    if pool == "spawn":
        app.conf.worker_pool_start_method = "spawn"
    argv = ["worker", f"--queues={','.join(queues)}", f"--concurrency={concurrency}", f"--hostname={name}@%h"]
    argv += [f"--pool={'prefork' if pool == 'spawn' else pool}", f"--loglevel={loglevel}"]
    worker_shutting_down.connect(notice)
    try:
        # `app.worker_main` keeps the exit code to itself.
        code = celery.main(
            args=["--app=cache_management.workers.app:app", *argv, "--without-gossip", "--without-mingle"],
            standalone_mode=False,
        )
    finally:
        worker_shutting_down.disconnect(notice)
    # Celery's own code for Ctrl-C is 1, as if something had failed.
    return ExitCode.INTERRUPTED if interrupts else int(code or 0)


@click.command()
@_loglevel_option
@pass_cli
def beat(cli: CliContext, loglevel: str | None) -> int:
    """Run the scheduler until it is stopped. Two of them do no harm."""
    level = cli.log_as_service(loglevel)
    cli.stores().close()
    return run_beat(_celery(cli), loglevel=level)


def run_beat(app: Celery, *, loglevel: str) -> int:
    """Run the scheduler in this process; return what it ends with: 130 after Ctrl-C."""
    from celery.signals import beat_init

    interrupts: list[int] = []

    def begin(**_: object) -> None:
        former = signal.getsignal(signal.SIGINT)

        def interrupted(number: int, frame: FrameType | None) -> None:
            interrupts.append(number)
            if callable(former):
                former(number, frame)

        signal.signal(signal.SIGINT, interrupted)

    beat_init.connect(begin)  # Celery's own handlers stand by then, and end it as if it had been told to
    try:
        app.Beat(loglevel=loglevel).run()
    finally:
        beat_init.disconnect(begin)
    return ExitCode.INTERRUPTED if interrupts else ExitCode.OK


def _celery(cli: CliContext, *, processes: int = 1) -> Celery:
    from cache_management.workers.cores import fit_threads

    # Before the tasks are loaded, and numpy with them.
    fit_threads(processes)
    # The app reads the settings when it is imported, here and in every pool child.
    if cli.loaded.file is not None:
        os.environ["CACHE_CONFIG"] = str(cli.loaded.file.absolute())
    from cache_management.workers.app import app

    return app
