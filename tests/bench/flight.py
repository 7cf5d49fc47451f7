"""Table 7: what `get_or_compute` costs beside the same steps without protection, and beside cashews.

Everything in memory, one caller, a computation that takes no time: what is left is the overhead.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

from cache_management.cache.config import CacheConfig
from cache_management.cache.llm import LLMCache
from cache_management.cache.single_flight import SingleFlight
from cache_management.cache.values import CachedResponse
from tests.bench.backends import make_workload
from tests.bench.measure import Effort, Report, Side, compare
from tests.bench.peers import absent

NAME = "flight"
_ENTRY_BYTES = 1_000
_GOAL = "+3 us"


async def measure(effort: Effort, *, entries: int = 1_000) -> Report:
    """Measure the table."""
    work = make_workload(_ENTRY_BYTES, entries)
    response = work.responses[0]
    report = Report(
        name=NAME,
        title="7. one computation per key, microseconds",
        rows=[],
        notes=[
            f"memory, {entries} entries of {_ENTRY_BYTES} bytes; every miss is of a new key and evicts an old one",
            "goal: what may be added to the same steps without protection",
        ],
    )

    async def compute(*_: Any) -> CachedResponse:
        return response

    async def nothing() -> None:
        return None

    async with AsyncExitStack() as stack:
        caches = [LLMCache(CacheConfig(url="memory://", max_size=entries)) for _ in range(2)]
        for cache in caches:
            stack.push_async_callback(cache.aclose)
            await cache.set_many(dict(zip(work.keys, work.responses, strict=True)))
        ours, plain = caches
        flight: SingleFlight[CachedResponse] = SingleFlight()

        async def by_hand(key: str) -> CachedResponse:
            found = await plain.get(key)
            if found is None:
                found = await compute()
                await plain.set(key, found)
            return found

        def get_or_compute(key: str) -> Any:
            return ours.get_or_compute(key, compute)

        keys = [(key,) for key in work.keys]
        hits = {"LLMCache.get": Side(plain.get, keys)}
        misses = {"get, compute, set": Side(_fresh(by_hand), [()])}
        with absent("cashews", report.notes):
            theirs = importlib.import_module("cashews").Cache()
            theirs.setup("mem://", size=entries)
            stack.push_async_callback(theirs.close)

            def get_or_set(key: str) -> Any:
                return theirs.get_or_set(key, compute, expire=3600)

            for key in work.keys:
                await theirs.set(key, response, expire=3600)
            hits["cashews get_or_set"] = Side(get_or_set, keys)
            misses["cashews get_or_set"] = Side(_fresh(get_or_set), [()])
        for name, side in hits.items():
            goal = _GOAL if name == "LLMCache.get" else ""
            hit = Side(get_or_compute, keys)
            report.rows.append(await compare(hit, side, effort, what="get_or_compute hit", reference=name, goal=goal))
        for name, side in misses.items():
            goal = _GOAL if name == "get, compute, set" else ""
            miss = Side(_fresh(get_or_compute), [()])
            report.rows.append(await compare(miss, side, effort, what="get_or_compute miss", reference=name, goal=goal))
        report.rows.append(
            await compare(
                Side(lambda: flight.run("a key", compute, nothing), [()]),
                Side(compute, [()]),
                effort,
                what="SingleFlight.run alone",
                reference="the bare coroutine",
                goal=_GOAL,
            )
        )
    return report


def _fresh(call: Callable[[str], Any]) -> Callable[[], Any]:
    """Call with a key that was never asked for."""
    numbers = count()
    return lambda: call(f"what is the answer to new question {next(numbers)}?")
