from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from cache_management.migration_sources.newest import Line, Newest


def line(text: str, time: float | None, where: str, name: str = "q") -> Line:
    return Line(name, text.encode(), time, where, "q")


@pytest.mark.parametrize(
    "lines",
    [
        [line("new", 2.0, "row 1"), line("old", 1.0, "row 2"), line("older", 0.5, "row 3")],
        [line("new", 1.0, "row 10"), line("old", 1.0, "row 9"), line("older", 1.0, "row 8")],
        [line("new", 0.0, "row 1"), line("old", None, "row 2"), line("older", None, "row 1")],
    ],
)
def test_the_newest_stays_in_whatever_order_they_come(tmp_path: Path, lines: list[Line]) -> None:
    for number, order in enumerate(permutations(lines)):
        with Newest(tmp_path / str(number)) as newest:
            left = [newest.add(each) for each in order]

            assert [kept.encoded for kept in newest.lines()] == [b"new"]
            assert sorted(where for where in left if where) == sorted(each.where for each in lines[1:])


def test_lines_come_in_their_order_and_say_whether_they_had_a_time(tmp_path: Path) -> None:
    with Newest(tmp_path / "x") as newest:
        newest.add(line("a", 3.0, "row 1", "1"))
        newest.add(line("b", None, "row 2", "2"))
        newest.add(line("c", 1.0, "row 3", "3"))
        newest.add(line("a again", 4.0, "row 4", "1"))

        found = [(kept.encoded, kept.has_time) for kept in newest.lines()]

    assert found == [(b"b", False), (b"c", True), (b"a again", True)]
