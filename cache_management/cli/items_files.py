"""Files of items to be warmed, for the commands that take one."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from cache_management.cache.warm_items import read_warm_file
from cache_management.cli.context import CliContext
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.output import print_json


@contextmanager
def as_file(source: str) -> Iterator[Path]:
    """Give a source as a file: standard input ("-") is read to one of our own, for a source is read more than once."""
    if source != "-":
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="cache-cli-") as folder:
        path = Path(folder) / "standard input"
        path.write_bytes(sys.stdin.buffer.read())
        yield path


def print_dry_run(cli: CliContext, path: Path, *, as_json: bool) -> ExitCode:
    """Say what warming a file would do; every item of it is checked."""
    by_key = {item.entry_key: item for item in read_warm_file(path, may_ask=cli.settings.provider.is_set)}
    asked = sum(item.is_question for item in by_key.values())
    if as_json:
        print_json({"items": len(by_key), "to_ask": asked})
    else:
        click.echo(f"{len(by_key)} items could be warmed; {asked} of them would be asked of the provider.")
    return ExitCode.OK
