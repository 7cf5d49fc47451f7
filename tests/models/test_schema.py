"""Migrations: up, down and up again, on both databases."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from cache_management.cache.errors import MetadataUnavailable
from cache_management.models.base import Database
from cache_management.models.store import open_stores, schema
from cache_management.models.store.results import Claim


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
