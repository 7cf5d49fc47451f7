"""A version with a newer schema takes over from this one while jobs are under way, in the order of docs/upgrading.md.

This program is the old one. The new one is a copy of it with one more migration, which adds a column and a table.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

import cache_management
from cache_management.models.store import schema
from tests.conftest import OwnRedisFactory
from tests.waiting import wait_until
from tests.workers.harness import JobWorld, warm_items

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120), pytest.mark.keeps_keys]

MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision = "{new}"
down_revision = "{old}"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("jobs", sa.Column("note", sa.String(), nullable=True))
    op.create_table("of_the_new", sa.Column("id", sa.BigInteger(), primary_key=True, autoincrement=False))


def downgrade():
    op.drop_table("of_the_new")
    op.drop_column("jobs", "note")
"""


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """The next version: where to import it from."""
    folder = tmp_path / "newer"
    package = folder / "cache_management"
    shutil.copytree(Path(cache_management.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    old = schema.wanted()
    new = f"{int(old) + 1:04}"
    (package / "migrations" / "versions" / f"{new}_next.py").write_text(MIGRATION.format(old=old, new=new))
    _change(package / "__init__.py", f'"{cache_management.__version__}"', '"99.0.0"')
    column = "    finished_at: Mapped[datetime | None]\n"
    _change(package / "models" / "job.py", column, f"{column}    note: Mapped[str | None]\n")
    return folder


def _change(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert text.count(before) == 1, file
    file.write_text(text.replace(before, after))


@pytest.fixture
def world(make_world: Callable[..., JobWorld], broker: Any, own_redis: OwnRedisFactory, postgres_url: str) -> JobWorld:
    return make_world(broker_url=broker.url, cache_url=own_redis().url, metadata_url=postgres_url)


def program_of(folder: Path) -> dict[str, str]:
    # Safe: else the folder where the tests run comes first, which holds this version.
    return {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}


def run(world: JobWorld, program: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of another version."""
    return subprocess.run(
        [sys.executable, "-m", "cache_management.cli", *arguments],
        env=world.inherited_env() | world.env | program_of(program),
        cwd=world.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_jobs_go_on_from_the_old_program_to_the_new_one(world: JobWorld, newer: Path) -> None:
    client = world.client
    old_worker = world.start_worker(queues=("control", "warm"), concurrency=1)
    before = client.submit_warm(warm_items(5), embed=False).job_id
    world.wait_for_job(before)
    across = client.submit_warm(warm_items(4_000, start=5), embed=False, shards=1).job_id
    world.wait_for_items(across, 20)
    client.request(across, "pause")
    wait_until(lambda: client.get(across).state == "paused", timeout=20)
    done_before = client.get(across).done
    assert 0 < done_before < 4_000

    # 1. The new program does not work on the old tables, and says what to do.
    refused = run(world, newer, ["worker", "--queues=warm"])
    assert refused.returncode == 5
    assert "db upgrade" in refused.stderr

    # 2. The tables are upgraded under the workers of the old program; these go on, and old ones may be started.
    upgraded = run(world, newer, ["db", "upgrade"])
    assert upgraded.returncode == 0, upgraded.stderr
    during = client.submit_warm(warm_items(5, start=5_000), embed=False).job_id
    assert world.wait_for_job(during).done == 5
    world.stores.check()

    # 3. Workers are replaced.
    old_worker.stop(signal.SIGQUIT)
    world.start_worker(queues=("control", "warm"), concurrency=1, env=program_of(newer))
    client.request(across, "resume")
    after = client.submit_warm(warm_items(5, start=6_000), embed=False).job_id  # by an application that is old still

    jobs = {job_id: world.wait_for_job(job_id) for job_id in (before, across, during, after)}
    assert [(job.state, job.done, job.total) for job in jobs.values()] == [
        ("succeeded", count, count) for count in (5, 4_000, 5, 5)
    ]
    with Redis.from_url(str(world.settings.url)) as node:
        assert sum(1 for _ in node.scan_iter(match="cm1:llm:*", count=1_000)) == 4_015
    assert world.stores.audit.verify() is None
    versions = {row.job_id: row.version for row in world.stores.audit.tail(100) if row.action == "job.succeeded"}
    assert versions == {
        before: cache_management.__version__,
        during: cache_management.__version__,
        across: "99.0.0",
        after: "99.0.0",
    }
