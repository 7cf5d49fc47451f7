"""Tables, as terminals of any width show them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO

import pytest
from rich.console import Console

from cache_management.cli import output

JOB = "01a22365-97d5-749b-b40a-5571950a81b8"
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
Print = Callable[..., list[str]]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Print:
    """Returns the lines of a table in a terminal so many columns wide."""

    def show(columns: list[str], rows: list[list[object]], *, width: int) -> list[str]:
        shown = StringIO()
        monkeypatch.setattr(output, "console", lambda: Console(file=shown, width=width, highlight=False))
        output.print_table("Things", columns, rows)
        return [line.rstrip() for line in shown.getvalue().splitlines()]

    return show


def test_a_table_that_fits_has_its_lines(terminal: Print) -> None:
    lines = terminal(["id", "kind"], [[JOB, "warm"]], width=80)

    assert lines[0] == "Things"
    assert lines[-2] == f"│ {JOB} │ warm │"


def test_a_table_that_does_not_fit_keeps_ids_and_words_whole(terminal: Print) -> None:
    columns = ["id", "at", "actor", "action", "job", "outcome"]

    lines = terminal(columns, [[1, NOON, "vm:29961:180a4d06", "job.succeeded", JOB, "ok"]], width=80)

    assert lines[0] == "Things"
    assert [line.split() for line in lines[1:]] == [
        columns,
        ["1", *output._cell(NOON).split(), "vm:29961:180a4d06", "job.succeeded", JOB, "ok"],
    ]


def test_long_cells_fold_where_that_makes_the_table_fit(terminal: Print) -> None:
    lines = terminal(["check", "what"], [["broker", "it answers " * 20]], width=80)

    assert max(map(len, lines)) <= 80
    assert len(lines) > 4
    assert lines[2].startswith("broker it answers")
