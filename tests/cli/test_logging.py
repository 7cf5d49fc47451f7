"""logging.level and logging.file: what commands and services log, and where to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.waiting import wait_until


@pytest.fixture
def log(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that everything is logged to."""
    file = tmp_path / "cache.log"
    monkeypatch.setenv("CACHE_LOGGING__FILE", str(file))
    monkeypatch.setenv("CACHE_LOGGING__LEVEL", "DEBUG")
    return file


def test_a_command_logs_to_the_file_and_no_prompt_answer_or_password(
    cli: Cli, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_BROKER_URL", "redis://me:hunter2@127.0.0.1:1/0")

    assert cli("set-cache", "a secret question", "a secret answer", "-M", '{"a": "secret"}').code == 0
    assert cli("get-cache", "a secret question").err == ""
    assert cli("queues").code == 4

    said = log.read_text()
    assert "DEBUG MainProcess cache_management.cli: settings: file None" in said
    assert "secret" not in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("level", "options", "is_told"),
    [
        ("INFO", ["-d"], True),
        ("ERROR", ["-d"], True),
        ("DEBUG", ["-v"], False),
        ("DEBUG", [], True),
        ("INFO", [], False),
    ],
)
def test_v_and_d_win_over_the_setting(
    cli: Cli, level: str, options: list[str], is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_LOGGING__LEVEL", level)

    found = cli(*options, "reasoning", "list")

    assert ("DEBUG cache_management.cli: settings" in found.err) == is_told


def test_a_person_who_may_not_write_the_file_can_use_the_cache(
    cli: Cli, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_LOGGING__FILE", str(log / "below" / "it"))

    found = cli("set-cache", "q", "a")

    assert (found.code, found.out) == (0, "Stored in namespace default.\n")
    assert found.err.startswith("Warning: logging.file:")


@pytest.mark.parametrize("service", [["worker"], ["beat"], ["metrics", "--serve"]])
def test_a_service_that_cannot_open_the_file_does_not_start(
    cli: Cli, service: list[str], log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_LOGGING__FILE", str(log / "below" / "it"))

    found = cli(*service)

    assert found.code == 2
    assert "Error: logging.file:" in found.err


@pytest.mark.keeps_keys
def test_services_log_to_one_file_at_its_level(redis_url: str, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_BROKER_URL", redis_url)
    monkeypatch.setenv("CACHE_LOGGING__LEVEL", "INFO")
    start = [sys.executable, "-m", "cache_management.cli"]
    subprocess.run([*start, "db", "upgrade"], check=True, capture_output=True, env=dict(os.environ))
    services = {
        name: subprocess.Popen([*start, *argv], env=dict(os.environ), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for name, argv in {"worker": ["worker", "--queues=control", "--pool=solo"], "beat": ["beat"]}.items()
    }
    try:
        wait_until(lambda: log.exists() and "ready." in log.read_text() and "beat: Starting" in log.read_text(), 30)
        # It was rotated, and what follows comes to the new file.
        log.rename(log.with_suffix(".1"))
        wait_until(lambda: log.exists() and "control.reconcile" in log.read_text(), 30)
    finally:
        for service in services.values():
            service.send_signal(signal.SIGTERM)
        errors = {name: service.communicate(timeout=30)[1].decode() for name, service in services.items()}

    assert {name: service.returncode for name, service in services.items()} == {"worker": 0, "beat": 0}
    assert "INFO" not in "".join(errors.values())
