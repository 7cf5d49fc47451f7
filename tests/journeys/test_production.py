"""The set of docker-compose.yml at work: its command lines, environment and health checks, on embedded servers."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from cache_management.services import Server, start_redis
from cache_management.settings import load_settings
from cache_management.workers.client import JobClient
from tests.conftest import PROJECT_ROOT, start_or_skip, temporary_folder
from tests.deploying import Composed, make_secrets, workers
from tests.scraping import free_port
from tests.waiting import wait_until
from tests.workers.harness import warm_items

pytest.importorskip("flower")
pytestmark = pytest.mark.timeout(120)

NODES = ("cache-1", "cache-2", "cache-3")
WATCHED = {"metrics": "8000", "flower": "5555"}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with temporary_folder() as found:
        yield found


@pytest.fixture(scope="module")
def servers(folder: Path) -> Iterator[dict[str, Server]]:
    """The broker and the nodes, with the passwords that were made for them."""
    made = make_secrets(folder / "secrets")
    running: dict[str, Server] = {}
    try:
        for name in ("broker", *NODES):
            password = (made / f"{name.partition('-')[0]}_password").read_text()
            running[name] = start_or_skip(_starter(folder / "servers" / name, password))
        yield running
    finally:
        for server in running.values():
            server.kill()


def _starter(data: Path, password: str) -> Callable[[], Server]:
    return lambda: start_redis(data, appendonly=True, extra=("--requirepass", password))


@pytest.fixture(scope="module")
def database(folder: Path, servers: dict[str, Server], postgres_server: Server) -> Iterator[str]:
    """An empty database of the account `cache`, which is no superuser; its name."""
    name = f"cache_{secrets.token_hex(6)}"
    password = (folder / "secrets" / "postgres_password").read_text()
    admin = postgres_server.url.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(admin, autocommit=True) as connection:
        account = sql.Identifier(name)
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(account, sql.Literal(password)))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(account, account))
        yield name
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(account))
        connection.execute(sql.SQL("DROP ROLE {}").format(account))


@pytest.fixture(scope="module")
def composed(folder: Path, servers: dict[str, Server], database: str, postgres_server: Server) -> Iterator[Composed]:
    """Everything that the file names, but Prometheus and Grafana, started."""
    places = {
        "//cache:": f"//{database}:",
        "@postgres:5432/cache": f"@127.0.0.1:{postgres_server.port}/{database}",
        **{f"{name}:6379": f"127.0.0.1:{server.port}" for name, server in servers.items()},
    }
    for name in ("metadata_url", "broker_url"):
        secret = folder / "secrets" / name
        text = secret.read_text()
        for there, here in places.items():
            text = text.replace(there, here)
        secret.chmod(0o600)
        secret.write_text(text)
    places |= {
        "/run/secrets": str(folder / "secrets"),
        "/etc/cache": str(PROJECT_ROOT),
        "/var/lib/flower": str(folder),
        "0.0.0.0": "127.0.0.1",
        **{port: str(free_port()) for port in WATCHED.values()},
    }
    # No model: how it is loaded has tests of its own.
    made = Composed(folder, places, env={"CACHE_EMBEDDING_MODEL": "hashing"})
    try:
        made.run("migrate")
        for name in (*workers(), "beat"):
            made.start(name)
        made.start("flower")
        made.start("metrics", f"--port={places[WATCHED['metrics']]}")
        yield made
    finally:
        made.close()


def test_the_composed_set_does_a_warm_job_and_is_healthy(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    env = composed.environment("worker-warm")
    client = JobClient(load_settings(env=env).settings)
    job_id = client.submit_warm(warm_items(20)).job_id

    wait_until(lambda: client.get(job_id).ended, timeout=60, pause=0.1)
    job = client.get(job_id)
    client.close()

    assert (job.state, job.done, job.embedded) == ("succeeded", 20, 20), composed.log("worker-warm")
    for name in (*workers(), "beat", *WATCHED):
        wait_until(lambda name=name: composed.is_healthy(name), timeout=40, pause=0.2)
    answer = subprocess.run(
        [sys.executable, "-m", "cache_management.cli", "get-cache", "question number 7"],
        env=env,
        cwd=composed.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "answer 7" in answer.stdout, answer.stderr
    everything = [*workers(), "beat", *WATCHED]
    assert composed.stop(*everything) == dict.fromkeys(everything, 0)
