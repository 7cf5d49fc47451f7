"""Engine, clock and types, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Column, MetaData, Table, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from cache_management.cache.errors import ConfigurationError, MetadataUnavailable
from cache_management.models.base import Database, UtcDateTime, open_engine, parse_url, read_clock
from cache_management.models.store import open_stores
from tests.conftest import OwnPostgres
from tests.models.acting import LossyDatabase


def test_the_clock_is_the_databases_and_finer_than_a_second(database: LossyDatabase) -> None:
    with database.read() as connection:
        readings = [read_clock(connection) for _ in range(50)]

    assert all(reading.tzinfo is UTC for reading in readings)
    assert any(reading.microsecond for reading in readings)
    assert abs(readings[-1] - datetime.now(UTC)) < timedelta(minutes=1)


def test_the_clock_moves_within_a_transaction(database: LossyDatabase) -> None:
    with database.write() as connection:
        first = read_clock(connection)
        while (later := read_clock(connection)) == first:
            pass

    assert later > first


def test_moments_come_back_in_utc(database: LossyDatabase) -> None:
    table = Table("moments", MetaData(), Column("at", UtcDateTime))
    noon_in_lisbon = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=1)))
    with database.write() as connection:
        table.create(connection)
        connection.execute(insert(table), [{"at": noon_in_lisbon}, {"at": None}])

    with database.read() as connection:
        found = connection.execute(select(table.c.at).where(table.c.at == noon_in_lisbon)).scalar_one()

    assert (found, found.tzinfo) == (datetime(2026, 7, 1, 11, tzinfo=UTC), UTC)


def test_a_moment_without_a_zone_is_refused(database: LossyDatabase) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        UtcDateTime().process_bind_param(datetime(2026, 1, 1), database.engine.dialect)  # noqa: DTZ001 - meant


def test_an_error_rolls_everything_back(database: LossyDatabase) -> None:
    def break_off() -> None:
        with database.write() as connection:
            connection.execute(text("DELETE FROM alembic_version"))
            raise KeyError

    with pytest.raises(KeyError):
        break_off()

    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar_one() == 1


def test_sqlite_waits_for_another_writer(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/metadata.db")
    with database.write() as connection:
        connection.execute(text("CREATE TABLE numbers (n INTEGER)"))
    inside, order = threading.Event(), []

    def second() -> None:
        inside.wait()
        with database.write() as connection:
            order.append(connection.execute(text("SELECT count(*) FROM numbers")).scalar_one())

    thread = threading.Thread(target=second)
    thread.start()
    with database.write() as connection:
        inside.set()
        connection.execute(text("INSERT INTO numbers VALUES (1)"))
    thread.join()
    database.close()

    assert order == [1]


def test_sqlite_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/metadata.db")
    with database.write() as connection:
        connection.execute(text("CREATE TABLE numbers (n INTEGER)"))

    with database.write() as writer, database.read() as reader:
        writer.execute(text("INSERT INTO numbers VALUES (1)"))
        seen = reader.execute(text("SELECT count(*) FROM numbers")).scalar_one()
    database.close()

    assert seen == 0


def test_sqlite_is_set_up_for_many_processes(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/deeper/metadata.db")
    with database.write() as connection:
        found = [
            connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "busy_timeout", "foreign_keys")
        ]
    database.close()

    assert found == ["wal", 10_000, 1]


def test_an_unreachable_database_is_named_without_its_password() -> None:
    stores = open_stores("postgresql://someone:secret@127.0.0.1:1/jobs")

    with pytest.raises(MetadataUnavailable) as raised:
        stores.jobs.list()
    stores.close()

    message = str(raised.value)
    assert "someone:********@127.0.0.1:1/jobs" in message
    assert "secret" not in message
    assert "metadata_url" in message


@pytest.mark.parametrize("url", ["postgresql://db/jobs?user=me&password=secret", "mysql://db/jobs?password=secret"])
def test_a_password_among_the_parameters_is_hidden_too(url: str) -> None:
    try:
        shown = Database(url).shown
    except ConfigurationError as exc:
        shown = str(exc)

    assert "password=********" in shown
    assert "secret" not in shown


def test_an_error_of_the_database_quotes_no_parameter(database: LossyDatabase) -> None:
    def insert_twice() -> None:
        with database.write() as connection:
            for _ in range(2):
                connection.execute(text("INSERT INTO alembic_version VALUES (:prompt)"), {"prompt": "my secret"})

    with pytest.raises(IntegrityError) as raised:
        insert_twice()

    assert "my secret" not in str(raised.value).partition("[SQL")[2]


def test_a_driver_that_says_nothing_is_named(database: LossyDatabase) -> None:
    assert "KeyError" in str(database.unavailable(OperationalError("SELECT 1", {}, KeyError())))


def test_a_folder_that_cannot_be_made_is_metadata_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    stores = open_stores(f"sqlite:///{tmp_path}/file/metadata.db")

    with pytest.raises(MetadataUnavailable, match=r"metadata\.db"):
        stores.upgrade()


def test_the_folder_of_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'made' / 'metadata.db'}")
    with database.write():
        pass
    database.close()

    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700


def test_a_file_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    first, second = (Database(f"sqlite:///{tmp_path / 'metadata.db'}") for _ in range(2))
    with first.write() as connection:
        connection.execute(text("CREATE TABLE old (id INTEGER)"))
    for file in tmp_path.iterdir():
        file.unlink()
    with second.write() as connection:
        connection.execute(text("CREATE TABLE new (id INTEGER)"))

    with first.read() as connection:
        found = connection.execute(text("SELECT name FROM sqlite_master")).scalars().all()
    first.close()
    second.close()

    assert found == ["new"]


def test_a_file_is_for_its_owner_alone_where_its_folder_is_open_to_all(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    database = Database(f"sqlite:///{tmp_path / 'metadata.db'}")
    with database.write() as connection:
        connection.execute(text("CREATE TABLE prompts (text TEXT)"))
        modes = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()}
    database.close()

    assert modes == dict.fromkeys(("metadata.db", "metadata.db-wal", "metadata.db-shm"), "0o600")


def test_a_file_that_cannot_be_opened_says_where_to_write(tmp_path: Path) -> None:
    (tmp_path / "metadata.db").mkdir()
    database = Database(f"sqlite:///{tmp_path / 'metadata.db'}")

    with pytest.raises(MetadataUnavailable, match=f"unable to open.*; let this account write to {tmp_path}, or set"):
        database.write().__enter__()
    database.close()


def test_a_damaged_file_is_metadata_unavailable(tmp_path: Path) -> None:
    (tmp_path / "metadata.db").write_bytes(b"no database at all" * 100)
    database = Database(f"sqlite:///{tmp_path / 'metadata.db'}")

    with pytest.raises(MetadataUnavailable, match="not a database"), database.write():
        pass
    database.close()


def test_missing_tables_name_the_command_that_makes_them(url: str) -> None:
    stores = open_stores(url)

    with pytest.raises(MetadataUnavailable, match="cache-cli db upgrade"):
        stores.jobs.list()
    stores.close()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://host/jobs", "not a url", "postgresql+asyncpg://host/jobs"]
)
def test_urls_that_cannot_work_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="metadata URL"):
        parse_url(url)


def test_postgresql_without_a_driver_means_psycopg() -> None:
    assert parse_url("postgresql://host/jobs").drivername == "postgresql+psycopg"


def test_postgres_gives_up_on_locks_and_on_frozen_transactions(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with engine.connect() as connection:
        lock = connection.execute(text("SHOW lock_timeout")).scalar_one()
        idle = connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one()
    engine.dispose()

    assert (lock, idle) == ("10s", "30s")


def test_another_process_gets_an_engine_of_its_own(database: LossyDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    parents = database.engine
    pid = os.getpid()
    monkeypatch.setattr("os.getpid", lambda: pid + 1)

    childs = database.engine

    assert childs is not parents
    assert database.engine is childs
    parents.dispose()


def test_a_closed_database_opens_again(database: LossyDatabase) -> None:
    database.close()

    with database.read() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1


def test_a_server_that_is_frozen_is_given_up_on(own_postgres: OwnPostgres) -> None:
    database = Database(own_postgres.url, answer_seconds=3)
    with database.read() as connection:
        connection.execute(text("SELECT 1"))

    own_postgres.pause()
    try:
        with pytest.raises(MetadataUnavailable), database.read() as connection:
            connection.execute(text("SELECT 2"))
    finally:
        own_postgres.resume()

    with database.read() as connection:
        assert connection.execute(text("SELECT 3")).scalar_one() == 3
    database.close()
