"""Real chains and trees: they come back node for node, and half of all steps of sampled chains are known already."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from cache_management import CacheConfig, ReasoningCache, ReasoningResult
from cache_management.cache.reasoning.holdings import holdings_of
from cache_management.cache.reasoning.reading import read_result
from cache_management.cache.reasoning.solving import expand
from cache_management.cache.reasoning.steps import StepNode, Thought
from cache_management.cache.reasoning.trees import Tree, best_paths, pruned, score_of
from cache_management.cache.reasoning.validation import check
from cache_management.cli.reasoning_tree import draw


def load(folder: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(gzip.decompress((folder / name).read_bytes()))
    return found


@pytest.fixture
def chains(developer_data: Path) -> list[dict[str, Any]]:
    return load(developer_data, "cot_dev.json.gz")


@pytest.fixture
def trees(developer_data: Path) -> list[ReasoningResult]:
    found = []
    for row in load(developer_data, "tot_dev.json.gz"):
        rest = {name: value for name, value in row.items() if name not in ("nodes", "problem", "id")}
        nodes = [{**each, "thought": each["thought"] or ""} for each in row["nodes"]]
        problem = row["problem"] if isinstance(row["problem"], str) else json.dumps(row["problem"])
        found.append(read_result({"problem": f"{row['id']}: {problem}", "nodes": nodes, "metadata": rest}))
    return found


@pytest.fixture
def sampled(developer_data: Path) -> dict[str, list[list[str]]]:
    """Return the steps of each sampled chain, by problem; the word that opens every chain is no step."""
    found = {}
    for row in load(developer_data, "game24_cot_chains_dev.json.gz"):
        lines = [[line.strip() for line in each["text"].splitlines() if line.strip()] for each in row["chains"]]
        found[row["problem"]] = [chain[1:] if chain[0].startswith("Steps") else chain for chain in lines]
    return found


async def test_three_hundred_chains_come_back_equal(chains: list[dict[str, Any]]) -> None:
    async with ReasoningCache(CacheConfig(url="memory://")) as cache:
        results = {}
        for row in chains:
            rest = {name: row[name] for name in ("model", "correct", "source")}
            result = read_result(
                {
                    "problem": row["question"],
                    "steps": row["steps"],
                    "final_answer": None if row["final_answer"] is None else str(row["final_answer"]),
                    "metadata": rest,
                }
            )
            results[str(row["id"])] = result
            assert await cache.set(str(row["id"]), result) == ()

        for key, result in results.items():
            assert await cache.get(key) == result
            assert await cache.get_by_problem(result.problem) is not None
        assert max([len(await cache.list_by_problem(result.problem)) for result in results.values()]) == 2
        assert sum(len(result.steps) for result in results.values()) == 1184


async def test_a_marked_wrong_step_cuts_what_lies_below(chains: list[dict[str, Any]]) -> None:
    marked = [row for row in chains if row.get("first_error_step")]
    assert len(marked) == 75
    async with ReasoningCache(CacheConfig(url="memory://")) as cache:
        for row in marked:
            thoughts = [step["text"] for step in row["steps"]]
            root = cache.root(row["question"], model=row["model"])
            path = await cache.append(root, thoughts)
            wrong = path[row["first_error_step"] - 1]
            await cache.mark(wrong, correct=False, reason="a person said so")

            found = await cache.longest_prefix(root, thoughts)
            assert found.matched == row["first_error_step"] - 1
            assert wrong.thought not in [each.thought for each in found.continuations]


async def test_twenty_trees_come_back_node_for_node(trees: list[ReasoningResult]) -> None:
    async with ReasoningCache(CacheConfig(url="memory://")) as cache:
        assert sum(len(each.steps) for each in trees) == 1652
        for result in trees:
            warnings = await cache.set("k", result)
            assert {each.rule for each in warnings} <= {"child_missing", "empty_thought"}
            whole = check(result).result

            found = await cache.get("k")

            assert found == whole
            assert [each.node_id for each in found.nodes] == [each.node_id for each in result.nodes]
            assert (await cache.best_paths(result.problem))[0].score == best_paths(result)[0].score


def test_the_best_path_is_that_of_a_walk_by_brute_force(trees: list[ReasoningResult]) -> None:
    for result in trees:
        parents = {each.node_id: each.parent_id for each in result.nodes}
        inner = set(parents.values())
        leaves = [each for each in result.nodes if each.node_id not in inner]
        best = max((each.score for each in leaves if each.score is not None), default=None)

        assert best_paths(result)[0].score == best


def test_every_tree_is_drawn_and_pruned(trees: list[ReasoningResult]) -> None:
    for result in trees:
        whole = check(result).result
        lines = [line.text for line in draw(whole, width=200)]
        assert len(lines) >= len(result.steps)
        tree = Tree(whole)
        victim = tree.children[tree.roots[0]][0]
        left = pruned(whole, whole.nodes[victim].node_id)
        assert len(left.steps) == len(whole.steps) - len(list(tree.below(victim)))
        assert check(left).result == left


async def test_a_search_that_was_interrupted_goes_on_to_an_equal_tree(trees: list[ReasoningResult]) -> None:
    """At each state the model is asked at most once, however often the search is begun anew."""
    for result in trees[:4]:
        tree = Tree(check(result).result)
        whole = await _searched(tree, interrupt_at=None)
        for interrupt_at in (1, len(tree.thoughts) // 3, len(tree.thoughts) - 2):
            assert await _searched(tree, interrupt_at=interrupt_at) == whole


class _Interrupted(Exception):
    pass


async def _searched(tree: Tree, *, interrupt_at: int | None) -> list[tuple[int, str, float | None]]:
    """Replay a search through the cache; return what was stored, as depths, thoughts and scores."""
    asked: list[int] = []
    async with ReasoningCache(CacheConfig(url="memory://")) as cache:

        async def search() -> None:
            states: list[tuple[int, StepNode]] = [(tree.roots[0], cache.root("p", reasoning_type="tot"))]
            seen = 0
            while states:
                place, node = states.pop()
                children = tree.children[place]
                if not children:
                    continue

                async def generate(count: int, place: int = place, children: list[int] = children) -> list[Thought]:
                    asked.append(place)
                    return [
                        Thought(f"{at}: {tree.thoughts[at].thought}", score=score_of(tree.thoughts[at]))
                        for at in children
                    ]

                found = await expand(cache, node, len(children), generate)
                states += zip(children, found, strict=True)
                seen += len(children)
                if interrupt_at is not None and seen >= interrupt_at and not stopped:
                    stopped.append(True)
                    raise _Interrupted

        stopped: list[bool] = []
        try:
            await search()
        except _Interrupted:
            assert (await cache.resume("p")).frontier
            await search()
        assert len(asked) == len(set(asked)), "a stored expansion was asked for again"
        state = await cache.resume("p")
        return sorted((each.depth, each.thought, each.score) for each in state.visited)


async def test_half_of_the_steps_of_sampled_chains_are_known(sampled: dict[str, list[list[str]]]) -> None:
    hits: dict[int, int] = {}
    steps: dict[int, int] = {}
    async with ReasoningCache(CacheConfig(url="memory://")) as cache:
        for problem, chains in sampled.items():
            root = cache.root(problem, model="gpt-4")
            for at, chain in enumerate(chains):
                hits[at] = hits.get(at, 0) + (await cache.longest_prefix(root, chain)).matched
                steps[at] = steps.get(at, 0) + len(chain)
                await cache.append(root, chain)
        held = await holdings_of(cache)
        stats = await cache.get_stats()

    def share(first: int, last: int) -> float:
        places = range(first - 1, last)
        return round(100 * sum(hits[at] for at in places) / sum(steps[at] for at in places), 1)

    assert (sum(steps.values()), held.steps) == (1274, 637)
    assert (stats.steps_submitted, stats.steps_stored, stats.steps_reused) == (1274, 637, 637)
    assert (share(1, 20), share(1, 1), share(2, 5), share(6, 10), share(11, 20)) == (50.0, 0.0, 32.7, 55.8, 59.3)
    assert held.size_bytes / 1274 < 56.5 * 0.6


async def test_two_namespaces_see_the_same_samples_and_duplicates_stay(sampled: dict[str, list[list[str]]]) -> None:
    async with ReasoningCache(CacheConfig(url="memory://")) as cache:
        for problem, chains in list(sampled.items())[:5]:
            root = cache.root(problem)
            texts = ["\n".join(chain) for chain in chains]
            taken = await cache.take(root, len(texts), namespace="maker")
            await cache.offer(taken, texts)

            first = await asyncio.gather(*(cache.take(root, 4, namespace="run 1") for _ in range(5)))
            second = await cache.take(root, 20, namespace="run 2")

            assert sorted(text for each in first for text in each.samples) == sorted(texts)
            assert list(second.samples) == texts
