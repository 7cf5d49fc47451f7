"""ReasoningCache does the same on every store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cache_management import CacheConfig, CachedResponse, LLMCache, ReasoningCache, ReplicationConfig, ShardingStrategy
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.cluster.distributed import DistributedCache
from cache_management.cache.errors import BackendUnavailable, ConfigurationError, InvalidEntry, InvalidInput, InvalidKey
from cache_management.cache.events import CorruptEvent, Event, HitEvent, MissEvent, StepsEvent, UnavailableEvent
from cache_management.cache.invalidation import Selection
from cache_management.cache.reasoning.holdings import holdings_of
from cache_management.cache.reasoning.result import CoTStep
from cache_management.cache.reasoning.steps import Thought
from cache_management.cache.reasoning.validation import InvalidReasoning
from cache_management.cache.records import Record
from tests.cache.reasoning.results import chain, node, small_tree, tree
from tests.contracts.broken import BreakableBackend
from tests.contracts.clock import ManualClock

PATIENT_SECONDS = 20.0


@pytest.fixture(params=["memory", "disk", "redis", "redis cluster", "replicated", "encrypted with memory in front"])
async def cache(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[ReasoningCache]:
    heard: list[Event] = []
    options: dict[str, Any] = {"timeout_seconds": PATIENT_SECONDS, "namespace": "reasoning", "strict": True}
    backend = None
    match request.param:
        case "memory":
            options["url"] = "memory://"
        case "disk":
            options["url"] = f"disk://{tmp_path}"
        case "redis":
            options["url"] = request.getfixturevalue("redis_url")
        case "redis cluster":
            options["url"] = request.getfixturevalue("redis_cluster").url
        case "replicated":
            nodes = request.getfixturevalue("nodes")
            distributed = DistributedCache(
                nodes,
                ShardingStrategy.CONSISTENT_HASH,
                ReplicationConfig(replicas=2),
                config=CacheConfig(backend="redis", timeout_seconds=PATIENT_SECONDS),
            )
            backend = distributed.backend
        case _:
            options |= {
                "url": f"disk://{tmp_path}",
                "near_max_size": 100,
                "encryption_keys": "first: " + "A" * 43 + "=",
            }
    found = ReasoningCache(CacheConfig(**options), backend=backend, clock=clock, listener=heard.append)
    found.heard = heard  # type: ignore[attr-defined]
    yield found
    await found.invalidate(Selection(everything=True))
    await found.aclose()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def near(clock: ManualClock) -> AsyncIterator[ReasoningCache]:
    """A cache in memory, for what has nothing to do with the store."""
    async with ReasoningCache(CacheConfig(url="memory://"), clock=clock) as cache:
        yield cache


def heard(cache: ReasoningCache, kind: type[Any]) -> list[Any]:
    return [event for event in cache.heard if isinstance(event, kind)]  # type: ignore[attr-defined]


async def test_chains_and_trees_come_back_equal(cache: ReasoningCache) -> None:
    given = {"a chain": chain("a", "b", model="m"), "a tree": small_tree(), "a long key " * 40: chain("a", "c")}
    for key, result in given.items():
        await cache.set(key, result)

    for key, result in given.items():
        found = await cache.get(key)
        assert found is not None
        assert found.problem == result.problem
        assert [each.thought for each in found.thoughts] == [each.thought for each in result.thoughts]
        assert await cache.exists(key)
    assert await cache.get("a chain") == given["a chain"]
    assert await cache.list_keys() == sorted(given)
    assert await cache.list_keys("a t*") == ["a tree"]
    assert await cache.get("another") is None
    assert [event.reason for event in heard(cache, MissEvent)] == ["absent"]
    assert len(heard(cache, HitEvent)) == 4


async def test_a_key_holds_what_was_stored_last(cache: ReasoningCache) -> None:
    await cache.set("k", chain("a", problem="first"))
    await cache.set("k", chain("b", problem="second"))

    assert await cache.get("k") == chain("b", problem="second")
    assert await cache.get_by_problem("first") is None
    assert (await holdings_of(cache)).problems == 1


async def test_results_are_found_by_their_problem_newest_first(cache: ReasoningCache, clock: ManualClock) -> None:
    for at, model in enumerate(["m", "n", "m"]):
        await cache.set(f"key {at}", chain(f"step {at}", model=model))
        clock.advance(1)

    assert [each.key for each in await cache.list_by_problem(" a problem\n")] == ["key 2", "key 1", "key 0"]
    assert [each.key for each in await cache.list_by_problem("a problem", model="n")] == ["key 1"]
    assert await cache.get_by_problem("a problem", reasoning_type="tot") is None
    assert await cache.get_by_problem("a problem") == chain("step 2", model="m")


async def test_what_is_deleted_is_gone_with_its_steps(cache: ReasoningCache) -> None:
    await cache.set("1", chain("a", "b"))
    await cache.set("2", chain("a", "c"))

    assert await cache.delete("1")
    assert not await cache.delete("1")

    assert (await cache.get("1"), await cache.get("2")) == (None, chain("a", "c"))
    assert (await cache.longest_prefix("a problem", ["a", "b"])).matched == 1
    assert await cache.delete("2")
    held = await holdings_of(cache)
    assert (held.problems, held.steps) == (0, 0)


async def test_results_live_as_long_as_was_said(cache: ReasoningCache, clock: ManualClock) -> None:
    await cache.set("short", chain("a", "b"), ttl_seconds=10)
    await cache.set("ever", chain("a", "c"), ttl_seconds=-1)
    await cache.set("alone", chain("x", problem="another"), ttl_seconds=10)
    clock.advance(11)

    assert await cache.get("short") is None
    assert [each.key for each in await cache.list_by_problem("a problem")] == ["ever"]
    assert await cache.get_by_problem("another") is None
    assert await cache.get("ever") == chain("a", "c")


async def test_tags_patterns_and_ages_invalidate(cache: ReasoningCache, clock: ManualClock) -> None:
    for at in range(4):
        await cache.set(f"key {at}", chain("a", f"b{at}", model=f"m{at % 2}"), tags=[f"tag {at % 2}"])
        clock.advance(10)
    root = cache.root("a problem", model="loose")
    await cache.append(root, ["by itself"])

    assert await cache.invalidate(Selection(tag="tag 0"), dry_run=True) == 2
    assert await cache.invalidate(Selection(tag="tag 0")) == 2
    assert await cache.list_keys() == ["key 1", "key 3"]
    assert await cache.invalidate(Selection(older_than_seconds=25)) == 1
    assert await cache.invalidate(Selection(model="m1")) == 1
    assert await cache.list_keys() == []
    assert (await cache.longest_prefix(root, ["by itself"])).matched == 1
    assert await cache.invalidate(Selection(everything=True)) == 0
    assert (await cache.longest_prefix(root, ["by itself"])).matched == 0


async def test_a_tag_that_answers_and_reasoning_share(cache: ReasoningCache, clock: ManualClock) -> None:
    answers = LLMCache(cache.config, backend=cache.backend, clock=clock, listener=cache.heard.append)  # type: ignore[attr-defined]
    entry = CachedResponse(prompt="q", response="r", model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC))
    await answers.set("q", entry, tags=["t"])
    await cache.set("k", chain("a"), tags=["t"])

    assert await answers.invalidate(Selection(tag="t")) == 1
    assert await cache.exists("k")
    assert await cache.invalidate(Selection(tag="t")) == 1
    assert heard(cache, CorruptEvent) == []


async def test_how_much_of_a_chain_is_known(cache: ReasoningCache) -> None:
    await cache.set("1", chain("a", "b", "c"))
    await cache.set("2", chain("a", "b", "d"))

    found = await cache.longest_prefix("a problem", [" a ", "b", "x", "c"])

    assert (found.matched, found.remaining) == (2, ("x", "c"))
    assert (found.node.thought, found.node.depth, found.node.results) == ("b", 2, 2)
    assert [each.thought for each in found.continuations] == ["c", "d"]
    assert [each.thought for each in await cache.children(found.node.id)] == ["c", "d"]
    assert [each.thought for each in await cache.path(found.node)] == ["a", "b"]
    assert (await cache.longest_prefix(found.node, ["d"])).matched == 1
    assert (await cache.longest_prefix("a problem", ["a"], model="other")).matched == 0
    assert (await cache.longest_prefix("nobody asked this", ["a"])).matched == 0
    assert [(event.what, event.count) for event in heard(cache, StepsEvent)] == [
        ("submitted", 3),
        ("stored", 3),
        ("submitted", 3),
        ("stored", 1),
        ("reused", 2),
        ("reused", 1),
    ]


async def test_steps_are_added_one_by_one_and_once(cache: ReasoningCache) -> None:
    root = cache.root("a game", model="m", params={"temperature": 0.7, "n": [1]})
    first = await cache.append(root, "a", tokens=10, cost_usd=0.01)
    path = await cache.append(first[-1], ["b", CoTStep(step_number=1, thought="c", confidence=0.5)], is_final=True)
    again = await cache.append(cache.root("a game", model="m", params={"n": [1], "temperature": 0.7}), ["a", "b"])

    assert [each.id for each in again] == [first[0].id, path[0].id]
    assert (path[1].score, path[1].is_final, path[1].depth) == (0.5, True, 3)
    assert path[1].parent_id == path[0].id
    assert (await cache.resume("a game")).tokens == 10
    assert (await cache.resume("a game")).cost_usd == pytest.approx(0.01)
    assert await cache.frontier("a game") == []


async def test_a_search_goes_on_where_it_left_off(cache: ReasoningCache) -> None:
    root = cache.root("a game", reasoning_type="tot")
    for thought, score in (("a", 0.2), ("b", 0.9), ("c", None)):
        await cache.append(root, thought, score=score)
    (b,) = [each for each in await cache.next_steps(root) if each.thought == "b"]
    await cache.append(b, "b1", score=0.5)

    state = await cache.resume(root)

    assert [each.thought for each in state.frontier] == ["b1", "a", "c"]
    assert {each.thought for each in state.visited} == {"a", "b", "c", "b1"}
    assert [each.thought for each in await cache.next_steps(root)] == ["b", "a", "c"]
    (best,) = await cache.best_paths("a game")
    assert (best.thoughts, best.score) == (("b", "b1"), 0.5)


async def test_paths_of_results_and_of_loose_steps_are_weighed_together(cache: ReasoningCache) -> None:
    await cache.set("t", small_tree())
    root = cache.root("a problem", reasoning_type="tot")
    await cache.append(root, ["loose"], score=0.8)

    found = await cache.best_paths("a problem", 3)

    assert [(path.score, path.key) for path in found] == [(0.9, "t"), (0.8, None), (0.7, "t")]
    assert found[0].thoughts == ("thought root", "thought a", "thought a1")
    assert await cache.best_paths("a problem", model="other") == []


async def test_pruning_says_what_goes_and_takes_it(cache: ReasoningCache) -> None:
    await cache.set("chain", chain("a", "b"))
    await cache.set("other", chain("a", "c"))
    (a,) = await cache.children(cache.root("a problem"))
    (b, _) = await cache.children(a)

    would = await cache.prune(b, dry_run=True)
    assert await cache.exists("chain")
    assert await cache.prune(b) == would
    assert (would.steps, would.results) == (1, ("chain",))
    assert (await cache.get("chain"), await cache.list_keys()) == (None, ["other"])
    with pytest.raises(InvalidInput, match="not known"):
        await cache.prune(b)


async def test_a_wrong_step_is_not_served_in_any_chain(cache: ReasoningCache) -> None:
    await cache.set("1", chain("a", "wrong", "c"))
    await cache.set("2", chain("a", "right"))
    (a,) = await cache.children(cache.root("a problem"))
    wrong = next(each for each in await cache.children(a) if each.thought == "wrong")

    await cache.mark(wrong, correct=False, reason="2 + 2 is not 5")

    assert await cache.get("1") is None
    assert [each.key for each in await cache.list_by_problem("a problem")] == ["2"]
    found = await cache.longest_prefix("a problem", ["a", "wrong", "c"])
    assert (found.matched, [each.thought for each in found.continuations]) == (1, ["right"])
    await cache.mark(wrong, correct=True)
    assert await cache.get("1") == chain("a", "wrong", "c")
    await cache.hide(a)
    assert (await cache.get("1"), await cache.get("2")) == (None, None)
    await cache.hide(a, is_hidden=False)
    assert await cache.get("2") is not None


async def test_a_mark_outlives_the_chain_that_it_was_made_in(near: ReasoningCache) -> None:
    await near.set("k", chain("wrong", "7"))
    (wrong,) = await near.children(near.root("a problem"))
    await near.mark(wrong, correct=False)
    await near.set("k", chain("right", "8"))
    await near.set("again", chain("wrong", "7"))

    assert await near.get("again") is None
    assert await near.get_by_problem("a problem") == chain("right", "8")


async def test_what_was_given_back_once_is_not_given_back_again(near: ReasoningCache) -> None:
    root = near.root("p")
    taken = await near.take(root, 1, namespace="maker")
    await near.offer(taken, ["x"])
    first = await near.take(root, 1, namespace="run")
    await near.give_back(first)
    assert (await near.take(root, 1, namespace="run")).samples == ("x",)
    await near.give_back(first)
    assert (await near.take(root, 1, namespace="run")).samples == ()


async def test_samples_are_given_once_within_a_namespace(cache: ReasoningCache) -> None:
    root = cache.root("a game")
    first = await cache.take(root, 2, namespace="run 1")
    assert (first.samples, first.missing) == ((), 2)
    await cache.offer(first, ["x", "x"])

    again = await cache.take(root, 2, namespace="run 1")
    other = await cache.take(root, 3, namespace="run 2")
    assert (again.missing, other.samples, other.missing, other.waiting) == (2, ("x", "x"), 0, 1)
    await cache.give_back(again)
    last = await cache.take_again(other)
    assert (last.missing, last.waiting) == (1, 0)
    await cache.offer(last, ["y"])

    assert await cache.samples(root) == ["x", "x", "y"]
    assert [each.thought for each in await cache.children(root)] == ["x", "y"]
    assert (await cache.take(root, 1, namespace="run 1")).samples == ("y",)
    await cache.reset_samples(root, namespace="run 1")
    assert (await cache.take(root, 3, namespace="run 1")).samples == ("x", "x", "y")


async def test_takers_at_the_same_time_never_share_a_sample(cache: ReasoningCache) -> None:
    root = cache.root("a game")
    taken = await cache.take(root, 12, namespace="maker")
    await cache.offer(taken, [f"sample {at}" for at in range(12)])

    found = await asyncio.gather(*(cache.take(root, 2, namespace="shared") for _ in range(6)))

    texts = [text for each in found for text in each.samples]
    assert sorted(texts) == sorted(f"sample {at}" for at in range(12))


async def test_nobody_loses_what_many_add_at_once(cache: ReasoningCache) -> None:
    root = cache.root("a game")

    await asyncio.gather(*(cache.append(root, ["shared", f"own {at}"]) for at in range(8)))

    (shared,) = await cache.children(root)
    assert {each.thought for each in await cache.children(shared)} == {f"own {at}" for at in range(8)}


async def test_what_does_not_fit_together_is_refused_and_nothing_stored(cache: ReasoningCache) -> None:
    await cache.set("k", chain("a"))
    with pytest.raises(InvalidReasoning, match=r"steps\[1\].parent_id: there is no node 'nobody'"):
        await cache.set("k", tree(node("r"), node("a", "nobody")))
    with pytest.raises(InvalidKey):
        await cache.set("", chain("b"))
    with pytest.raises(InvalidEntry, match="ttl_seconds"):
        await cache.set("k", chain("b"), ttl_seconds=-5)
    with pytest.raises(InvalidEntry, match="ReasoningResult"):
        await cache.set("k", {"steps": []})  # type: ignore[arg-type]

    assert await cache.get("k") == chain("a")
    assert await cache.list_keys() == ["k"]


async def test_a_result_over_the_limit_is_refused(clock: ManualClock) -> None:
    async with ReasoningCache(CacheConfig(url="memory://", max_entry_bytes=2000), clock=clock) as cache:
        await cache.set("small", chain("a"))
        with pytest.raises(InvalidEntry, match="limit is 2,000"):
            await cache.set("large", chain("x" * 3000))
        assert (await cache.get("small"), await cache.list_keys()) == (chain("a"), ["small"])


async def test_two_namespaces_know_nothing_of_each_other(tmp_path: Path) -> None:
    configs = [CacheConfig(url=f"disk://{tmp_path}", namespace=name) for name in ("one", "two")]
    async with ReasoningCache(configs[0]) as one, ReasoningCache(configs[1]) as two:
        await one.set("k", chain("a"))

        assert await two.get("k") is None
        assert await two.get_by_problem("a problem") is None
        assert one.root("a problem").id != two.root("a problem").id


async def test_a_task_may_say_which_steps_are_the_same() -> None:
    def numbers_left(thought: str) -> str:
        return " ".join(sorted(thought.partition("left:")[2].strip(" )").split()))

    async with ReasoningCache(CacheConfig(url="memory://"), canonical=numbers_left) as cache:
        await cache.append(cache.root("24"), ["4 + 8 = 12 (left: 6 12)"])

        found = await cache.longest_prefix("24", ["8 + 4 = 12 (left: 12 6)"])

        assert (found.matched, found.node.thought) == (1, "4 + 8 = 12 (left: 6 12)")


@pytest.mark.parametrize("strict", [False, True])
async def test_a_store_that_is_down_costs_a_miss_and_an_event(strict: bool) -> None:
    events: list[Event] = []
    config = CacheConfig(url="memory://", strict=strict)
    cache = ReasoningCache(config, backend=BreakableBackend(), listener=events.append)
    root = cache.root("p")
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: cache.get("k"),
        lambda: cache.set("k", chain("a")),
        lambda: cache.exists("k"),
        lambda: cache.get_by_problem("p"),
        lambda: cache.children(root),
        lambda: cache.best_paths("p"),
        lambda: cache.frontier("p"),
        lambda: cache.list_keys(),
    ]
    for call in calls:
        if strict:
            with pytest.raises(BackendUnavailable):
                await call()
        else:
            assert not await call()
    if not strict:
        assert (await cache.longest_prefix("p", ["a"])).remaining == ("a",)
    assert len([event for event in events if isinstance(event, UnavailableEvent)]) >= len(calls)
    for must in (lambda: cache.delete("k"), lambda: cache.append(root, "a"), lambda: cache.take(root)):
        with pytest.raises(BackendUnavailable):
            await must()


@pytest.mark.parametrize("wrong", ["", "x", "a/b", "g" * 32 + "/" + "0" * 32, 5])
async def test_what_is_no_step_is_told(near: ReasoningCache, wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="is no step"):
        await near.children(wrong)


async def test_arguments_of_the_wrong_kind_are_refused(near: ReasoningCache) -> None:
    root = near.root("p")
    for call in (
        near.longest_prefix("p", "abc"),
        near.longest_prefix("p", [1]),  # type: ignore[list-item]
        near.longest_prefix("", ["a"]),
        near.append(root, "a", score=2),
        near.append(root, "a", tokens=-1),
        near.append(root, "\ud800"),
        near.take(root, 0),
        near.take("x", 1),  # type: ignore[arg-type]
        near.append("x", "a"),  # type: ignore[arg-type]
        near.append(root, None),  # type: ignore[arg-type]
        near.take_again("x"),  # type: ignore[arg-type]
        near.offer("x", ["a"]),  # type: ignore[arg-type]
        near.best_paths("absent", by="bogus"),  # type: ignore[arg-type]
        near.list_keys(5),  # type: ignore[arg-type]
        near.mark(root, correct=False),
        near.get_by_problem(5),  # type: ignore[arg-type]
        near.invalidate("all"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidInput):
            await call
    for made in ({"params": {"a": object()}}, {"model": 5}, {"reasoning_type": "other"}, {"params": "x"}):
        with pytest.raises(InvalidInput):
            near.root("p", **made)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="changes nothing in one step"):
        ReasoningCache(CacheConfig(url="memory://"), backend=_NoBackend())  # type: ignore[arg-type]


class _NoBackend:
    name = "plain"


@pytest.mark.parametrize(
    "given",
    [
        {"tokens": 1.5},
        {"tokens": 2**70},
        {"tokens": -1},
        {"cost_usd": float("nan")},
        {"cost_usd": float("inf")},
        {"answer": 5, "is_final": True},
        {"answer": "\ud800", "is_final": True},
        {"score": "1"},
        {"score": float("nan")},
    ],
)
async def test_what_could_not_be_read_again_is_refused(given: dict[str, Any]) -> None:
    async with ReasoningCache(CacheConfig(url="memory://")) as cache:
        await cache.set("k", chain("one"))
        root = cache.root("a problem")
        taken = await cache.take(root)

        with pytest.raises(InvalidInput):
            await cache.append(root, "x", **given)
        with pytest.raises(InvalidInput):
            await cache.offer(taken, [Thought("x", **given)])

        assert await cache.get("k") == chain("one")


async def test_names_and_reasons_that_are_no_text_are_refused() -> None:
    async with ReasoningCache(CacheConfig(url="memory://")) as cache:
        await cache.set("k", chain("one"))
        root = cache.root("a problem")
        no_text: Any = 5

        with pytest.raises(InvalidInput, match="namespace"):
            await cache.take(root, namespace=no_text)
        with pytest.raises(InvalidInput, match="prompt"):
            await cache.take(root, prompt=no_text)
        with pytest.raises(InvalidInput, match="lease_seconds"):
            await cache.take(root, lease_seconds=float("nan"))
        with pytest.raises(InvalidInput, match="reason"):
            await cache.mark((await cache.children(root))[0], correct=False, reason=no_text)
        with pytest.raises(InvalidEntry, match="beyond 64 bits"):
            await cache.set("n", chain("one").model_copy(update={"steps": [CoTStep(step_number=2**70, thought="x")]}))

        assert await cache.get("k") == chain("one")


async def test_steps_go_with_their_result_though_another_lives(clock: ManualClock) -> None:
    async with ReasoningCache(CacheConfig(url="memory://"), clock=clock) as cache:
        await cache.set("short", chain("one", "two"), 10)
        await cache.set("long", chain("three"), -1)
        assert (await cache.longest_prefix("a problem", ["one", "two"])).matched == 2

        clock.advance(11)

        assert (await cache.longest_prefix("a problem", ["one", "two"])).matched == 0
        assert [step.thought for step in await cache.children(cache.root("a problem"))] == ["three"]


async def test_steps_of_a_deleted_result_go_though_others_were_appended() -> None:
    async with ReasoningCache(CacheConfig(url="memory://")) as cache:
        root = cache.root("a problem")
        await cache.set("k", chain("one", "two", "three"))
        (one,) = await cache.children(root)
        await cache.append(root, ["other", "more"])
        await cache.append(one, "2")
        taken = await cache.take(one)
        await cache.offer(taken, ["second"])

        await cache.delete("k")

        assert (await cache.longest_prefix("a problem", ["one", "two", "three"])).matched == 1
        assert [step.thought for step in await cache.children(one)] == ["2", "second"]
        assert (await cache.longest_prefix("a problem", ["other", "more"])).matched == 2


async def test_what_was_appended_stays_when_what_follows_is_pruned() -> None:
    async with ReasoningCache(CacheConfig(url="memory://")) as cache:
        one, two = await cache.append(cache.root("a problem"), ["one", "two"])

        await cache.prune(two)
        await cache.append(cache.root("a problem"), "other")

        assert [step.thought for step in await cache.children(cache.root("a problem"))] == ["one", "other"]
        assert await cache.children(one) == []


async def test_a_result_whose_key_was_evicted_is_not_served_by_its_problem() -> None:
    async with ReasoningCache(CacheConfig(url="memory://", max_size=2)) as cache:
        for at in range(4):
            await cache.set(f"k{at}", chain(f"step {at}"))

        assert [each.key for each in await cache.list_by_problem("a problem")] == ["k3", "k2"]
        assert {path.key for path in await cache.best_paths("a problem", 9)} <= {"k3", "k2"}
        assert await cache.invalidate(Selection(pattern="*")) == 2
        assert await cache.get_by_problem("a problem") is None


class MeanwhileBackend(MemoryBackend):
    """Lets something else be done before the next plain write."""

    meanwhile: Awaitable[object] | None = None

    async def put(self, key: str, record: Record) -> None:
        other, self.meanwhile = self.meanwhile, None
        if other is not None:
            await other
        await super().put(key, record)


async def test_two_who_store_two_problems_under_one_key_leave_one_result() -> None:
    backend = MeanwhileBackend(max_size=100)
    async with ReasoningCache(CacheConfig(url="memory://"), backend=backend) as cache:
        backend.meanwhile = cache.set("k", chain("two", problem="second"))
        await cache.set("k", chain("one", problem="first"))

        assert await cache.get("k") == chain("one", problem="first")
        assert await cache.get_by_problem("second") is None


async def test_a_result_that_was_deleted_while_it_was_stored_is_gone_or_there() -> None:
    backend = MeanwhileBackend(max_size=100)
    async with ReasoningCache(CacheConfig(url="memory://"), backend=backend) as cache:
        await cache.set("k", chain("one"))
        backend.meanwhile = cache.delete("k")
        await cache.set("k", chain("two"))

        assert await cache.get("k") == await cache.get_by_problem("a problem")


async def test_pruning_leaves_a_key_alone_that_another_problem_took() -> None:
    backend = MeanwhileBackend(max_size=100)
    async with ReasoningCache(CacheConfig(url="memory://"), backend=backend) as cache:
        backend.meanwhile = cache.set("k", chain("two", problem="second"))
        await cache.set("k", chain("one", problem="first"))

        await cache.prune((await cache.children(cache.root("second")))[0])

        assert await cache.get("k") == chain("one", problem="first")
