from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cache_management.cache.vectors import open_index
from cache_management.cache.vectors.auto import AutoIndex
from cache_management.cache.vectors.base import VectorIndex
from cache_management.cache.vectors.flat import FlatIndex
from tests.contracts.vector_index import Vector, VectorIndexContract


def random_rows(count: int, *, dims: int = 32, seed: int = 7) -> Vector:
    rows = np.random.default_rng(seed).standard_normal((count, dims)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def names(count: int, start: int = 0) -> list[str]:
    return [str(at) for at in range(start, start + count)]


class TestSmallPartitions(VectorIndexContract):
    tolerance = 1e-6

    async def make(self) -> VectorIndex:
        return open_index()


class TestPartitionsOnTheirWay(VectorIndexContract):
    """Every partition of a vector or two moves into a graph, and back."""

    tolerance = 6e-3  # four numbers of 16 bits each

    async def make(self) -> VectorIndex:
        return AutoIndex(switch_size=1, flat_rest=0)

    async def wait(self, index: VectorIndex) -> None:
        assert isinstance(index, AutoIndex)
        await index.settled()


class Slices:
    """Runs functions when the test says so."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[tuple[Callable[[], Any], asyncio.Future[Any]]] = asyncio.Queue()

    async def run(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await self.asked.put((lambda: function(*given, **named), done))
        return await done

    async def next(self) -> tuple[Callable[[], Any], asyncio.Future[Any]]:
        return await self.asked.get()

    async def let_go(self) -> None:
        function, done = await self.next()
        done.set_result(function())

    async def finish(self, index: AutoIndex) -> None:
        """Let go of everything that is asked for until nothing is left to move."""
        while index._mover is not None and not index._mover.done():
            await asyncio.sleep(0)
            while not self.asked.empty():
                await self.let_go()


async def test_flat_part_answers_until_a_slice_has_moved() -> None:
    slices = Slices()
    index = AutoIndex(switch_size=10, run=slices.run)
    rows = random_rows(20)
    await index.add("p", names(20), rows)
    await slices.let_go()  # loads usearch

    before = [each.id for each in await index.search("p", rows[3], k=5)]
    insert, done = await slices.next()
    waiting = asyncio.create_task(index.search("p", rows[3], k=5))
    await asyncio.sleep(0)
    assert not waiting.done()
    done.set_result(insert())

    assert [each.id for each in await waiting] == before
    assert len(index._partitions["p"].graph or ()) == 8
    await index.aclose()


async def test_what_changes_while_it_moves_is_as_it_was_changed() -> None:
    slices = Slices()
    index = AutoIndex(switch_size=10, run=slices.run)
    rows = random_rows(12)
    await index.add("p", names(12), rows)
    await slices.let_go()
    insert, done = await slices.next()  # rows 4 to 11
    await index.remove("p", ["11"])
    await index.add("p", ["10"], -rows[10:11])
    done.set_result(insert())
    await slices.finish(index)

    assert await index.size("p") == 11
    found = await index.search("p", rows[10], k=11)
    assert "11" not in {each.id for each in found}
    assert (found[-1].id, found[-1].similarity) == ("10", pytest.approx(-1.0, abs=6e-3))


async def test_drop_while_a_slice_moves_leaves_nothing() -> None:
    slices = Slices()
    index = AutoIndex(switch_size=10, run=slices.run)
    await index.add("p", names(12), random_rows(12))
    await slices.let_go()
    insert, done = await slices.next()
    await index.drop("p")
    done.set_result(insert())
    await index.settled()

    assert await index.size() == 0
    assert await index.search("p", random_rows(1)[0], k=5) == []


async def test_search_that_waited_sees_what_was_dropped_meanwhile() -> None:
    slices = Slices()
    index = AutoIndex(switch_size=10, run=slices.run)
    rows = random_rows(12)
    await index.add("p", names(12), rows)
    await slices.let_go()
    insert, done = await slices.next()
    waiting = asyncio.create_task(index.search("p", rows[0], k=5))
    await asyncio.sleep(0)
    await index.drop("p")
    await index.add("p", ["fresh"], rows[:1])
    done.set_result(insert())

    assert [each.id for each in await waiting] == ["fresh"]


async def test_partition_that_was_emptied_and_filled_again_gets_its_graph() -> None:
    slices = Slices()
    index = AutoIndex(switch_size=10, run=slices.run)
    await index.add("other", names(12), random_rows(12))
    await index.add("p", names(12), random_rows(12))  # waits for its turn
    await index.remove("p", names(12))
    await index.add("p", names(14), random_rows(14))
    await slices.finish(index)

    graph = index._partitions["p"].graph
    assert graph is not None
    assert len(graph) == 14


async def test_large_partition_finds_what_exact_search_finds() -> None:
    rows = random_rows(3_000)
    index, exact = AutoIndex(switch_size=500), FlatIndex()
    for each in (index, exact):
        await each.add("p", names(3_000), rows)
    await index.settled()

    same = 0
    for query in random_rows(100, seed=8):
        found, true = await index.search("p", query, k=10), await exact.search("p", query, k=10)
        same += len({each.id for each in found} & {each.id for each in true})

    assert same >= 980
    assert len(index._partitions["p"].matrix) == 0
    await index.aclose()


async def test_equal_vectors_do_not_hide_others() -> None:
    rows = random_rows(1_000)
    equal = np.repeat(random_rows(1, seed=9), 100, axis=0)
    index = AutoIndex(switch_size=100)
    await index.add("p", names(100), equal)
    await index.add("p", names(1_000, 100), rows)
    await index.settled()

    found = [await index.search("p", row, k=1) for row in rows[:200]]

    # A graph is made with chance: without any equal vectors 197 to 200 are found.
    assert sum(each.id == str(100 + at) for at, (each,) in enumerate(found)) >= 190
    await index.aclose()


async def test_graph_is_made_anew_when_much_of_it_is_dead() -> None:
    rows = random_rows(2_000)
    index = AutoIndex(switch_size=500)
    await index.add("p", names(2_000), rows)
    await index.settled()

    await index.remove("p", names(900))
    await index.settled()

    graph = index._partitions["p"].graph
    assert graph is not None
    assert (len(graph), graph.dead) == (1_100, 0)
    assert [each.id for each in await index.search("p", rows[1_500], k=1)] == ["1500"]
    assert await index.size("p") == 1_100
    await index.aclose()


async def test_what_changes_while_a_graph_is_made_anew_is_as_it_was_changed() -> None:
    slices = Slices()
    index = AutoIndex(switch_size=10, flat_rest=0, run=slices.run)
    rows = random_rows(40)
    await index.add("p", names(40), rows)
    await slices.finish(index)
    await index.remove("p", names(15))
    await slices.let_go()  # loads usearch
    copy, done = await slices.next()
    await index.remove("p", ["20"])
    await index.add("p", ["21"], -rows[21:22])
    done.set_result(copy())
    await slices.finish(index)

    found = await index.search("p", rows[21], k=40)
    assert {each.id for each in found} == set(names(25, 15)) - {"20"}
    assert (found[-1].id, found[-1].similarity) == ("21", pytest.approx(-1.0, abs=6e-3))
    assert await index.size("p") == 24


async def test_shrunken_partition_is_flat_again() -> None:
    rows = random_rows(1_000)
    index = AutoIndex(switch_size=900)
    await index.add("p", names(1_000), rows)
    await index.settled()

    await index.remove("p", names(900))
    await index.settled()

    assert index._partitions["p"].graph is None
    assert [each.id for each in await index.search("p", rows[950], k=1)] == ["950"]
    assert await index.size("p") == 100
    await index.aclose()


async def test_search_passes_over_dead_slots() -> None:
    rows = random_rows(2_000)
    index = AutoIndex(switch_size=500)
    await index.add("p", names(2_000), rows)
    await index.settled()
    near = [each.id for each in await index.search("p", rows[0], k=200)]

    await index.remove("p", near[:150])

    found = [each.id for each in await index.search("p", rows[0], k=20)]
    assert len(found) == 20
    assert not set(found) & set(near[:150])
    assert len(set(found) & set(near[150:])) >= 18
    await index.aclose()


async def test_closing_in_the_middle_of_a_build_ends_it() -> None:
    index = AutoIndex(switch_size=100)
    await index.add("p", names(2_000), random_rows(2_000))
    await asyncio.sleep(0)

    await index.aclose()

    assert await index.size() == 0


def test_index_serves_one_event_loop_after_another() -> None:
    rows = random_rows(2_000)
    index = AutoIndex(switch_size=100)
    asyncio.run(index.add("p", names(1_000), rows[:1_000]))  # ends in the middle of the build

    async def go_on() -> list[str]:
        await index.add("p", names(1_000, 1_000), rows[1_000:])
        await index.settled()
        found = [each.id for at in range(0, 2_000, 100) for each in await index.search("p", rows[at], k=1)]
        await index.aclose()
        return found

    assert asyncio.run(go_on()) == [str(at) for at in range(0, 2_000, 100)]


async def test_without_usearch_everything_stays_flat_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = builtins.__import__

    def absent(name: str, *given: Any, **named: Any) -> Any:
        if name.startswith(("usearch", "cache_management.cache.vectors.graph")):
            raise ImportError("Large partitions need: pip install 'cache-management[semantic]'")
        return real(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    rows = random_rows(50)
    index = AutoIndex(switch_size=10)
    with caplog.at_level(logging.WARNING):
        await index.add("p", names(25), rows[:25])
        await index.settled()
        await index.add("q", names(25), rows[25:])
        await index.settled()

    assert [record.message for record in caplog.records if "cache-management[semantic]" in record.message] == [
        "partitions above 10 vectors stay flat, and slow:"
        " Large partitions need: pip install 'cache-management[semantic]'"
    ]
    assert [each.id for each in await index.search("p", rows[7], k=1)] == ["7"]
