"""`python -m tests.bench [--only NAME] [--quick]`: measure, print tables, write bench-results/*.json.

`--chart` and `--readme` measure nothing: they publish the newest full run, see `publish.py`.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console

from tests.bench import (
    backends,
    cluster,
    embedding,
    eviction,
    flight,
    growth,
    imports,
    jobs,
    overhead,
    peers,
    proxy,
    publish,
    reasoning,
    search,
    semantic,
    transfer,
    warm,
)
from tests.bench.measure import FULL, QUICK, Report, as_table, environment

TABLES: dict[str, Callable[[bool], Awaitable[Report]]] = {
    backends.NAME: lambda quick: backends.measure(QUICK if quick else FULL),
    warm.NAME: lambda quick: warm.measure(quick=quick),
    jobs.NAME: lambda quick: jobs.measure(
        items=500 if quick else 5_000, rounds=2 if quick else 5, submits=5 if quick else 50, kills=1 if quick else 3
    ),
    imports.NAME: lambda quick: imports.measure(rounds=5 if quick else 15),
    eviction.NAME: lambda quick: eviction.measure(quick=quick),
    eviction.SPEED_NAME: lambda quick: eviction.measure_speed(QUICK if quick else FULL),
    peers.NAME: lambda quick: peers.measure(QUICK if quick else FULL),
    flight.NAME: lambda quick: flight.measure(QUICK if quick else FULL),
    growth.NAME: lambda quick: growth.measure(
        QUICK if quick else FULL, sizes=growth.QUICK_SIZES if quick else growth.SIZES
    ),
    overhead.NAME: lambda quick: overhead.measure(entries=5_000 if quick else 20_000),
    embedding.NAME: lambda quick: embedding.measure(
        rounds=3 if quick else 10, batch=100 if quick else 500, singles=50 if quick else 200, starts=1 if quick else 5
    ),
    search.NAME: lambda quick: search.measure(sizes=search.QUICK_SIZES if quick else search.SIZES),
    semantic.NAME: lambda quick: semantic.measure(QUICK if quick else FULL, pairs=100 if quick else 1_000),
    transfer.NAME: lambda quick: transfer.measure(
        sizes=transfer.QUICK_SIZES if quick else transfer.SIZES, rounds=1 if quick else 3
    ),
    reasoning.NAME: lambda quick: reasoning.measure(
        QUICK if quick else FULL,
        sizes=(10, 100) if quick else reasoning.SIZES,
        known=(1_000,) if quick else reasoning.KNOWN,
    ),
    proxy.NAME: lambda quick: proxy.measure(QUICK if quick else FULL, requests=200 if quick else 1_000),
    cluster.NAME: lambda quick: cluster.measure(cluster.QUICK if quick else cluster.FULL),
}


def main() -> None:
    """Read the arguments and run the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Speed as ratios, side by side.")
    parser.add_argument("--only", action="append", choices=list(TABLES), help="measure this table; may be repeated")
    parser.add_argument("--quick", action="store_true", help="less of everything: to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder of the JSON files")
    parser.add_argument("--chart", action="store_true", help="draw docs/performance.png of the newest full run")
    parser.add_argument("--readme", action="store_true", help="write its tables to README.md and docs/performance.md")
    parser.add_argument("--million", action="store_true", help="transfer a million entries, too: some minutes")
    given = parser.parse_args()
    if given.million:
        TABLES[transfer.NAME] = lambda quick: transfer.measure(sizes=transfer.MILLION)
    if given.chart or given.readme:
        _publish(given.out, chart=given.chart, readme=given.readme)
    else:
        _measure_all(given.only or list(TABLES), quick=given.quick, out=given.out)


def _publish(out: Path, *, chart: bool, readme: bool) -> None:
    run = publish.newest(out, TABLES)
    if chart:
        publish.write_chart(run)
    if readme:
        publish.write_result(run)
        publish.write_texts(run)
    print(f"published the run of {run.date:%Y-%m-%d %H:%M} UTC")


def _measure_all(names: Sequence[str], *, quick: bool, out: Path) -> None:
    started = datetime.now(UTC)
    console = Console()
    # A pipe has no width of its own; a table that is folded at 80 columns cannot be read.
    console.width = max(console.width, 150)
    run = publish.Run(date=started, quick=quick, environment=environment(), load_average_after=[], tables=[])
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{started:%Y-%m-%dT%H%M%SZ}{'-quick' if quick else ''}.json"
    for name in names:
        report = asyncio.run(_measure(TABLES[name], quick=quick))
        console.print(as_table(report))
        run.tables.append(report)
        run.load_average_after = environment()["load_average"]
        # After each table: one that fails must not take along half an hour of others.
        path.write_bytes(msgspec.json.format(msgspec.json.encode(run)))
    console.print(f"written to {path}")


async def _measure(table: Callable[[bool], Awaitable[Report]], *, quick: bool) -> Report:
    return await table(quick)


if __name__ == "__main__":
    main()
