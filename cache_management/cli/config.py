"""config: show, set, validate."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from cache_management.cache.config import is_secret
from cache_management.cache.errors import ConfigurationError, InvalidInput
from cache_management.cache.redact import hide_password, hide_passwords
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.output import json_option, note, print_json, print_table, print_yaml

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from cache_management.settings import Loaded, Settings

_HIDDEN = "********"
_READ_BY_OTHERS = 0o044


class _SettingName(click.ParamType[str]):
    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        from click.shell_completion import CompletionItem

        from cache_management.settings import setting_names

        return [CompletionItem(name) for name in setting_names() if name.startswith(incomplete)]


@click.group()
def config() -> None:
    """Show, set and check the configuration."""


@config.command()
@click.option(
    "-f", "--format", "form", type=click.Choice(["json", "table", "yaml"]), default="table", show_default=True
)
@json_option
@pass_cli
def show(cli: CliContext, form: str, as_json: bool) -> None:
    """Print every setting, its value and where it came from; secrets are hidden."""
    from cache_management.settings import setting_names

    values = {name: shown_value(cli.settings, name) for name in setting_names()}
    sources = {name: cli.loaded.sources.get(name, "default") for name in values}
    if as_json or form == "json":
        print_json({"file": cli.loaded.file, "values": values, "sources": sources})
    elif form == "yaml":
        print_yaml(values)
    else:
        print_table("Settings", ("key", "value", "from"), [(n, values[n], sources[n]) for n in values])


class _Set(click.Command):
    """Takes a number below zero for a value and not for an option: `ttl_seconds -1`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" not in args:
            below = [each for each in args if re.fullmatch(r"-[0-9.]+", each)]
            args = [each for each in args if each not in below] + (["--", *below] if below else [])
        return super().parse_args(ctx, args)


@config.command("set", cls=_Set)
@click.argument("key", type=_SettingName())
@click.argument("value", required=False)
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the value from standard input.")
@json_option
@pass_cli
def set_(cli: CliContext, key: str, value: str | None, from_stdin: bool, as_json: bool) -> None:
    """Set KEY to VALUE in the configuration file, which is made if there is none; `null` unsets.

    Names of groups stand before a dot, as in logging.level; a list is written as a,b or [a, b]. The value is checked
    before anything is written; comments, order and layout of the file stay. A secret is asked for, or read with
    --stdin: on the command line it would be kept in the history of the shell.
    """
    from cache_management.cli.pages import check_pages, write_page
    from cache_management.settings import check_key

    name = check_key(key)
    path = cli.config_file
    change = _changed(path, name, _value_of(key, value, from_stdin=from_stdin))
    if change.text != change.before:
        check_pages({"the configuration": path}, reads=[])
        write_page(path, change.text, private=not path.exists() and _holds_secret(key, change.text))
    shown = shown_value(change.loaded.settings, key)
    if as_json:
        print_json({"file": str(path), "key": key, "value": shown, "in_file": change.is_set})
    elif change.is_set:
        click.echo(f"{key} is {'null' if shown is None else shown} in {path}.")
    else:
        click.echo(f"{key} is not set in {path} any more; its default is {shown}.")
    for hint in _hints(path, key, change):
        note(hint)


class _Change(NamedTuple):
    """A text of the file before and after, and what the new one says."""

    before: str
    text: str
    loaded: Loaded
    is_set: bool


def _value_of(key: str, value: str | None, *, from_stdin: bool) -> str:
    """Return the value that is meant, as text.

    Raises:
        InvalidInput: None is given, or a secret is, where others can read it.
    """
    if value is not None and from_stdin:
        raise InvalidInput("the value is given twice: leave out VALUE, or --stdin")
    if from_stdin:
        return sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if value is not None:
        if not _is_null(value) and (is_whole_secret(key) or hide_password(value) != value):
            raise InvalidInput(
                f"{key} holds a secret, and a command line is kept in the history of the shell and seen by others:"
                " leave VALUE out to be asked for it, or give it to --stdin"
            )
        return value
    if not _is_text(key):
        raise InvalidInput(f"say what {key} shall be: cache-cli config set {key} VALUE")
    if not sys.stdin.isatty():
        raise InvalidInput(f"nobody can be asked for {key} without a terminal: give it to --stdin")
    return str(click.prompt(key, hide_input=True, err=True))


