"""Calls that wait while the model runs go through it together."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from cache_management.cache.embeddings.micro_batch import MicroBatcher


class Model:
    """Gives each text its length as its row; waits for `may_answer`, and fails on "bad"."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.began = threading.Event()
        self.may_answer = threading.Event()

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        self.batches.append(texts)
        self.began.set()
        assert self.may_answer.wait(10)
        if "bad" in texts:
            raise ValueError("a bad text")
        return np.array([[len(text)] for text in texts], dtype=np.float32)


async def waiting_behind_a_run(model: Model, *calls: list[str]) -> list[asyncio.Task[NDArray[np.float32]]]:
    """Return tasks of calls that all wait, because the model runs for another call."""
    batcher = MicroBatcher(model.encode)
    tasks = [asyncio.ensure_future(batcher.embed(["first"]))]
    await asyncio.get_running_loop().run_in_executor(None, model.began.wait, 10)
    for texts in calls:
        tasks.append(asyncio.ensure_future(batcher.embed(texts)))
        await asyncio.sleep(0)
    return tasks


async def test_calls_that_wait_go_together_and_get_their_own_rows() -> None:
    model = Model()
    tasks = await waiting_behind_a_run(model, ["a"], ["bb", "ccc"], ["dddd"])

    model.may_answer.set()
    answers = await asyncio.gather(*tasks)

    assert model.batches == [["first"], ["a", "bb", "ccc", "dddd"]]
    assert [answer.ravel().tolist() for answer in answers] == [[5], [1], [2, 3], [4]]


async def test_error_reaches_only_the_caller_whose_text_it_was() -> None:
    model = Model()
    tasks = await waiting_behind_a_run(model, ["a"], ["bad"], ["ccc"])

    model.may_answer.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(answers[2], ValueError)
    assert [answer.ravel().tolist() for at, answer in enumerate(answers) if at != 2] == [[5], [1], [3]]


async def test_cancelled_call_is_not_run_and_holds_up_nobody() -> None:
    model = Model()
    tasks = await waiting_behind_a_run(model, ["a"], ["bb"], ["ccc"])

    tasks[2].cancel()
    await asyncio.sleep(0)
    model.may_answer.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert model.batches[1:] == [["a", "ccc"]]
    assert isinstance(answers[2], asyncio.CancelledError)


async def test_call_that_is_cancelled_while_it_runs_leaves_the_next_alone() -> None:
    model = Model()
    tasks = await waiting_behind_a_run(model, ["a"])

    tasks[0].cancel()
    model.may_answer.set()

    assert (await tasks[1]).ravel().tolist() == [1]


async def test_batch_does_not_grow_without_end() -> None:
    model = Model()
    tasks = await waiting_behind_a_run(model, *[["x"] * 100] * 4)

    model.may_answer.set()
    await asyncio.gather(*tasks)

    assert [len(batch) for batch in model.batches] == [1, 200, 200]


async def test_one_call_larger_than_a_batch_is_answered() -> None:
    model = Model()
    model.may_answer.set()

    assert (await MicroBatcher(model.encode).embed(["x"] * 1000)).shape == (1000, 1)


def test_loops_of_several_threads_share_one_model() -> None:
    model = Model()
    model.may_answer.set()
    batcher = MicroBatcher(model.encode)
    found: list[float] = []

    def ask(length: int) -> None:
        found.append(float(asyncio.run(batcher.embed(["x" * length]))[0, 0]))

    threads = [threading.Thread(target=ask, args=(length,)) for length in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert sorted(found) == list(range(1, 9))


async def test_the_event_loop_is_free_while_the_model_runs() -> None:
    model = Model()
    (task,) = await waiting_behind_a_run(model)

    for _ in range(10):
        await asyncio.sleep(0)

    assert not task.done()
    model.may_answer.set()
    await task


async def test_end_of_the_model_is_told_to_its_caller() -> None:
    def encode(texts: list[str]) -> NDArray[np.float32]:
        raise MemoryError(f"no room for {len(texts)}")

    with pytest.raises(MemoryError, match="no room for 1"):
        await MicroBatcher(encode).embed(["x"])
