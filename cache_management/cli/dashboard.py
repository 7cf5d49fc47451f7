"""dashboard, report: how a cache is used and how its jobs stand, on one page, live or as a file."""

from __future__ import annotations

import signal
import sys
import webbrowser
from pathlib import Path
from types import FrameType

import click

from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.output import json_option, note, print_json
from cache_management.cli.pages import check_pages, write_page


@click.command()
@click.option("-p", "--port", type=click.IntRange(0, 65535), default=8787, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen. There is no password.")
@click.option("--open/--no-open", "opens", default=False, show_default=True, help="Open it in the browser.")
@pass_cli
def dashboard(cli: CliContext, port: int, host: str, opens: bool) -> None:
    """Serve a page on this machine: hit rate, money saved, latency, hot keys, jobs, queues and nodes, live.

    It shows prompts of the namespace, and has no password: it listens on 127.0.0.1 unless told otherwise.
    """
    from cache_management.dashboard.serving import routes
    from cache_management.dashboard.state import Dashboard
    from cache_management.metrics.endpoint import serve

    shown = Dashboard(cli.settings, is_live=True)
    try:
        server = serve(list, host=host, port=port, path="/metrics", routes=routes(shown.state), hosts=(host,))

        def stop(_number: int, _frame: FrameType | None) -> None:
            sys.exit(0)

        signal.signal(signal.SIGTERM, stop)
        url = f"http://{host}:{server.server_port}/"
        note(f"The dashboard is at {url}")
        if opens:
            webbrowser.open(url)
        with server:
            server.serve_forever()
    finally:
        shown.close()


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=Path("cache-report.html"))
@json_option
@pass_cli
def report(cli: CliContext, file: Path, as_json: bool) -> int:
    """Write what the dashboard shows now to FILE: one HTML file that needs nothing else."""
    from cache_management.dashboard.serving import page
    from cache_management.dashboard.state import Dashboard

    check_pages({"FILE": file}, reads=[])
    shown = Dashboard(cli.settings)
    try:
        state = shown.state()
    finally:
        shown.close()
    write_page(file, page(state), private=True)  # it holds prompts
    for problem in state["problems"]:
        note(f"Warning: {problem}; the report leaves it out.")
    print_json({"file": file, "problems": state["problems"]}) if as_json else click.echo(f"The report is {file}.")
    return ExitCode.OK
