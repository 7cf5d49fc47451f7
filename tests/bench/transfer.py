"""Table 14: entries a second of an export and an import, beside a bare walk and bare writes of the store.

Each is a process of its own, so that its peak memory is its own, too. `--million` measures a million entries as well:
some minutes, and two gigabytes of memory for the Redis that holds them.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

from cache_management.cache.config import CacheConfig
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.cache.transfer.exporting import Exporter, ExportPlace, ExportWanted, new_export_id
from cache_management.cache.transfer.importing import Importer, ImportWanted
from cache_management.cache.transfer.sources import open_source
from cache_management.cache.values import CachedResponse
from cache_management.services import start_redis
from tests.bench.backends import make_workload
from tests.bench.measure import Comparison, Figures, Report, spread

NAME = "transfer"
SIZES, QUICK_SIZES, MILLION = (10_000,), (2_000,), (10_000, 1_000_000)
_ENTRY_BYTES = 1_000
_BATCH = 1_000
_GOAL = "20,000 entries/s"
_ROOT = Path(__file__).resolve().parents[2]

Found = dict[str, float]


async def measure(*, sizes: Sequence[int], kinds: Sequence[str] = ("disk", "redis"), rounds: int = 3) -> Report:
    """Measure the table; sizes from 100,000 are measured once."""
    report = Report(
        name=NAME,
        title="14. export and import, entries per second",
        rows=[],
        notes=[
            f"entries of {_ENTRY_BYTES} bytes, a .jsonl.zst, each in a process of its own; ratio: ours / beside",
            "an export is stood beside scan_page and inspect_many alone; imports go into an empty store and are stood"
            " beside put_many of ready records, 1,000 at a time",
        ],
    )
    for kind in kinds:
        for size in sizes:
            with ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cm-bench-")))
                work = _Work(kind, folder, size, stack)
                _measure_one(report, work, rounds=1 if size >= 100_000 else rounds)
    return report


class _Work:
    """One size on one kind of store: where entries come from, and empty stores where they go to."""

    def __init__(self, kind: str, folder: Path, entries: int, stack: ExitStack) -> None:
        self.kind, self.entries = kind, entries
        self.file = folder / "all.jsonl.zst"
        self._folder = folder
        self._stack = stack
        self._number = 0
        self.full = self.empty()

    def empty(self) -> str:
        """Return the URL of a store that holds nothing."""
        self._number += 1
        place = self._folder / str(self._number)
        if self.kind == "disk":
            return f"disk://{place}"
        server = start_redis(place)
        self._stack.callback(server.stop)
        return server.url

    def run(self, what: str, url: str) -> Found:
        command = [sys.executable, "-m", "tests.bench.transfer", what, url, str(self.file), str(self.entries)]
        said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=_ROOT).stdout
        found: Found = json.loads(said)
        assert found["entries"] == self.entries, found
        return found


def _measure_one(report: Report, work: _Work, *, rounds: int) -> None:
    work.run("fill", work.full)
    for what, beside, goal in (
        ("export", "bare walk", _GOAL),
        ("merge", "bare writes", _GOAL),
        ("replace", "bare writes", ""),
    ):
        ours: list[Found] = []
        theirs: list[Found] = []
        for _ in range(rounds):
            ours.append(work.run(what, work.full if what == "export" else work.empty()))
            theirs.append(work.run(beside, work.full if what == "export" else work.empty()))
        report.rows.append(_row(f"{work.kind} {what} of {work.entries:,}", beside, goal, ours, theirs))
        peak = max(found["peak_mb"] for found in ours)
        report.notes.append(
            f"{work.kind} {what} of {work.entries:,}: peak {peak:.0f} MB, {max(f['peak_mb'] for f in theirs):.0f} MB"
            f" the {beside}; file {work.file.stat().st_size / 1e6:,.1f} MB"
        )
        report.details[f"{work.kind} {what} {work.entries}"] = {"ours": ours, "theirs": theirs}


def _row(what: str, beside: str, goal: str, ours: list[Found], theirs: list[Found]) -> Comparison:
    rates = [[found["entries"] / found["seconds"] for found in side] for side in (ours, theirs)]
    middle, low, high = spread([a / b for a, b in zip(*rates, strict=True)])
    return Comparison(
        what=what,
        reference=beside,
        unit="entries/s",
        ours=Figures(median=statistics.median(rates[0])),
        theirs=Figures(median=statistics.median(rates[1])),
        ratio=middle,
        ratio_low=low,
        ratio_high=high,
        entry_bytes=_ENTRY_BYTES,
        runs=len(ours),
        goal=goal,
    )


async def _child(what: str, url: str, file: Path, entries: int) -> dict[str, Any]:
    async with LLMCache(CacheConfig(url=url, max_size=10**8, strict=True, timeout_seconds=60)) as cache:
        match what:
            case "fill" | "bare writes":
                seconds, count = await _write(cache, entries)
            case "bare walk":
                seconds, count = await _walk(cache)
            case "export":
                seconds, count = await _export(cache, file)
            case _:
                seconds, count = await _import(cache, file, replace=what == "replace")
    return {"seconds": seconds, "entries": count, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    """Return the most memory that this process had; what its parent had, which `getrusage` tells, is not its own."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def _write(cache: LLMCache, entries: int) -> tuple[float, int]:
    """Write ready records; making them is not counted."""
    chance = random.Random(1)
    model = make_workload(_ENTRY_BYTES, 1).responses[0]
    words = model.response.split()
    seconds = 0.0
    for start in range(0, entries, _BATCH):
        keys = [f"what is the answer to question {at:07}?" for at in range(start, min(start + _BATCH, entries))]
        # Other words for each, so that they pack about as well as real answers do.
        texts = [" ".join(chance.choices(words, k=len(words))) for _ in keys]
        records = {
            f"cm1:llm:default:k{key}": cache.encode(key, _answer(model, key, text))
            for key, text in zip(keys, texts, strict=True)
        }
        started = perf_counter()
        await cache.backend.put_many(records)
        seconds += perf_counter() - started
    return seconds, entries


def _answer(model: CachedResponse, key: str, text: str) -> CachedResponse:
    return model.model_copy(update={"prompt": key, "response": text})


async def _walk(cache: LLMCache) -> tuple[float, int]:
    started = perf_counter()
    count = 0
    bookmark: str | None = ""
    while bookmark is not None:
        names, bookmark = await cache.backend.scan_page("cm1:llm:default:", bookmark, _BATCH)
        for at in range(0, len(names), 500):
            count += len(await cache.backend.inspect_many(names[at : at + 500]))
    return perf_counter() - started, count


async def _export(cache: LLMCache, file: Path) -> tuple[float, int]:
    started = perf_counter()
    place = ExportPlace(new_export_id())
    wanted = ExportWanted(file, "bench", replace=True)
    exporter = Exporter(CacheManager(cache).shelf(), wanted, export_id=place.id)
    while place.step != "done":
        place = await exporter.advance(place)
    return perf_counter() - started, place.seen


async def _import(cache: LLMCache, file: Path, *, replace: bool) -> tuple[float, int]:
    started = perf_counter()
    source = open_source(file, entry_limit_bytes=cache.config.max_entry_bytes)
    importer = Importer(CacheManager(cache).shelf(), source, ImportWanted(replace=replace), where=str(file))
    place = importer.begin()
    while place.step != "done":
        place = await importer.advance(place)
    importer.close()
    return perf_counter() - started, place.tally.added


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_child(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))))
