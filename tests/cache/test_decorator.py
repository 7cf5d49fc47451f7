from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
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


def asker(cache: LLMCache, value: Any, **options: Any) -> Callable[[str], Awaitable[str]]:
    @cached(cache, **options)
    async def ask(prompt: str) -> str:
        return f"{value}: {prompt}"

    return ask


@pytest.mark.parametrize(
    ("one", "other"),
    [("en", "de"), (1, True), (None, ""), (("a", 1), ("a", 2)), (["a"], ["b"]), ({"a": [1]}, {"a": [2]})],
)
async def test_functions_made_with_other_values_are_other_functions(cache: LLMCache, one: Any, other: Any) -> None:
    assert await asker(cache, one)("q") == f"{one}: q"
    assert await asker(cache, other)("q") == f"{other}: q"
    assert await asker(cache, one)("q") == f"{one}: q"
    assert (cache.stats.hits, cache.stats.misses) == (1, 2)


async def test_a_value_counts_as_it_is_when_called(cache: LLMCache) -> None:
    language = "en"

    @cached(cache)
    async def ask(prompt: str) -> str:
        return language

    assert await ask("q") == "en"
    language = "de"
    assert await ask("q") == "de"


async def test_objects_and_what_the_function_counts_itself_are_no_part_of_it(cache: LLMCache) -> None:
    client, count = object(), 0

    @cached(cache)
    async def ask(prompt: str) -> str:
        nonlocal count
        count += 1
        return f"{client} {count}"

    assert await ask("q") == await ask("q")
    assert count == 1


async def test_values_behind_another_decorator_count(cache: LLMCache) -> None:
    def twice(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def call(*args: Any) -> Any:
            await function(*args)
            return await function(*args)

        return call

    def make(language: str) -> Callable[..., Any]:
        @cached(cache)
        @twice
        async def ask(prompt: str) -> str:
            return language

        return ask

    assert [await make("en")("q"), await make("de")("q")] == ["en", "de"]


async def test_a_name_says_which_function_it_is(cache: LLMCache) -> None:
    assert await asker(cache, "en", name="ask")("q") == "en: q"
    assert await asker(cache, "de", name="ask")("q") == "en: q"
    assert await asker(cache, "de", name="ask in German")("q") == "de: q"


async def test_functions_of_two_scripts_are_two(cache: LLMCache) -> None:
    code = "async def ask(prompt): return __file__"
    answers = []
    for file in ("one.py", "two.py"):
        names = {"__name__": "__main__", "__file__": file}
        exec(compile(code, file, "exec"), names)
        answers.append(await cached(cache)(names["ask"])("q"))  # type: ignore[arg-type]

    assert answers == ["one.py", "two.py"]


async def test_an_argument_beside_a_positional_one_of_its_name_counts_for_itself(cache: LLMCache) -> None:
    @cached(cache)
    async def ask(prompt: str, /, **rest: Any) -> str:
        return f"{prompt} {rest}"

    assert await ask("one", prompt="b") == "one {'prompt': 'b'}"
    assert await ask("two", prompt="b") == "two {'prompt': 'b'}"
    assert await ask("two", prompt="c") == "two {'prompt': 'c'}"


async def test_a_method_is_refused_and_told_the_way_out(cache: LLMCache) -> None:
    class Asker:
        def __init__(self, language: str) -> None:
            self.language = language

        async def ask(self, prompt: str) -> str:
            return f"{self.language}: {prompt}"

    for method in (Asker.ask, Asker("en").ask):
        with pytest.raises(InvalidInput, match=r"ask is a method.*\(self\).*name="):
            cached(cache)(method)
    for language in ("en", "de"):
        assert await cached(cache, name=f"ask in {language}")(Asker(language).ask)("q") == f"{language}: q"


def test_a_name_that_says_nothing_is_refused(cache: LLMCache) -> None:
    with pytest.raises(InvalidInput, match="name must be text"):
        asker(cache, "en", name="")


async def test_a_function_without_a_name_needs_one(cache: LLMCache) -> None:
    async def ask(language: str, prompt: str) -> str:
        return f"{language}: {prompt}"

    german = functools.partial(ask, "de")
    with pytest.raises(InvalidInput, match="give name="):
        cached(cache)(german)
    assert await cached(cache, name="ask in German")(german)("q") == "de: q"
