"""evict: what goes first, what is past its life, and what was chosen; shown first, and removed as a job."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from cache_management.cache.clock import system_clock, version_at, version_time
from cache_management.cache.errors import InvalidInput
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.invalidate import is_wanted
from cache_management.cli.numbers import Number, Seconds
from cache_management.cli.output import age_text, json_option, note, print_json, print_pairs, print_table, progress
from cache_management.cli.watching import Command, evict_rows, follow, waiting_options
from cache_management.wiring import Platform
from cache_management.workers.messages import EvictParams, check_params

if TYPE_CHECKING:
    from cache_management.cache.sweeping import Place

_NAMES = {
    "expired": "past their life",
    "policy": "above the bounds of the store",
    "stale": "past their life, kept for bad times",
    "vectors": "vectors whose entry is gone",
    "chosen": "chosen",
}


def choosing_options(command: Command) -> Command:
    """Give a command the options that say what shall go; see `_params`."""
    for option in (
        click.option("--expired", is_flag=True, help="What is past its life, and what removed entries left behind."),
        click.option("--stale", is_flag=True, help="Also what is past its life and kept for bad times."),
        click.option("-p", "--pattern", help="Shell glob over whole keys, or with --regex an expression in them."),
        click.option("-r", "--regex", is_flag=True, help="Read --pattern as a Python regular expression."),
        click.option("-o", "--older-than", type=Seconds(), help="Stored longer ago than this."),
        click.option("--tag", help="Carrying this tag; no other entry is read."),
        click.option("-m", "--model", help="Answered by this model."),
        click.option("-a", "--all", "everything", is_flag=True, help="Every entry of the namespace."),
        click.option(
            "--rate", type=Number(min=0), default=5000, show_default=True, help="Names a second; 0: no bound."
        ),
    )[::-1]:
        command = option(command)
    return command


@click.group()
def evict() -> None:
    """Remove entries by policy, past their life, or chosen by key, age, tag or model.

    Without any choice a store is brought below its bounds, if it is above them.
    """


@evict.command()
@choosing_options
@json_option
@pass_cli
def plan(cli: CliContext, /, as_json: bool, **choice: Any) -> int:
    """Show what would go: how much, how old, and some of the keys. Nothing is removed."""
    params = _params(cli, choice)
    found, samples = _work_here(cli, params, dry=True, quiet=as_json)
    now = version_time(found.before)
    if as_json:
        reasons = {
            reason: {
                "entries": count.entries,
                "bytes": count.size_bytes,
                "oldest_age_seconds": None if count.oldest is None else max(0.0, now - count.oldest),
                "newest_age_seconds": None if count.newest is None else max(0.0, now - count.newest),
                "sample": samples.get(reason, []),
            }
            for reason, count in found.found.items()
        }
        total = found.total
        print_json(
            {
                "namespace": cli.settings.namespace,
                "entries": total.entries,
                "bytes": total.size_bytes,
                "names": found.names,
                "looked_at": found.looked,
                "reasons": reasons,
            }
        )
        return ExitCode.OK
    if not found.found and not found.names:
        click.echo("Nothing would be removed.")
        return ExitCode.OK
    rows: list[tuple[object, ...]] = [
        (_NAMES[reason], count.entries, count.size_bytes, _age(now, count.oldest), _age(now, count.newest))
        for reason, count in found.found.items()
    ]
    rows += [("names that lead nowhere", found.names, None, None, None)] if found.names else []
    print_table(
        f"Would go from namespace {cli.settings.namespace}", ("why", "entries", "bytes", "oldest", "newest"), rows
    )
    for reason, keys in samples.items():
        if keys:
            print_table(f"Some of them: {_NAMES[reason]}", ("key",), [(key,) for key in keys])
    return ExitCode.OK


@evict.command()
@choosing_options
@click.option(
    "--confirm/--no-confirm", " /--yes", default=True, show_default=True, help="Ask before chosen entries go."
)
@click.option("--local", is_flag=True, help="Run in this process instead of submitting a job.")
@waiting_options
@pass_cli
def run(
    cli: CliContext,
    /,
    confirm: bool,
    local: bool,
    wait: bool,
    timeout: float | None,
    as_json: bool,
    **choice: Any,
) -> int:
    """Remove it. What is stored after the command was given stays.

    A worker does the work and records it as a job; with --local, or when no broker is configured,
    this process does.
    """
    params = _params(cli, choice)
    if local and (timeout is not None or not wait):
        raise InvalidInput("--local waits for the work it does itself: leave out --no-wait and --timeout")
    total = None
    if confirm and params.selection is not None:
        found, _ = _work_here(cli, params, dry=True, quiet=as_json)
        total = found.total.entries
        if total and not is_wanted(f"Remove {total} entries of namespace {cli.settings.namespace}?"):
            note("Nothing was removed.")
            return ExitCode.FAILED
    if local or not cli.settings.broker_url:
        if not local:
            note("No broker is configured, so this process does the work (`cache-cli up` starts workers).")
        return _run_here(cli, params, total=total, as_json=as_json)

    async def reach(platform: Platform) -> None:
        await platform.llm_cache.backend.ping()

    cli.run(reach)
    client = cli.client()
    client.check_broker()
    # By what is to go: when that was said, and how fast, makes no other job of it.
    same = params.model_dump(exclude={"before", "keys_per_second"}, exclude_defaults=True)
    submitted = client.submit("evict", params, idem_key=json.dumps(same, sort_keys=True))
    return follow(client, submitted, wait=wait, timeout=timeout, as_json=as_json)[1]


def _params(cli: CliContext, choice: dict[str, Any]) -> EvictParams:
    """Return the parameters of the job that the options ask for."""
    pattern, regex = choice["pattern"], choice["regex"]
    if regex and pattern is None:
        raise InvalidInput("--regex says how to read --pattern: give one")
    given = {
        "expired": choice["expired"],
        "leftovers": choice["expired"],
        "stale": choice["stale"],
        "pattern": None if regex else pattern,
        "regex": pattern if regex else None,
        "older_than_seconds": choice["older_than"],
        "tag": choice["tag"],
        "model": choice["model"],
        "everything": choice["everything"],
        "keys_per_second": choice["rate"],
    }
    has_choice = any(value not in (None, False) for name, value in given.items() if name != "keys_per_second")
    # The moment that counts is this one, however long a job waits: a millisecond on, for what was stored in it.
    before = version_at(system_clock() + 0.001)
    return EvictParams.model_validate(check_params("evict", {**given, "policy": not has_choice, "before": before}))


def _work_here(
    cli: CliContext, params: EvictParams, *, dry: bool, total: int | None = None, quiet: bool
) -> tuple[Place, dict[str, list[str]]]:
    """Go through the store in this process; return what was removed or found, and some of the keys."""

    async def work(platform: Platform) -> tuple[Place, dict[str, list[str]]]:
        doing = platform.sweeping(dry=dry, keys_per_second=params.keys_per_second)
        with progress(quiet=quiet) as advance:
            place = doing.begin(params.wanted)
            while place.step != "done":
                place = await doing.advance(place, params.wanted)
                advance("looked at" if dry else "removed", place.looked if dry else place.total.entries, total)
        return place, doing.samples

    return cli.run(work)


def _run_here(cli: CliContext, params: EvictParams, *, total: int | None, as_json: bool) -> ExitCode:
    from cache_management.cache.sweeping import summary_of

    with cli.audited("cache.evict", params.model_dump()):
        place, _ = _work_here(cli, params, dry=False, total=total, quiet=as_json)
    summary = summary_of(place)
    if as_json:
        print_json({"state": "succeeded", "namespace": cli.settings.namespace, "summary": summary})
    else:
        print_pairs(f"Removed from namespace {cli.settings.namespace}", evict_rows(summary))
    return ExitCode.OK


def _age(now: float, moment: float | None) -> str | None:
    return None if moment is None else age_text(max(0.0, now - moment))
