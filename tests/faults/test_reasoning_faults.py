"""Several processes think about one problem, one of them is killed in the middle: nothing is lost, or given twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cache_management import CacheConfig, ReasoningCache
from tests.conftest import OwnRedis
from tests.faults.reasoning_process import SAMPLES

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

SCRIPT = Path(__file__).with_name("reasoning_process.py")
NAMES = ("anna", "ben", "cleo")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(params=["redis", "disk"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return f"disk://{tmp_path}"
    node: OwnRedis = request.getfixturevalue("node")
    return node.url


@pytest.fixture
def start(url: str) -> Iterator[Start]:
    started = []

    def make(name: str, how: str = "work") -> subprocess.Popen[str]:
        argv = [sys.executable, "-W", "error", str(SCRIPT), url, name, how]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield make
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_no_sample_is_given_twice_and_none_is_lost(url: str, start: Start) -> None:
    dead = start("dead", "hang")
    assert dead.stdout is not None
    assert dead.stdout.readline() == "hanging\n"
    workers = {name: start(name) for name in NAMES}
    dead.kill()

    said: Counter[str] = Counter()
    for name, process in workers.items():
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, f"{name}: {err}"
        said.update(out.splitlines())

    async def look() -> tuple[list[str], dict[str, int]]:
        async with ReasoningCache(CacheConfig(url=url, timeout_seconds=20, strict=True)) as cache:
            root = cache.root("a game", model="m")
            behind = {each.thought: len(await cache.children(each)) for each in await cache.children(root)}
            return await cache.samples(root), behind

    samples, behind = asyncio.run(look())
    assert set(said.values()) == {1}, "each consumer has samples of its own"
    assert said.total() == len(NAMES) * SAMPLES
    assert sorted(samples) == sorted(said), "what the dead one was to make somebody else made, and nothing is lost"
    assert {thought for thought in behind if " adds " in thought} == {
        f"{name} adds {turn}" for name in NAMES for turn in range(SAMPLES)
    }
    assert all(count == 1 for thought, count in behind.items() if " adds " in thought)
