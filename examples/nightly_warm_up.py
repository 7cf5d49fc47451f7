"""Questions of yesterday are answered each night before anybody asks: by a recorded job, or here without a broker."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from fake_model import FakeModel

from cache_management import CacheConfig, CacheManager, CacheWarmer, LLMCache, SimilarityConfig, SimilarityMatcher
from cache_management.cache.warm_items import WarmItem

YESTERDAY = ["What are your opening hours?", "Do you deliver on Sundays?", "How do I return a parcel?"]


async def main(folder: Path) -> None:
    """Warm a cache on disk from a file, and serve the morning from it."""
    model = FakeModel({"opening": "From 9 to 17.", "sundays": "No.", "return": "By the label in the box."})
    file = folder / "questions.json"
    file.write_text(
        json.dumps([{"prompt": each, "response": await model(each), "model": "gpt-4"} for each in YESTERDAY])
    )

    matcher = SimilarityMatcher(SimilarityConfig(model="hashing", threshold=0.7))
    async with CacheManager(LLMCache(CacheConfig(url=f"disk://{folder / 'cache'}")), matcher) as manager:
        # With a broker: `cache-cli warm questions.json`, or enqueue_warm(file, idem_key="nightly") in a program.
        warmed = await CacheWarmer(manager, workers=2).warm([WarmItem(**row) for row in json.loads(file.read_text())])
        print(f"warmed {warmed.stored}, failed {warmed.failed}")
        before = len(model.calls)
        for question in (*YESTERDAY, "On Sundays, do you deliver?"):
            found = await manager.answer(question, lambda question=question: model(question))
            print(f"{question:<32} {found.response.response:<26} {found.kind or 'asked the model'}")
        again = await CacheWarmer(manager).warm([WarmItem(**row) for row in json.loads(file.read_text())])
        print(f"warmed again: {again.stored} stored, {again.skipped} skipped; {len(model.calls) - before} calls by day")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else place)))
