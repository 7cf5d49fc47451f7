"""invalidate: remove entries by key, age, tag or model."""

from __future__ import annotations

import sys

import click
import msgspec

from cache_management.cache.errors import InvalidInput
from cache_management.cache.invalidation import Selection
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.output import json_option, note, print_json
from cache_management.wiring import Platform


@click.command()
@click.option("-p", "--pattern", help="Shell glob over whole keys, or with --regex an expression found in them.")
@click.option("-r", "--regex", is_flag=True, help="Read --pattern as a Python regular expression.")
@click.option("-o", "--older-than", type=int, metavar="SECONDS", help="Stored longer ago than this.")
@click.option("--tag", help="Carrying this tag; no other entry is read.")
@click.option("-m", "--model", help="Answered by this model.")
@click.option("-a", "--all", "everything", is_flag=True, help="Every entry of the namespace.")
@click.option("--dry-run", is_flag=True, help="Count what would go, and remove nothing.")
@click.option("--confirm/--no-confirm", " /--yes", default=True, show_default=True, help="Ask before removing.")
@json_option
@pass_cli
def invalidate(
    cli: CliContext,
    pattern: str | None,
    regex: bool,
    older_than: int | None,
    tag: str | None,
    model: str | None,
    everything: bool,
    dry_run: bool,
    confirm: bool,
    as_json: bool,
) -> int:
    """Remove the answers and the reasoning of the namespace for which everything holds that is given."""
    if regex and pattern is None:
        raise InvalidInput("--regex says how to read --pattern: give one")
    selection = Selection(
        pattern=None if regex else pattern,
        regex=pattern if regex else None,
        older_than_seconds=older_than,
        tag=tag,
        model=model,
        everything=everything,
    )
    selection.check()

    async def count(platform: Platform) -> int:
        return await platform.entries.invalidate(selection, dry_run=True)

    async def remove(platform: Platform) -> int:
        return await platform.entries.invalidate(selection)

    if dry_run or confirm:
        found = cli.run(count)
        if dry_run:
            print_json({"would_remove": found}) if as_json else click.echo(f"{found} entries would be removed.")
            return ExitCode.OK
        if found and not is_wanted(f"Remove {found} entries of namespace {cli.settings.namespace}?"):
            note("Nothing was removed.")
            return ExitCode.FAILED
    with cli.audited("cache.invalidate", msgspec.structs.asdict(selection)):
        removed = cli.run(remove)
    print_json({"removed": removed}) if as_json else click.echo(f"{removed} entries removed.")
    return ExitCode.OK


def is_wanted(question: str) -> bool:
    """Ask a person; without one there is no answer.

    Raises:
        InvalidInput: Nobody can be asked.
    """
    try:
        return click.confirm(question, err=True)
    except click.Abort as exc:
        # Ctrl-C is the same to click as an input that has ended.
        if isinstance(exc.__context__, EOFError) and not sys.stdin.isatty():
            click.echo(err=True)  # ends the line of the question
            raise InvalidInput("nobody can be asked without a terminal: give --yes to do it at once") from None
        raise
