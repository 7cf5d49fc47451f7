"""Migrations: up, down and up again, on both databases."""

from __future__ import annotations

import ast
import logging
import re
import threading
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from cache_management.cache.errors import MetadataUnavailable
from cache_management.models.base import Database
from cache_management.models.store import open_stores, schema
from cache_management.models.store.results import Claim
from tests.conftest import PROJECT_ROOT


def tables(url: str) -> set[str]:
    database = Database(url)
    with database.read() as connection:
        found = set(inspect(connection).get_table_names())
    database.close()
    return found


def test_up_check_down_up_check(url: str) -> None:
    schema.upgrade(url)
    schema.check(url)
    made = tables(url)

    schema.downgrade(url, "base")
    left = tables(url)
    with pytest.raises(MetadataUnavailable):
        schema.check(url)

    schema.upgrade(url)
    schema.check(url)
    assert left == {"alembic_version"}
    assert tables(url) == made
    assert {"jobs", "job_shards", "job_items", "job_inputs", "job_events", "audit_log"} <= made


def test_tables_are_what_the_models_say(url: str) -> None:
    schema.upgrade(url)

    assert schema.drift(url) == []


def test_a_missing_migration_would_show(url: str) -> None:
    schema.upgrade(url)
    database = Database(url)
    with database.write() as connection:
        connection.execute(text("ALTER TABLE jobs DROP COLUMN retry_of"))
    database.close()

    assert [change[0] for change in schema.drift(url)] == ["add_column"]


def test_an_upgrade_keeps_the_jobs_there_are(url: str) -> None:
    schema.upgrade(url)
    stores = open_stores(url)
    job_id = stores.jobs.create("warm", {}, namespace="default", submitted_by="me").job_id
    schema.downgrade(url, "0001")

    schema.upgrade(url)

    claim = stores.jobs.claim(job_id, 0, 0, owner="me", task_id="t", hard_limit_seconds=90)
    stores.close()
    assert isinstance(claim, Claim)
    assert (claim.cursor, claim.bookmark) == (0, None)


def test_upgrade_may_run_again(url: str) -> None:
    schema.upgrade(url)
    schema.upgrade(url)

    schema.check(url)


def test_two_upgrades_at_once_do_it_once(url: str) -> None:
    errors: list[Exception] = []

    def run() -> None:
        try:
            schema.upgrade(url)
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    schema.check(url)


def test_check_of_an_empty_database_names_revisions_and_the_way_out(url: str) -> None:
    stores = open_stores(url)

    with pytest.raises(MetadataUnavailable) as raised:
        stores.check()
    stores.close()

    assert "revision none" in str(raised.value)
    assert f"needs {schema.wanted()}" in str(raised.value)
    assert "cache-cli db upgrade" in str(raised.value)


def test_check_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"

    with pytest.raises(MetadataUnavailable):
        schema.check(f"sqlite:///{path}")

    assert not path.exists()


def test_upgrade_leaves_logging_and_standard_output_alone(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))

    schema.upgrade(url)

    assert (root.level, list(root.handlers)) == before
    assert capsys.readouterr().out == ""


def test_statistics_survive_the_way_down_and_up(url: str) -> None:
    schema.upgrade(url)
    stores = open_stores(url)
    stores.operations.add_stats({"hits": 3}, namespace="faq", model="gpt-4")
    stores.operations.add_stats({"hits": 4}, namespace="faq", model="other")

    schema.downgrade(url, "0002")
    schema.upgrade(url)

    assert stores.operations.sum_stats(namespace="faq") == {"hits": 7}
    stores.close()


def stamp(url: str, revision: str) -> None:
    """Say that a newer version upgraded a database."""
    database = Database(url)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    database.close()


def next_one(step: int = 1) -> str:
    return f"{int(schema.wanted()) + step:04}"


def test_a_schema_one_step_newer_is_worked_with_and_left_alone(url: str) -> None:
    schema.upgrade(url)
    stamp(url, next_one())

    schema.check(url)
    schema.upgrade(url)

    database = Database(url)
    with database.read() as connection:
        assert schema.current(connection) == next_one()
    database.close()


@pytest.mark.parametrize("revision", [next_one(2), "f3a9"])
def test_a_schema_that_is_newer_than_that_is_refused(url: str, revision: str) -> None:
    schema.upgrade(url)
    stamp(url, revision)

    for act in (schema.check, schema.upgrade):
        with pytest.raises(MetadataUnavailable, match=f"at revision {revision}.* install the version that upgraded"):
            act(url)


# What a version promises to the one before it: docs/upgrading.md.

MIGRATIONS = PROJECT_ROOT / "cache_management" / "migrations" / "versions"
BEFORE_THE_PROMISE = {"0001", "0002", "0003"}


def breaks(source: str) -> list[str]:
    """Return what a migration's upgrade does that programs of the revision before it may not bear."""
    (function,) = [
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "upgrade"
    ]
    found = []
    for call in ast.walk(function):
        if not isinstance(call, ast.Call):
            continue
        name = ast.unparse(call.func)
        if name.startswith("op.") and name not in ("op.create_table", "op.create_index", "op.add_column", "op.f"):
            found.append(name)
        elif name == "op.create_index" and any(
            each.arg == "unique" and ast.unparse(each.value) == "True" for each in call.keywords
        ):
            found.append("op.create_index(unique=True)")
        elif name == "op.add_column":
            column = ast.unparse(call.args[1])
            if "nullable=True" not in column and "server_default=" not in column:
                found.append(f"op.add_column: {column}")
        elif isinstance(call.func, ast.Name) and call.func.id.startswith("_"):
            found.append(name)
    return found


@pytest.mark.parametrize("file", sorted(MIGRATIONS.glob("0*.py")), ids=lambda file: file.stem)
def test_a_migration_only_adds(file: Path) -> None:
    assert re.fullmatch(r"\d{4}", file.stem[:4]), "how much newer one revision is than another is read off its number"
    if file.stem[:4] not in BEFORE_THE_PROMISE:
        assert breaks(file.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "op.drop_column('jobs', 'bytes')",
        "op.add_column('jobs', sa.Column('x', sa.String(), nullable=False))",
        "op.execute('DELETE FROM jobs')",
        "op.create_index('x', 'jobs', ['kind'], unique=True)",
        "_rebuild_stats(by_model=True)",
    ],
)
def test_a_migration_that_takes_away_would_show(line: str) -> None:
    assert len(breaks(f"def upgrade() -> None:\n    op.create_table('y')\n    {line}\n")) == 1


def test_migrations_that_add_are_let_through() -> None:
    assert breaks((MIGRATIONS / "0002_bookmarks_of_shards.py").read_text()) == []
    assert breaks("def upgrade() -> None:\n    op.create_index('x', 'jobs', ['kind'], unique=False)\n") == []


def test_revisions_are_those_that_alembic_walks() -> None:
    walked = ScriptDirectory.from_config(schema._config()).walk_revisions()

    assert schema.revisions() == [script.revision for script in walked]
