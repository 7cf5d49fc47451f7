from __future__ import annotations

from typing import Any

import pytest

from cache_management.cache.config import CacheConfig
from cache_management.cache.decorator import cached
from cache_management.cache.errors import InvalidInput
from cache_management.cache.llm import LLMCache


@pytest.fixture
def cache() -> LLMCache:
    return LLMCache(CacheConfig(url="memory://"))


async def test_a_call_is_answered_from_the_cache_the_second_time(cache: LLMCache) -> None:
    calls = []

    @cached(cache)
    async def ask(prompt: str, *, model: str = "gpt-4", temperature: float = 0) -> str:
        calls.append((prompt, model, temperature))
        return f"{prompt} by {model}"

    assert await ask("q") == "q by gpt-4"
    assert await ask(prompt="q", temperature=0.0) == "q by gpt-4"
    assert calls == [("q", "gpt-4", 0)]


@pytest.mark.parametrize("other", [{"model": "claude"}, {"temperature": 1}, {"system": "be brief"}, {"unknown": "x"}])
async def test_calls_that_differ_in_anything_are_different_calls(cache: LLMCache, other: dict[str, Any]) -> None:
    calls = 0

    @cached(cache)
    async def ask(prompt: str, model: str = "gpt-4", system: str | None = None, **params: Any) -> str:
        nonlocal calls
        calls += 1
        return "answer"

    await ask("q")
    await ask("q", **other)

    assert calls == 2


async def test_two_functions_do_not_share_a_prompt(cache: LLMCache) -> None:
    @cached(cache)
    async def summarise(text: str) -> str:
        return "short"

    @cached(cache)
    async def translate(text: str) -> str:
        return "kurz"

    assert (await summarise("a long text"), await translate("a long text")) == ("short", "kurz")


async def test_an_exception_is_the_callers_and_the_next_call_asks_again(cache: LLMCache) -> None:
    calls = 0

    @cached(cache)
    async def ask(prompt: str) -> str:
        nonlocal calls
        calls += 1
        raise ConnectionError

    for _ in range(2):
        with pytest.raises(ConnectionError):
            await ask("q")
    assert calls == 2


async def test_an_argument_that_is_not_json_is_named(cache: LLMCache) -> None:
    @cached(cache)
    async def ask(prompt: str, tool: object) -> str:
        return "answer"

    with pytest.raises(InvalidInput, match="tool"):
        await ask("q", object())


def test_a_function_that_is_not_async_or_has_no_prompt_is_refused(cache: LLMCache) -> None:
    with pytest.raises(InvalidInput, match="not async"):

        @cached(cache)
        def plain(prompt: str) -> str:
            return "answer"

    with pytest.raises(InvalidInput, match="no argument 'question'"):

        @cached(cache, prompt="question")
        async def ask(prompt: str) -> str:
            return "answer"
