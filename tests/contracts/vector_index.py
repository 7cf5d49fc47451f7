"""What every exact vector index promises. Implementations inherit this suite."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cache_management.cache.vectors.base import VectorIndex

DIMS = 4
Vector = NDArray[np.float32]


def unit(*numbers: float) -> Vector:
    row = np.array(numbers, dtype=np.float32)
    return row / np.linalg.norm(row)


def units(*rows: Vector) -> Vector:
    return np.stack(rows)


VECTORS = (
    st.lists(st.integers(-3, 3), min_size=DIMS, max_size=DIMS)
    .filter(any)
    .map(lambda numbers: unit(*map(float, numbers)))
)
IDS = st.sampled_from([f"id{at}" for at in range(5)])
PARTITIONS = st.sampled_from(["one", "two"])
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), PARTITIONS, IDS, VECTORS),
        st.tuples(st.just("remove"), PARTITIONS, IDS, st.none()),
        st.tuples(st.just("drop"), PARTITIONS, st.none(), st.none()),
    ),
    min_size=5,
    max_size=60,
)


class VectorIndexContract(ABC):
    @abstractmethod
    async def make(self) -> VectorIndex: ...

    @settings(suppress_health_check=[HealthCheck.differing_executors])
    @given(changes=CHANGES, query=VECTORS, k=st.integers(1, 15))
    async def test_any_history_answers_as_brute_force_does(
        self, changes: list[tuple[str, str, str, Vector]], query: Vector, k: int
    ) -> None:
        index = await self.make()
        held: dict[str, dict[str, Vector]] = {"one": {}, "two": {}}
        for what, partition, name, vector in changes:
            if what == "add":
                held[partition][name] = vector
                await index.add(partition, [name], units(vector))
            elif what == "remove":
                assert await index.remove(partition, [name]) == (held[partition].pop(name, None) is not None)
            else:
                held[partition].clear()
                await index.drop(partition)

        for partition, vectors in held.items():
            found = await index.search(partition, query, k=k)
            true = {name: float(vector @ query) for name, vector in vectors.items()}
            best = sorted(true.values(), reverse=True)[:k]
            assert [each.similarity for each in found] == pytest.approx(best, abs=1e-6)
            assert len({each.id for each in found}) == len(found)
            for each in found:
                assert each.similarity == pytest.approx(true[each.id], abs=1e-6)
            assert await index.size(partition) == len(vectors)
        assert await index.size() == sum(map(len, held.values()))
        await index.aclose()

    async def test_closest_comes_first(self) -> None:
        index = await self.make()
        await index.add("p", ["far", "near", "same"], units(unit(-1, 0, 0, 0), unit(1, 1, 0, 0), unit(1, 0, 0, 0)))

        found = await index.search("p", unit(1, 0, 0, 0), k=3)

        assert [each.id for each in found] == ["same", "near", "far"]
        assert [each.similarity for each in found] == pytest.approx([1.0, 0.5**0.5, -1.0], abs=1e-6)

    async def test_second_vector_of_an_id_replaces_the_first(self) -> None:
        index = await self.make()
        await index.add("p", ["a"], units(unit(1, 0, 0, 0)))

        await index.add("p", ["a"], units(unit(0, 1, 0, 0)))

        (found,) = await index.search("p", unit(0, 1, 0, 0), k=5)
        assert found.similarity == pytest.approx(1.0)

    async def test_search_never_leaves_its_partition(self) -> None:
        index = await self.make()
        await index.add("mine", ["a"], units(unit(-1, 0, 0, 0)))
        await index.add("theirs", ["b"], units(unit(1, 0, 0, 0)))

        assert [each.id for each in await index.search("mine", unit(1, 0, 0, 0), k=5)] == ["a"]

    async def test_unknown_partition_is_empty(self) -> None:
        index = await self.make()

        assert await index.search("nowhere", unit(1, 0, 0, 0), k=5) == []
        assert await index.remove("nowhere", ["a"]) == 0
        assert await index.size("nowhere") == 0
        await index.drop("nowhere")

    async def test_nothing_added_and_nothing_asked_is_nothing(self) -> None:
        index = await self.make()
        await index.add("p", [], np.empty((0, DIMS), dtype=np.float32))

        assert await index.search("p", unit(1, 0, 0, 0), k=0) == []
        assert await index.size() == 0

    async def test_drop_of_one_partition_leaves_the_other(self) -> None:
        index = await self.make()
        await index.add("p", ["a"], units(unit(1, 0, 0, 0)))
        await index.add("q", ["b"], units(unit(1, 0, 0, 0)))

        await index.drop("p")

        assert (await index.size("p"), await index.size("q")) == (0, 1)

    async def test_drop_of_everything_leaves_nothing(self) -> None:
        index = await self.make()
        await index.add("p", ["a"], units(unit(1, 0, 0, 0)))
        await index.add("q", ["b"], units(unit(1, 0, 0, 0)))

        await index.drop()

        assert await index.size() == 0

    async def test_hundreds_of_vectors_are_all_found(self) -> None:
        index = await self.make()
        rows = np.random.default_rng(7).standard_normal((500, DIMS)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        await index.add("p", [str(at) for at in range(500)], rows)

        for at in (0, 63, 64, 65, 128, 499):
            (best,) = await index.search("p", rows[at], k=1)
            assert best.id == str(at)

    async def test_vector_of_another_width_is_refused(self) -> None:
        index = await self.make()
        await index.add("p", ["a"], units(unit(1, 0, 0, 0)))

        with pytest.raises(ValueError, match="width"):
            await index.add("p", ["b"], np.ones((1, DIMS + 1), dtype=np.float32))

    async def test_ids_and_vectors_must_pair_up(self) -> None:
        index = await self.make()

        with pytest.raises(ValueError, match="2 ids for 1 vectors"):
            await index.add("p", ["a", "b"], units(unit(1, 0, 0, 0)))
