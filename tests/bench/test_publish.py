"""What a run found is published as it was found; see also the README's table in tests/test_readme.py."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from tests.bench import publish
from tests.bench.__main__ import TABLES
from tests.bench.chart import draw, medians
from tests.bench.measure import Comparison, Figures, Report


def row(**changed: object) -> Comparison:
    made = Comparison(
        what="memory LLMCache.get",
        reference="cashews",
        unit="us",
        ours=Figures(median=3.0, p99=5.0),
        theirs=Figures(median=6.0),
        ratio=0.5,
        ratio_low=0.4,
        ratio_high=0.6,
        runs=12,
    )
    return msgspec.structs.replace(made, **changed)


def run_of(*rows: Comparison, name: str = "peers", quick: bool = False, day: int = 1) -> publish.Run:
    return publish.Run(
        date=datetime(2026, 1, day, tzinfo=UTC),
        quick=quick,
        environment={},
        load_average_after=[0.0],
        tables=[Report(name=name, title="a table", rows=list(rows))],
    )


# what is published


def test_the_page_is_what_was_measured() -> None:
    assert publish.PAGE.read_text() == publish.page(publish.load(publish.RESULT)), "python -m tests.bench --readme"


def test_a_full_run_was_published() -> None:
    run = publish.load(publish.RESULT)

    assert not run.quick
    assert {table.name for table in run.tables} <= set(TABLES)
    assert publish.CHART.is_file()


# goals


@pytest.mark.parametrize(
    ("goal", "measured", "met"),
    [
        ("3 us", "3.00 us", True),
        ("2 us", "3.00 us", False),
        ("0.5 x", "0.50 x", True),
        ("<= 0.4 x", "0.50 x", False),
        (">= 0.4 x, then 0.6 x", "0.50 x", True),
        ("+1 us", "+2.00 us", False),
    ],
)
def test_a_goal_is_judged_by_its_sign_and_unit(goal: str, measured: str, met: bool) -> None:
    theirs = Figures(median=1.0 if goal.startswith("+") else 6.0)

    (verdict,) = publish.verdicts(run_of(row(goal=goal, theirs=theirs)))

    assert (verdict.measured, verdict.met) == (measured, met)


def test_a_missed_goal_is_listed() -> None:
    assert publish._goals(run_of(row(goal="2 us"), row(reference="aiocache", goal="2 us"))).count("| 2 us |") == 1
    assert "1 met, 0 missed" in publish._goals(run_of(row(goal="4 us")))


# the README


def test_the_readme_shows_the_hardest_rival_and_no_floor() -> None:
    rows = (row(), row(reference="theine", ratio=1.4, goal="2 us"), row(reference="cachetools LRU", ratio=20.0))

    table = publish.readme_table(run_of(*rows))

    assert "theine" in table
    assert "2 us: missed, 3.00 us" in table
    assert "cashews" not in table
    assert "cachetools" not in table


def test_only_what_stands_between_the_marks_is_written_anew() -> None:
    text = f"above\n{publish.BEGIN}\nold\n{publish.END}\nbelow\n"

    written = publish.in_readme(text, run_of(row()))

    assert written.startswith("above\n")
    assert written.endswith("below\n")
    assert "old" not in written
    assert publish.in_readme(written, run_of(row())) == written


def test_a_readme_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="has no"):
        publish.in_readme("nothing", run_of(row()))


# which run


def test_the_newest_full_run_of_every_table_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "RESULT", tmp_path / "published.json")
    with pytest.raises(FileNotFoundError, match="no full run"):
        publish.newest(tmp_path, ["peers"])
    for number, run in enumerate(
        (run_of(day=1), run_of(day=2), run_of(day=3, name="another"), run_of(day=4, quick=True))
    ):
        (tmp_path / f"{number}Z.json").write_bytes(msgspec.json.encode(run))

    assert publish.newest(tmp_path, ["peers"]).date.day == 2


# the chart


def test_bars_stand_as_their_ratios_do() -> None:
    rows = [row(), row(reference="theine", ours=Figures(median=4.0), ratio=2.0)]

    assert medians(rows, "memory LLMCache.get") == {"theine": 1.75, "LLMCache": 3.5, "cashews": 7.0}


def test_a_chart_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    calls = ("memory LLMCache.get", "memory LLMCache.set")

    draw([row(what=what) for what in calls], tmp_path / "chart.png", caption="a caption")

    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
