"""metrics: how queues and jobs stand, printed once or served for Prometheus."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

import click

from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.output import json_option, note, print_json, print_yaml

if TYPE_CHECKING:
    from cache_management.settings import Settings
    from cache_management.workers.exporter import Exporter

DEFAULT_PORT = 8000


@click.command()
@click.option(
    "-p", "--port", type=click.IntRange(0, 65535), help=f"Serve on this port until stopped  [default: {DEFAULT_PORT}]"
)
@click.option("--serve", is_flag=True, help="Serve instead of printing once; so does --port.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen. There is no password.")
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(["prometheus", "json", "yaml"]),
    help="How to print once  [default: prometheus]",
)
@json_option
@pass_cli
def metrics(cli: CliContext, port: int | None, serve: bool, host: str, form: str | None, as_json: bool) -> None:
    """Print the metrics of jobs, queues, store and use, or serve them for Prometheus with --serve or --port.

    They are read from the database, the broker and the store: right whichever workers died, and from any machine.
    Where they are served, /healthz and /readyz answer too.
    """
    from cache_management.metrics.families import as_data, as_text
    from cache_management.workers.exporter import Exporter

    serves = serve or port is not None
    if serves and (form or as_json):
        raise click.UsageError("--format is for printing once: leave it out, or --serve and --port")
    exporter = Exporter(cli.settings)
    try:
        if serves:
            cli.log_as_service()
            _serve(exporter, cli.settings, host=host, port=DEFAULT_PORT if port is None else port)
        elif as_json or form == "json":
            print_json(as_data(exporter.families()))
        elif form == "yaml":
            print_yaml(as_data(exporter.families()))
        else:
            click.echo(as_text(exporter.families), nl=False)
    finally:
        exporter.close()


def _serve(exporter: Exporter, settings: Settings, *, host: str, port: int) -> None:
    from cache_management.metrics.endpoint import serve
    from cache_management.workers.health import routes

    path = settings.metrics.path
    server = serve(exporter.families, host=host, port=port, path=path, routes=routes(settings))

    def stop(_number: int, _frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    note(f"Metrics are at http://{host}:{server.server_port}{path}, health at /healthz and /readyz")
    with server:
        server.serve_forever()
