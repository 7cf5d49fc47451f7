"""What all commands share: help, exit codes, pipes, no tracebacks."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.main import _COMMANDS
from tests.cli.conftest import Cli
from tests.conftest import OwnRedisFactory


@pytest.mark.parametrize("command", ["", *_COMMANDS])
def test_every_command_explains_itself(cli: Cli, command: str) -> None:
    found = cli(*command.split(), "--help")

    assert found.code == 0
    assert "Usage: cache-cli" in found.out


def test_every_exit_code_has_one_meaning() -> None:
    assert len({code.meaning for code in ExitCode}) == len(ExitCode)


def test_the_list_of_commands_has_a_line_for_each(cli: Cli) -> None:
    told = cli("--help").out.partition("Commands:\n")[2].splitlines()

    assert [line.split()[0] for line in told] == list(_COMMANDS)
    assert all(len(line) <= 80 and line.endswith(".") for line in told)


@pytest.mark.parametrize("reader", ["head -n 1", "true"])
def test_output_into_a_closed_pipe_is_no_error(data_dir: Path, reader: str) -> None:
    command = f"{sys.executable} -m cache_management.cli config show | {reader}; echo ${{PIPESTATUS[0]}}"

    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)

    assert found.stdout.splitlines()[-1] == "0"
    assert "Traceback" not in found.stderr


def test_a_port_in_use_is_named(cli: Cli, redis_url: str) -> None:
    port = redis_url.rpartition(":")[2].partition("/")[0]

    found = cli("up", "--broker-port", port)

    assert found.code == 1
    assert f"port {port}" in found.err
    assert "in use" in found.err


def test_a_port_that_the_dashboard_cannot_have_is_no_matter_of_metrics(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        found = cli("dashboard", "-p", taken.getsockname()[1])

    assert (found.code, "--port" in found.err, "metrics" in found.err) == (ExitCode.USAGE, True, False)


def test_a_server_of_another_kind_is_a_wrong_configuration(
    cli: Cli, redis_url: str, own_redis: OwnRedisFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = own_redis(extra=("--cluster-enabled", "yes"))

    for url in (redis_url.replace("redis:", "redis+cluster:"), node.url):
        monkeypatch.setenv("CACHE_URL", url)
        found = cli("get-cache", "q")

        assert found.code == 2, found.err
        assert "url" in found.err


@pytest.mark.parametrize(
    ("env", "is_coloured"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
    ],
)
def test_colours_are_for_people(
    cli: Cli, env: dict[str, str], is_coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    said = cli("doctor", "--no-model").out

    assert ("\x1b[3" in said) == is_coloured  # what only is bold stays so
    assert "\x1b" not in cli("doctor", "--no-model", "--json").out
