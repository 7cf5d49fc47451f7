"""queues: what waits in the broker, and whether anybody takes it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from cache_management.cache.errors import MetadataUnavailable
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.output import Styled, age_text, json_option, note, print_json, print_table

if TYPE_CHECKING:
    from cache_management.models.store.results import Mark
    from cache_management.workers.queues import QueueView


@click.command()
@json_option
@pass_cli
def queues(cli: CliContext, as_json: bool) -> int:
    """Show what waits in each queue, since when, and when a worker last took something.

    A queue is stuck when something has waited for a minute and no worker took anything meanwhile.
    """
    from cache_management.workers.client import JobClient
    from cache_management.workers.queues import read_queues, view_queues

    client = JobClient(cli.settings)
    try:
        waiting = read_queues(client.celery)
    finally:
        client.close()
    marks: list[Mark] | None = None
    now = datetime.now(UTC)
    missing: MetadataUnavailable | None = None
    try:
        stores = cli.stores()
        marks, now = stores.operations.marks(), stores.now()
    except MetadataUnavailable as exc:
        missing = exc  # what the broker says is worth showing all the same
    views = view_queues(waiting, marks, now=now)
    if as_json:
        print_json(views)
    else:
        print_table(
            f"Queues at {client.broker_shown}",
            ("queue", "waiting", "oldest", "under way", "workers", "last taken", "state"),
            [_row(view, known=marks is not None) for view in views],
        )
    if missing is not None:
        note(f"Error: {missing}")
        return ExitCode.DATABASE
    return ExitCode.OK


def _row(view: QueueView, *, known: bool) -> tuple[object, ...]:
    state: object = "ok" if view.depth or view.workers else "no workers"
    if not known:
        state = "unknown"
    elif view.stuck:
        state = Styled("stuck", "bold red")
    return (
        view.queue,
        view.depth,
        _ago(view.oldest_seconds),
        view.unacked,
        view.workers if known else None,
        _ago(view.mark_age_seconds),
        state,
    )


def _ago(seconds: float | None) -> str | None:
    return None if seconds is None else f"{age_text(seconds)} ago"
