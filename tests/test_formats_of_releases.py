"""What version 0.1.0 wrote is read by every later one. The files in tests/data are never written anew.

The metadata database has its own in tests/models/store/test_dump.py.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from cache_management import CacheConfig, CoTStep, ReasoningCache
from cache_management.cache.codec import unpack
from cache_management.cache.reasoning_transfer import ReasoningShelf
from cache_management.cache.transfer.importing import Importer, ImportWanted
from cache_management.cache.transfer.sources import open_source
from tests.cache.transfer.shelves import NOW, answer, import_from, open_cache

DATA = Path(__file__).resolve().parent / "data"
ANSWERS = {
    "plain": answer("an answer", prompt="plain"),
    "full": answer("ü 🙂", prompt="another prompt", metadata={"n": [1, None, 2.5]}),
    "large": answer("many words " * 20_000, prompt="large"),
}
CONFIG = CacheConfig(url="memory://", ttl_seconds=-1, strict=True)


def clock() -> float:
    return NOW.timestamp()


async def holds_the_chain(cache: ReasoningCache) -> None:
    found = await cache.get("train")
    assert found is not None
    assert (found.problem, found.final_answer) == ("How fast is the train?", "60 km/h")
    assert found.steps == [CoTStep(step_number=1, thought="120 km / 2 h = 60 km/h", confidence=0.98)]


async def test_records_of_a_store() -> None:
    async with open_cache(clock=clock, ttl_seconds=-1) as cache:
        frames = json.loads((DATA / "records-0.1.0.json").read_text())
        await cache.backend.put_many({key: unpack(key, base64.b64decode(frame)) for key, frame in frames.items()})

        assert {key: await cache.get(key) for key in ANSWERS} == ANSWERS
        await holds_the_chain(ReasoningCache(CONFIG, backend=cache.backend, clock=clock))


async def test_exports_of_answers() -> None:
    async with open_cache(clock=clock, ttl_seconds=-1) as cache:
        await import_from(DATA / "export-0.1.0.jsonl.zst", cache)

        assert {key: await cache.get(key) for key in ANSWERS} == ANSWERS


async def test_exports_of_reasoning() -> None:
    async with ReasoningCache(CONFIG, clock=clock) as cache:
        source = open_source(DATA / "reasoning-0.1.0.jsonl.zst", entry_limit_bytes=CONFIG.max_entry_bytes)
        importer = Importer(ReasoningShelf(cache), source, ImportWanted(), where="the export")
        place = importer.begin()
        while place.step != "done":
            place = await importer.advance(place)
        importer.close()

        await holds_the_chain(cache)
