"""What every table stands on: constraint names, portable types, engine, transactions, clock.

All times are the database's. A worker's own clock may be minutes off, and a
lease that two hosts read differently is no lease.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    BigInteger,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Integer,
    MetaData,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy import exc as sa_exc
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeDecorator

from cache_management.cache.errors import ConfigurationError, MetadataUnavailable
from cache_management.cache.redact import hide_password

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

SQLITE_BUSY_SECONDS = 10
POSTGRES_CONNECT_SECONDS = 5
POSTGRES_ANSWER_SECONDS = 30.0
# A worker that is stopped inside a transaction must not hold a job's row for ever.
POSTGRES_OPTIONS = "-c lock_timeout=10000 -c idle_in_transaction_session_timeout=30000"


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: aware UTC on the way out, also from SQLite, which keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


PortableJSON = JSON().with_variant(JSONB(), "postgresql")
# SQLite counts up by itself only for a column declared INTEGER.
RowId = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Base of every table."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - read once by SQLAlchemy, never changed
        datetime: UtcDateTime,
        dict[str, Any]: PortableJSON,
        int: BigInteger,
    }


def db_now(dialect: str) -> ColumnElement[datetime]:
    """Say "now" by the database's clock, below a second on both dialects."""
    if dialect == "sqlite":
        # Six digits, as SQLAlchemy stores moments, so that text compares like time.
        return func.strftime("%Y-%m-%d %H:%M:%f000", "now", type_=UtcDateTime)
    # Not now(): that is the start of the transaction, before any wait for a lock.
    return func.clock_timestamp(type_=UtcDateTime)


Clock = Callable[[Connection], datetime]


def read_clock(connection: Connection) -> datetime:
    """Read the database's clock."""
    return connection.execute(select(db_now(connection.dialect.name))).scalar_one()


def parse_url(url: str) -> URL:
    """Check a metadata URL and name its driver.

    Raises:
        ConfigurationError: It is not a SQLite file or a PostgreSQL database.
    """
    try:
        parsed = make_url(url)
    except sa_exc.ArgumentError as exc:
        raise ConfigurationError(
            "the metadata URL cannot be read; use sqlite:////path/to/metadata.db or postgresql://host/database"
        ) from exc
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    shown = _shown(parsed)
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise ConfigurationError(f"metadata URL {shown}: only sqlite:// and postgresql:// are supported")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigurationError(
            f"metadata URL {shown} names no file: jobs must outlive the process; use sqlite:////path/metadata.db"
        )
    return parsed


