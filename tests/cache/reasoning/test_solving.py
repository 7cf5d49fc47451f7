from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from cache_management import CacheConfig, ReasoningCache
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.errors import BackendUnavailable, InvalidInput
from cache_management.cache.reasoning.solving import expand, solve
from cache_management.cache.reasoning.steps import Thought
from cache_management.cache.records import Record
from tests.contracts.broken import BreakableBackend
from tests.contracts.clock import ManualClock
from tests.waiting import eventually

WORDS = ["read the question", "add the numbers", "so it is 4"]


@pytest.fixture
async def cache() -> AsyncIterator[ReasoningCache]:
    async with ReasoningCache(CacheConfig(url="memory://")) as cache:
        yield cache


class Model:
    """Says the same words each time, and counts how often it is asked."""

    def __init__(self, words: Sequence[str] = WORDS, *, fails_at: int = -1) -> None:
        self.words = words
        self.fails_at = fails_at
        self.asked: list[int] = []

    async def __call__(self, problem: str, steps: Sequence[str]) -> Thought:
        at = len(steps)
        self.asked.append(at)
        await asyncio.sleep(0)
        if at == self.fails_at:
            raise RuntimeError("the model is away")
        is_last = at == len(self.words) - 1
        return Thought(self.words[at], tokens=10, cost_usd=0.5, is_final=is_last, answer="4" if is_last else None)


async def test_a_problem_that_was_solved_costs_no_call(cache: ReasoningCache) -> None:
    model = Model()
    first = await solve(cache, "2 + 2?", model, model="m")
    second = await solve(cache, "2 + 2?", model, model="m")

    assert [step.thought for step in first.result.chain] == WORDS
    assert (first.result.final_answer, first.calls, first.tokens, first.cost_usd) == ("4", 3, 30, 1.5)
    assert (second.result, second.is_whole_hit, second.calls) == (first.result, True, 0)
    assert (second.tokens_saved, second.cost_saved_usd, second.steps_reused) == (30, 1.5, 3)
    assert await cache.get("2 + 2?") == first.result
    assert model.asked == [0, 1, 2]


async def test_other_conditions_are_another_problem(cache: ReasoningCache) -> None:
    await solve(cache, "2 + 2?", Model(), model="m")

    assert (await solve(cache, "2 + 2?", Model(), model="n")).calls == 3
    assert (await solve(cache, "2 + 2?", Model(), model="m", params={"temperature": 1})).calls == 3
    assert (await solve(cache, "2 + 2?", Model(), model="m", prompt_version="2")).calls == 3


async def test_a_chain_that_broke_off_goes_on_behind_its_last_step(cache: ReasoningCache) -> None:
    with pytest.raises(RuntimeError, match="away"):
        await solve(cache, "2 + 2?", Model(fails_at=2))

    found = await solve(cache, "2 + 2?", Model())

    assert (found.steps_reused, found.calls, found.tokens, found.tokens_saved) == (2, 1, 10, 20)
    assert found.result.final_answer == "4"


async def test_who_asks_at_the_same_time_waits_for_one_call(cache: ReasoningCache) -> None:
    model = Model()

    found = await asyncio.gather(*(solve(cache, "2 + 2?", model) for _ in range(5)))

    assert sorted(model.asked) == [0, 1, 2]
    assert sum(each.calls for each in found) == 3
    assert all(each.result.final_answer == "4" for each in found)


async def test_in_a_namespace_each_call_thinks_for_itself_and_another_one_repeats_it(cache: ReasoningCache) -> None:
    said = iter(range(100))

    def think(problem: str, steps: Sequence[str]) -> Thought:
        return Thought(f"sample {next(said)}", is_final=True)

    first = [await solve(cache, "p", think, namespace="run 1") for _ in range(3)]
    second = [await solve(cache, "p", think, namespace="run 2") for _ in range(3)]

    assert [each.result.final_answer for each in first] == ["sample 0", "sample 1", "sample 2"]
    assert [each.result for each in second] == [each.result for each in first]
    assert [each.calls for each in second] == [0, 0, 0]
    assert await cache.list_keys() == []


