"""`cache-cli`: options shared by all commands, and how errors end."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from importlib import import_module
from pathlib import Path

import click

from cache_management import __version__
from cache_management.cache.errors import CacheError
from cache_management.cli.context import CliContext
from cache_management.cli.exit_codes import ExitCode, code_of

_COMMANDS = {
    "set-cache": "entries:set_cache",
    "get-cache": "entries:get_cache",
    "get-similar": "entries:get_similar",
    "set-reasoning": "reasoning:set_reasoning",
    "get-reasoning": "reasoning:get_reasoning",
    "reasoning": "reasoning:reasoning",
    "explain": "explain:explain",
    "feedback": "feedback:feedback",
    "evaluate": "evaluate:evaluate_command",
    "tune": "evaluate:tune_command",
    "invalidate": "invalidate:invalidate",
    "warm": "files:warm",
    "embed": "embed:embed",
    "evict": "evict:evict",
    "export": "transfer:export",
    "import-cache": "transfer:import_cache",
    "repair": "repair:repair",
    "nodes": "nodes:nodes",
    "stats": "report:stats",
    "metrics": "metrics:metrics",
    "serve": "serve:serve",
    "config": "report:config",
    "jobs": "jobs:jobs",
    "queues": "queues:queues",
    "doctor": "doctor:doctor",
    "audit": "operate:audit",
    "db": "operate:db",
    "worker": "operate:worker",
    "beat": "operate:beat",
    "up": "servers:up",
    "down": "servers:down",
    "services": "servers:services",
    "demo": "demo:demo",
}
"""Where each command lives; its file is loaded when the command is used."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        home = _COMMANDS.get(cmd_name)
        if home is None:
            return None
        module, _, name = home.partition(":")
        found: click.Command = getattr(import_module(f"cache_management.cli.{module}"), name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = difflib.get_close_matches(args[0], _COMMANDS, n=1)
        if near and args[0] not in _COMMANDS:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    help="Path to the configuration file [default: cache_config.yaml, if it is there]",
)
@click.option("-v", "--verbose", is_flag=True, help="Tell what is going on.")
@click.option("-d", "--debug", is_flag=True, help="Tell everything, and show tracebacks.")
@click.version_option(__version__, prog_name="cache-cli")
@click.pass_context
def cli(ctx: click.Context, config: Path | None, verbose: bool, debug: bool) -> None:
    """Keep the answers of language models, and the work that keeps a cache good."""
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    ctx.obj = CliContext(config, debug=debug)
    ctx.call_on_close(ctx.obj.close)


def main(args: list[str] | None = None) -> None:
    """Run a command and leave with its exit code; a traceback only with `--debug`."""
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    given = sys.argv[1:] if args is None else args
    debug = "-d" in given or "--debug" in given
    try:
        found = cli.main(args=given, prog_name="cache-cli", standalone_mode=False)
        sys.stdout.flush()
        return int(found) if isinstance(found, int) else ExitCode.OK
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    except click.ClickException as exc:
        exc.show()
        return ExitCode.USAGE
    except BrokenPipeError:
        # Whoever read our output has enough; without this Python complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except CacheError as exc:
        if debug:
            raise
        click.echo(f"Error: {exc}", err=True)
        return code_of(exc)
    except Exception as exc:  # the edge of the program: a person gets a line, not a traceback
        if debug:
            raise
        name = "" if isinstance(exc, ImportError | OSError) else f"{type(exc).__name__}: "
        click.echo(f"Error: {name}{exc} (--debug shows where)", err=True)
        return ExitCode.FAILED