def open_engine(url: str, *, answer_seconds: float | None = POSTGRES_ANSWER_SECONDS) -> Engine:
    """Make an engine for a metadata URL; nothing connects yet.

    Args:
        answer_seconds: How long a PostgreSQL server may take for one answer; None: as long as it likes.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed)
    connect_args: dict[str, Any] = {
        "connect_timeout": POSTGRES_CONNECT_SECONDS,
        # None: prepared statements do not survive pgbouncer's transaction mode.
        "prepare_threshold": None,
    }
    if "options" not in parsed.query:
        connect_args["options"] = POSTGRES_OPTIONS
    try:
        engine = create_engine(
            parsed,
            pool_pre_ping=True,
            pool_size=2,
            max_overflow=2,
            pool_timeout=10,
            connect_args=connect_args,
            hide_parameters=True,
        )
    except ImportError as exc:
        raise ConfigurationError("PostgreSQL metadata needs: pip install 'cache-management[postgres]'") from exc
    if answer_seconds is not None:
        _bound_answers(engine, answer_seconds)
    return engine


def _bound_answers(engine: Engine, seconds: float) -> None:
    """Give up on a server that does not answer: one that is frozen holds a connection open for ever.

    The server's own timeouts are of no use then, and neither are those of TCP: its host still acknowledges.
    """
    import psycopg

    class Bounded(psycopg.Connection[Any]):
        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            try:
                return super().wait(gen, interval, timeout=seconds if timeout is None else timeout)
            except psycopg.OperationalError:
                if timeout is None:
                    # What the late answer belongs to would not be known.
                    self.close()
                raise

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        return Bounded.connect(*arguments, **options)


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": SQLITE_BUSY_SECONDS}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        # The driver would begin transactions itself, late and as readers: two of
        # them that then write cannot both go on. We begin them below instead.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode = WAL", f"busy_timeout = {SQLITE_BUSY_SECONDS * 1000}", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "checkout")
    def _look(_connection: Any, record: Any, _proxy: Any) -> None:
        # A file that was removed or replaced lives on for who has it open: a worker would write
        # for ever where nobody else reads.
        now = _identity_of(url)
        if record.info.setdefault("file", now) != now:
            raise sa_exc.DisconnectionError("the file was removed or replaced")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reading = connection.get_execution_options().get("cache_reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


def _identity_of(url: URL) -> tuple[int, int] | None:
    try:
        found = Path(str(url.database)).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Database:
    """One metadata database: an engine per process and two kinds of transaction."""

    def __init__(self, url: str, *, answer_seconds: float | None = POSTGRES_ANSWER_SECONDS) -> None:
        self._url = parse_url(url)
        self._answer_seconds = answer_seconds
        self._engine: Engine | None = None
        self._pid = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The URL, password included."""
        return self._url.render_as_string(hide_password=False)

    @property
    def shown(self) -> str:
        """The URL with its password hidden."""
        return _shown(self._url)

    @property
    def file(self) -> Path | None:
        """The SQLite file; None on PostgreSQL."""
        return Path(str(self._url.database)) if self._url.get_backend_name() == "sqlite" else None

    @property
    def engine(self) -> Engine:
        """The engine of this process, built on first use."""
        with self._lock:
            if self._engine is None or self._pid != os.getpid():
                if self._engine is not None:
                    # The sockets belong to the parent: forget them, do not close them.
                    self._engine.dispose(close=False)
                self._engine = open_engine(self.url, answer_seconds=self._answer_seconds)
                self._pid = os.getpid()
            return self._engine

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that may write; commit at the end, roll back on an error.

        Raises:
            MetadataUnavailable: The database did not answer. When it was the
                commit that got no reply, the changes may or may not be there.
        """
        if self.file is not None:
            try:
                # For its owner alone, wherever it lies: jobs keep their prompts in it.
                self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                if not self.file.exists():
                    self.file.touch(mode=0o600)
            except OSError as exc:
                raise self.unavailable(exc) from exc
        with self._translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that only reads.

        Raises:
            MetadataUnavailable: The database did not answer.
        """
        with self._translated(), self.engine.connect() as connection:
            yield connection.execution_options(cache_reading=True)

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose(close=self._pid == os.getpid())
                self._engine = None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sa_exc.OperationalError, sa_exc.InterfaceError, sa_exc.TimeoutError) as exc:
            raise self.unavailable(exc) from exc
        except sa_exc.DBAPIError as exc:
            if exc.connection_invalidated or _names_missing_table(exc) or _is_damaged(exc):
                raise self.unavailable(exc) from exc
            raise

    def unavailable(self, cause: Exception) -> MetadataUnavailable:
        """Say what went wrong with this database, and the way out."""
        original = getattr(cause, "orig", None) or cause
        # The first line only: the rest of a driver's message may quote what was stored.
        reason = (str(original).strip() or type(original).__name__).splitlines()[0]
        if _names_missing_table(cause):
            return MetadataUnavailable(
                f"metadata database {self.shown} has no tables of this version ({reason}); run `cache-cli db upgrade`"
            )
        way_out = "check that it runs and that metadata_url is right"
        if self.file is not None and any(sign in reason for sign in ("unable to open", "readonly")):
            way_out = f"let this account write to {self.file.parent}, or set data_dir or metadata_url to another place"
        return MetadataUnavailable(f"metadata database {self.shown} cannot be used: {reason}; {way_out}")


def _shown(url: URL) -> str:
    return hide_password(url.render_as_string(hide_password=False))


def _names_missing_table(cause: Exception) -> bool:
    original = getattr(cause, "orig", None)
    return getattr(original, "sqlstate", None) in ("42P01", "42703") or any(
        sign in str(original) for sign in ("no such table", "no such column", "has no column named")
    )


def _is_damaged(cause: Exception) -> bool:
    original = str(getattr(cause, "orig", None))
    return "file is not a database" in original or "disk image is malformed" in original
