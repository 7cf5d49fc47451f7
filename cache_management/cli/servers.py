"""up, down: a broker, workers and the scheduler on this machine, without installing any of them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cache_management import __version__
from cache_management.cache.errors import CacheError, ConfigurationError, InvalidInput
from cache_management.cli.context import CliContext, is_new_sqlite, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.numbers import Seconds
from cache_management.cli.output import json_option, note, print_json, print_table
from cache_management.services import Server, start_redis
from cache_management.services.supervisor import (
    CommandService,
    ServerService,
    Service,
    State,
    Supervisor,
    read_state,
    request_stop,
    start_detached,
)
from cache_management.settings import Loaded
from cache_management.wiring import NODE_SERVICE, RUN_FOLDER, node_addresses, open_platform, read_settings, running_set
from cache_management.workers.messages import LIGHT_QUEUES

if TYPE_CHECKING:
    from cache_management.settings import Settings


_LEVEL_SECONDS = 60.0
_SAID = ("file", "environment", "argument")
"""Where a setting comes from that a person made; else it is a default, or what runs already."""


@click.command()
@click.option("--with-redis", is_flag=True, help="Start a cache node too, and keep the entries there, not on disk.")
@click.option(
    "--nodes",
    type=click.IntRange(3, 9),
    help="Start so many cache nodes, and keep each entry on three of them: a replicated cache to try things on.",
)
@click.option("--broker-port", type=click.IntRange(1, 65535), help="Port of the broker  [default: a free one]")
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes without a model.")
@click.option("--foreground", is_flag=True, help="Stay until stopped, instead of going to the background.")
@json_option
@pass_cli
def up(
    cli: CliContext,
    with_redis: bool,
    nodes: int | None,
    broker_port: int | None,
    workers: int,
    foreground: bool,
    as_json: bool,
) -> None:
    """Start an embedded set: broker, workers, scheduler. All listen on 127.0.0.1 only.

    The other commands find it by themselves. `cache-cli down` stops it.
    """
    settings = cli.settings
    _check_store(cli.loaded, with_redis=with_redis, nodes=nodes)
    if foreground:
        Supervisor(settings.data_dir / RUN_FOLDER, version=__version__).run(
            _services(cli.loaded, with_redis=with_redis, nodes=nodes, broker_port=broker_port, workers=workers)
        )
        return
    _prepare(cli)
    state = start_set(cli.loaded, with_redis=with_redis, nodes=nodes, broker_port=broker_port, workers=workers)
    if nodes:
        _let_nodes_count(cli)
    if as_json:
        print_json({"data_dir": settings.data_dir, "services": state.services})
        return
    print_state(state)
    if "metrics" in state.services and settings.metrics.port:
        click.echo(f"Metrics for Prometheus: http://127.0.0.1:{settings.metrics.port}{settings.metrics.path}")
    click.echo(f"Data is kept in {settings.data_dir}. Stop with: cache-cli down")


@click.command()
@click.option(
    "--timeout", type=Seconds(), default=60.0, show_default=True, help="Seconds until what is left is killed."
)
@json_option
@pass_cli
def down(cli: CliContext, timeout: float, as_json: bool) -> None:
    """Stop the embedded set; unfinished jobs go on at the next `up`."""
    stopped = request_stop(cli.settings.data_dir / RUN_FOLDER, timeout=timeout)
    if as_json:
        print_json({"stopped": stopped})
    else:
        click.echo("Stopped." if stopped else "Nothing was running.")


@click.command()
@click.argument("name", required=False)
@json_option
@pass_cli
def services(cli: CliContext, name: str | None, as_json: bool) -> int:
    """Show what the embedded set runs, or with a NAME the pid of that service alone; exit code 1: it does not run."""
    state = running_set(cli.settings)
    running = {} if state is None else state.services
    if name is not None and running and name not in running:
        raise InvalidInput(f"there is no service {name!r}; there are {', '.join(running)}")
    chosen = {each: service for each, service in running.items() if name in (None, each)}
    if as_json:
        print_json({"data_dir": cli.settings.data_dir, "services": chosen})
    elif state is None:
        click.echo("Nothing is running.")
    elif name is None:
        print_state(state)
    elif chosen[name].pid is not None:
        click.echo(str(chosen[name].pid))
    runs = bool(chosen) and all(each.pid is not None for each in chosen.values())
    return ExitCode.OK if runs else ExitCode.FAILED


def start_set(
    loaded: Loaded,
    *,
    with_redis: bool = False,
    nodes: int | None = None,
    broker_port: int | None = None,
    workers: int = 2,
) -> State:
    """Start the set in the background and wait until it is ready.

    Raises:
        ServerStartError: One runs already, or a part did not start; then nothing is left.
    """
    settings = loaded.settings
    argv = [sys.executable, "-m", "cache_management.cli"]
    if loaded.file is not None:
        argv += ["--config", str(loaded.file.absolute())]
    argv += ["up", "--foreground", f"--workers={workers}"]
    argv += ["--with-redis"] if with_redis else []
    argv += [f"--nodes={nodes}"] if nodes else []
    argv += [f"--broker-port={broker_port}"] if broker_port else []
    env = _environment(CACHE_DATA_DIR=str(settings.data_dir.absolute()))
    return start_detached(argv, settings.data_dir / RUN_FOLDER, env=env)


def _let_nodes_count(cli: CliContext) -> None:
    """Bring nodes up that were all stopped: none counts before it is known to hold what the others do.

    Applications do so while they go on; a command would only find that too few nodes count.
    """

    async def mend() -> None:
        platform = open_platform(read_settings(cli.config).settings)
        try:
            await platform.replicated.backend.keeper.mend(seconds=_LEVEL_SECONDS)
        finally:
            await platform.aclose()

    try:
        asyncio.run(mend())
    except CacheError as exc:  # they run, whatever keeps them from being asked
        note(f"The nodes are started and do not all count yet: {exc}")


def print_state(state: State) -> None:
    """Print what runs."""
    print_table(
        "Running",
        ("service", "state", "pid", "url", "restarts", "log"),
        [
            (name, service.status, service.pid, service.url, service.restarts, service.log)
            for name, service in state.services.items()
        ],
    )


def _prepare(cli: CliContext) -> None:
    """Make the metadata database ready before anything is started."""
    if is_new_sqlite(cli.settings.metadata_url):
        try:
            cli.settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as exc:
            raise ConfigurationError(f"data_dir: {cli.settings.data_dir} cannot be made: {exc.strerror}") from exc
    cli.stores().close()
    if importlib.util.find_spec("sentence_transformers") is None:
        note("No embedding worker is started: install 'cache-management[semantic]' for answers by meaning.")
    why = _why_no_metrics(cli.settings)
    # A set that runs has the port itself; that it runs is what will be said.
    runs = read_state(cli.settings.data_dir / RUN_FOLDER) is not None
    if why is not None and cli.settings.metrics.enabled and not runs:
        note(f"No metrics are served: {why}.")


def _check_store(loaded: Loaded, *, with_redis: bool, nodes: int | None) -> None:
    """Refuse nodes beside another store."""
    if nodes is None:
        return
    if with_redis:
        raise click.UsageError("--with-redis starts one cache node and --nodes several: give one of them")
    named = next((key for key in ("url", "backend", "distributed.nodes") if loaded.sources.get(key) in _SAID), None)
    if named is not None:
        raise ConfigurationError(
            f"--nodes starts the nodes of the cache, and {named} says where it is already: leave one of them out"
        )


def _services(
    loaded: Loaded, *, with_redis: bool, nodes: int | None, broker_port: int | None, workers: int
) -> Sequence[Service]:
    settings = loaded.settings
    services: list[Service] = []
    external = loaded.sources.get("broker_url") in _SAID
    if not external:
        services.append(ServerService(name="broker", start=_redis(settings, "broker", broker_port, appendonly=True)))
    if with_redis:
        services.append(ServerService(name="cache", start=_redis(settings, "cache", None, appendonly=True)))
    for number in range(1, (nodes or 0) + 1):
        name = f"{NODE_SERVICE}{number}"
        services.append(ServerService(name=name, start=_redis(settings, name, None, appendonly=True)))
    # One for control alone: else whatever fills the light one holds up what looks after the jobs.
    services.append(_worker(loaded, "control", ("control",), ["--pool=solo"]))
    services.append(_worker(loaded, "light", LIGHT_QUEUES, [f"--concurrency={workers}"]))
    if importlib.util.find_spec("sentence_transformers") is not None:
        services.append(_worker(loaded, "embed", ("embed",), ["--concurrency=1"]))
    services.append(_command(loaded, "beat", ["beat"]))
    if _why_no_metrics(settings) is None:
        services.append(_command(loaded, "metrics", ["metrics", f"--port={settings.metrics.port}"]))
    return services


def _why_no_metrics(settings: Settings) -> str | None:
    """Return why the set serves no metrics, or None; a port that somebody else has is no reason to start nothing."""
    if not settings.metrics.enabled:
        return "metrics.enabled is false"
    if importlib.util.find_spec("prometheus_client") is None:
        return "install 'cache-management[monitoring]'"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", settings.metrics.port))
        except OSError as exc:
            return f"port {settings.metrics.port} cannot be had ({exc.strerror}); set metrics.port to another"
    return None


def _environment(**given: str) -> dict[str, str]:
    """Return this process's environment with other values, which also stand in for those in files."""
    return {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in given} | given


