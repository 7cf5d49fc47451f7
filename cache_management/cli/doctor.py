"""doctor: what is wrong with the set-up, and the way out."""

from __future__ import annotations

import click

from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.output import Styled, json_option, print_json, print_table

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command()
@click.option("--model/--no-model", default=True, show_default=True, help="Load the embedding model and compare.")
@json_option
@pass_cli
def doctor(cli: CliContext, model: bool, as_json: bool) -> int:
    """Look at broker, database, cache store, workers, jobs, model, hit rate and this machine; change nothing.

    Exit code 1 when something fails; what only warns is 0.
    """
    from cache_management.workers.doctor import worst
    from cache_management.workers.examination import examine

    findings = examine(cli.settings, with_model=model)
    level = worst(findings)
    if as_json:
        print_json({"level": level, "findings": findings})
    else:
        print_table(
            "Findings",
            ("check", "state", "what"),
            [(each.check, Styled(each.level, _STYLES[each.level]), each.what) for each in findings],
        )
        for each in findings:
            if each.level != "ok":
                mark = click.style(f"{each.level} {each.check}", fg="red" if each.level == "fail" else "yellow")
                click.echo(f"\n{mark}: {each.what}")
                click.echo(f"  why  {each.why}\n  do   {each.way_out}")
    return ExitCode.FAILED if level == "fail" else ExitCode.OK
