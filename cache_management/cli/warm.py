"""warm: many answers from a file."""

from __future__ import annotations

from pathlib import Path

import click

from cache_management.cache.warm_items import read_warm_file
from cache_management.cache.warmer import CacheWarmer, WarmReport
from cache_management.cli.asking import ask_here
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.items_files import as_file, print_dry_run
from cache_management.cli.numbers import Number
from cache_management.cli.output import note, print_json, print_pairs, progress
from cache_management.cli.watching import follow, waiting_options
from cache_management.wiring import Platform


@click.command()
@click.argument("queries_file")
@click.option("-w", "--workers", type=click.IntRange(1, 64), default=4, show_default=True, help="Batches at once.")
@click.option("-b", "--batch-size", type=click.IntRange(1, 500), default=10, show_default=True, help="Batch size.")
@click.option("--local", is_flag=True, help="Run in this process instead of submitting a job.")
@click.option("--no-embed", is_flag=True, help="Do not make the entries findable by meaning.")
@click.option("--max-cost", type=Number(min=0, min_open=True), metavar="USD", help="Ask no more once spent.")
@click.option("--dry-run", is_flag=True, help="Check the file and count what would be done; store and ask nothing.")
@click.option("--idem", metavar="KEY", help="While a job with this key lives, watch that one; queue nothing new.")
@waiting_options
@pass_cli
def warm(
    cli: CliContext,
    queries_file: str,
    workers: int,
    batch_size: int,
    local: bool,
    no_embed: bool,
    max_cost: float | None,
    dry_run: bool,
    idem: str | None,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Store the prompts and responses of QUERIES_FILE (- is standard input): a JSON list, or one JSON object per line.

    The whole file is checked before anything is stored. A worker does the work and records it as a job; with --local,
    or when no broker is configured, this process does. Prompts without a response are asked of the configured provider
    (`provider.command`, `provider.callable`), up to --max-cost dollars.
    """
    with as_file(queries_file) as path:
        if dry_run:
            return print_dry_run(cli, path, as_json=as_json)
        return _warm(
            cli,
            path,
            workers=workers,
            batch_size=batch_size,
            local=local,
            embed=not no_embed,
            max_cost=max_cost,
            idem=idem,
            wait=wait,
            timeout=timeout,
            as_json=as_json,
        )


def _warm(
    cli: CliContext,
    queries_file: Path,
    *,
    workers: int,
    batch_size: int,
    local: bool,
    embed: bool,
    max_cost: float | None,
    idem: str | None,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> ExitCode:
    if local or not cli.settings.broker_url:
        if not local:
            note("No broker is configured, so this process does the work (`cache-cli up` starts workers).")
        return _warm_here(
            cli, queries_file, workers=workers, batch_size=batch_size, embed=embed, max_cost=max_cost, as_json=as_json
        )
    from cache_management.workers.client import submit_warm_file

    # Read once before asking for servers: a wrong file should say so whatever else is wrong.
    *_, last = read_warm_file(queries_file, may_ask=cli.settings.provider.is_set)

    async def reach(platform: Platform) -> None:
        await platform.llm_cache.backend.ping()

    async def holds(platform: Platform) -> bool:
        cache = platform.llm_cache if last.reasoning is None else platform.reasoning
        return await cache.exists(last.own_key)

    # The workers store the entries, but this command's own store should be the same one: it must answer,
    # and what they stored must be found in it.
    cli.run(reach)
    client = cli.client()
    client.check_broker()
    submitted = submit_warm_file(
        client, queries_file, idem_key=idem, batch_size=batch_size, shards=workers, embed=embed, max_cost_usd=max_cost
    )
    job, code = follow(client, submitted, wait=wait, timeout=timeout, as_json=as_json, doing="the work of this key")
    if job.state == "succeeded" and not cli.run(holds):
        note("The workers keep their entries in another store than the one that this command reads: compare url,")
        note("backend and namespace of both (`cache-cli config show`).")
    return code


def _warm_here(
    cli: CliContext,
    file: Path,
    *,
    workers: int,
    batch_size: int,
    embed: bool,
    max_cost: float | None,
    as_json: bool,
) -> ExitCode:
    items = list(read_warm_file(file, may_ask=cli.settings.provider.is_set))
    by_key = {item.entry_key: item for item in items}  # of equal prompts the last one wins
    given = [item for item in by_key.values() if not item.is_question]
    missing = [item for item in by_key.values() if item.is_question]

    async def work(platform: Platform) -> WarmReport:
        report = WarmReport()
        with progress(quiet=as_json) as advance:
            done = 0

            def show(more: int) -> None:
                nonlocal done
                done += more
                advance("warmed", done, len(by_key))

            manager = platform.manager if embed else platform.entries
            if given:
                report = await CacheWarmer(manager, workers, batch_size).warm(given, on_progress=show)
            if missing:
                await ask_here(platform, manager, missing, report, max_cost_usd=max_cost, on_progress=show)
        report.duplicates = len(items) - len(by_key)
        return report

    with cli.audited("cache.warm", {"file": file.name, "items": len(items)}):
        report = cli.run(work)
    if as_json:
        print_json(report)
    else:
        print_pairs(
            f"Warmed from {file}",
            {
                "stored": report.stored,
                "skipped (equal and fresh, or newer)": report.skipped,
                "failed": report.failed,
                "duplicate prompts (the last one won)": report.duplicates,
            },
        )
    for error in report.errors[:20]:
        note(f"Error: {error}")
    return ExitCode.PARTIAL if report.failed else ExitCode.OK
