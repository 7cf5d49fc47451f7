from __future__ import annotations

import numpy as np

from cache_management.cache.vectors.matrix import Matrix


def test_room_follows_what_is_held() -> None:
    matrix = Matrix(384)
    matrix.put(["a"], np.ones((1, 384), dtype=np.float32))
    one = matrix._rows.nbytes
    matrix.put([str(at) for at in range(1000)], np.ones((1000, 384), dtype=np.float32))
    many = matrix._rows.nbytes

    for at in range(1000):
        matrix.pop(str(at))

    assert one == 384 * 4
    assert many <= 2 * 1001 * 384 * 4
    assert matrix._rows.nbytes <= 4 * 384 * 4
    assert matrix.ids == ["a"]
    assert (matrix.rows == 1).all()
