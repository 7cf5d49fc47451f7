from __future__ import annotations

import asyncio
import fcntl
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache_management.cache.errors import BackendRefused
from cache_management.cache.vectors import graph, snapshot
from cache_management.cache.vectors.auto import AutoIndex
from cache_management.cache.vectors.snapshot import NotRestored, Restored
from tests.cache.vectors.test_auto import names, random_rows
from tests.contracts.vector_index import Vector

SPACE = "minilm-1"


async def filled(*, large: int = 300, switch_size: int = 100, add_small: bool = True) -> AutoIndex:
    """One partition with a graph and some rows beside it, and small ones of another width."""
    index = AutoIndex(switch_size=switch_size, flat_rest=8)
    await index.add("large", names(large), random_rows(large))
    await index.settled()
    await index.remove("large", names(5))
    await index.add("large", ["fresh"], random_rows(1, seed=3))
    if add_small:
        for at, name in enumerate(["talk", "", "\ud800", "a\0b"]):
            await index.add(name, [name, "x"], random_rows(2, dims=8, seed=at))
    await index.settled()
    return index


async def answers(index: AutoIndex) -> list[Any]:
    large = [await index.search("large", query, k=10) for query in random_rows(20, seed=5)]
    small = [await index.search(name, random_rows(1, dims=8)[0], k=10) for name in ("talk", "", "\ud800", "a\0b")]
    return [await index.size(), *large, *small]


async def test_loaded_index_answers_as_the_saved_one(tmp_path: Path) -> None:
    index = await filled()
    await index.save(tmp_path / "index", position="1700-3", space=SPACE)
    loaded = AutoIndex(switch_size=100)

    result = await loaded.load(tmp_path / "index", space=SPACE)

    assert result == Restored(position="1700-3", vectors=304)
    assert await answers(loaded) == await answers(index)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert stat.S_IMODE((tmp_path / "index").stat().st_mode) == 0o600


async def test_loaded_index_can_be_changed_as_any(tmp_path: Path) -> None:
    index = await filled()
    await index.save(tmp_path / "index", position="1", space=SPACE)
    loaded = AutoIndex(switch_size=100, flat_rest=8)
    await loaded.load(tmp_path / "index", space=SPACE)

    for each in (index, loaded):
        await each.remove("large", names(50, 100))
        await each.add("large", names(200, 1_000), random_rows(200, seed=6))
        await each.settled()

    for query in random_rows(20, seed=5):
        found = [each.id for each in await loaded.search("large", query, k=5)]
        assert found == [each.id for each in await index.search("large", query, k=5)]


async def test_empty_index_is_saved_and_loaded(tmp_path: Path) -> None:
    await AutoIndex().save(tmp_path / "index", position="0", space=SPACE)

    assert await AutoIndex().load(tmp_path / "index", space=SPACE) == Restored(position="0", vectors=0)


async def test_save_replaces_the_older_file_and_load_what_was_held(tmp_path: Path) -> None:
    index = await filled()
    await index.save(tmp_path / "index", position="1", space=SPACE)
    await index.drop("large")
    await index.save(tmp_path / "index", position="2", space=SPACE)
    other = await filled(large=150)

    assert await other.load(tmp_path / "index", space=SPACE) == Restored(position="2", vectors=8)

    assert await other.size("large") == 0


async def test_changes_during_a_save_do_not_tear_it(tmp_path: Path) -> None:
    index = await filled(large=2_000)
    before = await index.size("large")

    saving = asyncio.create_task(index.save(tmp_path / "index", position="1", space=SPACE))
    step = 0
    while not saving.done():
        await index.add("large", [f"late {step}"], random_rows(1, seed=100 + step))
        await index.remove("large", [str(1_000 + step)])
        await index.add("talk", [f"late {step}"], random_rows(1, dims=8, seed=100 + step))
        await asyncio.sleep(0)
        step += 1
    await saving
    loaded = AutoIndex(switch_size=100)
    result = await loaded.load(tmp_path / "index", space=SPACE)

    # As the journal would be read again: everything that may or may not be in the file.
    assert isinstance(result, Restored)
    await loaded.add("large", [f"late {at}" for at in range(step)], _each(step, dims=32))
    await loaded.remove("large", [str(1_000 + at) for at in range(step)])
    assert await loaded.size("large") == before + step - len(range(1_000, min(1_000 + step, 2_000)))
    assert {each.id for each in await loaded.search("large", random_rows(1, seed=5)[0], k=5_000)} == {
        each.id for each in await index.search("large", random_rows(1, seed=5)[0], k=5_000)
    }


def _each(count: int, *, dims: int) -> Vector:
    return np.concatenate([random_rows(1, dims=dims, seed=100 + at) for at in range(count)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "index"

    async def save() -> None:
        index = await filled(large=40, switch_size=20)
        await index.save(path, position="1", space=SPACE)

    asyncio.run(save())
    return path.read_bytes()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_is_noticed(saved: bytes, tmp_path: Path, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(saved) - 1))
    flip = data.draw(st.integers(1, 255))
    (tmp_path / "index").write_bytes(saved[:at] + bytes([saved[at] ^ flip]) + saved[at + 1 :])

    assert isinstance(snapshot.read(tmp_path / "index", space=SPACE), NotRestored)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_other_length_is_noticed(saved: bytes, tmp_path: Path, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(saved) - 1))
    (tmp_path / "index").write_bytes(saved[:length] if data.draw(st.booleans()) else saved + saved[:length] + b"x")

    assert isinstance(snapshot.read(tmp_path / "index", space=SPACE), NotRestored)


async def test_reasons_are_told_and_nothing_is_changed(
    saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index"
    path.write_bytes(saved)
    index = AutoIndex()
    await index.add("p", ["a"], random_rows(1))

    async def reason(where: Path, space: str = SPACE) -> str:
        result = await index.load(where, space=space)
        assert isinstance(result, NotRestored)
        return result.reason

    assert "no file" in await reason(tmp_path / "absent")
    assert "directory" in await reason(tmp_path)
    assert "'minilm-1', not 'mpnet'" in await reason(path, "mpnet")
    (tmp_path / "empty").touch()
    assert "cut short" in await reason(tmp_path / "empty")
    (tmp_path / "text").write_text("x" * 1_000)
    assert "no snapshot" in await reason(tmp_path / "text")
    with monkeypatch.context() as patch:
        patch.setattr(graph, "LIBRARY", "usearch 0.0.1")
        assert "here is usearch 0.0.1" in await reason(path)
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "_VERSION", 2)
        assert "format 1" in await reason(path)
    assert await index.size() == 1


async def test_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    index = await filled()
    (tmp_path / "index").mkdir()

    with pytest.raises(BackendRefused, match="index"):
        await index.save(tmp_path / "index", position="1", space=SPACE)

    assert [path.name for path in tmp_path.iterdir()] == ["index"]


async def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".index.0123456789abcdef.part").write_bytes(b"half")
    (tmp_path / ".index.0123456789abcdef.graph").write_bytes(b"half")
    (tmp_path / ".other.0123456789abcdef.part").write_bytes(b"not ours")
    busy = tmp_path / ".index.aaaaaaaaaaaaaaaa.part"

    with busy.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        await (await filled()).save(tmp_path / "index", position="1", space=SPACE)

    assert {path.name for path in tmp_path.iterdir()} == {"index", busy.name, ".other.0123456789abcdef.part"}
