"""Thinks step by step and asks the cache before each call of the model.

    expand   n thoughts behind a step: those that are stored, and only what is missing is generated
    solve    thoughts one after the other until one is final; or the whole result, if it is stored

Who asks for the same thought at the same time, in any process, waits for the one that generates it. A store that is
down costs calls of the model, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from cache_management.cache.arguments import check_count
from cache_management.cache.errors import BackendUnavailable, InvalidEntry, InvalidInput
from cache_management.cache.reasoning.cache import ReasoningCache
from cache_management.cache.reasoning.result import CoTStep, ReasoningResult
from cache_management.cache.reasoning.step_store import LEASE_SECONDS, UnknownStep
from cache_management.cache.reasoning.steps import StepNode, Taken, Thought

T = TypeVar("T")

Said = str | Thought
Think = Callable[[str, Sequence[str]], Said | Awaitable[Said]]
Generate = Callable[[int], Sequence[Said] | Awaitable[Sequence[Said]]]

_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.5
MOST_STEPS = 100
_LOST = (BackendUnavailable, InvalidEntry, UnknownStep)
# A store that is down, a problem of which it can hold no more, and a step that it made room for: each costs calls.


class Solution(msgspec.Struct, frozen=True):
    """How a problem was solved, and what of it was stored before.

    `calls` of the model were made. `tokens` and `cost_usd` were spent by them; `tokens_saved` and `cost_saved_usd` are
    what the thoughts that were reused took when they were generated, as far as that was told.
    """

    result: ReasoningResult
    is_whole_hit: bool = False
    steps_reused: int = 0
    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    tokens_saved: int = 0
    cost_saved_usd: float = 0.0


async def expand(
    cache: ReasoningCache,
    node: StepNode,
    n: int,
    generate: Generate,
    *,
    namespace: str = "",
    lease_seconds: float = LEASE_SECONDS,
) -> list[StepNode]:
    """Return n thoughts behind a step, as steps; `generate` is called only for those that are missing.

    Args:
        generate: Gets how many are missing and returns so many texts or Thoughts; may be async.
        namespace: Of consumers, see `StepStore.take`.
        lease_seconds: How long others wait when this process dies while `generate` is at it.

    Raises:
        Whatever `generate` raises; what it was to generate is then free for others.
    """
    if not node.id:  # it is stored nowhere, and so is what follows
        return [_loose(node, each) for each in await _generated(generate, n)]
    try:
        taken = await cache.take(node, n, namespace=namespace, lease_seconds=lease_seconds)
    except _LOST:
        return [_loose(node, each) for each in await _generated(generate, n)]
    pause = _FIRST_PAUSE_SECONDS
    is_short = False
    try:
        found = await _as_steps(cache, node, taken.samples)
        while True:
            if taken.missing:
                async with _kept(cache, taken, lease_seconds):
                    said = await _generated(generate, taken.missing)
                is_short = is_short or len(said) < taken.missing
                found += await _offered(cache, node, taken, said)
            if not taken.waiting:
                if is_short:  # others need not wait for the rest
                    await _give_back(cache, msgspec.structs.replace(taken, places=()))
                return found
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            waiting = taken.waiting
            try:
                taken = await cache.take_again(taken, lease_seconds=lease_seconds)
            except _LOST:
                return found + [_loose(node, each) for each in await _generated(generate, waiting)]
            if not (taken.samples or taken.missing or taken.waiting):  # its lease ended while nobody looked
                more = await expand(cache, node, waiting, generate, namespace=namespace, lease_seconds=lease_seconds)
                return found + more
            found += await _as_steps(cache, node, taken.samples)
    except BaseException:
        await _give_back(cache, taken)
        raise


@contextlib.asynccontextmanager
async def _kept(cache: ReasoningCache, taken: Taken, lease_seconds: float) -> AsyncIterator[None]:
    """Keep what is missing reserved while it is generated, however long that takes."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(lease_seconds / 3)
            with contextlib.suppress(*_LOST):
                await cache.renew(taken, lease_seconds=lease_seconds)

    task = asyncio.get_running_loop().create_task(renew())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _offered(cache: ReasoningCache, node: StepNode, taken: Taken, said: Sequence[Thought]) -> list[StepNode]:
    try:
        return await cache.offer(taken, said)
    except _LOST:
        return [_loose(node, each) for each in said]


async def _give_back(cache: ReasoningCache, taken: Taken) -> None:
    try:
        await asyncio.shield(cache.give_back(taken))
    except _LOST:
        return  # its lease ends by itself


async def _as_steps(cache: ReasoningCache, node: StepNode, samples: Sequence[str]) -> list[StepNode]:
    if not samples:
        return []
    spelling = cache.shelf.spelling
    try:
        known = {spelling(each.thought): each for each in await cache.children(node)}
    except BackendUnavailable:
        known = {}
    found = []
    for text in samples:
        each = known.get(spelling(text))
        found.append(_loose(node, Thought(text)) if each is None else each)
    return found


def _loose(node: StepNode, said: Thought) -> StepNode:
    """Return a thought as a step that is stored nowhere."""
    return msgspec.structs.replace(
        node,
        id="",
        thought=said.text,
        depth=node.depth + 1,
        parent_id=node.id or None,
        score=said.score,
        is_final=said.is_final,
        answer=said.answer,
        tokens=said.tokens,
        cost_usd=said.cost_usd,
        results=0,
        samples=0,
    )


async def _generated(generate: Generate, count: int) -> list[Thought]:
    said = generate(count)
    given = await said if inspect.isawaitable(said) else said
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InvalidInput(f"generate must return a list of texts or Thoughts, not {type(given).__name__}")
    thoughts = [_thought(each) for each in given]
    if len(thoughts) > count:
        raise InvalidInput(f"generate returned {len(thoughts)} thoughts where {count} were missing")
    return thoughts


