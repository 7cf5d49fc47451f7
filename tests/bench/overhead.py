"""Table 9: what a store takes for an entry beside the bytes of the entry itself.

Memory: growth of the resident set of a fresh process for each library, while entries are stored whose
texts nobody else holds. Disk: the files in the folder after closing. Redis: what MEMORY USAGE says.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Literal

import psutil

from cache_management.cache.config import CacheConfig
from cache_management.cache.llm import LLMCache
from cache_management.cache.values import CachedResponse
from tests.bench.backends import make_workload, open_beside
from tests.bench.measure import Comparison, Figures, Report
from tests.bench.peers import Kind, open_peers

NAME = "overhead"
_ENTRY_BYTES = 1_000
_OURS = "ours"
_WARM_UP = 1_000
_ROOT = Path(__file__).resolve().parents[2]
MEMORY_PEERS: Final = ("cashews", "aiocache", "theine", "cachetools LRU")


async def measure(*, entries: int, kinds: tuple[Kind, ...] = ("memory", "disk", "redis")) -> Report:
    """Measure the table."""
    report = Report(
        name=NAME,
        title="9. bytes that an entry takes beside itself",
        rows=[],
        notes=[
            f"{entries:,} entries of {_ENTRY_BYTES} bytes; what is taken, less the encoded entry and its key;"
            " life of an hour",
            "memory: caches that keep the object keep more than its encoded bytes; cachetools keeps no expiry",
        ],
    )
    for kind in kinds:
        found = await (_memory(entries, report) if kind == "memory" else _stored(kind, entries, report))
        ours = found.pop(_OURS)
        report.rows += [_row(f"{kind}, each entry", name, ours, theirs) for name, theirs in found.items()]
    return report


def _row(what: str, name: str, ours: float, theirs: float) -> Comparison:
    ratio = ours / max(theirs, 1.0)
    return Comparison(
        what=what,
        reference=name,
        unit="bytes",
        ours=Figures(median=ours),
        theirs=Figures(median=theirs),
        ratio=ratio,
        ratio_low=ratio,
        ratio_high=ratio,
        entry_bytes=_ENTRY_BYTES,
        runs=1,
    )


async def _memory(entries: int, report: Report) -> dict[str, float]:
    found = {}
    for name in (_OURS, *MEMORY_PEERS):
        command = [sys.executable, "-m", "tests.bench.overhead", name, str(entries)]
        said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=_ROOT).stdout.strip()
        if said == "absent":
            report.notes.append(f"{name} is left out of memory: it is not installed")
        else:
            found[name] = float(said)
    return found


async def _stored(kind: Literal["disk", "redis"], entries: int, report: Report) -> dict[str, float]:
    work = make_workload(_ENTRY_BYTES, entries if kind == "disk" else min(entries, 1_000))
    payload = sum(len(record.value) for record in work.records) + sum(len(key) for key in work.keys)
    found = {}
    with tempfile.TemporaryDirectory(prefix="cm-bench-") as folder:
        async with AsyncExitStack() as stack:
            cache, reference = await open_beside(kind, Path(folder), stack, report)
            for key, response in zip(work.keys, work.responses, strict=True):
                await cache.set(key, response)
            if kind == "redis":
                found[_OURS] = await _redis_bytes(cache.config.url, 0) - payload
            where = Path(folder) if kind == "disk" else cache.config.url
            names = {"redis-py": 0, "cashews": 1, "aiocache": 2}
            for peer in await open_peers(kind, where, reference, stack, report.notes):
                if kind == "redis" and peer.name == "redis-py":
                    await cache.delete_pattern("*")
                await peer.fill(work)
                if kind == "redis":
                    found[peer.name] = await _redis_bytes(cache.config.url, names[peer.name]) - payload
        if kind == "disk":  # closed: what stood in a write-ahead log is in the file
            for name, place in {_OURS: "ours", "sqlite3": "theirs.sqlite", "diskcache": "diskcache"}.items():
                if (Path(folder) / place).exists():
                    found[name] = _folder_bytes(Path(folder), place) - payload
    return {name: taken / len(work.keys) for name, taken in found.items()}


async def _redis_bytes(url: str | None, db: int) -> int:
    from redis.asyncio import Redis

    async with Redis.from_url(f"{url}/{db}") as client:
        return sum([await client.memory_usage(key, samples=0) async for key in client.scan_iter(count=1000)])


def _folder_bytes(folder: Path, place: str) -> int:
    files = [*folder.glob(f"{place}*"), *(folder / place).rglob("*")]
    return sum(file.stat().st_size for file in files if file.is_file())


async def _grow(name: str, entries: int) -> str:
    """Store entries in this process; return what each took."""
    async with AsyncExitStack() as stack:
        room = entries + _WARM_UP
        cache = LLMCache(CacheConfig(url="memory://", max_size=room))
        stack.push_async_callback(cache.aclose)
        work = make_workload(_ENTRY_BYTES, 1)
        model = work.responses[0]
        payload = len(work.records[0].value) + len(work.keys[0])
        if name == _OURS:
            put = cache.set
        else:
            peers = await open_peers("memory", "memory", None, stack, [], room=room)
            peer = next((peer for peer in peers if peer.name == name), None)
            if peer is None:
                return "absent"

            async def put(key: str, response: CachedResponse) -> None:
                stored = peer.set(key, response)
                if peer.awaited:
                    await stored

        for number in range(-_WARM_UP, entries):
            if number == 0:
                gc.collect()
                before = psutil.Process().memory_info().rss
            # As a program would have them: texts that came from elsewhere, held by nobody but the cache.
            prompt = f"{number:06}".join(("what is the answer to question ", "?"))
            text = f"{number:06}{model.response[6:]}"
            await put(prompt, model.model_copy(update={"prompt": prompt, "response": text, "metadata": {}}))
        gc.collect()
        return str((psutil.Process().memory_info().rss - before) / entries - payload)


if __name__ == "__main__":
    print(asyncio.run(_grow(sys.argv[1], int(sys.argv[2]))))
