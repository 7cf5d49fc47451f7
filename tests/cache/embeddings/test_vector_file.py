"""Vectors that outlive their process: whatever happens to the file, the cache goes on without it."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cache_management.cache.embeddings.vector_file import VectorFile

DIMS = 8


def vector(number: int, dims: int = DIMS) -> NDArray[np.float32]:
    row = np.random.default_rng(number).standard_normal(dims).astype(np.float32)
    return row / np.linalg.norm(row)


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[VectorFile]:
    found = VectorFile(tmp_path / "vectors", max_bytes=2**20)
    yield found
    found.close()


def test_vectors_are_there_after_a_restart(file: VectorFile) -> None:
    file.put_many({key(1): vector(1), key(2): vector(2)})
    file.close()

    again = VectorFile(file.path.parent, max_bytes=2**20)
    found = again.get_many([key(2), key(3), key(1)], dims=DIMS)
    again.close()

    assert set(found) == {key(1), key(2)}
    assert np.array_equal(found[key(1)], vector(1))
    assert found[key(1)].flags.writeable


def test_many_keys_are_found_at_once(file: VectorFile) -> None:
    file.put_many({key(at): vector(at) for at in range(1200)})

    assert len(file.get_many([key(at) for at in range(2000)], dims=DIMS)) == 1200


def test_vector_of_another_width_is_not_given(file: VectorFile) -> None:
    file.put_many({key(1): vector(1, 16)})

    assert file.get_many([key(1)], dims=DIMS) == {}


def test_file_is_its_owners_alone(file: VectorFile) -> None:
    file.put_many({key(1): vector(1)})

    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


def test_full_file_forgets_the_oldest_and_grows_no_further(tmp_path: Path) -> None:
    limit = 200_000
    file = VectorFile(tmp_path, max_bytes=limit)

    for start in range(0, 3000, 20):
        file.put_many({key(at): vector(at, 100) for at in range(start, start + 20)})
    kept = file.get_many([key(at) for at in range(3000)], dims=100)
    file.close()

    assert key(2999) in kept
    assert key(0) not in kept
    assert 100 < len(kept) < 600
    assert file.path.stat().st_size < 1.5 * limit


def test_row_that_was_changed_is_not_given_and_is_replaced(file: VectorFile) -> None:
    file.put_many({key(1): vector(1), key(2): vector(2)})
    file.close()
    with sqlite3.connect(file.path) as other:
        (row,) = other.execute("SELECT checked FROM vectors WHERE key = ?", (key(1),)).fetchone()
        other.execute("UPDATE vectors SET checked = ? WHERE key = ?", (row[:-1] + bytes([row[-1] ^ 1]), key(1)))
        # Whole, but another text's.
        other.execute("UPDATE vectors SET checked = (SELECT checked FROM vectors WHERE key = ?) WHERE key = ?",
                      (key(1), key(2)))  # fmt: skip
    other.close()

    assert file.get_many([key(1), key(2)], dims=DIMS) == {}
    file.put_many({key(1): vector(1)})
    assert np.array_equal(file.get_many([key(1)], dims=DIMS)[key(1)], vector(1))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1), noise=st.binary(max_size=200))
def test_torn_file_gives_nothing_wrong_and_serves_again(
    tmp_path_factory: pytest.TempPathFactory, cut: float, noise: bytes
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    file = VectorFile(folder, max_bytes=2**20)
    file.put_many({key(at): vector(at) for at in range(200)})
    file.close()
    content = file.path.read_bytes()
    file.path.write_bytes(content[: int(len(content) * cut)] + noise)

    found = file.get_many([key(at) for at in range(200)], dims=DIMS)
    for at in range(300, 310):
        file.put_many({key(at): vector(at)})
    after = file.get_many([key(at) for at in range(300, 310)], dims=DIMS)
    file.close()

    assert all(np.array_equal(row, vector(int.from_bytes(name, "big"))) for name, row in found.items())
    assert all(np.array_equal(row, vector(int.from_bytes(name, "big"))) for name, row in after.items())


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100])
def test_file_that_is_no_database_begins_anew(content: bytes, tmp_path: Path) -> None:
    file = VectorFile(tmp_path, max_bytes=2**20)
    file.path.write_bytes(content)

    file.put_many({key(1): vector(1)})

    assert set(file.get_many([key(1)], dims=DIMS)) == {key(1)}
    file.close()


def test_folder_that_cannot_be_made_costs_only_the_cache(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    file = VectorFile(tmp_path / "taken", max_bytes=2**20)

    file.put_many({key(1): vector(1)})

    assert file.get_many([key(1)], dims=DIMS) == {}


def test_locked_file_is_read_and_not_waited_for_when_written(file: VectorFile) -> None:
    file.put_many({key(1): vector(1)})
    other = sqlite3.connect(file.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    file.put_many({key(2): vector(2)})
    found = file.get_many([key(1), key(2)], dims=DIMS)
    other.execute("ROLLBACK")
    other.close()
    file.put_many({key(3): vector(3)})

    assert set(found) == {key(1)}
    assert set(file.get_many([key(2), key(3)], dims=DIMS)) == {key(3)}


def _write(folder: Path, first: int) -> None:
    file = VectorFile(folder, max_bytes=2**24)
    for at in range(first, first + 200):
        file.put_many({key(at): vector(at)})
        assert all(np.array_equal(row, vector(at)) for row in file.get_many([key(at)], dims=DIMS).values())
    file.close()


def test_processes_share_the_file(tmp_path: Path) -> None:
    start = multiprocessing.get_context("spawn")
    children = [start.Process(target=_write, args=(tmp_path, first)) for first in (0, 1000, 2000)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)

    file = VectorFile(tmp_path, max_bytes=2**24)
    found = file.get_many([key(at) for at in range(3000)], dims=DIMS)
    file.close()

    assert [child.exitcode for child in children] == [0, 0, 0]
    assert len(found) > 300  # a busy file is not waited for long: some are dropped
    assert all(np.array_equal(row, vector(int.from_bytes(name, "big"))) for name, row in found.items())


def test_child_of_a_fork_leaves_the_open_file_to_its_parent(file: VectorFile) -> None:
    file.put_many({key(1): vector(1)})
    file._pid = os.getpid() + 1  # what a child sees: another process opened it

    assert file.get_many([key(1)], dims=DIMS) == {}
    file.put_many({key(2): vector(2)})
    file._pid = os.getpid()

    assert set(file.get_many([key(1), key(2)], dims=DIMS)) == {key(1)}
