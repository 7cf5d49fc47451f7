"""audit, and the servers' log level."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cache_management.cli import operate
from cache_management.models.store import open_stores
from cache_management.settings import load_settings
from tests.cli.conftest import Cli


def test_the_audit_log_of_a_job_is_asked_for_by_job(cli: Cli) -> None:
    cli("db", "upgrade")
    stores = open_stores(load_settings().settings.metadata_url)
    jobs = [stores.jobs.create("warm", {}, namespace="n", submitted_by="me").job_id for _ in range(4)]
    stores.close()

    found = cli("audit", "tail", "--job", jobs[0], "-n", "2", "--json")

    assert [(row["job_id"], row["action"]) for row in found.data] == [(jobs[0], "job.submit")]


@pytest.mark.parametrize(("arguments", "level"), [((), "WARNING"), (("--loglevel", "ERROR"), "ERROR")])
def test_servers_log_as_the_settings_say_unless_told(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], level: str
) -> None:
    levels: list[str] = []
    app = SimpleNamespace(Beat=lambda loglevel: levels.append(loglevel) or SimpleNamespace(run=lambda: None))
    monkeypatch.setattr(operate, "_celery", lambda _, **__: app)
    monkeypatch.setattr(operate, "run_worker", lambda _, *, loglevel, **__: levels.append(loglevel) or 0)
    monkeypatch.setenv("CACHE_LOGGING__LEVEL", "WARNING")

    assert cli("worker", *arguments).code == 0
    assert cli("beat", *arguments).code == 0

    assert levels == [level, level]


@pytest.mark.parametrize(("sig", "code"), [("SIGINT", 130), ("SIGTERM", 0)])
def test_a_worker_that_is_interrupted_says_so(monkeypatch: pytest.MonkeyPatch, sig: str, code: int) -> None:
    from celery.bin.celery import celery
    from celery.signals import worker_shutting_down

    def main(**_: object) -> int:
        worker_shutting_down.send(sender="me", sig=sig, how="Warm", exitcode=code and 1)
        return code and 1

    monkeypatch.setattr(celery, "main", main)
    app: Any = SimpleNamespace()

    assert operate.run_worker(app, queues=["warm"], concurrency=1, name="w", pool="solo", loglevel="INFO") == code


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_scheduler_that_is_interrupted_says_so(
    sig: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from celery.signals import beat_init

    from cache_management.workers import process

    monkeypatch.setattr(process, "_scheduler", None)  # put back: this process is none behind the test

    former = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def ends(*_: object) -> None:
        raise SystemExit

    def run() -> None:
        for each in former:
            signal.signal(each, ends)
        beat_init.send(sender=None)
        with suppress(SystemExit):  # as Celery does
            os.kill(os.getpid(), sig)

    app: Any = SimpleNamespace(Beat=lambda **_: SimpleNamespace(run=run))
    try:
        assert operate.run_beat(app, loglevel="INFO") == code
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)


@pytest.fixture
def log(cli: Cli) -> list[str]:
    """An audit log of three entries; their hashes."""
    cli("db", "upgrade")
    stores = open_stores(load_settings().settings.metadata_url)
    hashes = [stores.audit.append(actor="me", action=f"act {at}").hash for at in range(3)]
    stores.close()
    return hashes


def test_an_exported_log_ends_with_its_head_and_is_checked_against_it(cli: Cli, log: list[str]) -> None:
    found = cli("audit", "export", "log.jsonl", "--json")

    *rows, head = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    assert [row["action"] for row in rows] == ["act 0", "act 1", "act 2"]
    assert head == {"head_id": 3, "head_hash": log[2]}
    assert (found.code, found.data["entries"], found.data["intact"]) == (0, 3, True)
    assert cli("audit", "verify", "--head", f"3:{log[2]}").code == 0
    assert cli("audit", "verify", "--head", f"4:{log[2]}", "--json").data["first_broken"] == 4
    assert cli("audit", "verify", "--head", f"2:{log[2]}", "--json").data["first_broken"] == 2


def test_an_export_of_nothing_new_ends_with_the_head_of_the_log(cli: Cli, log: list[str]) -> None:
    found = cli("audit", "export", "log.jsonl", "--after", "3", "--json")

    assert (found.code, found.data["entries"], found.data["head_id"]) == (0, 0, 3)
    assert cli("audit", "verify", "--head", f"3:{found.data['head_hash']}").code == 0


def test_an_export_writes_over_nothing_unless_it_is_meant(cli: Cli, log: list[str]) -> None:
    Path("log.jsonl").write_text("mine")

    refused = cli("audit", "export", "log.jsonl")
    assert refused.code == 2
    assert "--force" in refused.err
    assert Path("log.jsonl").read_text() == "mine"

    assert cli("audit", "export", "log.jsonl", "--force", "--after", 2).code == 0
    assert len(Path("log.jsonl").read_text().splitlines()) == 2


def test_an_export_to_standard_output_is_refused(cli: Cli, log: list[str]) -> None:
    refused = cli("audit", "export", "-")

    assert (refused.code, Path("-").exists()) == (2, False)
    assert "name a file" in refused.err


def test_a_head_that_is_none_is_refused(cli: Cli, log: list[str]) -> None:
    found = cli("audit", "verify", "--head", "3")

    assert found.code == 2
    assert "ID:HASH" in found.err


@pytest.mark.parametrize(
    ("arguments", "pool", "processes", "concurrency"),
    [
        ((), "prefork", 2, 2),
        (("--queues", "embed"), "spawn", 2, 2),
        (("--queues", "embed", "--pool", "prefork", "-w", "4"), "prefork", 4, 4),
        (("--pool", "threads", "-w", "8"), "threads", 1, 8),
        (("--pool", "solo"), "solo", 1, 1),
    ],
)
def test_a_worker_gets_the_pool_that_fits_its_queues(
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    pool: str,
    processes: int,
    concurrency: int,
) -> None:
    found: list[object] = []
    monkeypatch.setattr(operate, "_celery", lambda _, processes: found.append(processes))
    monkeypatch.setattr(
        operate, "run_worker", lambda _, *, pool, concurrency, **__: found.extend((pool, concurrency)) or 0
    )

    assert cli("worker", *arguments).code == 0

    assert found == [processes, pool, concurrency]


def test_a_solo_worker_with_processes_is_refused(cli: Cli) -> None:
    refused = cli("worker", "--pool", "solo", "--concurrency", "2")

    assert (refused.code, "one thing at a time" in refused.err) == (2, True)
