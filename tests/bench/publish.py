"""Writes what a run found: docs/performance.json, .md and .png, and the table in the README.

Only a full run of every table is published. All texts are made from docs/performance.json alone, so a
test can tell that they were not edited by hand and are not older than the numbers.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.bench import chart, peers
from tests.bench.measure import TEXT_COLUMNS, Comparison, Report, cells, columns, rows_of

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RESULT = ROOT / "docs" / "performance.json"
PAGE = ROOT / "docs" / "performance.md"
CHART = ROOT / "docs" / "performance.png"
BEGIN, END = "<!-- written by make bench -->", "<!-- end of what make bench writes -->"
_GOAL = re.compile(r"(?P<sign>\+|<=|>=)?\s*(?P<number>[\d.]+) (?P<unit>x|us|ms)\b")
# Rows of the README: label, table, what, beside (None: the fastest cache that is no floor).
_CHOSEN: Final[tuple[tuple[str, str, str, str | None], ...]] = (
    ("memory get", peers.NAME, "memory LLMCache.get", None),
    ("memory set", peers.NAME, "memory LLMCache.set", None),
    ("disk get", peers.NAME, "disk LLMCache.get", None),
    ("disk set", peers.NAME, "disk LLMCache.set", None),
    ("Redis get", peers.NAME, "redis LLMCache.get", None),
    ("Redis set", peers.NAME, "redis LLMCache.set", None),
    ("Redis get, 100 callers", peers.NAME, "redis LLMCache.get, 100 callers", None),
    ("near tier get", peers.NAME, "near LLMCache.get", None),
    ("`get_or_compute`, a hit", "flight", "get_or_compute hit", "cashews get_or_set"),
    ("memory get, 1,000,000 entries", "growth", "memory get at 1,000,000", None),
    ("a whole hit by meaning, memory", "semantic", "memory lookup", "GPTCache"),
    ("a whole hit by meaning, Redis", "semantic", "redis lookup", "RedisVL"),
    ("the same asked again, Redis", "semantic", "redis repeated lookup", "RedisVL"),
    ("embedding of a question", "embedding", "a question", "torch"),
    ("nearest ten among 100,000", "search", "new among 100,000", "numpy, all rows"),
    ("warm job of 2,000", "warm", "warm job of 2,000", None),
    ("export of 10,000 from disk", "transfer", "disk export of 10,000", None),
    ("import of 10,000 into Redis", "transfer", "redis merge of 10,000", None),
    ("proxy, a hit in memory", "proxy", "memory: hit", "LiteLLM"),
    ("proxy, a hit in Redis, 50 callers", "proxy", "redis: hit, 50 callers", "LiteLLM"),
    ("proxy, a miss", "proxy", "memory: miss", "LiteLLM"),
    ("replicated get, `quorum`", "cluster", "quorum: get", "naive"),
    ("replicated get, `one`", "cluster", "one: get", "naive"),
    ("gap of reads after SIGKILL of a node", "cluster", "gap of get after SIGKILL", "naive"),
    ("gap of writes after SIGKILL of a node", "cluster", "gap of set after SIGKILL", "naive"),
)
_PAGE = """\
# Performance

Written by `make bench` from `docs/performance.json`; a test compares the two.

![Median microseconds, ours beside other caches](performance.png)

## How to read it

Ours and the other take turns in short runs after a warm-up, so that a noisy machine hits both alike. **ours** and the
column behind **beside** are medians of these runs, **p99** is of single calls, which pay for reading the clock twice.
**ratio** is the median of ours over the neighbouring run of the other, with its 10th and 90th percentile; below 1 is
faster, except where the unit is entries/s, calls/s or %. **CPU** is the same for CPU time. Absolute times belong to one
machine; ratios travel. In a table of several units each number has its own beside it.

Goals are of the design: a number with `x` bounds the ratio, `+` what may be added to the other, anything else ours.
They were set for two cores of a machine like the one below. The goals of table 6 are those of table 1, held against
what an application calls.

Table 15 is the replicated cache. All its nodes share the cores of this machine with the client, so that what asks or
writes several nodes costs more here than where each node has a machine; nothing there tells of a network.

{environment}

## Goals

{goals}{tables}"""


class Run(msgspec.Struct, kw_only=True):
    """One run of the bench, as its JSON file holds it."""

    date: datetime
    quick: bool
    environment: dict[str, Any]
    load_average_after: list[float]
    tables: list[Report]

    def rows(self, table: str) -> list[Comparison]:
        """Return the rows of a table; none when it was not measured."""
        return next((each.rows for each in self.tables if each.name == table), [])


class Verdict(msgspec.Struct, frozen=True):
    """What became of one goal."""

    table: str
    what: str
    entry: str
    goal: str
    measured: str
    met: bool


def load(path: Path) -> Run:
    """Read a run."""
    return msgspec.json.decode(path.read_bytes(), type=Run)


def newest(folder: Path, names: Collection[str]) -> Run:
    """Return the newest full run of these tables, from the folder of results or what was published.

    Raises:
        FileNotFoundError: There is none.
    """
    runs = [load(path) for path in (*folder.glob("*Z.json"), RESULT) if path.exists()]
    full = [run for run in runs if not run.quick and {table.name for table in run.tables} >= set(names)]
    if not full:
        raise FileNotFoundError(f"no full run in {folder}; python -m tests.bench makes one")
    return max(full, key=lambda run: run.date)


def write_result(run: Run) -> None:
    """Keep the run beside the texts made from it; details of single jobs stay out."""
    bare = [msgspec.structs.replace(table, details={}) for table in run.tables]
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(run, tables=bare))) + b"\n")


def write_chart(run: Run) -> None:
    """Draw docs/performance.png."""
    found = run.environment
    caption = (
        f"Grey italic: the floor, without expiry or without objects. Others: ours over the ratio of neighbouring runs. "
        f"Python {found['python']}, {found['cpus']} CPUs, {run.date:%Y-%m-%d}. make bench"
    )
    chart.draw(run.rows(peers.NAME), CHART, caption=caption)


def write_texts(run: Run) -> None:
    """Write docs/performance.md and the README's table."""
    PAGE.write_text(page(run))
    README.write_text(in_readme(README.read_text(), run))


