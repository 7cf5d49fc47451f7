"""Whatever is given in the place of an argument: it is taken, or refused with its name, never stumbled over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache_management.cache.compute import Computed
from cache_management.cache.config import CacheConfig, SimilarityConfig
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.errors import CacheError
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.cache.semantic.matcher import SimilarityMatcher
from cache_management.cache.values import CachedResponse

ANSWER = CachedResponse(prompt="a", response="b", model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC))
NAN, INFINITE = float("nan"), float("inf")


async def compute() -> str:
    return "computed"


def make_manager() -> CacheManager:
    cache = LLMCache(CacheConfig(url="memory://"))
    return CacheManager(cache, SimilarityMatcher(SimilarityConfig(), backend=cache.backend, embedder=HashingEmbedder()))


def matcher_of(manager: CacheManager) -> SimilarityMatcher:
    assert manager.similarity_matcher is not None
    return manager.similarity_matcher


async def compute_nonsense() -> Computed:
    return Computed(response=5)  # type: ignore[arg-type]


async def drained(pieces: AsyncIterator[str]) -> list[str]:
    return [piece async for piece in pieces]


WRONG: dict[str, tuple[str, Callable[[CacheManager], Awaitable[Any]]]] = {
    "threshold text": ("threshold '0.8'", lambda m: m.lookup("a", threshold="0.8")),  # type: ignore[arg-type]
    "threshold nan": ("threshold nan", lambda m: m.lookup("a", threshold=NAN)),
    "threshold bool": ("threshold True", lambda m: m.lookup("a", threshold=True)),
    "threshold to compute": ("threshold 2", lambda m: m.get_or_compute("a", compute, threshold=2)),
    "threshold to find": ("threshold '1'", lambda m: m.find_similar("a", "1")),  # type: ignore[arg-type]
    "limit text": ("limit 'x'", lambda m: m.find_similar("a", limit="x")),  # type: ignore[arg-type]
    "limit broken": ("limit 1.5", lambda m: m.find_similar("a", limit=1.5)),  # type: ignore[arg-type]
    "limit none": ("limit 0 is below 1", lambda m: m.find_similar("a", limit=0)),
    "query": ("query must be text", lambda m: m.find_similar(None)),  # type: ignore[arg-type]
    "namespace": ("namespace 3", lambda m: m.lookup("a", namespace=3)),  # type: ignore[arg-type]
    "namespace empty": ("namespace ''", lambda m: m.get_or_compute("a", compute, namespace="")),
    "namespace of false hits": ("namespace 5", lambda m: m.false_hits(5)),  # type: ignore[arg-type]
    "ttl text": ("ttl_seconds", lambda m: m.store("a", "b", ttl_seconds="5")),  # type: ignore[arg-type]
    "ttl nan": ("ttl_seconds", lambda m: m.store("a", "b", ttl_seconds=NAN)),  # type: ignore[arg-type]
    "ttl infinite": ("ttl_seconds", lambda m: m.store("a", "b", ttl_seconds=INFINITE)),  # type: ignore[arg-type]
    "ttl bool": ("ttl_seconds", lambda m: m.store("a", "b", ttl_seconds=True)),
    "ttl of an entry": ("ttl_seconds", lambda m: m.llm_cache.set("a", ANSWER, "5")),  # type: ignore[arg-type]
    "ttl to compute": (
        "ttl_seconds",
        lambda m: m.get_or_compute("a", compute, ttl_seconds="5"),  # type: ignore[arg-type]
    ),
    "tags missing": ("tags must be a list", lambda m: m.store("a", "b", tags=None)),  # type: ignore[arg-type]
    "tags text": ("tags must be a list", lambda m: m.store("a", "b", tags="abc")),
    "tags number": ("tags must be a list", lambda m: m.store("a", "b", tags=5)),  # type: ignore[arg-type]
    "metadata": ("metadata must be a mapping", lambda m: m.store("a", "b", metadata=[1])),  # type: ignore[arg-type]
    "compute": ("compute must be a function", lambda m: m.get_or_compute("a", None)),  # type: ignore[arg-type]
    "compute of an entry": (
        "compute must be a function",
        lambda m: m.llm_cache.get_or_compute("a", "b"),  # type: ignore[arg-type]
    ),
    "tenant": ("namespace=", lambda m: m.lookup("a", params={"tenant": "acme"})),
    "sample": ("no-cache", lambda m: m.lookup("a", params={"sample": 1})),
    "scope": ("scope must be text", lambda m: matcher_of(m).find_similar("a", scope=5)),  # type: ignore[arg-type]
    "key of a vector": ("key must be text", lambda m: matcher_of(m).remove_entry(None)),  # type: ignore[arg-type]
    "computed": ("response: .*string", lambda m: m.get_or_compute("a", compute_nonsense)),
    "judged prompt": ("prompt must be text", lambda m: m.judge(5, "k", score=0.5, correct=True)),  # type: ignore[arg-type]
    "judged key": ("key must be text", lambda m: m.judge("a", 5, score=0.5, correct=True)),  # type: ignore[arg-type]
    "judgement": ("correct must be", lambda m: m.judge("a", "k", score=0.5, correct="y")),  # type: ignore[arg-type]
    "keys text": ("keys must be a list", lambda m: m.index("abc")),
    "keys missing": ("keys must be a list", lambda m: m.llm_cache.get_many(None)),  # type: ignore[arg-type]
    "many responses": ("responses must be a mapping", lambda m: m.llm_cache.set_many([1])),  # type: ignore[arg-type]
    "limit of missing": ("limit 'x'", lambda m: m.index_missing(limit="x")),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_argument_is_named(name: str) -> None:
    said, call = WRONG[name]

    with pytest.raises(CacheError, match=said):
        await call(make_manager())


wild = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=3)), max_size=2),
    st.dictionaries(st.text(max_size=3), st.one_of(st.none(), st.integers(), st.text(max_size=3)), max_size=2),
    st.builds(object),
    st.just("a"),
)
CALLS: list[Callable[[CacheManager, dict[str, Any]], Awaitable[Any]]] = [
    lambda m, w: m.lookup(w["a"], model=w["b"], system=w["c"], history=w["d"], params=w["e"]),
    lambda m, w: m.lookup("a", namespace=w["a"], threshold=w["b"]),
    lambda m, w: m.store(w["a"], w["b"], ttl_seconds=w["c"], tags=w["d"], metadata=w["e"]),
    lambda m, w: m.store("a", "b", ttl_seconds=w["c"], tags=w["d"], metadata=w["e"]),
    lambda m, w: m.get_or_compute(w["a"], compute, controls=w["b"], tags=w["c"], ttl_seconds=w["d"], threshold=w["e"]),
    lambda m, w: m.get_or_compute("a", compute, controls=w["b"], namespace=w["c"]),
    lambda m, w: m.find_similar(w["a"], w["b"], w["c"]),
    lambda m, w: m.judge(w["a"], w["b"], score=w["c"], correct=w["d"], namespace=w["e"]),
    lambda m, w: m.feedback(w["a"], correct=w["b"]),
    lambda m, w: m.index(w["a"]),
    lambda m, w: m.set_llm_cache(w["a"], w["b"], w["c"]),
    lambda m, w: m.llm_cache.set(w["a"], ANSWER, w["b"], tags=w["c"]),
    lambda m, w: m.llm_cache.get(w["a"]),
    lambda m, w: m.llm_cache.get_many(w["a"]),
    lambda m, w: m.llm_cache.set_many(w["a"], w["b"]),
    lambda m, w: m.llm_cache.delete(w["a"]),
    lambda m, w: m.llm_cache.get_or_compute(w["a"], w["b"], ttl_seconds=w["c"], tags=w["d"]),
    lambda m, w: m.llm_cache.get_or_compute("a", compute, prompt=w["a"], model=w["b"], controls=w["c"]),
    lambda m, w: drained(m.llm_cache.stream_or_compute(w["a"], w["b"], prompt=w["c"], model=w["d"], tags=w["e"])),
    lambda m, w: m.llm_cache.set_many({"a": ANSWER}, w["a"], tags=w["b"]),
    lambda m, w: m.llm_cache.set_many({w["a"]: w["b"]} if isinstance(w["a"], str) else w["b"]),
    lambda m, w: m.llm_cache.exists(w["a"]),
    lambda m, w: m.llm_cache.delete_many(w["a"]),
    lambda m, w: m.llm_cache.list_keys(w["a"]),
    lambda m, w: m.llm_cache.delete_pattern(w["a"]),
    lambda m, w: m.llm_cache.invalidate(w["a"]),
    lambda m, w: m.get_llm_cache(w["a"]),
    lambda m, w: m.false_hits(w["a"]),
    lambda m, w: m.index_missing(limit=w["a"]),
    lambda m, w: matcher_of(m).find_similar(w["a"], w["b"], w["c"], scope=w["d"]),
    lambda m, w: matcher_of(m).find_similar("a", scope=w["d"]),
    lambda m, w: matcher_of(m).index_entry(w["a"], w["b"], key=w["c"], ttl_seconds=w["d"]),
    lambda m, w: matcher_of(m).index_entry("a", "b", key=w["c"]),
    lambda m, w: matcher_of(m).remove_entry(w["a"]),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(call=st.sampled_from(CALLS), given_instead=st.fixed_dictionaries(dict.fromkeys("abcde", wild)))
async def test_wild_arguments_are_taken_or_refused(
    call: Callable[[CacheManager, dict[str, Any]], Awaitable[Any]], given_instead: dict[str, Any]
) -> None:
    manager = make_manager()

    with suppress(CacheError):
        await call(manager, given_instead)

    await manager.aclose()
