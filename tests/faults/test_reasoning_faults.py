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
from tests.waiting import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

SCRIPT = Path(__file__).with_name("reasoning_process.py")
NAMES = ("anna", "ben", "cleo")

Start = Callable[..., "subprocess.Popen[bytes]"]


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
def start(url: str, tmp_path: Path) -> Iterator[Start]:
    started = []

    def make(name: str, how: str = "work") -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-W", "error", str(SCRIPT), url, name, how]
        with (tmp_path / f"{name}.out").open("w") as out, (tmp_path / f"{name}.err").open("w") as err:
            process = subprocess.Popen(argv, stdout=out, stderr=err)
        started.append(process)
        return process

    yield make
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def said_by(folder: Path, name: str) -> list[str]:
    """Return the whole lines that a process has said until now."""
    return (folder / f"{name}.out").read_text().rpartition("\n")[0].splitlines()


def test_no_sample_is_given_twice_and_none_is_lost(
    url: str, start: Start, servers: list[OwnRedis], tmp_path: Path
) -> None:
    dead = start("dead", "hang")
    wait_until(lambda: said_by(tmp_path, "dead") == ["hanging"], 20)
    workers = {name: start(name) for name in NAMES}
    dead.kill()
    if url.startswith("nodes:"):
        wait_until(lambda: len(said_by(tmp_path, "anna")) >= 2, 60)
        servers[1].kill()

    for name, process in workers.items():
        assert process.wait(timeout=100) == 0, f"{name}: {(tmp_path / f'{name}.err').read_text()}"
    said = Counter(line for name in NAMES for line in said_by(tmp_path, name))

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