def _thought(said: object) -> Thought:
    if isinstance(said, Thought):
        return said
    if isinstance(said, str):
        return Thought(said)
    raise InvalidInput(f"a thought is a text or a Thought, not {type(said).__name__}")


async def solve(
    cache: ReasoningCache,
    problem: str,
    think: Think,
    *,
    key: str | None = None,
    model: str | None = None,
    prompt_version: str | None = None,
    params: Mapping[str, Any] | None = None,
    namespace: str = "",
    most_steps: int = MOST_STEPS,
    ttl_seconds: int | None = None,
    lease_seconds: float = LEASE_SECONDS,
) -> Solution:
    """Return the stored result of a problem, or think step by step, reusing every step that is stored.

    Args:
        think: Gets the problem and the thoughts so far, and returns the next one: text, or a `Thought` that says what
            it took, and whether it is final. May be async. A plain function runs on a thread.
        key: Under which the result is stored; the problem by default.
        namespace: Of consumers: each call within it takes samples that no other was given, and stores no result.
        most_steps: After so many thoughts the chain ends, whether or not one was final.
        lease_seconds: How long others wait when this process dies in a call of `think`.

    Raises:
        Whatever `think` raises. The thoughts before stay stored: the next call goes on behind them.
        InvalidKey, InvalidEntry: The key or the TTL cannot be used; nothing was asked.
    """
    if not callable(think):
        raise InvalidInput(f"think={think!r:.40} is no function")
    check_count(most_steps, "most_steps")
    cache.check_key(key or problem)
    cache.expiry(ttl_seconds)
    root = cache.root(problem, model=model, prompt_version=prompt_version, params=params)
    if not namespace:
        whole = await _whole(cache, problem, root)
        if whole is not None:
            return whole
    steps: list[StepNode] = []
    node = root
    counts = _Counts()
    answer = None
    while len(steps) < most_steps:
        thought: Thought | None = None

        async def once(_: int, thoughts: tuple[str, ...] = tuple(each.thought for each in steps)) -> list[Thought]:
            nonlocal thought
            said = await _called(think, problem, thoughts)
            thought = _thought(said)
            return [thought]

        node = (await expand(cache, node, 1, once, namespace=namespace, lease_seconds=lease_seconds))[0]
        counts = counts.with_call(thought) if thought is not None else counts.with_reuse(node)
        steps.append(node)
        if node.is_final or (thought is not None and thought.is_final):
            answer = thought.answer if thought is not None else node.answer
            answer = node.thought if answer is None else answer
            break
    result = ReasoningResult(
        reasoning_type="cot",
        problem=problem,
        steps=[
            CoTStep(step_number=at, thought=each.thought, confidence=each.score)
            for at, each in enumerate(steps, start=1)
        ],
        final_answer=answer,
        metadata=_conditions(model, prompt_version, params, counts),
    )
    if not namespace and answer is not None:
        with contextlib.suppress(InvalidEntry):  # too large to be stored, which must not lose it to who paid for it
            await cache.set(key or problem, result, ttl_seconds)
    return counts.solution(result)


async def _whole(cache: ReasoningCache, problem: str, root: StepNode) -> Solution | None:
    for found in await cache.list_by_problem(problem, reasoning_type="cot"):
        if found.conditions == root.under and found.result.final_answer is not None:
            tokens, cost = _told(found.result)
            return Solution(
                found.result,
                is_whole_hit=True,
                steps_reused=len(found.result.steps),
                tokens_saved=tokens,
                cost_saved_usd=cost,
            )
    return None


def _told(result: ReasoningResult) -> tuple[int, float]:
    tokens, cost = result.metadata.get("token_count"), result.metadata.get("cost_usd")
    return (
        tokens if isinstance(tokens, int) else 0,
        float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) else 0.0,
    )


def _conditions(
    model: str | None, prompt_version: str | None, params: Mapping[str, Any] | None, counts: _Counts
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if model is not None:
        found["model"] = model
    if prompt_version is not None:
        found["prompt_version"] = prompt_version
    if params:
        found["params"] = dict(params)
    if counts.tokens + counts.tokens_saved:
        found["token_count"] = counts.tokens + counts.tokens_saved
    if counts.cost_usd + counts.cost_saved_usd:
        found["cost_usd"] = counts.cost_usd + counts.cost_saved_usd
    return found


async def _called(think: Think, problem: str, thoughts: Sequence[str]) -> Said:
    if inspect.iscoroutinefunction(think):
        said: Said = await think(problem, thoughts)
        return said
    found = await asyncio.to_thread(think, problem, thoughts)
    return await found if inspect.isawaitable(found) else found


class _Counts(msgspec.Struct, frozen=True):
    calls: int = 0
    reused: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    tokens_saved: int = 0
    cost_saved_usd: float = 0.0

    def with_call(self, thought: Thought) -> _Counts:
        return msgspec.structs.replace(
            self, calls=self.calls + 1, tokens=self.tokens + thought.tokens, cost_usd=self.cost_usd + thought.cost_usd
        )

    def with_reuse(self, node: StepNode) -> _Counts:
        return msgspec.structs.replace(
            self,
            reused=self.reused + 1,
            tokens_saved=self.tokens_saved + node.tokens,
            cost_saved_usd=self.cost_saved_usd + node.cost_usd,
        )

    def solution(self, result: ReasoningResult) -> Solution:
        return Solution(
            result,
            steps_reused=self.reused,
            calls=self.calls,
            tokens=self.tokens,
            cost_usd=self.cost_usd,
            tokens_saved=self.tokens_saved,
            cost_saved_usd=self.cost_saved_usd,
        )