def in_readme(text: str, run: Run) -> str:
    """Return the README's text with the table of a run between the marks."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README has no {BEGIN} and {END}")
    return f"{head}{BEGIN}\n\n{readme_table(run)}\n{END}{tail}"


def readme_table(run: Run) -> str:
    """Return a short table: ours beside the fastest other cache."""
    lines = [
        "| what | ours | beside | theirs | ratio | goal | `python -m tests.bench` |",
        "|---|--:|---|--:|--:|---|---|",
    ]
    for label, table, what, beside in _CHOSEN:
        row = _hardest(run.rows(table), what, beside)
        if row is None:
            continue
        goal = ", ".join(
            f"{each.goal}: {'met' if each.met else f'missed, {each.measured}'}"
            for each in verdicts(run)
            if (each.table, each.what) == (table, what)
        )
        ours, theirs = cells(row)[2], cells(row)[5]
        lines.append(
            f"| {label} | {ours} {row.unit} | {row.reference} | {theirs} {row.unit} "
            f"| {row.ratio:.2f} | {goal} | `--only {table}` |"
        )
    return "\n".join(lines) + "\n"


def page(run: Run) -> str:
    """Return docs/performance.md."""
    return _PAGE.format(environment=_environment(run), goals=_goals(run), tables="".join(map(_markdown, run.tables)))


def verdicts(run: Run) -> list[Verdict]:
    """Judge every goal once; a goal of ours alone by the median of its rows."""
    found = {}
    for table in run.tables:
        for row in table.rows:
            goal = _GOAL.match(row.goal)
            if goal is None:
                continue
            relative = goal["unit"] == "x" or goal["sign"] == "+"
            name = f"{row.goal} {row.reference}" if relative else row.goal
            name_and_size = (row.what, row.entry_bytes)
            alike = (
                [row] if relative else [each for each in table.rows if (each.what, each.entry_bytes) == name_and_size]
            )
            value = statistics.median(_measured(each, goal) for each in alike)
            limit = float(goal["number"])
            met = value >= limit if goal["sign"] == ">=" else value <= limit
            shown = f"{'+' if goal['sign'] == '+' else ''}{value:.2f} {goal['unit']}"
            found[table.name, *name_and_size, name] = Verdict(table.name, row.what, cells(row)[1], name, shown, met)
    return list(found.values())


def _measured(row: Comparison, goal: re.Match[str]) -> float:
    if goal["unit"] == "x":
        return row.ratio
    return row.ours.median - (row.theirs.median if goal["sign"] == "+" else 0.0)


def _hardest(rows: Sequence[Comparison], what: str, beside: str | None) -> Comparison | None:
    """Return the row of the other that does best, so that no weak one makes ours look good."""
    found = [
        row
        for row in rows
        if row.what == what and (row.reference not in peers.FLOORS if beside is None else row.reference == beside)
    ]
    return max(found, key=lambda row: row.ratio, default=None)


def _goals(run: Run) -> str:
    judged = verdicts(run)
    missed = [each for each in judged if not each.met]
    lines = [f"{len(judged) - len(missed)} met, {len(missed)} missed:", ""]
    lines += ["| missed | entry | goal | measured | table |", "|---|--:|---|--:|---|"]
    lines += [f"| {each.what} | {each.entry} | {each.goal} | {each.measured} | {each.table} |" for each in missed]
    return "\n".join(lines) + "\n"


def _environment(run: Run) -> str:
    found = run.environment
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items() if version)
    commit = f", commit {found['commit']}" if found.get("commit") else ""
    load_before, load_after = found["load_average"][0], run.load_average_after[0]
    return (
        f"Measured {run.date:%Y-%m-%d %H:%M} UTC with `make bench` (one table: `python -m tests.bench --only NAME`): "
        f"{found['processor']}, {found['cpus']} CPUs, {found['system']}, load {load_before} before and {load_after} "
        f"after, Python {found['python']}, SQLite {found['sqlite']}{commit}.\n\n{packages}."
    )


def _markdown(report: Report) -> str:
    heads = columns(report)
    lines = [f"\n## {report.title}\n", f"`python -m tests.bench --only '{report.name}'`\n"]
    lines += [
        f"| {' | '.join(heads)} |",
        "|" + "|".join("---" if head in TEXT_COLUMNS else "--:" for head in heads) + "|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in rows_of(report)]
    lines += ["", *(f"* {note}" for note in report.notes), ""]
    return "\n".join(lines)
