from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.errors import EmbedderUnavailable
from cache_management.cache.semantic.embedding_cache import CachingEmbedder
from tests.contracts.embedder import EmbedderContract


class CountingEmbedder(HashingEmbedder):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.append(list(texts))
        await self.may_answer.wait()
        return await super().embed(texts)


class TestHashingEmbedder(EmbedderContract):
    async def make(self) -> HashingEmbedder:
        return HashingEmbedder()


class TestCachingEmbedder(EmbedderContract):
    async def make(self) -> CachingEmbedder:
        return CachingEmbedder(HashingEmbedder())


class TestCachingEmbedderWithFile(EmbedderContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self._folder = tmp_path

    async def make(self) -> CachingEmbedder:
        return CachingEmbedder(HashingEmbedder(), max_size=3, folder=self._folder)


async def test_same_text_is_embedded_once() -> None:
    inner = CountingEmbedder()
    embedder = CachingEmbedder(inner)

    first = await embedder.embed(["a", "b"])
    second = await embedder.embed(["b", "c", "a"])

    assert inner.asked == [["a", "b"], ["c"]]
    assert np.array_equal(second[[2, 0]], first)


async def test_rows_are_those_of_the_inner_embedder_in_order() -> None:
    texts = ["x", "y", "x", "", "ü\ud800"]

    rows = await CachingEmbedder(HashingEmbedder()).embed(texts)

    assert np.array_equal(rows, await HashingEmbedder().embed(texts))


async def test_repeated_text_in_one_batch_is_asked_once() -> None:
    inner = CountingEmbedder()

    await CachingEmbedder(inner).embed(["a", "a", "a"])

    assert inner.asked == [["a"]]


async def test_vectors_used_last_stay() -> None:
    inner = CountingEmbedder()
    embedder = CachingEmbedder(inner, max_size=2)
    await embedder.embed(["a", "b"])
    await embedder.embed(["a"])
    await embedder.embed(["c"])
    inner.asked.clear()

    await embedder.embed(["a", "b"])

    assert inner.asked == [["b"]]


async def test_batch_larger_than_the_memory_is_answered() -> None:
    texts = [str(at) for at in range(10)]

    rows = await CachingEmbedder(HashingEmbedder(), max_size=3).embed(texts)

    assert np.array_equal(rows, await HashingEmbedder().embed(texts))


async def test_whether_a_text_fits_is_asked_once() -> None:
    inner = HashingEmbedder()
    asked: list[str] = []
    inner.fits = lambda text: asked.append(text) or len(text) < 3  # type: ignore[method-assign, func-returns-value]
    embedder = CachingEmbedder(inner, max_size=2)

    assert [embedder.fits(text) for text in ("a", "abc", "a", "abc")] == [True, False, True, False]
    assert asked == ["a", "abc"]
    embedder.fits("b")
    assert embedder.fits("a")
    assert asked == ["a", "abc", "b", "a"]  # as many are kept as vectors


async def test_nothing_asked_gives_no_rows() -> None:
    assert (await CachingEmbedder(HashingEmbedder(32)).embed([])).shape == (0, 32)


async def test_vector_forgotten_while_the_model_runs_is_still_returned() -> None:
    inner = CountingEmbedder()
    embedder = CachingEmbedder(inner, max_size=1)
    await embedder.embed(["kept"])
    held_up = inner.may_answer = asyncio.Event()
    slow = asyncio.ensure_future(embedder.embed(["kept", "new"]))
    await asyncio.sleep(0)
    inner.may_answer = asyncio.Event()
    inner.may_answer.set()

    await embedder.embed(["another"])
    held_up.set()

    assert (await slow).shape == (2, 64)


async def test_kept_vector_does_not_hold_on_to_its_whole_batch() -> None:
    embedder = CachingEmbedder(HashingEmbedder(), max_size=1)
    await embedder.embed([str(at) for at in range(100)])

    (kept,) = embedder._vectors.values()

    assert kept.base is None or kept.base.size == kept.size


async def test_description_is_that_of_the_inner_embedder() -> None:
    inner = HashingEmbedder(16)
    embedder = CachingEmbedder(inner)
    await embedder.load()

    assert (embedder.model, embedder.dims, embedder.space) == (inner.model, inner.dims, inner.space)
    assert embedder.fits("x" * 10**6)


@pytest.mark.parametrize("text", ["What is Python?", "日本語 🙂", "", "  ", "\x00"])
async def test_hashing_embedder_gives_the_same_unit_vector_every_time(text: str) -> None:
    (first,) = await HashingEmbedder().embed([text])
    (second,) = await HashingEmbedder().embed([text])

    assert np.array_equal(first, second)
    assert np.linalg.norm(first) == pytest.approx(1.0, abs=1e-5)


def held_up(inner: CountingEmbedder) -> asyncio.Event:
    inner.may_answer = asyncio.Event()
    return inner.may_answer


async def until_asked(inner: CountingEmbedder, times: int) -> None:
    while len(inner.asked) < times:
        await asyncio.sleep(0)


async def test_text_that_several_ask_for_at_a_time_is_embedded_once() -> None:
    inner = CountingEmbedder()
    embedder = CachingEmbedder(inner)
    answer = held_up(inner)
    calls = [asyncio.ensure_future(embedder.embed(texts)) for texts in (["a"], ["a"], ["b", "a"])]
    await until_asked(inner, 2)

    answer.set()
    rows = await asyncio.gather(*calls)

    assert inner.asked == [["a"], ["b"]]
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[2][1:], rows[0])


