from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cache_management.services.processes import (
    Identity,
    has_ended,
    identify,
    is_alive,
    kill_group,
    send,
    spawn,
)
from tests.conftest import temporary_folder
from tests.waiting import wait_until

PROJECT_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as made:
        yield made


def test_process_is_recognised_by_its_start_time_too() -> None:
    myself = identify(os.getpid())
    assert myself is not None

    recycled = Identity(myself.pid, "another time", myself.argv)

    assert is_alive(myself)
    assert not is_alive(recycled)
    assert not send(recycled, signal.SIGKILL)  # else this test would not see its end


def test_dead_child_that_nobody_reaped_is_not_alive(folder: Path) -> None:
    child = spawn(["true"], log=folder / "log")

    wait_until(lambda: identify(child.pid) is None)

    assert child.returncode is None
    child.wait()


def test_output_goes_to_the_log_which_only_the_owner_reads(folder: Path) -> None:
    log = folder / "log"

    for word in ("one", "two"):
        spawn(["sh", "-c", f"echo {word}; echo {word} >&2"], log=log).wait()

    assert log.read_text().split() == ["one", "one", "two", "two"]
    assert log.stat().st_mode & 0o777 == 0o600


def test_child_leads_a_process_group_of_its_own(folder: Path) -> None:
    child = spawn(["sleep", "60"], log=folder / "log")
    try:
        assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
    finally:
        kill_group(child)


def test_what_a_dead_child_left_in_its_group_is_killed(folder: Path) -> None:
    child = spawn(["sh", "-c", "sleep 60 & echo $!"], log=folder / "log")
    wait_until(lambda: has_ended(child))
    left = int((folder / "log").read_text())
    assert psutil.pid_exists(left)

    kill_group(child)

    wait_until(lambda: identify(left) is None)


def test_missing_program_raises_in_the_caller(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spawn(["/nonexistent/program"], log=folder / "log")


@pytest.mark.faults
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills children with their parent")
def test_sigkill_of_the_parent_leaves_no_server_behind() -> None:
    with temporary_folder() as redis_dir, temporary_folder() as postgres_dir:
        parent = subprocess.Popen(
            [sys.executable, "-m", "tests.services.parent_of_servers", redis_dir, postgres_dir],
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
        )
        try:
            assert parent.stdout is not None
            said = json.loads(parent.stdout.readline())
            assert said["alive"] == [True, True]
            family = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
            assert set(said["pids"]) < set(family)  # PostgreSQL has children of its own
        finally:
            parent.kill()
            parent.communicate()

        wait_until(lambda: not any(identify(pid) for pid in family))
