"""Write a whole metadata database to a stream, and make one from it, also from SQLite to PostgreSQL and back.

    {"format": "cache-management metadata 1", "revision": "0003", "tables": {"audit_log": ["id", "at", ...], ...}, ...}
    ["audit_log", [1, "2026-11-29T02:48:33.120450Z", ...]]       one row, in the order of the columns above
    {"rows": {"audit_log": 1, ...}, "sha256": "..."}             of all lines before

JSON Lines, which may be compressed. Rows are those of one moment. Moments are UTC, bytes Base64. What was written at an
older revision is put into tables of that revision, which are then brought up to this version's.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, BinaryIO

import msgspec
import zstandard
from sqlalchemy import (
    BigInteger,
    Connection,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    func,
    insert,
    select,
    text,
)
from sqlalchemy import exc as sa_exc

from cache_management import __version__
from cache_management.cache.errors import InvalidInput, MetadataUnavailable
from cache_management.models.base import Base, Database, read_clock
from cache_management.models.store import schema

FORMAT = "cache-management metadata 1"
_PAGE = 500
_LONGEST_LINE_BYTES = 2**30  # inputs of a job are stored some hundred to a row
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

Convert = Callable[[Any], Any]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream begins with."""

    format: str
    revision: str
    program: str
    dialect: str
    written_at: datetime
    tables: dict[str, list[str]]


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What it ends with; one that was cut off has none."""

    rows: dict[str, int]
    sha256: str


def dump(database: Database, file: BinaryIO, *, compressed: bool) -> End:
    """Write everything to a file that is open; memory does not grow with the database.

    Raises:
        MetadataUnavailable: The database does not answer, has no tables of ours, or newer ones than this version.
    """
    if database.file is not None and not database.file.exists():
        raise MetadataUnavailable(f"metadata database {database.shown} is not there: there is nothing to dump")
    patient = Database(database.url, answer_seconds=None)
    try:
        with patient.read() as connection, _packed(file, compressed) as out:
            if connection.dialect.name == "postgresql":
                # Else each table would be of another moment. SQLite reads one state in any transaction.
                connection.execution_options(isolation_level="REPEATABLE READ")
            return _write(connection, out, shown=database.shown)
    finally:
        patient.close()


def restore(database: Database, path: Path) -> End:
    """Fill an empty database from a file, and bring it to this version's revision; all of it or nothing.

    Raises:
        InvalidInput: The file is damaged, made up, or of a newer version, or the database holds something. Says which.
        MetadataUnavailable: The database does not answer.
    """
    patient = Database(database.url, answer_seconds=None)
    try:
        with _lines(path) as lines:
            header = _header(lines, path)
            _make_tables(patient, header, path)
            with patient.write() as connection:
                end = _fill(connection, header, lines, path, shown=database.shown)
        schema.upgrade(database.url)
        return end
    finally:
        patient.close()


# writing


def _write(connection: Connection, out: IO[bytes], *, shown: str) -> End:
    revision = schema.current(connection)
    if revision is None:
        raise MetadataUnavailable(f"metadata database {shown} has no tables of ours: there is nothing to dump")
    if revision not in schema.revisions():
        raise MetadataUnavailable(
            f"metadata database {shown} is at revision {revision}, of which this version knows nothing; "
            "dump it with the version that upgraded it"
        )
    tables = _reflect(connection)
    sha = hashlib.sha256()

    def put(line: object) -> None:
        data = msgspec.json.encode(line) + b"\n"
        sha.update(data)
        out.write(data)

    columns = {str(table.name): [str(column.name) for column in table.columns] for table in tables}
    put(Header(FORMAT, revision, __version__, connection.dialect.name, read_clock(connection), columns))
    rows = dict.fromkeys(columns, 0)
    for table in tables:
        name = str(table.name)
        convert = [_to_json(column.type) for column in table.columns]
        # The log is a chain: in the order of its ids it can be checked while it comes.
        query = select(table).order_by(*table.primary_key.columns)
        found = connection.execution_options(yield_per=_PAGE).execute(query)
        for row in found:
            put([name, [each(value) for each, value in zip(convert, row, strict=True)]])
            rows[name] += 1
    end = End(rows, sha.hexdigest())
    out.write(msgspec.json.encode(end) + b"\n")
    return end


def _reflect(connection: Connection) -> list[Table]:
    """Return our tables as they are, whatever the revision, parents before children; others may share the database."""
    ours = set(Base.metadata.tables)
    metadata = MetaData()
    metadata.reflect(connection, only=lambda name, _: name in ours)
    return list(metadata.sorted_tables)


def _to_json(kind: Any) -> Convert:
    if isinstance(kind, DateTime):
        # SQLite keeps no zone; what we store is UTC.
        return lambda value: None if value is None else (value if value.tzinfo else value.replace(tzinfo=UTC))
    return lambda value: value


@contextmanager
def _packed(file: BinaryIO, compressed: bool) -> Iterator[IO[bytes]]:
    if not compressed:
        yield file
        return
    with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as out:
        yield out


# reading


class _Lines:
    """Reads line by line, sums up what was read, and knows where it is."""

    def __init__(self, source: IO[bytes], path: Path) -> None:
        self._source, self._path = source, path
        self._sha = hashlib.sha256()
        self.number = 0
        self.sum_before = self._sha.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        try:
            while line := self._source.readline(_LONGEST_LINE_BYTES + 1):
                self.number += 1
                if len(line) > _LONGEST_LINE_BYTES:
                    raise self.wrong("it is longer than any that this program writes")
                self.sum_before = self._sha.hexdigest()
                self._sha.update(line)
                yield line
        except zstandard.ZstdError as exc:
            raise self.wrong(f"what follows cannot be decompressed ({exc})") from None

    def wrong(self, what: str) -> InvalidInput:
        return InvalidInput(f"{self._path}, line {self.number}: {what}; nothing was restored, take another dump")


@contextmanager
def _lines(path: Path) -> Iterator[_Lines]:
    try:
        file = path.open("rb")
    except OSError as exc:
        raise InvalidInput(f"{path} cannot be read: {exc.strerror}") from None
    with file:
        is_packed = file.read(len(_ZSTD_MAGIC)) == _ZSTD_MAGIC
        file.seek(0)
        source: IO[bytes] = file
        if is_packed:
            source = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
        yield _Lines(source, path)


def _header(lines: _Lines, path: Path) -> Header:
    first = next(iter(lines), b"")
    try:
        header = msgspec.json.decode(first, type=Header)
    except (msgspec.DecodeError, msgspec.ValidationError):
        raise InvalidInput(f"{path} is no dump of a metadata database (`cache-cli db dump` writes one)") from None
    if header.format != FORMAT or header.revision not in schema.revisions():
        raise InvalidInput(
            f"{path} was written by version {header.program} ({header.format}, revision {header.revision}), which is "
            "newer than this one: restore it with that version"
        )
    return header


def _make_tables(database: Database, header: Header, path: Path) -> None:
    """Let the tables be those of the dump, and empty."""
    file = database.file
    found = None
    if file is None or file.exists():
        with database.read() as connection:
            found = schema.current(connection)
            _refuse_rows(connection, shown=database.shown, path=path)
    if found == header.revision:
        return
    if found is not None:
        if found not in schema.revisions():
            raise InvalidInput(
                f"metadata database {database.shown} is at revision {found}, of which this version knows nothing: "
                f"restore {path} with the version that made its tables"
            )
        schema.downgrade(database.url, "base")
    schema.upgrade(database.url, header.revision)


def _refuse_rows(connection: Connection, *, shown: str, path: Path) -> None:
    for table in _reflect(connection):
        if connection.execute(select(func.count()).select_from(select(table).limit(1).subquery())).scalar_one():
            raise InvalidInput(
                f"metadata database {shown} holds something ({table.name}), and {path} is restored into an empty one "
                "only: name a new one, and stop workers, scheduler and applications before"
            )


def _fill(connection: Connection, header: Header, lines: _Lines, path: Path, *, shown: str) -> End:
    tables = {str(table.name): table for table in _reflect(connection)}
    if {name: [column.name for column in table.columns] for name, table in tables.items()} != header.tables:
        raise InvalidInput(f"{path}: its tables are not those of revision {header.revision}; nothing was restored")
    if connection.dialect.name == "postgresql":
        # Whoever writes meanwhile waits, and finds a database that is not empty.
        connection.execute(text(f"LOCK TABLE {', '.join(tables)} IN EXCLUSIVE MODE"))
    _refuse_rows(connection, shown=shown, path=path)
    counts = dict.fromkeys(tables, 0)
    end = None
    for name, rows in _pages(lines, tables):
        if isinstance(rows, End):
            end = rows
            break
        try:
            connection.execute(insert(tables[name]), rows)
        except (sa_exc.IntegrityError, sa_exc.DataError, sa_exc.StatementError) as exc:
            raise lines.wrong(f"a row of {name} before it does not fit ({type(exc).__name__})") from None
        counts[name] += len(rows)
    if end is None:
        raise lines.wrong("the end is missing: the file was cut off")
    if end.sha256 != lines.sum_before or end.rows != counts:
        raise lines.wrong("what was read is not what was written: the file is damaged")
    if next(iter(lines), None) is not None:
        raise lines.wrong("something follows the end")
    if connection.dialect.name == "postgresql":
        _count_on(connection, tables.values())
    return end


def _pages(lines: _Lines, tables: dict[str, Table]) -> Iterator[tuple[str, Any]]:
    """Yield rows of one table at a time, converted, and at last the end."""
    columns = {
        name: [(column.name, _from_json(column.type)) for column in table.columns] for name, table in tables.items()
    }
    page: list[dict[str, Any]] = []
    current = ""
    for line in lines:
        try:
            found = msgspec.json.decode(line, type=tuple[str, list[Any]] | End)
            if isinstance(found, End):
                if page:
                    yield current, page
                yield "", found
                return
            name, values = found
            row = {key: each(value) for (key, each), value in zip(columns[name], values, strict=True)}
        except (ValueError, TypeError, KeyError):
            raise lines.wrong("it is no row of a table") from None
        if page and (name != current or len(page) == _PAGE):
            yield current, page
            page = []
        current = name
        page.append(row)
    if page:
        yield current, page


def _from_json(kind: Any) -> Convert:
    if isinstance(kind, LargeBinary):
        return lambda value: None if value is None else base64.b64decode(value, validate=True)
    if isinstance(kind, DateTime):
        is_aware = kind.timezone

        def moment(value: Any) -> datetime | None:
            if value is None:
                return None
            found = msgspec.convert(value, datetime).astimezone(UTC)
            return found if is_aware else found.replace(tzinfo=None)

        return moment
    return lambda value: value


def _count_on(connection: Connection, tables: Iterable[Table]) -> None:
    """Let numbers that the server gives go on behind those that were restored."""
    for table in tables:
        for column in table.primary_key.columns:
            if not isinstance(column.type, Integer | BigInteger):
                continue
            where = {"table": table.name, "column": column.name}
            counter = connection.execute(text("SELECT pg_get_serial_sequence(:table, :column)"), where).scalar_one()
            highest = connection.execute(select(func.max(column))).scalar_one()
            if counter is not None and highest is not None:
                which = {"counter": counter, "highest": highest}
                connection.execute(text("SELECT setval(CAST(:counter AS regclass), :highest)"), which)
