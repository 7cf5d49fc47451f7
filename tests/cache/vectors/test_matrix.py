from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_management.cache.vectors import matrix as module
from cache_management.cache.vectors.matrix import Matrix

CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.integers(0, 40), min_size=1, max_size=20)),
        st.tuples(st.just("pop"), st.lists(st.integers(0, 40), min_size=1, max_size=20)),
    ),
    max_size=30,
)


def test_room_follows_what_is_held() -> None:
    matrix = Matrix(384)
    matrix.put(["a"], np.ones((1, 384), dtype=np.float32))
    one = matrix.size_bytes
    matrix.put([str(at) for at in range(20_000)], np.ones((20_000, 384), dtype=np.float32))
    many = matrix.size_bytes

    for at in range(20_000):
        matrix.pop(str(at))

    assert one == 384 * 4
    assert many <= 1.3 * 20_001 * 384 * 4
    assert matrix.size_bytes <= 4 * 384 * 4
    assert matrix.ids == ["a"]
    assert (matrix.rows() == 1).all()


@settings(deadline=None)
@given(changes=CHANGES, first=st.integers(0, 45))
def test_rows_are_those_put_last_in_blocks_of_any_number(changes: list[tuple[str, list[int]]], first: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_ROWS", 8)
        matrix, held = Matrix(1), dict[str, float]()
        value = 0.0
        for what, numbers in changes:
            names = [str(number) for number in numbers]
            if what == "put":
                values = [value := value + 1 for _ in names]
                matrix.put(names, np.array(values, dtype=np.float32)[:, None])
                held.update(zip(names, values, strict=True))
            else:
                for name in names:
                    assert matrix.pop(name) == (held.pop(name, None) is not None)
            copy = Matrix.of(list(matrix.ids), matrix.rows())
            for each in (matrix, copy):
                assert dict(zip(each.ids, each.rows()[:, 0].tolist(), strict=True)) == held
                assert each.rows(first)[:, 0].tolist() == each.rows()[first:, 0].tolist()
                found = each.nearest(np.ones(1, dtype=np.float32), 3)
                assert [near.similarity for near in found] == sorted(held.values(), reverse=True)[:3]
