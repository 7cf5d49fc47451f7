"""Table 16: chains and trees of thoughts beside whole results as JSON in the same store.

Times: a result of 10, 100 and 1,000 steps is stored and read; how much of a chain is known is looked up among many
steps. Bytes: 300 sampled chains (Game of 24, 15 problems, where the developers' data is there; made-up ones otherwise),
each stored as a result, as the store itself counts them.
"""

from __future__ import annotations

import gzip
import json
import random
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from cache_management.cache.backends import open_backend
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.clock import VersionClock
from cache_management.cache.config import CacheConfig
from cache_management.cache.reasoning.cache import ReasoningCache
from cache_management.cache.reasoning.result import CoTStep, ReasoningResult, ToTNode
from cache_management.cache.records import Record
from cache_management.services import start_redis
from tests.bench.measure import Comparison, Effort, Figures, Report, Side, compare
from tests.bench.peers import Kind

NAME = "reasoning"
SIZES: Final = (10, 100, 1_000)
KNOWN: Final = (1_000, 100_000)
KINDS: tuple[Kind, ...] = ("memory", "disk", "redis")
_DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "game24_cot_chains_dev.json.gz"
_JSON = "JSON"


async def measure(
    effort: Effort, *, sizes: Sequence[int] = SIZES, known: Sequence[int] = KNOWN, kinds: Sequence[Kind] = KINDS
) -> Report:
    """Measure the table."""
    chains = sampled_chains()
    report = Report(
        name=NAME,
        title="16. reasoning beside whole results as JSON in the same store",
        rows=[],
        notes=[
            f"{sum(map(len, chains.values()))} chains of {len(chains)} problems,"
            f" {sum(len(chain) for each in chains.values() for chain in each):,} steps;"
            " known: of a chain that diverges at its last step, beside one read of the record",
        ],
    )
    for kind in kinds:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cm-bench-")))
            config = _config(kind, folder / "ours", stack)
            beside = _config(kind, folder / "theirs", stack)
            report.rows += await _times(kind, config, effort, sizes)
            report.rows += await _prefixes(kind, config, effort, known)
            report.rows.append(await _bytes(kind, config, beside, chains))
    return report


def _config(kind: Kind, folder: Path, stack: AsyncExitStack) -> CacheConfig:
    if kind == "redis":
        server = start_redis(folder)
        stack.callback(server.stop)
        url = server.url
    else:
        url = "memory://" if kind == "memory" else f"disk://{folder}"
    return CacheConfig(url=url, max_size=1_000_000, ttl_seconds=3600, timeout_seconds=5.0, strict=True)


class Whole:
    """Keeps results as JSON, each by itself."""

    def __init__(self, config: CacheConfig) -> None:
        self.backend = open_backend(config)
        self._versions = VersionClock()

    async def set(self, key: str, result: ReasoningResult) -> None:
        value = result.model_dump_json().encode()
        await self.backend.put(f"cm1:llm:default:k{key}", Record(value, None, self._versions.next()))

    async def get(self, key: str) -> ReasoningResult | None:
        name = f"cm1:llm:default:k{key}"
        record = self.backend.peek(name) or await self.backend.get(name)
        return None if record is None else ReasoningResult.model_validate_json(record.value)


async def _times(kind: Kind, config: CacheConfig, effort: Effort, sizes: Sequence[int]) -> list[Comparison]:
    rows = []
    ours, theirs = ReasoningCache(config), Whole(config)
    for shape, make in (("chain", made_chain), ("tree", made_tree)):
        for size in sizes:
            results = [(f"{shape} {size} {at}", make(size, at)) for at in range(5)]
            keys = [(key,) for key, _ in results]
            rows.append(
                await compare(
                    Side(ours.set, results),
                    Side(theirs.set, results),
                    effort,
                    what=f"{kind} {shape} of {size:,}: set",
                    reference=_JSON,
                )
            )
            rows.append(
                await compare(
                    Side(ours.get, keys),
                    Side(theirs.get, keys),
                    effort,
                    what=f"{kind} {shape} of {size:,}: get",
                    reference=_JSON,
                )
            )
    await ours.aclose()
    await theirs.backend.aclose()
    return rows


