"""up and down with real servers and workers."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import psutil
import pytest

from cache_management.cache.errors import ConfigurationError
from cache_management.cli import servers
from cache_management.settings import load_settings
from tests.cli.conftest import Cli
from tests.scraping import free_port, scrape
from tests.waiting import wait_until

pytestmark = [pytest.mark.timeout(180)]


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return every process that works on a data directory, whoever started it."""
    found = []
    for process in psutil.process_iter():
        try:
            names = process.environ().get("CACHE_DATA_DIR", ""), " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if process.pid != os.getpid() and any(str(folder) in name for name in names):
            found.append(process)
    return found


def own(folder: Path) -> list[psutil.Process]:
    """Leave out the test runner's own family, whose environment names the folder too."""
    family = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for process in processes_of(folder) if process.pid not in family]


def test_up_runs_a_job_and_down_leaves_nothing_behind(
    cli: Cli, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("CACHE_METRICS__PORT", str(port))
    started = cli("up", "--with-redis", "--json")
    try:
        assert started.code == 0, started.err
        services = started.data["services"]
        workers = {"worker-control", "worker-light", "worker-embed"}
        assert {"broker", "cache", *workers, "beat", "metrics"} == set(services)
        Path("pairs.json").write_text(json.dumps([{"prompt": "hello there", "response": "hi"}]))

        Path("elsewhere.yaml").write_text("backend: disk\ndisk_path: elsewhere\n")

        job = cli("warm", "pairs.json", "--timeout", "60", "--json")

        assert (job.code, job.data["state"], job.data["embedded"]) == (0, "succeeded", 1)
        assert cli("get-cache", "hello there").out == "hi\n"
        assert cli("stats", "--json").data["backend"] == "redis"
        scraped = scrape(f"http://127.0.0.1:{port}/metrics")
        assert 'cache_job_items_total{kind="warm",outcome="done"} 1.0' in scraped
        assert "cache_broker_up 1.0" in scraped
        elsewhere = cli("-c", "elsewhere.yaml", "warm", "pairs.json", "--timeout", "60")
        assert "another store" in elsewhere.err
        assert cli("up").code == 1, "a second set on the same data must be refused"
    finally:
        stopped = cli("down")
    assert stopped.code == 0
    wait_until(lambda: not own(data_dir), timeout=20)
    assert cli("down").out == "Nothing was running.\n"
    assert cli("get-cache", "hello there").code == 1, "without the set the cache is the one on disk"


def test_nothing_that_runs_is_said(cli: Cli) -> None:
    assert (cli("services").code, cli("services").out) == (1, "Nothing is running.\n")
    assert cli("services", "--json").data["services"] == {}


@pytest.mark.parametrize(
    ("options", "env", "said"),
    [
        (["--with-redis"], {}, "give one of them"),
        ([], {"CACHE_URL": "memory://"}, "url says where it is already"),
        ([], {"CACHE_BACKEND": "disk"}, "backend says where it is already"),
    ],
)
def test_nodes_beside_another_store_are_refused(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, options: list[str], env: dict[str, str], said: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    found = cli("up", "--nodes", 3, *options)

    assert (found.code, said in found.err) == (2, True)


def test_nodes_that_run_already_are_no_other_store(data_dir: Path) -> None:
    nodes = {"enabled": True, "nodes": ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]}

    servers._check_store(load_settings(running={"distributed": nodes}), with_redis=False, nodes=3)
    with pytest.raises(ConfigurationError, match=r"distributed\.nodes says where"):
        servers._check_store(load_settings(arguments={"distributed": nodes}), with_redis=False, nodes=3)


def test_a_port_that_is_taken_keeps_up_from_metrics_only(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("CACHE_METRICS__PORT", str(taken.getsockname()[1]))

        assert servers._why_no_metrics(load_settings().settings) == (
            f"port {taken.getsockname()[1]} cannot be had (Address already in use); set metrics.port to another"
        )

    assert servers._why_no_metrics(load_settings().settings) is None
    monkeypatch.setenv("CACHE_METRICS__ENABLED", "false")
    assert servers._why_no_metrics(load_settings().settings) == "metrics.enabled is false"


def test_a_killed_supervisor_takes_everything_along_and_the_next_up_works(cli: Cli, data_dir: Path) -> None:
    cli("up", "--json")
    supervisor = json.loads((data_dir / "run" / "supervisor.json").read_text())["pid"]

    os.kill(supervisor, signal.SIGKILL)

    wait_until(lambda: not own(data_dir), timeout=30)
    try:
        assert cli("up").code == 0
    finally:
        assert cli("down").code == 0
    wait_until(lambda: not own(data_dir), timeout=20)
