"""Solutions of problems that mean the same: offered with their problem's name, and never across another number."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management import CacheConfig, CacheManager, LLMCache, ReasoningCache, SimilarityConfig, SimilarityMatcher
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.errors import ConfigurationError, InvalidInput
from cache_management.cache.similar_problems import same_numbers
from tests.cache.reasoning.results import chain

TRAIN = "a train travels 120 km in 2 hours, what is its speed"
REWORDED = "in 2 hours a train travels 120 km, what is its speed"


@pytest.fixture
async def manager() -> AsyncIterator[CacheManager]:
    """A manager whose model takes words in another order for the same."""
    cache = LLMCache(CacheConfig(url="memory://", max_size=10_000))
    matcher = SimilarityMatcher(SimilarityConfig(threshold=0.5), backend=cache.backend, embedder=HashingEmbedder())
    reasoning = ReasoningCache(cache.config, backend=cache.backend)
    async with CacheManager(cache, matcher, reasoning_cache=reasoning) as manager:
        yield manager


async def test_the_very_problem_is_found_first(manager: CacheManager) -> None:
    result = chain("speed = distance / time", problem=TRAIN, answer="60 km/h", model="m")
    await manager.set_reasoning_cache("k", result)

    found = await manager.find_reasoning(TRAIN, model="m")

    assert (found.result, found.kind, found.key, found.borrowed_from) == (result, "exact", "k", None)
    assert await manager.get_reasoning_cache("k") == result


async def test_a_reworded_problem_borrows_and_says_from_which(manager: CacheManager) -> None:
    result = chain("speed = distance / time", problem=TRAIN, answer="60 km/h", model="m")
    await manager.set_reasoning_cache("k", result)

    found = await manager.find_reasoning(REWORDED, model="m")

    assert found
    assert (found.result, found.kind, found.borrowed_from) == (result, "semantic", TRAIN)
    cache = manager.reasoning_cache
    assert cache is not None
    assert await cache.get_by_problem(REWORDED) is None, "it is not the new problem's own"


@pytest.mark.parametrize(
    "other",
    [
        REWORDED.replace("120", "150"),
        REWORDED.replace("2 hours", "three hours"),
        REWORDED.replace("120 km", "120 miles"),
        REWORDED + " and of 3 trains",
        REWORDED.replace("its speed", "half its speed"),
        REWORDED + " in mph",
    ],
)
async def test_another_number_is_another_problem(manager: CacheManager, other: str) -> None:
    await manager.set_reasoning_cache("k", chain("a", problem=TRAIN, model="m"))

    found = await manager.find_reasoning(other, model="m", threshold=-1)

    assert not found
    assert found.reason == "vetoed"


async def test_other_conditions_are_another_problem(manager: CacheManager) -> None:
    await manager.set_reasoning_cache("k", chain("a", problem=TRAIN, model="m", temperature=0.5))

    assert await manager.find_reasoning(REWORDED, model="m", params={"temperature": 0.5})
    for conditions in ({"model": "n"}, {"model": "m"}, {"model": "m", "params": {"temperature": 1.0}}):
        assert not await manager.find_reasoning(REWORDED, **conditions)  # type: ignore[arg-type]
    assert not await manager.find_reasoning(REWORDED, reasoning_type="tot", model="m", params={"temperature": 0.5})


async def test_a_solution_that_is_gone_is_not_offered(manager: CacheManager) -> None:
    await manager.set_reasoning_cache("k", chain("a", problem=TRAIN, model="m"))
    assert manager.reasoning_cache is not None
    await manager.reasoning_cache.delete("k")

    assert not await manager.find_reasoning(REWORDED, model="m")
    assert not await manager.find_reasoning(TRAIN, model="m")


async def test_answers_and_solutions_do_not_meet(manager: CacheManager) -> None:
    await manager.set_reasoning_cache("k", chain("a", problem=TRAIN))
    await manager.store("who wrote this", "me")

    assert not await manager.lookup(TRAIN)
    assert not await manager.lookup(REWORDED)
    assert not await manager.find_reasoning("who wrote this")
    assert await manager.llm_cache.list_keys() != []


async def test_without_a_model_or_a_reasoning_cache() -> None:
    cache = LLMCache(CacheConfig(url="memory://"))
    async with CacheManager(cache, reasoning_cache=ReasoningCache(cache.config, backend=cache.backend)) as manager:
        await manager.set_reasoning_cache("k", chain("a", problem=TRAIN))
        assert (await manager.find_reasoning(TRAIN)).kind == "exact"
        assert not await manager.find_reasoning(REWORDED)
    async with CacheManager(LLMCache(CacheConfig(url="memory://"))) as plain:
        with pytest.raises(ConfigurationError, match="reasoning_cache"):
            await plain.get_reasoning_cache("k")
    long = LLMCache(CacheConfig(url="memory://", namespace="n" * 60))
    matcher = SimilarityMatcher(SimilarityConfig(namespace="n" * 60), backend=long.backend, embedder=HashingEmbedder())
    reasoning = ReasoningCache(long.config, backend=long.backend)
    async with CacheManager(long, matcher, reasoning_cache=reasoning) as manager:
        with pytest.raises(InvalidInput, match="too long"):
            await manager.set_reasoning_cache("k", chain("a"))


def test_numbers_in_words_and_in_any_order_are_the_same() -> None:
    assert same_numbers("120 km in two hours", "in 2 hours, one hundred and twenty kilometres")
    assert same_numbers(
        "how many hours does it take, 2h or 3h?", "does it take 2 hours or three hours? how many hours?"
    )
    assert not same_numbers("2 apples and 3 pears", "2 apples and 2 pears")
    assert not same_numbers("how long is it in metres", "how long is it in feet")
    assert not same_numbers("one third of it", "one quarter of it")


@given(st.integers(2, 10**6), st.integers(2, 10**6))
def test_no_two_numbers_are_taken_for_the_same(one: int, other: int) -> None:
    assert same_numbers(f"what is {one} plus 1", f"add 1 to {other}") == (one == other)


async def test_every_real_maths_problem_with_one_number_changed_misses(
    manager: CacheManager, developer_data: Path
) -> None:
    rows = json.loads(gzip.decompress((developer_data / "cot_dev.json.gz").read_bytes()))
    problems = sorted({row["question"] for row in rows if re.search(r"\d", row["question"])})[:120]
    for at, problem in enumerate(problems):
        await manager.set_reasoning_cache(f"k{at}", chain("a", problem=problem, model="m"))

    served = []
    for problem in problems:
        number = re.search(r"\d+", problem)
        assert number is not None
        changed = problem[: number.start()] + str(int(number.group()) + 7) + problem[number.end() :]
        found = await manager.find_reasoning(changed, model="m", threshold=-1)
        if found:
            served.append((changed, found.borrowed_from))
    assert served == []


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        ("What is 2^3?", "What is 3^2?"),
        ("What is 10 - 4?", "What is 4 - 10?"),
        ("What is 3/4 of 20?", "What is 4/3 of 20?"),
        ("Solve 4x + 2 = 10", "Solve 2x + 4 = 10"),
        ("Solve x² = 4", "Solve x³ = 4"),
        ("½ cup of milk", "⅓ cup of milk"),
        ("the square root of 64", "the cube root of 64"),
        ("it grew sevenfold", "it grew ninefold"),
        ("a half-price ticket", "a full-price ticket"),
    ],
)
def test_a_formula_counts_in_its_order_and_with_its_signs(asked: str, stored: str) -> None:
    assert not same_numbers(asked, stored)
    assert same_numbers(asked, asked.replace(" ", "  "))
