from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis

from cache_management.cache.errors import ServerStartError
from cache_management.services import start_redis, supervisor
from cache_management.services.processes import identify
from cache_management.services.supervisor import (
    Backoff,
    State,
    Supervisor,
    read_state,
    request_stop,
    start_detached,
)
from tests.conftest import start_or_skip, temporary_folder
from tests.waiting import wait_until

pytestmark = pytest.mark.faults

Up = Callable[..., State]


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as made:
        yield made


@pytest.fixture
def up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Up]:
    """Start a supervisor with a Redis, a worker that needs its URL, and a command that ends."""
    start_or_skip(lambda: start_redis(folder / "probe")).stop()
    # The program is found from the project's root; a real one is installed.
    monkeypatch.chdir(Path(__file__).resolve().parents[2])

    def start(*faults: str) -> State:
        argv = [sys.executable, "-m", "tests.services.run_supervisor", str(folder), *faults]
        return start_detached(argv, folder, timeout=20)

    yield start
    request_stop(folder, timeout=10)
    for process in supervisor._detached:
        process.wait(10)


def _now(folder: Path) -> State:
    state = read_state(folder)
    assert state is not None
    return state


def _family(state: State) -> list[int]:
    return [state.pid, *(child.pid for child in psutil.Process(state.pid).children(recursive=True))]


def test_services_start_in_order_and_the_state_tells_of_them(up: Up, folder: Path) -> None:
    state = up()

    assert state.ready
    assert state.version == "1.2.3"
    assert list(state.services) == ["broker", "worker", "once"]
    with Redis.from_url(state.urls["broker"]) as client:
        assert client.ping()
    assert (folder / "worker.log").read_text().strip() == state.urls["broker"]
    assert (folder / "supervisor.json").stat().st_mode & 0o777 == 0o600
    wait_until(lambda: _now(folder).services["once"].status == "ended")
    assert os.getsid(state.pid) == state.pid  # the end of the terminal does not reach it


def test_request_stops_everything_and_removes_the_state(up: Up, folder: Path) -> None:
    family = _family(up())
    assert len(family) >= 4  # supervisor, broker, worker, its child

    assert request_stop(folder)

    wait_until(lambda: not any(identify(pid) for pid in family))
    assert not (folder / "supervisor.json").exists()
    assert not (folder / "broker" / "redis.json").exists()
    assert not request_stop(folder)


@pytest.mark.parametrize("name", ["broker", "worker"])
def test_killed_child_is_restarted(up: Up, folder: Path, name: str) -> None:
    before = up()
    pid = before.services[name].pid
    assert pid is not None
    below = [child.pid for child in psutil.Process(pid).children()]

    os.kill(pid, signal.SIGKILL)

    def is_back() -> bool:
        service = _now(folder).services[name]  # read once: it may be written anew between two reads
        return service.status == "running" and service.pid != pid

    wait_until(is_back)
    after = _now(folder)
    assert after.services[name].restarts == 1
    assert after.urls == before.urls  # the same port: who uses it finds it again
    assert not any(identify(child) for child in below)
    with Redis.from_url(after.urls["broker"]) as client:
        assert client.ping()


def test_child_that_dies_each_time_is_given_up(up: Up, folder: Path) -> None:
    up("broken")

    wait_until(lambda: _now(folder).services["broken"].status == "failed")

    assert _now(folder).services["broken"].restarts == 3
    assert _now(folder).services["broker"].status == "running"


def test_first_start_that_fails_takes_everything_down(up: Up, folder: Path) -> None:
    with pytest.raises(ServerStartError, match="late ended while it started"):
        up("late")

    assert read_state(folder) is None
    assert not (folder / "broker" / "redis.json").exists()


def test_second_supervisor_is_refused(up: Up, folder: Path) -> None:
    state = up()

    with pytest.raises(ServerStartError, match=f"already as pid {state.pid}: `cache-cli down`"):
        up()
    with pytest.raises(ServerStartError, match=f"already as pid {state.pid}: `cache-cli down`"):
        Supervisor(folder).run([])

    assert _now(folder).pid == state.pid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills children with their parent")
def test_sigkill_of_the_supervisor_leaves_nothing_behind(up: Up, folder: Path) -> None:
    state = up()
    direct = [state.pid, *(child.pid for child in psutil.Process(state.pid).children())]
    deeper = set(_family(state)) - set(direct)

    os.kill(state.pid, signal.SIGKILL)

    wait_until(lambda: not any(identify(pid) for pid in direct))
    assert read_state(folder) is None
    assert not (folder / "supervisor.json").exists()
    for pid in deeper:  # a worker's own children are the worker's to end
        os.kill(pid, signal.SIGKILL)
    assert up().pid != state.pid


def test_supervisor_that_does_not_listen_is_killed(up: Up, folder: Path) -> None:
    state = up()
    family = _family(state)
    os.kill(state.pid, signal.SIGSTOP)

    assert request_stop(folder, timeout=0.3)

    wait_until(lambda: not any(identify(pid) for pid in family))
    assert read_state(folder) is None


def test_state_with_a_recycled_pid_is_stale_and_removed(folder: Path) -> None:
    myself = {"pid": os.getpid(), "started": "another time", "started_at": 0.0, "version": "", "ready": True}
    (folder / "supervisor.json").write_text(json.dumps({**myself, "services": {}}))

    assert read_state(folder) is None
    assert not request_stop(folder)
    assert not (folder / "supervisor.json").exists()


def test_backoff_doubles_up_to_a_bound_and_gives_up() -> None:
    backoff = Backoff(first_seconds=1.0, longest_seconds=5.0, attempts=4)

    assert [backoff.delay(n) for n in range(1, 6)] == [1.0, 2.0, 4.0, 5.0, None]
