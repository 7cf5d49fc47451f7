"""embed run, check, plan: every entry of the namespace gets its vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cache_management.cache.errors import InvalidInput
from cache_management.cache.identity import storage_prefix
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.output import json_option, note, print_json, print_pairs, progress
from cache_management.cli.watching import Command, embed_rows, follow, waiting_options
from cache_management.wiring import Platform

if TYPE_CHECKING:
    from cache_management.cache.semantic.re_embedding import Census, Place

Flags = Mapping[str, bool]


def _options(command: Command) -> Command:
    """Give a command what `embed` takes, but for what its name says."""
    for option in (
        waiting_options,
        click.option("--local", is_flag=True, help="Run in this process instead of submitting a job."),
        click.option("--drop-old", is_flag=True, help="At the end remove the vectors of other models."),
        click.option("--all", "everything", is_flag=True, help="Embed entries anew that have their vector, too."),
    ):
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@_options
@click.option("--check", is_flag=True, help="First find and mend vectors that do not belong to their entries.")
@click.option("--plan", is_flag=True, help="Only count what there is.")
@click.pass_context
@pass_cli
def embed(cli: CliContext, ctx: click.Context, /, plan: bool, **flags: Any) -> int | None:
    """Make every entry of the namespace findable by meaning: after a change of the model, or of its weights.

    A worker does the work and records it as a job; with --local, or when no broker is configured,
    this process does. Use --drop-old when no process stores with the former model any more. Without a command it
    is `embed run`.
    """
    if ctx.invoked_subcommand is None:
        return _embed(cli, plan=plan, **flags)
    given = [name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        raise click.UsageError(f"give the options behind `embed {ctx.invoked_subcommand}`, not before it")
    return None


@embed.command("run")
@_options
@pass_cli
def run(cli: CliContext, /, **flags: Any) -> int:
    """Embed what has no vector of this model yet."""
    return _embed(cli, plan=False, check=False, **flags)


@embed.command("check")
@_options
@pass_cli
def check_vectors(cli: CliContext, /, **flags: Any) -> int:
    """Find and mend vectors that do not belong to their entries, then embed what has none."""
    return _embed(cli, plan=False, check=True, **flags)


@embed.command("plan")
@json_option
@pass_cli
def show_plan(cli: CliContext, as_json: bool) -> int:
    """Count entries, vectors by model and what is missing; change nothing."""
    return _show_plan(cli, as_json=as_json)


def _embed(
    cli: CliContext,
    *,
    check: bool,
    everything: bool,
    drop_old: bool,
    plan: bool,
    local: bool,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> int:
    _check_flags(
        counts={"--plan": plan},
        works={"--check": check, "--all": everything, "--drop-old": drop_old},
        here={"--local": local},
        waits={"--no-wait": not wait, "--timeout": timeout is not None},
    )
    if plan:
        return _show_plan(cli, as_json=as_json)
    if local or not cli.settings.broker_url:
        if not local:
            note("No broker is configured, so this process does the work (`cache-cli up` starts workers).")
        return _embed_here(cli, check=check, everything=everything, drop_old=drop_old, as_json=as_json)

    async def reach(platform: Platform) -> None:
        await platform.llm_cache.backend.ping()

    cli.run(reach)
    client = cli.client()
    client.check_broker()
    submitted = client.submit_embed(check=check, everything=everything, drop_old=drop_old)
    return follow(client, submitted, wait=wait, timeout=timeout, as_json=as_json)[1]


def _check_flags(*, counts: Flags, works: Flags, here: Flags, waits: Flags) -> None:
    """Refuse flags, by what they are about, that would be ignored beside another one."""
    for first, others, why in (
        (counts, {**works, **waits}, "only counts"),
        (here, waits, "waits for the work it does itself"),
        ({"--no-wait": waits["--no-wait"]}, {"--timeout": waits["--timeout"]}, "waits for nothing"),
    ):
        name = next((name for name, is_given in first.items() if is_given), None)
        given = [name for name, is_given in others.items() if is_given]
        if name is not None and given:
            raise InvalidInput(f"{name} {why}: leave out {', '.join(given)}, or {name} itself")


def _show_plan(cli: CliContext, *, as_json: bool) -> ExitCode:
    async def work(platform: Platform) -> Census:
        return await platform.re_embedding().census()

    found = cli.run(work)
    if as_json:
        print_json(found)
        return ExitCode.OK
    rows: dict[str, object] = {
        "entries": found.entries,
        "without a vector of this model": found.missing,
        "too long for this model": found.too_long,
        "to be found exactly only": found.exact_only,
        "not readable": found.gone or None,
        "not in the index that all share": found.unshared or None,
        f"vectors of {found.space} (this model)": found.vectors.get(found.space, 0),
    }
    rows |= {f"vectors of {space}": count for space, count in found.vectors.items() if space != found.space}
    print_pairs(f"Namespace {cli.settings.namespace}", {name: row for name, row in rows.items() if row is not None})
    return ExitCode.OK


def _embed_here(cli: CliContext, *, check: bool, everything: bool, drop_old: bool, as_json: bool) -> ExitCode:
    # Only here: a command that submits a job loads no numpy.
    from cache_management.cache.semantic.re_embedding import (
        Wanted,
        first_place,
        refusal_of_cut_over,
        summary_of,
    )

    wanted = Wanted(check=check, all=everything, drop_old=drop_old)

    async def work(platform: Platform) -> Place:
        cache = platform.llm_cache
        with progress(quiet=as_json) as advance:
            total = await cache.backend.count(storage_prefix("llm", cache.namespace))
            place = first_place(wanted, cache.clock())
            doing = platform.re_embedding()
            try:
                while place.step != "done":
                    place = await doing.advance(place, wanted)
                    if check:
                        advance("vectors", place.tally.checked, None)
                    advance("entries", place.tally.entries, total)
            finally:
                await doing.aclose()
        return place

    with cli.audited("cache.embed", {"check": check, "all": everything, "drop_old": drop_old}):
        place = cli.run(work)
    refusal = refusal_of_cut_over(place) if drop_old else None
    state = "succeeded" if refusal is None else "partial"
    summary: dict[str, Any] = summary_of(place)
    if as_json:
        print_json({"state": state, "namespace": cli.settings.namespace, "summary": summary, "last_error": refusal})
    else:
        print_pairs(f"Embedded namespace {cli.settings.namespace}", embed_rows(summary))
        if refusal is not None:
            note(f"Error: {refusal}")
    return ExitCode.OK if refusal is None else ExitCode.PARTIAL
