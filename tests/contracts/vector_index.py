"""What every vector index promises. Implementations inherit this suite."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cache_management.cache.errors import InvalidInput
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
        st.tuples(st.just("wait"), PARTITIONS, st.none(), st.none()),
    ),
    min_size=5,
    max_size=60,
)


class VectorIndexContract(ABC):
    tolerance = 1e-3

    @abstractmethod
    async def make(self) -> VectorIndex: ...

    async def wait(self, index: VectorIndex) -> None:  # noqa: B027 - most do nothing in the background
        """Wait until what the index does in the background is done."""

    @settings(suppress_health_check=[HealthCheck.differing_executors], deadline=None)
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
            elif what == "drop":
                held[partition].clear()
                await index.drop(partition)
            else:
                await self.wait(index)

            # Asked after each change: an index that is on its way to another form must be right too.
            await self._compare(index, partition, held[partition], query, k)
        for partition, vectors in held.items():
            await self._compare(index, partition, vectors, query, k)
        assert await index.size() == sum(map(len, held.values()))
        await index.aclose()

    async def _compare(
        self, index: VectorIndex, partition: str, vectors: dict[str, Vector], query: Vector, k: int
    ) -> None:
        found = await index.search(partition, query, k=k)
        true = {name: float(vector @ query) for name, vector in vectors.items()}
        best = sorted(true.values(), reverse=True)[:k]
        assert [each.similarity for each in found] == pytest.approx(best, abs=self.tolerance)
        assert len({each.id for each in found}) == len(found)
        for each in found:
            assert each.similarity == pytest.approx(true[each.id], abs=self.tolerance)
        similarities = [each.similarity for each in found]
        assert similarities == sorted(similarities, reverse=True)
        assert await index.size(partition) == len(vectors)

    async def test_closest_comes_first(self) -> None:
        index = await self.make()
        await index.add("p", ["far", "near", "same"], units(unit(-1, 0, 0, 0), unit(1, 1, 0, 0), unit(1, 0, 0, 0)))

        found = await index.search("p", unit(1, 0, 0, 0), k=3)

        assert [each.id for each in found] == ["same", "near", "far"]
        assert [each.similarity for each in found] == pytest.approx([1.0, 0.5**0.5, -1.0], abs=self.tolerance)

    async def test_second_vector_of_an_id_replaces_the_first(self) -> None:
        index = await self.make()
        await index.add("p", ["a"], units(unit(1, 0, 0, 0)))

        await index.add("p", ["a"], units(unit(0, 1, 0, 0)))

        (found,) = await index.search("p", unit(0, 1, 0, 0), k=5)
        assert found.similarity == pytest.approx(1.0, abs=self.tolerance)

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

    async def test_last_vector_of_an_id_given_twice_counts(self) -> None:
        index = await self.make()

        await index.add("p", ["a", "b", "a"], units(unit(1, 0, 0, 0), unit(0, 1, 0, 0), unit(0, 0, 1, 0)))

        found = await index.search("p", unit(0, 0, 1, 0), k=5)
        assert [each.id for each in found] == ["a", "b"]
        assert await index.size("p") == 2

    async def test_removed_vectors_are_counted_once_and_never_return(self) -> None:
        index = await self.make()
        await index.add("p", ["a", "b"], units(unit(1, 0, 0, 0), unit(0, 1, 0, 0)))

        assert await index.remove("p", ["a", "a", "absent"]) == 1

        assert [each.id for each in await index.search("p", unit(1, 0, 0, 0), k=5)] == ["b"]

    async def test_what_is_absent_from_its_partition_is_told(self) -> None:
        index = await self.make()
        rows = np.random.default_rng(7).standard_normal((500, DIMS)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        await index.add("p", [str(at) for at in range(500)], rows)
        await index.add("q", ["a", "\ud800"], rows[:2])
        await self.wait(index)
        await index.remove("p", ["7"])

        absent = await index.absent({**{str(at): "p" for at in range(502)}, "a": "q", "\ud800": "q", "b": "nowhere"})

        assert absent == {"7", "500", "501", "b"}
        assert await index.absent({"a": "p"}) == {"a"}
        assert await index.absent({}) == set()

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ((float("nan"), 0, 0, 0), "not finite"),
            ((float("inf"), 0, 0, 0), "not finite"),
            ((1e30, 1e30, 0, 0), "length"),
            ((0, 0, 0, 0), "length 0"),
            ((0.99, 0, 0, 0), "length 0.99"),
        ],
    )
    async def test_what_is_no_unit_vector_is_refused_and_changes_nothing(
        self, row: tuple[float, ...], reason: str
    ) -> None:
        index = await self.make()
        await index.add("p", ["a"], units(unit(1, 0, 0, 0)))
        wrong = np.array(row, dtype=np.float32)

        with pytest.raises(InvalidInput, match=f"'bad'.*{reason}"):
            await index.add("p", ["a", "bad"], units(unit(0, 1, 0, 0), wrong))
        with pytest.raises(InvalidInput, match=f"query.*{reason}"):
            await index.search("p", wrong, k=1)

        (found,) = await index.search("p", unit(1, 0, 0, 0), k=5)
        assert (found.id, found.similarity) == ("a", pytest.approx(1.0, abs=self.tolerance))

    async def test_query_of_another_width_is_refused(self) -> None:
        index = await self.make()
        await index.add("p", ["a"], units(unit(1, 0, 0, 0)))

        with pytest.raises(InvalidInput, match="query has width 5"):
            await index.search("p", unit(1, 0, 0, 0, 0), k=1)

    async def test_names_are_any_text(self) -> None:
        index = await self.make()
        names = ["", "a\0b", "\ud800", "ß" * 5_000, "'; DROP TABLE x; --", "%s {} \\x00"]
        rows = units(*(unit(1, at, 0, 0) for at in range(len(names))))
        for partition in names:
            await index.add(partition, names, rows)
        await self.wait(index)

        for partition in names:
            found = await index.search(partition, unit(1, 0, 0, 0), k=10)
            assert [each.id for each in found] == names
            assert await index.remove(partition, names) == len(names)
        assert await index.size() == 0

    async def test_many_partitions_of_a_few_vectors_stay_apart(self) -> None:
        index = await self.make()
        for at in range(300):
            await index.add(f"talk {at}", ["x"], units(unit(1, at, 0, 0)))

        for at in (0, 150, 299):
            (found,) = await index.search(f"talk {at}", unit(1, at, 0, 0), k=5)
            assert found.similarity == pytest.approx(1.0, abs=self.tolerance)
        assert await index.size() == 300
