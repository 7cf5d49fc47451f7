"""audit and the servers' log level."""

from __future__ import annotations

from types import SimpleNamespace

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
    app = SimpleNamespace(
        worker_main=lambda argv: levels.extend(arg.partition("=")[2] for arg in argv if "loglevel" in arg),
        Beat=lambda loglevel: levels.append(loglevel) or SimpleNamespace(run=lambda: None),
    )
    monkeypatch.setattr(operate, "_celery", lambda _: app)
    monkeypatch.setenv("CACHE_LOGGING__LEVEL", "WARNING")

    assert cli("worker", *arguments).code == 0
    assert cli("beat", *arguments).code == 0

    assert levels == [level, level]
