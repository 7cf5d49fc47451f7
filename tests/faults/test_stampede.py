"""Four processes with 25 callers each ask for one cold key."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.conftest import OwnRedis
from tests.waiting import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

SCRIPT = Path(__file__).with_name("stampede_process.py")
PROCESSES, CALLERS = 4, 25


class Stampede:
    """The processes, and a client for what they tell each other."""

    def __init__(self, url: str, *, seconds: float) -> None:
        self.client = redis.Redis.from_url(url)
        argv = [sys.executable, "-W", "error", str(SCRIPT), url, str(CALLERS), str(seconds)]
        self.processes = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
        wait_until(lambda: int(self.client.get("test:ready") or 0) == PROCESSES, timeout=60)
        self.client.set("test:go", 1)

    def computing(self) -> list[int]:
        return [int(pid) for pid in self.client.lrange("test:computing", 0, -1)]

    def wait(self) -> list[int]:
        """Return the exit codes."""
        return [process.wait(timeout=60) for process in self.processes]

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self.client.close()


@pytest.fixture
def stampede(node: OwnRedis, request: pytest.FixtureRequest) -> Iterator[Stampede]:
    made = Stampede(node.url, seconds=request.param)
    yield made
    made.close()


@pytest.mark.parametrize("stampede", [0.5], indirect=True)
def test_a_hundred_callers_in_four_processes_cause_one_computation(stampede: Stampede) -> None:
    assert stampede.wait() == [0] * PROCESSES
    assert len(stampede.computing()) == 1


@pytest.mark.parametrize("stampede", [3.0], indirect=True)
def test_a_killed_holder_costs_exactly_one_more_computation(stampede: Stampede) -> None:
    wait_until(lambda: stampede.computing(), timeout=30)
    (holder,) = stampede.computing()

    os.kill(holder, signal.SIGKILL)

    assert sorted(stampede.wait()) == [-signal.SIGKILL, 0, 0, 0]
    assert len(stampede.computing()) == 2