async def _prefixes(kind: Kind, config: CacheConfig, effort: Effort, known: Sequence[int]) -> list[Comparison]:
    rows = []
    cache = ReasoningCache(config)
    for count in known:
        asked = []
        for at in range(max(1, count // 100)):
            problem = f"problem {at} of {count}"
            chains = made_chains(problem, chains=20, steps=5)
            for chain in chains:
                await cache.append(cache.root(problem), chain)
            asked.append((problem, [*chains[at % 20][:-1], "something else"]))
        names = [(cache.shelf.storage_key(cache.root(problem).id.partition("/")[0]),) for problem, _ in asked]

        async def look(problem: str, steps: list[str]) -> None:
            await cache.longest_prefix(problem, steps)

        async def read(name: str) -> None:
            _ = cache.backend.peek(name) or await cache.backend.get(name)

        rows.append(
            await compare(
                Side(look, asked),
                Side(read, names),
                effort,
                what=f"{kind}: longest prefix among {count:,} steps",
                reference="one read",
                goal="1000 us" if kind == "memory" else "",
            )
        )
    await cache.aclose()
    return rows


async def _bytes(
    kind: Kind, config: CacheConfig, beside: CacheConfig, chains: dict[str, list[list[str]]]
) -> Comparison:
    """Store the chains both ways in stores of their own."""
    taken = []
    for name, where in (("ours", config), ("theirs", beside)):
        store = ReasoningCache(where) if name == "ours" else Whole(where)
        before = await _taken(kind, store.backend, where)
        for problem, each in chains.items():
            for at, steps in enumerate(each):
                await store.set(f"{problem}:{at}", result_of(problem, steps))
        if kind == "disk":
            await store.backend.aclose()
        taken.append(await _taken(kind, store.backend, where) - before)
        await store.backend.aclose()
    steps_each = sum(len(chain) for each in chains.values() for chain in each)
    ratio = taken[0] / taken[1]
    return Comparison(
        what=f"{kind}: 300 chains, each step",
        reference=_JSON,
        unit="bytes",
        ours=Figures(median=taken[0] / steps_each),
        theirs=Figures(median=taken[1] / steps_each),
        ratio=ratio,
        ratio_low=ratio,
        ratio_high=ratio,
        runs=1,
        goal="<= 0.6 x",
    )


async def _taken(kind: Kind, backend: Any, config: CacheConfig) -> int:
    if kind == "memory":
        assert isinstance(backend, MemoryBackend)
        return backend.size_bytes
    if kind == "disk":
        assert isinstance(backend, FullBackend)
        return sum(file.stat().st_size for file in Path(config.disk_path).rglob("*") if file.is_file())
    from redis.asyncio import Redis

    async with Redis.from_url(str(config.url)) as client:
        return sum([await client.memory_usage(key, samples=0) async for key in client.scan_iter(count=1000)])


def result_of(problem: str, steps: Sequence[str]) -> ReasoningResult:
    """Return a sampled chain as a result; its last line is the answer."""
    return ReasoningResult(
        reasoning_type="cot",
        problem=problem,
        steps=[CoTStep(step_number=at, thought=step) for at, step in enumerate(steps, start=1)],
        final_answer=steps[-1] if steps else None,
        metadata={"model": "gpt-4"},
    )


def sampled_chains() -> dict[str, list[list[str]]]:
    """Return sampled chains by problem: the developers' real ones, else made-up ones of the same kind."""
    if not _DATA.exists():
        return {f"{at} {at + 1} {at + 2} {at + 3}": made_chains(str(at), chains=20, steps=4) for at in range(15)}
    found = {}
    for row in json.loads(gzip.decompress(_DATA.read_bytes())):
        lines = [[line.strip() for line in each["text"].splitlines() if line.strip()] for each in row["chains"]]
        found[row["problem"]] = [chain[1:] if chain[0].startswith("Steps") else chain for chain in lines]
    return found


def made_chains(problem: str, *, chains: int, steps: int) -> list[list[str]]:
    """Return chains that share beginnings, as samples of one model do."""
    chance = random.Random(problem)
    return [
        [
            f"{chance.choice('ab')} {step} + {chance.randint(1, 2)} = {step * 7} (left: {step} {problem})"
            for step in range(steps)
        ]
        for _ in range(chains)
    ]


def made_chain(size: int, number: int) -> ReasoningResult:
    """Return a chain of so many steps."""
    steps = [f"step {at} of solution {number}: {at} times {number} is {at * number}, so we go on" for at in range(size)]
    return result_of(f"a chain of {size}, number {number}", steps)


def made_tree(size: int, number: int) -> ReasoningResult:
    """Return a tree of so many nodes, five below each."""
    nodes = []
    for at in range(size):
        children = [str(child) for child in range(5 * at + 1, min(5 * at + 6, size))]
        nodes.append(
            ToTNode(
                node_id=str(at),
                thought=f"thought {at} of tree {number}: try {at * number} next",
                parent_id=str((at - 1) // 5) if at else None,
                children_ids=children,
                score=(at % 100) / 100,
            )
        )
    return ReasoningResult(
        reasoning_type="tot", problem=f"a tree of {size}, number {number}", steps=nodes, metadata={"model": "gpt-4"}
    )
