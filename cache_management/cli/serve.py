"""serve: a proxy in front of the APIs of language models, with the cache inside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.output import note
from cache_management.wiring import open_platform, read_settings

if TYPE_CHECKING:
    from cache_management.cache.readiness import Routes
    from cache_management.cache.values import NearMiss
    from cache_management.settings import Settings


@click.command()
@click.option("--host", help="Where to listen  [default: serve.host, 127.0.0.1]")
@click.option("-p", "--port", type=click.IntRange(0, 65535), help="The port; 0 takes any  [default: serve.port, 8800]")
@click.option("--upstream", help="The provider  [default: serve.upstream, https://api.openai.com]")
@click.option("--anthropic-upstream", help="Where /v1/messages goes  [default: https://api.anthropic.com]")
@click.option(
    "--dashboard", is_flag=True, help="Show the dashboard at /, on this machine alone: it tells of all callers."
)
@click.option("--exact-only", is_flag=True, help="Load no model: serve the same requests only.")
@pass_cli
def serve(
    cli: CliContext,
    host: str | None,
    port: int | None,
    upstream: str | None,
    anthropic_upstream: str | None,
    dashboard: bool,
    exact_only: bool,
) -> None:
    """Serve a caching proxy for clients of OpenAI and Anthropic: one changed line, their base URL.

    Beside /v1 it answers /healthz, /readyz, /metrics and /openapi.json; with --dashboard also a page that shows what
    the proxy does. SIGTERM lets what is under way end.
    """
    from cache_management.metrics.collector import MetricsCollector
    from cache_management.serve.app import Application
    from cache_management.serve.running import Server, listening

    given = {"host": host, "port": port, "upstream": upstream, "anthropic_upstream": anthropic_upstream}
    wanted = {name: value for name, value in given.items() if value is not None}
    settings = read_settings(cli.config, arguments={"serve": wanted} if wanted else None).settings
    by_meaning = not exact_only and find_spec("numpy") is not None

    async def main() -> None:
        metrics = MetricsCollector(settings.metrics_folder)
        with ExitStack() as stack:
            application = Application(open_platform(settings, metrics=metrics), metrics, by_meaning=by_meaning)
            if dashboard:
                application.show(_pages(stack, settings, application.near_misses))
            await run(application)

    async def run(application: Application) -> None:
        server = Server(application, drain_seconds=settings.serve.drain_seconds)
        with listening(settings.serve.host, settings.serve.port) as bound:
            shown = bound.getsockname()
            name = f"[{shown[0]}]" if ":" in shown[0] else shown[0]
            note(f"The proxy is at http://{name}:{shown[1]}/v1, in front of {settings.serve.upstream}")
            await server.serve(sockets=[bound])

    asyncio.run(main())


def _pages(stack: ExitStack, settings: Settings, refused: Callable[[], Sequence[NearMiss]]) -> Routes:
    """Return the dashboard's page and numbers, of all callers; they end with the stack."""
    from cache_management.dashboard.serving import routes
    from cache_management.dashboard.state import Dashboard

    shown = Dashboard(settings, refused=refused, everywhere=True, is_live=True)
    stack.callback(shown.close)
    return routes(shown.state)
