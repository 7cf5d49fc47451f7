"""The audit log only grows, and a change to it shows."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from cache_management.cache.errors import CorruptRecord
from cache_management.models.store import Stores, schema
from tests.models.acting import Acting, LossyDatabase

UNLOCK = {
    "sqlite": ["DROP TRIGGER audit_log_no_update", "DROP TRIGGER audit_log_no_delete"],
    "postgresql": ["ALTER TABLE audit_log DISABLE TRIGGER audit_log_append_only"],
}


def tamper(database: LossyDatabase, statement: str) -> None:
    """Do what only the owner of the table can: take the trigger away and change a row."""
    with database.write() as connection:
        for unlock in UNLOCK[connection.dialect.name]:
            connection.execute(text(unlock))
        connection.execute(text(statement))


def fill(stores: Stores, rows: int = 4) -> None:
    for number in range(rows):
        stores.audit.append(actor="ann", action=f"act {number}", args_digest="0" * 64)


def test_a_whole_chain_is_whole(stores: Stores) -> None:
    fill(stores)

    assert stores.audit.verify() is None
    assert [row.id for row in stores.audit.tail()] == [1, 2, 3, 4]
    assert [row.id for row in stores.audit.tail(2)] == [3, 4]


def test_an_empty_chain_is_whole(stores: Stores) -> None:
    assert stores.audit.verify() is None
    assert stores.audit.head() == (0, "0" * 64)


def test_each_row_says_who_where_and_when(stores: Stores, acting: Acting) -> None:
    row = stores.audit.append(actor="ann", action="evict", outcome="failed", error_class="BackendUnavailable")

    assert stores.audit.tail() == [row]
    assert (row.actor, row.at, row.error_class) == ("ann", acting.clock.now, "BackendUnavailable")
    assert row.host
    assert row.pid


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit_log SET actor = 'eve' WHERE id = 3",
        "UPDATE audit_log SET at = client_at WHERE id = 3",
        "UPDATE audit_log SET prev_hash = hash WHERE id = 3",
        "DELETE FROM audit_log WHERE id = 3",
        "UPDATE audit_log SET hash = prev_hash WHERE id = 3",
    ],
)
def test_a_changed_or_missing_row_is_named(stores: Stores, database: LossyDatabase, change: str) -> None:
    fill(stores, 5)

    tamper(database, change)

    assert stores.audit.verify() == 3


def test_a_value_that_nobody_can_read_is_a_change_like_any_other(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/metadata.db"  # the one that keeps any text as a moment
    schema.upgrade(url)
    database = LossyDatabase(url)
    stores = Stores(database)
    fill(stores, 5)

    tamper(database, "UPDATE audit_log SET at = 'never' WHERE id = 3")

    assert stores.audit.verify() == 3
    with pytest.raises(CorruptRecord, match="behind entry 0"):
        list(stores.audit.rows())
    database.close()


def test_the_head_that_a_job_proved_is_remembered(acting: Acting, stores: Stores) -> None:
    assert stores.audit.proven() is None
    for number in (1, 2):
        claim = acting.claim(acting.submit(kind="audit-verify"))
        acting.jobs.commit(claim, to_cursor=1, summary={"head_id": number, "head_hash": "h"}, end="shard")
        acting.clock.advance(1)
    acting.jobs.fail_shard(acting.claim(acting.submit(kind="audit-verify")), "broken")

    assert stores.audit.proven() == (2, "h")


def test_a_log_that_lost_its_end_shows_against_its_head(stores: Stores, database: LossyDatabase) -> None:
    fill(stores)
    head = stores.audit.head()
    assert stores.audit.verify(head=head) is None

    tamper(database, "DELETE FROM audit_log WHERE id > 2")

    assert stores.audit.verify() is None
    assert stores.audit.verify(head=head) == 3


def test_a_log_written_anew_shows_against_its_head(stores: Stores, database: LossyDatabase) -> None:
    fill(stores)
    head = stores.audit.head()
    tamper(database, "DELETE FROM audit_log")

    fill(stores, 6)

    assert stores.audit.verify() is None
    assert stores.audit.verify(head=head) == 4


@pytest.mark.parametrize("verb", ["UPDATE audit_log SET actor = 'eve'", "DELETE FROM audit_log"])
def test_triggers_refuse_changes(stores: Stores, database: LossyDatabase, verb: str) -> None:
    fill(stores)

    with pytest.raises(DBAPIError, match="append-only"), database.write() as connection:
        connection.execute(text(verb))

    assert stores.audit.verify() is None
    assert len(stores.audit.tail()) == 4


def test_postgres_refuses_truncate_too(stores: Stores, database: LossyDatabase) -> None:
    if database.file is not None:
        pytest.skip("SQLite has no TRUNCATE")
    fill(stores)

    with pytest.raises(DBAPIError, match="append-only"), database.write() as connection:
        connection.execute(text("TRUNCATE audit_log"))


def test_rows_written_at_once_make_one_chain(stores: Stores) -> None:
    threads = [threading.Thread(target=fill, args=(stores, 5)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert stores.audit.verify() is None
    assert stores.audit.head()[0] == 15


def test_no_argument_of_a_job_is_in_the_log(acting: Acting, stores: Stores) -> None:
    stores.jobs.create("warm", {"path": "hidden-words"}, namespace="tests", submitted_by="tester")

    (row,) = stores.audit.tail()

    assert "hidden-words" not in repr(row)
    assert row.args_digest is not None
    assert len(row.args_digest) == 64


def test_the_tail_of_a_job_is_not_cut_by_the_rows_of_others(acting: Acting) -> None:
    ring = acting.submit()
    for _ in range(3):
        acting.submit()

    assert [row.action for row in acting.stores.audit.tail(2, job_id=ring.job_id)] == ["job.submit"]