async def test_who_joined_goes_on_when_the_first_is_cancelled() -> None:
    inner = CountingEmbedder()
    embedder = CachingEmbedder(inner)
    answer = held_up(inner)
    first, second = (asyncio.ensure_future(embedder.embed(["a"])) for _ in range(2))
    await until_asked(inner, 1)

    first.cancel()
    await asyncio.sleep(0)
    answer.set()

    assert np.array_equal(await second, await HashingEmbedder().embed(["a"]))
    assert first.cancelled()
    assert inner.asked == [["a"]]


async def test_who_joined_does_not_pay_for_the_other_texts_of_the_first() -> None:
    class Picky(CountingEmbedder):
        async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            rows = await super().embed(texts)
            if "bad" in texts:
                raise ValueError("a bad text")
            return rows

    inner = Picky()
    embedder = CachingEmbedder(inner)
    answer = held_up(inner)
    first = asyncio.ensure_future(embedder.embed(["bad", "a"]))
    second = asyncio.ensure_future(embedder.embed(["a"]))
    await until_asked(inner, 1)

    answer.set()

    assert (await second).shape == (1, 64)
    with pytest.raises(EmbedderUnavailable, match="a bad text"):
        await first
    assert inner.asked == [["bad", "a"], ["a"]]


async def test_failed_text_is_asked_again() -> None:
    class Failing(CountingEmbedder):
        async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            rows = await super().embed(texts)
            if len(self.asked) == 1:
                raise EmbedderUnavailable("not yet")
            return rows

    embedder = CachingEmbedder(Failing())

    with pytest.raises(EmbedderUnavailable):
        await embedder.embed(["a"])

    assert (await embedder.embed(["a"])).shape == (1, 64)


def test_threads_with_loops_of_their_own_share_it() -> None:
    embedder = CachingEmbedder(HashingEmbedder(), max_size=20)
    failures: list[BaseException] = []

    def ask(seed: int) -> None:
        async def many() -> None:
            for at in range(100):
                texts = [f"text {(seed * at + other) % 50}" for other in range(8)]
                assert np.array_equal(await embedder.embed(texts), await HashingEmbedder().embed(texts))

        try:
            asyncio.run(many())
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert failures == []


class Wrong(HashingEmbedder):
    model = "their-model"

    def __init__(self, rows: NDArray[np.float32]) -> None:
        super().__init__(2)
        self._rows = rows

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._rows


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[1, 0], [np.nan, 0]], "'their-model' gave no unit vector in row 1 of 2"),
        ([[1, 0], [np.inf, 0]], "'their-model' gave no unit vector in row 1 of 2"),
        ([[0, 0], [1, 0]], "'their-model' gave no unit vector in row 0 of 2"),
        ([[1, 0], [2, 0]], "'their-model' gave no unit vector in row 1 of 2"),
        ([[1, 0, 0], [1, 0, 0]], r"'their-model' gave an array of shape \(2, 3\) for 2 texts of width 2"),
        ([[1, 0]], r"'their-model' gave an array of shape \(1, 2\) for 2 texts"),
    ],
)
@pytest.mark.parametrize("max_size", [0, 100])
async def test_rows_that_cannot_be_compared_are_refused(rows: list[list[float]], said: str, max_size: int) -> None:
    embedder = CachingEmbedder(Wrong(np.array(rows, dtype=np.float32)), max_size=max_size)

    with pytest.raises(EmbedderUnavailable, match=said):
        await embedder.embed(["a", "b"])

    assert not embedder._vectors


async def test_nothing_is_kept_when_nothing_may_be() -> None:
    inner = CountingEmbedder()
    embedder = CachingEmbedder(inner, max_size=0)

    await embedder.embed(["a"])
    await embedder.embed(["a"])

    assert inner.asked == [["a"], ["a"]]


async def test_another_process_finds_the_vectors_in_the_file(tmp_path: Path) -> None:
    first = CachingEmbedder(HashingEmbedder(), folder=tmp_path)
    wanted = await first.embed(["a", "b"])
    first.close()
    inner = CountingEmbedder()
    second = CachingEmbedder(inner, folder=tmp_path)

    rows = await second.embed(["b", "c", "a"])
    second.close()

    assert inner.asked == [["c"]]
    assert np.array_equal(rows[[2, 0]], wanted)


async def test_vectors_of_another_space_are_not_found_in_the_file(tmp_path: Path) -> None:
    class Another(CountingEmbedder):
        space = "another-64"  # type: ignore[assignment]

    first = CachingEmbedder(HashingEmbedder(), folder=tmp_path)
    await first.embed(["a"])
    first.close()
    inner = Another()
    second = CachingEmbedder(inner, folder=tmp_path)

    await second.embed(["a"])
    second.close()

    assert inner.asked == [["a"]]


async def test_no_text_stands_in_the_file(tmp_path: Path) -> None:
    embedder = CachingEmbedder(HashingEmbedder(), folder=tmp_path)
    await embedder.embed(["a secret that nobody may read"])
    embedder.close()

    assert not any(b"secret" in file.read_bytes() for file in tmp_path.iterdir())


async def test_unusable_folder_costs_only_the_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    embedder = CachingEmbedder(HashingEmbedder(), folder=tmp_path / "taken")

    assert (await embedder.embed(["a"])).shape == (1, 64)
    embedder.close()


async def test_after_a_fork_nobody_waits_for_what_the_parent_began() -> None:
    inner = CountingEmbedder()
    embedder = CachingEmbedder(inner)
    answer = held_up(inner)
    parents = asyncio.ensure_future(embedder.embed(["a"]))
    await until_asked(inner, 1)

    embedder._came_out_of_a_fork()
    answer.set()

    assert (await embedder.embed(["a"])).shape == (1, 64)
    await parents
