"""Examples 3 and 4 of the manual, run twice: thinking the first time, found the second."""

from __future__ import annotations

import pytest

from cache_management import CacheBackend, CacheConfig, CoTStep, ReasoningCache, ReasoningResult, ToTNode

PROBLEM = "If a train travels 120 km in 2 hours, what is its speed?"
DESIGN = "Design an efficient algorithm for finding shortest path in a graph"


@pytest.fixture
def config(redis_url: str) -> CacheConfig:
    return CacheConfig(backend=CacheBackend.REDIS, url=redis_url, ttl_seconds=3600)


async def speed_of_a_train(cache: ReasoningCache) -> list[str]:
    lines = []
    cached = await cache.get(PROBLEM)
    if cached:
        lines.append("Found cached reasoning!")
        for step in cached.steps:
            lines.append(f"Step {step.step_number}: {step.thought}")  # type: ignore[union-attr]
            lines.append(f"  Confidence: {step.confidence:.2f}")  # type: ignore[union-attr]
        lines.append(f"Answer: {cached.final_answer}")
        return lines
    steps = [
        CoTStep(step_number=1, thought="Distance = 120 km, time = 2 hours", rationale="What is given", confidence=0.98),
        CoTStep(step_number=2, thought="Speed = distance / time", rationale="The formula", confidence=0.95),
        CoTStep(step_number=3, thought="Speed = 60 km/h", rationale="The computation", confidence=0.98),
    ]
    await cache.set(
        PROBLEM,
        ReasoningResult(
            reasoning_type="cot",
            problem=PROBLEM,
            steps=steps,
            final_answer="60 km/h",
            metadata={"model": "gpt-4", "temperature": 0.7, "total_steps": len(steps)},
        ),
    )
    return ["Cached reasoning for future queries"]


async def shortest_path(cache: ReasoningCache) -> list[ToTNode]:
    cached = await cache.get(DESIGN)
    if cached:
        return cached.nodes
    nodes = [
        ToTNode(
            node_id="root",
            thought="Need to find shortest path - consider different algorithms",
            parent_id=None,
            children_ids=["dijkstra", "bellman_ford", "a_star"],
            score=0.0,
            depth=0,
        ),
        ToTNode(
            node_id="dijkstra",
            thought="Dijkstra's algorithm",
            parent_id="root",
            children_ids=["dijkstra_impl"],
            score=0.85,
            depth=1,
        ),
        ToTNode(
            node_id="bellman_ford",
            thought="Bellman-Ford",
            parent_id="root",
            children_ids=["bellman_impl"],
            score=0.70,
            depth=1,
        ),
        ToTNode(
            node_id="a_star", thought="A* algorithm", parent_id="root", children_ids=["astar_impl"], score=0.95, depth=1
        ),
        ToTNode(
            node_id="astar_impl",
            thought="Implement A* with Manhattan distance heuristic",
            parent_id="a_star",
            children_ids=[],
            score=0.98,
            depth=2,
        ),
    ]
    warnings = await cache.set(
        DESIGN,
        ReasoningResult(
            reasoning_type="tot",
            problem=DESIGN,
            steps=nodes,
            final_answer="A* algorithm with Manhattan distance (score: 0.98)",
            metadata={"explored_nodes": len(nodes), "max_depth": 2, "best_score": 0.98},
        ),
    )
    assert [each.value for each in warnings] == ["dijkstra_impl", "bellman_impl"], "what was never expanded is told"
    return nodes


async def test_a_chain_of_thought_is_thought_once(config: CacheConfig) -> None:
    async with ReasoningCache(config) as cache:
        assert await speed_of_a_train(cache) == ["Cached reasoning for future queries"]
    async with ReasoningCache(config) as later:
        lines = await speed_of_a_train(later)

    assert lines[:3] == ["Found cached reasoning!", "Step 1: Distance = 120 km, time = 2 hours", "  Confidence: 0.98"]
    assert lines[-1] == "Answer: 60 km/h"


async def test_a_tree_of_thoughts_is_thought_once(config: CacheConfig) -> None:
    async with ReasoningCache(config) as cache:
        first = await shortest_path(cache)
        (best,) = await cache.best_paths(DESIGN)
    async with ReasoningCache(config) as later:
        assert await shortest_path(later) == first

    assert (best.score, best.thoughts[-1]) == (0.98, "Implement A* with Manhattan distance heuristic")
