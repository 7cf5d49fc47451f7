"""Vectors in a file that processes share and that outlives them: the second level of the embedding cache.

It holds digests of texts, never texts; but a vector tells something about its text, so the folder is
for its owner alone. Whatever goes wrong with the file reads as "not there" and writes as nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import xxhash

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

T = TypeVar("T")

logger = logging.getLogger("cache_management")

_NAME = "embeddings-1.sqlite3"  # another layout takes another name
_SCHEMA = "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, checked BLOB NOT NULL)"
_SUM_BYTES = 8
_BUSY_SECONDS = 0.02
_AT_ONCE = 500  # keys of one statement
_ROOM_MADE = 0.1  # share that goes when the file is full, oldest first


class VectorFile:
    """Keeps vectors by key. For one thread at a time; any number of processes share the file.

    Args:
        folder: Made when missing, for its owner alone.
        max_bytes: What the vectors in the file may take; the oldest tenth goes when it is full.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.path = folder / _NAME
        self._max_bytes = max_bytes
        self._pid = 0
        self._connection: sqlite3.Connection | None = None
        self._left_alone = False

    def get_many(self, keys: Sequence[bytes], *, dims: int) -> dict[bytes, NDArray[np.float32]]:
        """Return the vectors that are there and whole, shape (dims,), float32."""
        return self._try(lambda connection: self._read(connection, keys, dims), {})

    def put_many(self, vectors: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Keep vectors; nothing is kept when the file is busy or cannot be written."""
        self._try(lambda connection: self._write(connection, vectors), None)

    def close(self) -> None:
        """Close the file. Safe to repeat; the next call opens it again."""
        if self._connection is not None and self._pid == os.getpid():
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _try(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        if self._connection is not None and self._pid != os.getpid():
            # No connection may be carried over a fork, and what SQLite knows of the parent's locks came along:
            # a child of a process that used the file does without it.
            return otherwise
        for again in (False, True):
            if self._left_alone:
                break
            try:
                if self._connection is None:
                    self._connection = self._open()
                return work(self._connection)
            except sqlite3.OperationalError as exc:
                logger.debug("%s: %s", self.path, exc)
                break  # busy, full, or no right to it
            except (sqlite3.Error, OSError) as exc:
                self._drop(exc, for_good=again)
        return otherwise

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.touch(mode=0o600)
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", _SCHEMA):
                connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        self._pid = os.getpid()
        # Nobody is at work when the last reference goes; the collector may be in any thread then.
        weakref.finalize(self, _close, connection, self._pid)
        return connection

    def _drop(self, reason: Exception, *, for_good: bool) -> None:
        """Begin a new file when this one is broken; leave it alone when that did not help."""
        logger.warning("the embedding cache %s cannot be read and begins anew: %s", self.path, reason)
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        self._left_alone = for_good
        with contextlib.suppress(OSError):
            for end in ("", "-wal", "-shm"):
                self.path.with_name(_NAME + end).unlink(missing_ok=True)

    def _read(
        self, connection: sqlite3.Connection, keys: Sequence[bytes], dims: int
    ) -> dict[bytes, NDArray[np.float32]]:
        found: dict[bytes, NDArray[np.float32]] = {}
        for at in range(0, len(keys), _AT_ONCE):
            part = keys[at : at + _AT_ONCE]
            marks = ",".join("?" * len(part))
            rows = connection.execute(f"SELECT key, checked FROM vectors WHERE key IN ({marks})", part)  # noqa: S608 - marks only
            for key, checked in rows:
                vector = _unpack(key, checked, dims)
                if vector is not None:
                    found[key] = vector
        return found

    def _write(self, connection: sqlite3.Connection, vectors: Mapping[bytes, NDArray[np.float32]]) -> None:
        rows = [(key, _pack(key, vector)) for key, vector in vectors.items()]
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Replaced, so that one that failed its check does not stay.
            connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
            self._make_room(connection)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _make_room(self, connection: sqlite3.Connection) -> None:
        pages, free, size = (
            connection.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_count", "freelist_count", "page_size")
        )
        if (pages - free) * size <= self._max_bytes:
            return
        first, last = connection.execute("SELECT min(rowid), max(rowid) FROM vectors").fetchone()
        # Row numbers grow with time, so the lowest came first. At least one goes.
        until = first + int((last - first) * _ROOM_MADE)
        connection.execute("DELETE FROM vectors WHERE rowid <= ?", (until,))


def _close(connection: sqlite3.Connection, pid: int) -> None:
    if pid == os.getpid():
        with contextlib.suppress(sqlite3.Error):
            connection.close()


def _pack(key: bytes, vector: NDArray[np.float32]) -> bytes:
    numbers = vector.astype("<f4").tobytes()
    return xxhash.xxh3_64_digest(key + numbers) + numbers


def _unpack(key: bytes, checked: object, dims: int) -> NDArray[np.float32] | None:
    """Return the vector of a row; None when it is torn, of another width, or another's."""
    if not isinstance(checked, bytes) or len(checked) != _SUM_BYTES + 4 * dims:
        return None
    numbers = checked[_SUM_BYTES:]
    if xxhash.xxh3_64_digest(key + numbers) != checked[:_SUM_BYTES]:
        return None
    return np.frombuffer(numbers, dtype="<f4").astype(np.float32)
