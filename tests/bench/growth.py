"""Table 8: does a larger store answer as fast? Each size stands beside a store of a thousand entries."""

from __future__ import annotations

import random
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, Literal

from cache_management.cache.backends import open_backend
from cache_management.cache.backends.base import Backend
from cache_management.cache.clock import system_clock
from cache_management.cache.config import CacheConfig
from cache_management.cache.identity import KeySpace
from cache_management.cache.records import Record
from tests.bench.backends import make_workload
from tests.bench.measure import Comparison, Effort, Report, Side, compare

NAME = "growth"
SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
QUICK_SIZES: Final = (1_000, 10_000)
_ENTRY_BYTES = 1_000
_PAGE = 1_000
_ASKED = 100_000  # enough keys that the processor cannot keep their entries


async def measure(effort: Effort, *, sizes: Sequence[int] = SIZES) -> Report:
    """Measure the table; the first size is what the others stand beside."""
    rows: list[Comparison] = []
    for kind in ("memory", "disk"):
        async with _filled(kind, sizes[0]) as (small, small_keys):
            for size in sizes[1:]:
                async with _filled(kind, size) as (large, keys):
                    rows += await _compare(f"{kind} %s at {size:,}", large, keys, small, small_keys, sizes[0], effort)
    return Report(
        name=NAME,
        title="8. growth, microseconds for each entry",
        rows=rows,
        notes=[
            f"the backend alone, entries of {_ENTRY_BYTES} bytes, up to {_ASKED:,} keys at random, sets overwrite;"
            " ratio 1: as fast as the small store"
        ],
    )


async def _compare(
    what: str, large: Backend, keys: list[str], small: Backend, small_keys: list[str], first: int, effort: Effort
) -> list[Comparison]:
    value = make_workload(_ENTRY_BYTES, 1).records[0].value
    sides = {
        call: [
            Side(large.get if call == "get" else large.put, _arguments(call, keys, value)),
            Side(small.get if call == "get" else small.put, _arguments(call, small_keys, value)),
        ]
        for call in ("get", "set")
    }
    return [
        await compare(*sides[call], effort, what=what % call, reference=f"at {first:,}", entry_bytes=_ENTRY_BYTES)
        for call in sides
    ]


def _arguments(call: str, keys: Sequence[str], value: bytes) -> list[tuple[object, ...]]:
    if call == "get":
        return [(key,) for key in keys]
    return [(key, _record(value, at)) for at, key in enumerate(keys)]


@asynccontextmanager
async def _filled(kind: Literal["memory", "disk"], size: int) -> AsyncIterator[tuple[Backend, list[str]]]:
    """Open a backend that holds `size` entries; yield it with keys to ask for."""
    name_of = KeySpace("llm", "default").to_storage
    value = make_workload(_ENTRY_BYTES, 1).records[0].value
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cm-bench-"))
        url = "memory://" if kind == "memory" else f"disk://{Path(folder) / 'cache'}"
        backend = open_backend(CacheConfig(url=url, max_size=2 * SIZES[-1], timeout_seconds=30.0))
        stack.push_async_callback(backend.aclose)
        for start in range(0, size, _PAGE):
            numbers = range(start, min(start + _PAGE, size))
            await backend.put_many({name_of(_question(at)): _record(value, at) for at in numbers})
        asked = random.Random(size).sample(range(size), min(size, _ASKED))
        yield backend, [name_of(_question(at)) for at in asked]


def _question(number: int) -> str:
    return f"what is the answer to question {number:07}?"


def _record(value: bytes, number: int) -> Record:
    """Make a record of bytes of its own, that expires about in an hour."""
    return Record(value=b"%07d" % number + value[7:], expires_at=system_clock() + 3600 + number % 997, version=number)
