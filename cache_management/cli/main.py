"""`cache-cli`: options shared by all commands, and how errors end."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from cache_management import __version__
from cache_management.cache.errors import CacheError
from cache_management.cache.extras import missing_extra
from cache_management.cache.redact import hide_passwords
from cache_management.cli.context import CliContext
from cache_management.cli.exit_codes import ExitCode, code_of
from cache_management.cli.output import OutputLost, note, telling_output

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM = "cache-cli"
COMPLETE_VARIABLE = "_CACHE_CLI_COMPLETE"
"""Where a shell says what it wants completed; its script is printed by `cache-cli completion`."""

_COMMANDS = {
    "set-cache": ("entries:set_cache", "Store a response as the answer to a prompt."),
    "get-cache": ("entries:get_cache", "Print the answer stored for a prompt."),
    "get-similar": ("entries:get_similar", "Print stored prompts that mean nearly the same."),
    "set-reasoning": ("reasoning:set_reasoning", "Store a chain or a tree of thoughts that solves a problem."),
    "get-reasoning": ("reasoning:get_reasoning", "Print the reasoning stored for a problem."),
    "reasoning": ("reasoning:reasoning", "List, compare, mark and prune stored reasoning."),
    "explain": ("explain:explain", "Say why a question is answered or not."),
    "feedback": ("feedback:feedback", "Say whether an answer found by meaning was right."),
    "evaluate": ("evaluate:evaluate_command", "Try threshold, gates and error budget on labelled pairs."),
    "tune": ("evaluate:tune_command", "Find the threshold for a wanted precision on labelled pairs."),
    "simulate": ("simulate:simulate", "Replay a log of requests on several configurations."),
    "invalidate": ("invalidate:invalidate", "Remove entries by key, age, tag or model, or all."),
    "warm": ("warm:warm", "Store the prompts and responses of a file."),
    "embed": ("embed:embed", "Make every entry findable by meaning."),
    "evict": ("evict:evict", "Make room: by policy, past their life, or chosen entries."),
    "export": ("transfer:export", "Write the entries to a file."),
    "import-cache": ("transfer:import_cache", "Bring the entries of an exported file into the cache."),
    "migrate": ("migrate:migrate", "Bring the answers of another library's cache along."),
    "repair": ("repair:repair", "Compare the copies of a replicated cache and make them level."),
    "nodes": ("nodes:nodes", "Look at the nodes of a replicated cache, add and remove them."),
    "stats": ("report:stats", "Print what the cache holds and how it is used."),
    "dashboard": ("dashboard:dashboard", "Show use, savings and jobs on a live page."),
    "report": ("dashboard:report", "Write what the dashboard shows to a file."),
    "metrics": ("metrics:metrics", "Print metrics, or serve them for Prometheus."),
    "serve": ("serve:serve", "Serve a caching proxy for clients of OpenAI and Anthropic."),
    "config": ("config:config", "Show, set and check the configuration."),
    "jobs": ("jobs:jobs", "Look at background jobs and steer them."),
    "queues": ("queues:queues", "Show what waits for the workers, and since when."),
    "doctor": ("doctor:doctor", "Find out what is wrong with the set-up, and the way out."),
    "audit": ("operate:audit", "Read and check the log of who did what."),
    "db": ("operate:db", "Set up and check the metadata database."),
    "worker": ("operate:worker", "Run a worker until it is stopped."),
    "beat": ("operate:beat", "Run the scheduler until it is stopped."),
    "up": ("servers:up", "Start broker, workers and scheduler on this machine."),
    "down": ("servers:down", "Stop them again."),
    "services": ("servers:services", "Show what of them runs."),
    "demo": ("demo:demo", "See it all work on servers of its own."),
    "completion": ("completion:completion", "Print the completion script of a shell."),
}
"""Where each command lives, and a line on it; its file is loaded when the command is used, not to list it."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        found: click.Command = getattr(import_module(f"cache_management.cli.{module}"), name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name, help=line) for name, (_, line) in _COMMANDS.items() if name.startswith(incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # click compares with the commands that are loaded, and here none is.
        if args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise click.NoSuchCommand(args[0], possibilities=_COMMANDS, ctx=ctx)
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
@click.version_option(__version__, prog_name=PROGRAM)
@click.pass_context
def cli(ctx: click.Context, config: Path | None, verbose: bool, debug: bool) -> None:
    """Keep the answers of language models, and the work that keeps a cache good."""
    # click knows a terminal from a pipe, and neither of these.
    ctx.color = False if os.environ.get("NO_COLOR") else True if os.environ.get("FORCE_COLOR") else None
    ctx.obj = CliContext(config, log_level=logging.DEBUG if debug else logging.INFO if verbose else None)
    ctx.call_on_close(ctx.obj.close)
    ctx.obj.begin_logging()


def main(args: list[str] | None = None) -> None:
    """Run a command and leave with its exit code; a traceback only with `--debug`."""
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    given = sys.argv[1:] if args is None else args
    _fill_closed_streams()
    with telling_output():
        try:
            code = _run(given)
            sys.stdout.flush()
        except OutputLost as exc:
            code = _end_of_output(exc)
        except KeyboardInterrupt:
            note("interrupted")
            code = ExitCode.INTERRUPTED
        except Exception as exc:  # noqa: BLE001 - the edge of the program: a person gets a line, not a traceback
            code = _tell(exc, debug="-d" in given or "--debug" in given)
    _let_go(sys.stderr)
    return code


def _run(args: list[str]) -> int:
    instruction = os.environ.get(COMPLETE_VARIABLE)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, PROGRAM, COMPLETE_VARIABLE, instruction)
    # Not `cli.main`: it ends a command whose reader has enough with exit code 1.
    with cli.make_context(PROGRAM, list(args)) as ctx:
        found = cli.invoke(ctx)
    return found if isinstance(found, int) else ExitCode.OK


def _tell(error: Exception, *, debug: bool) -> int:
    """Say what went wrong, in a line, and return how the command ends."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.Abort() | EOFError():
            note("interrupted")
            return ExitCode.INTERRUPTED
        case click.ClickException():
            with suppress(OSError):
                error.show()
            return ExitCode.USAGE
    if debug:
        raise error
    if isinstance(error, CacheError):
        note(f"Error: {hide_passwords(str(error))}")
        return code_of(error)
    if isinstance(error, ImportError) and (missing := missing_extra(error)) is not None:
        note(f"Error: this needs {missing}")
        return ExitCode.FAILED
    name = "" if isinstance(error, ImportError | OSError) else f"{type(error).__name__}: "
    note(f"Error: {name}{hide_passwords(str(error))} (--debug shows where)")
    return ExitCode.FAILED


def _end_of_output(lost: OutputLost) -> int:
    """Return how a command ends whose output nobody takes any more."""
    _let_go(sys.stdout)
    if isinstance(lost.error, BrokenPipeError):
        return ExitCode.OK  # whoever read it has enough
    note(f"Error: standard output cannot be written: {lost.error.strerror or lost.error}")
    return ExitCode.FAILED


def _let_go(stream: TextIO) -> None:
    """Send what a stream still holds nowhere, if it cannot be written: Python would complain of it at exit."""
    try:
        stream.flush()
    except (OutputLost, OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fill_closed_streams() -> None:
    """Open what is closed (`>&-`): the next file that is opened would be taken for it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
