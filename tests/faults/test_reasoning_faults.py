"""Processes think about one problem; one of them is killed, and a node: nothing is lost, or given twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import OwnRedis, OwnRedisFactory
from tests.faults.reasoning_process import SAMPLES, open_cache

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

SCRIPT = Path(__file__).with_name("reasoning_process.py")
NAMES = ("anna", "ben", "cleo")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def servers(own_redis: OwnRedisFactory) -> list[OwnRedis]:
    return [own_redis() for _ in range(3)]


@pytest.fixture(params=["redis", "disk", "nodes"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return f"disk://{tmp_path}"
    servers = request.getfixturevalue("servers")
    return (
        str(servers[0].url)
        if request.param == "redis"
        else "nodes:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
    )


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


def test_no_sample_is_given_twice_and_none_is_lost(url: str, start: Start, servers: list[OwnRedis]) -> None:
    dead = start("dead", "hang")
    assert dead.stdout is not None
    assert dead.stdout.readline() == "hanging\n"
    workers = {name: start(name) for name in NAMES}
    dead.kill()
    if url.startswith("nodes:"):
        anna = workers["anna"].stdout
        assert anna is not None
        begun = [anna.readline() for _ in range(2)]
        servers[1].kill()
    else:
        begun = []

    said = Counter(line.strip() for line in begun)
    for name, process in workers.items():
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, f"{name}: {err}"
        said.update(out.splitlines())

    async def look() -> tuple[list[str], dict[str, int]]:
        async with open_cache(url) as cache:
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