async def test_a_plain_function_may_say_text_and_the_chain_ends_somewhere(cache: ReasoningCache) -> None:
    found = await solve(cache, "p", lambda problem, steps: f"step {len(steps)}", most_steps=3)

    assert [step.thought for step in found.result.chain] == ["step 0", "step 1", "step 2"]
    assert found.result.final_answer is None
    assert await cache.list_keys() == [], "what came to no end is no result"


async def test_only_what_is_missing_is_generated(cache: ReasoningCache) -> None:
    root = cache.root("p")
    asked: list[int] = []

    async def generate(count: int) -> list[str]:
        asked.append(count)
        return [f"{len(asked)}.{at}" for at in range(count)]

    first = await expand(cache, root, 2, generate)
    more = await expand(cache, root, 5, generate)

    assert asked == [2, 3]
    assert [each.thought for each in more] == ["1.0", "1.1", "2.0", "2.1", "2.2"]
    assert more[:2] == first
    assert [each.depth for each in await expand(cache, more[0], 1, generate)] == [2]


async def test_a_failed_generation_is_free_for_others(cache: ReasoningCache) -> None:
    root = cache.root("p")

    async def fails(count: int) -> list[str]:
        raise RuntimeError("the model is away")

    with pytest.raises(RuntimeError):
        await expand(cache, root, 2, fails)

    found = await expand(cache, root, 2, lambda count: [f"s{at}" for at in range(count)])
    assert [each.thought for each in found] == ["s0", "s1"]


async def test_who_waits_takes_over_from_one_that_was_cancelled(cache: ReasoningCache) -> None:
    root = cache.root("p")
    began = asyncio.Event()

    async def hangs(count: int) -> list[str]:
        began.set()
        await asyncio.Event().wait()
        return []

    first = asyncio.ensure_future(expand(cache, root, 1, hangs))
    await began.wait()
    second = asyncio.ensure_future(expand(cache, root, 1, lambda count: ["s"] * count))
    await eventually(_awaitable(lambda: not second.done()))
    first.cancel()

    assert [each.thought for each in await asyncio.wait_for(second, 10)] == ["s"]


def _awaitable(check: object) -> object:
    async def call() -> bool:
        return bool(check())  # type: ignore[operator]

    return call


async def test_a_store_that_is_down_costs_calls_and_nothing_else() -> None:
    cache = ReasoningCache(CacheConfig(url="memory://"), backend=BreakableBackend())
    model = Model()

    found = await solve(cache, "2 + 2?", model)

    assert (found.result.final_answer, found.calls) == ("4", 3)
    assert [step.thought for step in found.result.chain] == WORDS


async def test_what_is_no_thought_is_told(cache: ReasoningCache) -> None:
    with pytest.raises(InvalidInput, match="a thought is a text"):
        await solve(cache, "p", lambda problem, steps: 5)  # type: ignore[arg-type, return-value]
    with pytest.raises(InvalidInput, match="must return a list"):
        await expand(cache, cache.root("p"), 1, lambda count: "s")
    with pytest.raises(InvalidInput, match="2 thoughts where 1"):
        await expand(cache, cache.root("p"), 1, lambda count: ["a", "b"])


def goes_on(*words: str) -> Model:
    """Return a model that would say the first word only if it was asked for it again."""
    return Model(words)


async def stop_after_one(cache: ReasoningCache, word: str) -> None:
    with pytest.raises(RuntimeError):
        await solve(cache, "p", Model([word, "never"], fails_at=1))


async def test_a_thought_that_is_written_otherwise_is_reused(cache: ReasoningCache) -> None:
    await stop_after_one(cache, " cafe\u0301")

    assert (await solve(cache, "p", goes_on("-", "done"))).calls == 1


async def test_equal_thoughts_of_a_task_of_ones_own_are_reused() -> None:
    async with ReasoningCache(
        CacheConfig(url="memory://"), canonical=lambda text: " ".join(sorted(text.split()))
    ) as cache:
        await cache.append(cache.root("p"), "1 2")
        await stop_after_one(cache, "2 1")

        assert (await solve(cache, "p", goes_on("-", "done"))).calls == 1


async def test_a_thought_that_was_marked_wrong_is_thought_anew(cache: ReasoningCache) -> None:
    await stop_after_one(cache, "wrong")
    await cache.mark((await cache.children(cache.root("p")))[0], correct=False)

    solution = await solve(cache, "p", goes_on("right", "done"))

    assert [step.thought for step in solution.result.chain] == ["right", "done"]
    assert await cache.get("p") == solution.result


