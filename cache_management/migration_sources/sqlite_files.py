"""SQLite files of others, opened to be read: no pickle, no write, no code of the file's own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cache_management.cache.errors import InvalidInput

_MAGIC = b"SQLite format 3\0"
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class SqliteFile:
    """An open file. Text that is no UTF-8 comes as bytes.

    Raises:
        InvalidInput: It cannot be read, or is no database.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            with file.open("rb") as stream:
                beginning = stream.read(len(_MAGIC))
            self.changed_at = datetime.fromtimestamp(int(file.stat().st_mtime), UTC)
        except OSError as exc:
            raise InvalidInput(f"{file}: cannot be read: {exc.strerror}") from None
        if beginning.startswith(_PICKLES):
            raise InvalidInput(f"{file}: this is a pickle, which runs code when it is read: it is never read here")
        if beginning != _MAGIC:
            raise InvalidInput(f"{file}: this is no SQLite database")
        self._connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        self._connection.text_factory = _text
        with self._reading():
            self._connection.execute("PRAGMA trusted_schema = OFF")
            self._connection.execute("PRAGMA query_only = ON")
            self._tables = {
                name: {column for _, column, *_ in self._connection.execute(f'PRAGMA table_info("{name}")')}
                for (name,) in self._connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table'"
                ).fetchall()
                if isinstance(name, str) and '"' not in name
            }

    def tables(self, columns: Sequence[str]) -> list[str]:
        """Return the tables that have all these columns."""
        return sorted(name for name, has in self._tables.items() if has.issuperset(columns))

    def has(self, table: str, columns: Sequence[str]) -> bool:
        """Tell whether a table is there with these columns."""
        return self._tables.get(table, set()).issuperset(columns) and table in self._tables

    def count(self, table: str) -> int:
        """Return how many rows a table has."""
        return int(next(self.select(f'SELECT count(*) FROM "{table}"'))[0])  # noqa: S608 - a name of the file, quoted

    def select(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query.

        Raises:
            InvalidInput: The file is damaged.
        """
        with self._reading():
            yield from self._connection.execute(query)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            # Programming errors have no code; of the extended ones the lower byte is the kind.
            if getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
                raise InvalidInput(
                    f"{self.file}: a write of it was broken off, and to mend that it would be written: open it once"
                    f" with its own app; or copy it, with the {self.file.name}-journal or -wal beside it, open the copy"
                    " once (sqlite3 COPY .tables) and migrate the copy"
                ) from None
            raise InvalidInput(f"{self.file}: the database cannot be read: {exc}") from None


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def why_no_text(value: object) -> str:
    """Say what something is that should be a text."""
    if value is None:
        return "no answer"
    if isinstance(value, bytes):
        return "a pickled value, which is never read" if value.startswith(_PICKLES) else "a value that is no text"
    return "a value that is no text"