def _redis(settings: Settings, name: str, port: int | None, *, appendonly: bool) -> Callable[[int | None], Server]:
    def start(former: int | None) -> Server:
        return start_redis(settings.data_dir / name, port=former or port, appendonly=appendonly)

    return start


def _worker(loaded: Loaded, name: str, queues: Sequence[str], options: Sequence[str]) -> CommandService:
    ready_file = loaded.settings.data_dir / RUN_FOLDER / f"{name}.ready"
    argv = ["worker", f"--name={name}", f"--queues={','.join(queues)}", *options]
    return _command(loaded, f"worker-{name}", argv, ready_file=ready_file)


def _command(loaded: Loaded, name: str, argv: Sequence[str], *, ready_file: Path | None = None) -> CommandService:
    def env(urls: Mapping[str, str]) -> dict[str, str]:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
        given = {"CACHE_DATA_DIR": str(loaded.settings.data_dir.absolute())}
        if "broker" in urls:
            given["CACHE_BROKER_URL"] = urls["broker"]
        if "cache" in urls:
            given["CACHE_URL"] = urls["cache"]
        if nodes := node_addresses(urls):
            given |= {"CACHE_DISTRIBUTED__ENABLED": "true", "CACHE_DISTRIBUTED__NODES": ",".join(nodes)}
        found = _environment(**given)
        if loaded.file is not None:
            found["CACHE_CONFIG"] = str(loaded.file.absolute())
        if ready_file is not None:
            found["CACHE_READY_FILE"] = str(ready_file)
        return found

    return CommandService(
        name=name,
        argv=lambda urls: [sys.executable, "-m", "cache_management.cli", *argv],
        env=env,
        ready=ready_file.exists if ready_file is not None else None,
        ready_seconds=60.0,
        # Soft shutdown: what is under way gets half a minute, then its message goes back.
        stop_signal=signal.SIGQUIT if ready_file is not None else signal.SIGTERM,
        stop_seconds=45.0,
    )