def _changed(path: Path, key: tuple[str, ...], value: str) -> _Change:
    """Return what the file becomes; nothing is written.

    Raises:
        ConfigurationError: It would not be valid, or is not now.
    """
    from cache_management.settings import check_text
    from cache_management.settings_file import read_text, with_value, without_key

    before = read_text(path) if path.exists() else ""
    refusals: list[ConfigurationError] = []
    for candidate in _readings(key, value):
        text = with_value(before, key, candidate, where=str(path))
        try:
            return _Change(before, text, check_text(text, path=path), is_set=True)
        except ConfigurationError as exc:
            refusals.append(exc)
    if not _is_null(value):
        raise refusals[0]
    text = without_key(before, key, where=str(path))  # what cannot be null is taken out
    return _Change(before, text, check_text(text, path=path), is_set=False)


def _readings(key: tuple[str, ...], value: str) -> Iterator[Any]:
    """Yield what a value may mean, the likeliest first: what YAML makes of it, a list, the text itself."""
    from cache_management.settings import LISTS
    from cache_management.settings_file import parse_value

    if _is_null(value):
        yield None
        return
    if _is_text(".".join(key)):
        yield value  # nobody quotes a password as YAML wants it
        return
    found = parse_value(value)
    if key[-1] in LISTS and not isinstance(found, list):
        yield [part.strip() for part in value.split(",") if part.strip()]
        return
    yield found
    if not isinstance(found, str):
        yield value


def _is_null(value: str) -> bool:
    return value.strip().lower() in {"", "null", "none"}


def _hints(path: Path, key: str, change: _Change) -> Iterator[str]:
    """Yield what keeps the value from having an effect, or from being a secret."""
    from cache_management.settings import variable_of
    from cache_management.settings_use import unused_settings

    variable = variable_of(key.split("."))
    if variable in os.environ:
        yield f"{variable} is set in the environment, and wins over the file."
    if change.is_set:
        for each in unused_settings(change.loaded.settings, [key]):
            yield f"{key} has no effect now: {each.why}."
    if _holds_secret(key, change.text) and path.stat().st_mode & _READ_BY_OTHERS:
        yield f"{path} holds a secret and can be read by others: chmod 600 {path}"


@config.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@json_option
@pass_cli
def validate(cli: CliContext, file: Path | None, as_json: bool) -> int:
    """Check a configuration file: every problem with its line and key, and what is set and has no effect.

    Without a file the environment is checked.
    """
    from cache_management.settings import Problem, WrongSettings, check_text
    from cache_management.settings_file import read_text, read_written
    from cache_management.settings_use import unused_settings

    path = file or (cli.config_file if cli.config is not None or cli.config_file.exists() else None)
    try:
        if path is None:
            _ = cli.loaded
            warnings = []
        else:
            text = read_text(path)
            found = check_text(text, path=path)
            lines = read_written(text, where=str(path)).lines
            given = [key for key, source in found.sources.items() if source == "file"]
            warnings = [
                Problem(each.key, lines.get(tuple(each.key.split("."))), each.why)
                for each in unused_settings(found.settings, given)
            ]
    except WrongSettings as exc:
        if as_json:
            print_json({"valid": False, "file": path, "problems": [each._asdict() for each in exc.found]})
        raise
    for each in warnings:
        note(f"Warning: {path}, line {each.line}: {each.key} has no effect: {each.text}.")
    if as_json:
        shown = [{"key": each.key, "line": each.line, "why": each.text} for each in warnings]
        print_json({"valid": True, "file": path, "warnings": shown})
    else:
        click.echo(f"{path} is valid." if path else "There is no configuration file; the environment is valid.")
    return ExitCode.OK


def is_whole_secret(key: str) -> bool:
    """Tell whether a setting is a secret as a whole; an URL is one when it has a password in it."""
    return _is_text(key) and not key.endswith("url")


def _is_text(key: str) -> bool:
    """Tell whether a setting is an URL or a secret; the path of a file of secrets is neither."""
    return is_secret(key) and not key.endswith("_file")


def _holds_secret(key: str, text: str) -> bool:
    return is_whole_secret(key) or hide_passwords(text) != text


def shown_value(settings: Settings, name: str) -> Any:
    """Return a setting for people: passwords are hidden, in URLs too."""
    from pydantic import SecretStr

    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    if isinstance(value, SecretStr) or (value and is_whole_secret(name)):
        return _HIDDEN
    if isinstance(value, str):
        return hide_password(value)
    if isinstance(value, tuple):
        return [hide_password(str(each)) for each in value]
    return value if value is None or isinstance(value, bool | int | float | dict) else str(value)
