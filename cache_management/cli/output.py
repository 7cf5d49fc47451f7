"""Prints for people and for scripts: tables, JSON, YAML, progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, cast

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_WHOLE = {"id", "job", "state", "at"}
_SHORT_CELL = 20  # such a cell is kept whole in a narrow terminal; it holds a moment
_ANY_WIDTH = 100_000


class Styled(NamedTuple):
    """A cell of a table that stands out, such as in `bold red`; a pipe gets its text alone."""

    text: object
    style: str


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def console(*, stderr: bool = False) -> Console:
    """Return a console that leaves colours out when nobody is looking."""
    from rich.console import Console

    # A pipe has no width of its own, and a table squeezed into 80 columns is no use to grep.
    width = None if _watched(stderr=stderr) else 200
    return Console(stderr=stderr, highlight=False, width=width)


def _watched(*, stderr: bool = False) -> bool:
    return (sys.stderr if stderr else sys.stdout).isatty()


class OutputLost(Exception):
    """Standard output cannot be written: its reader has gone, or the disk is full."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _TellingOutput:
    """Standard output as it is, whose failures are told from those of every other file."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as exc:
            raise OutputLost(exc) from exc

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as exc:
            raise OutputLost(exc) from exc

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def telling_output() -> Iterator[None]:
    """Let what is printed meanwhile raise OutputLost where it cannot be written."""
    stream = sys.stdout
    sys.stdout = cast("TextIO", _TellingOutput(stream))
    try:
        yield
    finally:
        sys.stdout = stream


def plain(value: Any) -> Any:
    """Return JSON types for a result value."""
    import msgspec

    return msgspec.to_builtins(value, enc_hook=_encode, builtin_types=(), str_keys=True)


def _encode(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    click.echo(json.dumps(plain(value), ensure_ascii=False, indent=2))


def print_text(text: str) -> None:
    """Print a stored text: as it is to a pipe, and without what a terminal would obey to a person."""
    # Not click.echo: it takes escape sequences out of what goes to a pipe.
    sys.stdout.write((harmless(text) if _watched() else text) + "\n")


def harmless(text: str) -> str:
    """Return a text of which a terminal obeys nothing but tabs and ends of lines."""
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)


def print_yaml(value: Any) -> None:
    """Print a value as YAML on standard output."""
    import yaml

    click.echo(yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True), nl=False)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows as a table; text from outside is shown as it is, never as markup."""
    from rich.text import Text

    cells = [
        [
            Text(_cell(value.text), style=value.style) if isinstance(value, Styled) else Text(_cell(value))
            for value in row
        ]
        for row in rows
    ]
    target = console()
    heading = Text(harmless(title), style="bold")
    table = _table(heading, columns, cells)
    if target.measure(table, options=target.options.update(max_width=_ANY_WIDTH)).maximum > target.width:
        table, least = _narrow_table(columns, cells)
        target.print(heading)
        target.width = max(target.width, least)
    target.print(table, crop=False)


def _table(title: Text, columns: Sequence[str], rows: Iterable[Sequence[Text]]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        # An id that is cut into pieces cannot be copied.
        table.add_column(column, overflow="fold", no_wrap=column in _WHOLE)
    for row in rows:
        table.add_row(*row)
    return table


def _narrow_table(columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> tuple[Table, int]:
    """Return a table for a terminal that the plain one does not fit in, and the columns that it takes at least.

    Squeezed evenly, words would be a letter wide. So lines and short cells stay whole, long ones
    fold, and where that is not enough the terminal breaks the lines.
    """
    from rich.table import Table

    table = Table(header_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    least = len(columns) - 1
    for place, column in enumerate(columns):
        longest = max((line.cell_len for row in rows for line in row[place].split()), default=0)
        natural = max(len(column), longest)
        whole = column in _WHOLE or natural <= _SHORT_CELL
        table.add_column(column, overflow="fold", no_wrap=whole, min_width=natural if whole else _SHORT_CELL)
        least += natural if whole else _SHORT_CELL
    for row in rows:
        table.add_row(*row)
    return table, least


def print_pairs(title: str, pairs: Mapping[str, object]) -> None:
    """Print names and values as a two-column table."""
    print_table(title, ("", ""), pairs.items())


def age_text(seconds: float) -> str:
    """Say how long something is ago, in one unit."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def counted(count: int, one: str, many: str = "") -> str:
    """Say how many there are of something; `many` is `one` with an s unless said."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def note(text: str) -> None:
    """Tell the person something on standard error; where that cannot be written, the work goes on."""
    with suppress(OSError):
        click.echo(text, err=True)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:.3f}"
    return harmless(str(value))


Advance = Callable[[str, int, int | None], None]
"""Takes a bar's name, how far it is, and its total (None: not known yet)."""


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Advance]:
    """Show bars on standard error while a person looks, and a line now and then otherwise."""
    if quiet:
        yield lambda name, done, total: None
    elif _watched(stderr=True):
        yield from _bars()
    else:
        yield _lines()


def _bars() -> Iterator[Advance]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description:>9}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console(stderr=True),
    ) as bars:
        tasks: dict[str, Any] = {}

        def advance(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total, rate="")
            speed = bars.tasks[tasks[name]].speed
            bars.update(tasks[name], completed=done, total=total, rate=f"{speed:,.0f}/s" if speed else "")

        yield advance


def _lines() -> Advance:
    import time

    told: dict[str, float] = {}
    last: dict[str, int] = {}

    def advance(name: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        finished = total is not None and done >= total and last.get(name) != done
        if finished or (now - told.get(name, 0.0) > 5.0 and last.get(name) != done):
            pace = ""
            if name in last and now > told[name]:
                rate = (done - last[name]) / (now - told[name])
                left = f", about {(total - done) / rate:,.0f} s left" if rate and total and done < total else ""
                pace = f", {rate:,.0f}/s{left}"
            told[name], last[name] = now, done
            note(f"{name}: {done} of {'?' if total is None else total}{pace}")

    return advance
