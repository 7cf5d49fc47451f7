"""A support bot: people ask the same in many words, and the model is asked once."""

from __future__ import annotations

import asyncio

from fake_model import FakeModel

from cache_management import CacheConfig, CacheManager, LLMCache, MetricsCollector, SimilarityConfig, SimilarityMatcher

SYSTEM = "You are the support desk of a bank. Answer in one line."
QUESTIONS = [
    "How do I reset my password?",
    "how do i reset my password",  # the same, as people write it
    "My password, how do I reset it?",
    "How do I not reset my password?",  # looks alike, and is another question
    "How many transfers are free each month?",
    "Each month, how many transfers are free?",
    "How many transfers are free each year?",  # another unit
]


async def main() -> None:
    """Answer everybody, and say what it cost."""
    model = FakeModel({"password": "Use the link on the sign-in page.", "transfers": "Ten of them."})
    metrics = MetricsCollector()
    # EmbeddingModel.MINILM knows meaning; "hashing" knows only which words there are, and needs no weights.
    matcher = SimilarityMatcher(SimilarityConfig(model="hashing", threshold=0.7))
    async with CacheManager(LLMCache(CacheConfig(url="memory://")), matcher, metrics=metrics) as manager:
        for question in QUESTIONS:
            found = await manager.answer(
                question, lambda question=question: model(question), model="gpt-4", system=SYSTEM, tags=["support"]
            )
            how = found.kind or "asked the model"
            print(f"{question:<42} {found.response.response:<36} {how}")
    counted = metrics.get_cache_metrics()
    print(f"{len(QUESTIONS)} questions, {len(model.calls)} calls of the model, hit rate {counted.hit_rate:.0%}")


if __name__ == "__main__":
    asyncio.run(main())