async def test_what_the_store_made_room_for_meanwhile_costs_nothing_but_calls(cache: ReasoningCache) -> None:
    model = Model()

    async def think(problem: str, steps: Sequence[str]) -> Thought:
        if len(steps) == 1:
            async for name in cache.backend.scan(""):
                await cache.backend.delete(name)
        return await model(problem, steps)

    solution = await solve(cache, "2 + 2?", think)

    assert (solution.calls, solution.result.final_answer) == (3, "4")
    assert await cache.get("2 + 2?") == solution.result


async def test_an_error_is_told_though_its_step_went(cache: ReasoningCache) -> None:
    async def think(problem: str, steps: Sequence[str]) -> Thought:
        if steps:
            async for name in cache.backend.scan(""):
                await cache.backend.delete(name)
            raise RuntimeError("the model is away")
        return Thought("one")

    with pytest.raises(RuntimeError, match="away"):
        await solve(cache, "p", think)


class FailsOnce(MemoryBackend):
    """Does not answer to the next change of a book."""

    fails = False

    async def put_if(self, key: str, record: Record, *, expected: int | None) -> bool:
        if self.fails:
            self.fails = False
            raise BackendUnavailable(self.name, "a test broke it")
        return await super().put_if(key, record, expected=expected)


async def test_a_store_that_is_away_for_a_moment_costs_nothing_but_calls() -> None:
    backend = FailsOnce(max_size=100)
    model = Model()

    async def think(problem: str, steps: Sequence[str]) -> Thought:
        backend.fails = len(steps) == 1
        return await model(problem, steps)

    async with ReasoningCache(CacheConfig(url="memory://"), backend=backend) as cache:
        solution = await solve(cache, "2 + 2?", think)

    assert (solution.calls, solution.result.final_answer) == (3, "4")


async def test_a_solution_that_is_too_large_to_be_stored_is_returned() -> None:
    words = [f"{at} " + "".join(chr(0x4E00 + 97 * at + i) for i in range(200)) for at in range(5)]
    async with ReasoningCache(CacheConfig(url="memory://", max_entry_bytes=1024)) as cache:
        solution = await solve(cache, "p", Model(words))

        assert (solution.calls, solution.result.final_answer) == (5, "4")


async def test_who_says_too_little_lets_others_say_the_rest(cache: ReasoningCache) -> None:
    root = cache.root("p")
    await expand(cache, root, 2, lambda _: ["one"])

    assert (await cache.take(root, 2)).waiting == 0


async def test_who_slept_over_the_lease_takes_anew() -> None:
    clock = ManualClock()
    async with ReasoningCache(CacheConfig(url="memory://"), clock=clock) as cache:
        root = cache.root("p")
        await cache.take(root)
        waiting = asyncio.create_task(expand(cache, root, 1, lambda _: ["one"]))
        await asyncio.sleep(0)

        clock.advance(1000)
        other = await cache.take(root)
        await cache.offer(other, ["zero"])

        assert [step.thought for step in await waiting] == ["zero"]


async def test_a_lease_is_kept_while_a_model_thinks(cache: ReasoningCache) -> None:
    asked: list[int] = []
    may_end = asyncio.Event()

    async def slow(count: int) -> list[str]:
        asked.append(count)
        await may_end.wait()
        return ["s"] * count

    first = asyncio.ensure_future(expand(cache, cache.root("p"), 1, slow, lease_seconds=0.1))
    await eventually(_awaitable(lambda: asked))
    second = asyncio.ensure_future(expand(cache, cache.root("p"), 1, slow, lease_seconds=0.1))
    await asyncio.sleep(0.5)  # five leases
    may_end.set()

    assert [each.thought for each in [*await first, *await second]] == ["s", "s"]
    assert asked == [1]


async def test_what_cannot_think_is_refused(cache: ReasoningCache) -> None:
    for wrong in ({"think": 5}, {"most_steps": "3"}, {"most_steps": 0}):
        with pytest.raises(InvalidInput):
            await solve(cache, "p", **{"think": Model(), **wrong})  # type: ignore[arg-type]
