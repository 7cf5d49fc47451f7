"""An embedded store on disk, shared safely by several processes: SQLite in WAL mode.

Why SQLite and not LMDB: docs/design/0002-disk-store.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.clock import Clock, system_clock
from cache_management.cache.codec import pack, unpack
from cache_management.cache.config import EvictionPolicy
from cache_management.cache.errors import BackendUnavailable, CorruptRecord, JournalGap
from cache_management.cache.events import CorruptEvent, Listener, RemoveEvent, ignore
from cache_management.cache.records import Record

T = TypeVar("T")

_SCHEMA_NUMBER = 1
_SCHEMA = """
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    grp TEXT NOT NULL,               -- kind and namespace: what shares max_size
    frame BLOB NOT NULL,
    expires_at REAL,
    used_at REAL NOT NULL,
    uses INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX records_expiry ON records (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX records_use ON records (grp, used_at);
-- Counting rows would read the whole table at every write: triggers keep the sums instead.
CREATE TABLE totals (grp TEXT PRIMARY KEY, entries INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER records_added AFTER INSERT ON records BEGIN
    INSERT INTO totals VALUES (new.grp, 1, length(new.frame))
    ON CONFLICT (grp) DO UPDATE SET entries = entries + 1, bytes = bytes + length(new.frame);
END;
CREATE TRIGGER records_removed AFTER DELETE ON records BEGIN
    UPDATE totals SET entries = entries - 1, bytes = bytes - length(old.frame) WHERE grp = old.grp;
END;
CREATE TRIGGER records_changed AFTER UPDATE OF frame ON records BEGIN
    UPDATE totals SET bytes = bytes + length(new.frame) - length(old.frame) WHERE grp = old.grp;
END;
CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, item BLOB NOT NULL);
CREATE INDEX notes_stream ON notes (stream, id);
CREATE TABLE notes_dropped (stream TEXT PRIMARY KEY, upto INTEGER NOT NULL) WITHOUT ROWID;
"""
_PUT = """
INSERT INTO records (key, grp, frame, expires_at, used_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE
SET frame = excluded.frame, expires_at = excluded.expires_at, used_at = excluded.used_at, uses = uses + 1
"""
# What was written just now goes last, or a full store would take in nothing new.
_VICTIM_ORDER = {
    EvictionPolicy.LRU: "used_at",
    # Uses count for less the longer ago the last one is: an hour idle halves them, so old fame fades.
    EvictionPolicy.LFU: "used_at >= :now, (uses + 1.0) / (1.0 + max(0.0, :now - used_at) / 3600.0), used_at",
    EvictionPolicy.TTL: "used_at >= :now, expires_at IS NULL, expires_at, used_at",
}
_EVICT_AT_ONCE = 64
_NOTES_KEPT = 100_000
_TOUCHES_KEPT = 256


class DiskBackend(Backend, Journal):
    """Keeps records in one SQLite file below `folder`.

    Reads and uncontended writes run on the event loop (tens of microseconds); a write that
    finds another process writing waits on a thread, at most `timeout_seconds`.

    A killed process loses nothing that was acknowledged; a power cut may lose the last moments,
    and never damages the file.
    """

    name = "disk"

    def __init__(
        self,
        folder: Path,
        *,
        max_size: int,
        size_limit_bytes: int,
        policy: EvictionPolicy = EvictionPolicy.LRU,
        timeout_seconds: float = 0.25,
        clock: Clock = system_clock,
        listener: Listener = ignore,
    ) -> None:
        self.path = folder / "cache.sqlite"
        self._max_size = max_size
        self._size_limit = size_limit_bytes
        self._order = _VICTIM_ORDER[policy]
        self._timeout = timeout_seconds
        self._clock = clock
        self._listener = listener
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._touched: dict[str, list[float]] = {}
        self._left_behind: list[object] = []

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        return await self._run(lambda db: self._get_many(db, keys))

    async def put_many(self, records: Mapping[str, Record]) -> None:
        evicted = await self._run(lambda db: self._put_many(db, records))
        for group, count in evicted.items():
            self._listener(RemoveEvent(reason="evicted", namespace=group.rpartition(":")[2], count=count))

    async def delete_many(self, keys: Sequence[str]) -> int:
        return await self._run(lambda db: self._delete_many(db, keys))

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        after = ""
        while page := await self._run(functools.partial(self._page, prefix=prefix, after=after)):
            for key in page:
                yield key
            after = page[-1]

    async def count(self, prefix: str = "") -> int:
        def count(db: sqlite3.Connection) -> int:
            low, high = _range(prefix)
            row = db.execute(
                "SELECT count(*) FROM records WHERE key >= ? AND key < CAST(? AS TEXT)"
                " AND (expires_at IS NULL OR expires_at > ?)",
                (low, high, self._clock()),
            ).fetchone()
            return int(row[0])

        return await self._run(count)

    async def ping(self) -> None:
        await self._run(lambda db: db.execute("SELECT 1").fetchone())

    async def aclose(self) -> None:
        with self._lock:
            self._leave_what_crossed_a_fork()
            if self._connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._flush_touches(self._connection)
                self._connection.close()
            self._connection = None
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None

    async def append(self, stream: str, items: Sequence[bytes]) -> str:
        def append(db: sqlite3.Connection) -> str:
            with _write(db):
                db.executemany("INSERT INTO notes (stream, item) VALUES (?, ?)", [(stream, item) for item in items])
                last = _last_note(db, stream)
                oldest = db.execute("SELECT min(id) FROM notes WHERE stream = ?", (stream,)).fetchone()[0]
                if oldest is not None and last - oldest > 2 * _NOTES_KEPT:
                    upto = last - _NOTES_KEPT
                    db.execute("DELETE FROM notes WHERE stream = ? AND id <= ?", (stream, upto))
                    db.execute("INSERT OR REPLACE INTO notes_dropped VALUES (?, ?)", (stream, upto))
            return str(last)

        return await self._run(append)

    async def tail(self, stream: str) -> str:
        return await self._run(lambda db: str(_last_note(db, stream)))

    async def read_after(self, stream: str, cursor: str, *, limit: int) -> tuple[list[bytes], str]:
        start = int(cursor or 0)

        def read(db: sqlite3.Connection) -> tuple[list[bytes], str]:
            rows = db.execute(
                "SELECT id, item FROM notes WHERE stream = ? AND id > ? ORDER BY id LIMIT ?",
                (stream, start, limit),
            ).fetchall()
            dropped = db.execute("SELECT upto FROM notes_dropped WHERE stream = ?", (stream,)).fetchone()
            if dropped is not None and start < dropped[0]:
                raise JournalGap(f"stream {stream!r} was trimmed up to {dropped[0]}, asked for {start}")
            if not rows and start > (last := _last_note(db, stream)):
                raise JournalGap(f"stream {stream!r} ends at {last}, asked for {start}: it began anew")
            return [row[1] for row in rows], str(rows[-1][0] if rows else start)

        return await self._run(read)

    def _get_many(self, db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Record]:
        now = self._clock()
        found = {}
        for chunk in _chunks(keys, 500):
            if len(chunk) == 1:
                rows = db.execute("SELECT key, frame FROM records WHERE key = ?", chunk)
            else:
                marks = ",".join("?" * len(chunk))
                rows = db.execute(f"SELECT key, frame FROM records WHERE key IN ({marks})", chunk)  # noqa: S608 - marks only
            for key, frame in rows:
                try:
                    record = unpack(key, frame)
                except CorruptRecord as exc:
                    self._listener(CorruptEvent(backend=self.name, storage_key=key, detail=str(exc)))
                    continue
                if not record.is_expired(now):
                    found[key] = record
                    self._touch(key, now)
        return found

    def _put_many(self, db: sqlite3.Connection, records: Mapping[str, Record]) -> dict[str, int]:
        now = self._clock()
        live = [(key, record) for key, record in records.items() if not record.is_expired(now)]
        gone = [key for key, record in records.items() if record.is_expired(now)]
        with _write(db):
            self._flush_touches(db)
            db.executemany("DELETE FROM records WHERE key = ?", [(key,) for key in gone])
            db.executemany(
                _PUT,
                [(key, group_of(key), pack(key, record), record.expires_at, now) for key, record in live],
            )
            return self._evict(db, {group_of(key) for key, _ in live}, now)

    def _delete_many(self, db: sqlite3.Connection, keys: Sequence[str]) -> int:
        now = self._clock()
        removed = 0
        with _write(db):
            for key in keys:
                row = db.execute("DELETE FROM records WHERE key = ? RETURNING expires_at", (key,)).fetchone()
                removed += row is not None and (row[0] is None or row[0] > now)
        return removed

    def _page(self, db: sqlite3.Connection, *, prefix: str, after: str) -> list[str]:
        low, high = _range(prefix)
        return [
            row[0]
            for row in db.execute(
                "SELECT key FROM records WHERE key >= ? AND key < CAST(? AS TEXT) AND key > ?"
                " AND (expires_at IS NULL OR expires_at > ?) ORDER BY key LIMIT 1000",
                (low, high, after, self._clock()),
            )
        ]

    def _evict(self, db: sqlite3.Connection, groups: set[str], now: float) -> dict[str, int]:
        """Bring every bound back in force, inside the transaction that broke it."""
        if not self._over_limit(db, groups):
            return {}
        db.execute("DELETE FROM records WHERE expires_at <= ?", (now,))
        evicted: dict[str, int] = {}
        while over := self._over_limit(db, groups):
            group, surplus = over
            where = "1" if group is None else "grp = :group"
            rows = db.execute(
                f"DELETE FROM records WHERE id IN (SELECT id FROM records WHERE {where}"  # noqa: S608 - own text
                f" ORDER BY {self._order} LIMIT :many) RETURNING grp",
                {"group": group, "now": now, "many": surplus},
            ).fetchall()
            if not rows:
                break
            for (name,) in rows:
                evicted[name] = evicted.get(name, 0) + 1
        return evicted

    def _over_limit(self, db: sqlite3.Connection, groups: set[str]) -> tuple[str | None, int] | None:
        """Return a group that is too large (None: all of them) and how many entries to take at once."""
        for group in groups:
            row = db.execute("SELECT entries FROM totals WHERE grp = ?", (group,)).fetchone()
            if row is not None and row[0] > self._max_size:
                return group, row[0] - self._max_size
        entries, size = db.execute("SELECT total(entries), total(bytes) FROM totals").fetchone()
        if size > self._size_limit and entries > 1:
            # Guess by the mean size, and never so many that one large entry empties the cache.
            surplus = int((size - self._size_limit) / (size / entries))
            return None, max(1, min(surplus, _EVICT_AT_ONCE))
        return None

    def _touch(self, key: str, now: float) -> None:
        """Remember a read; a read must not wait for a write, so the next write carries it along."""
        seen = self._touched.get(key)
        if seen is not None:
            seen[0] = now
            seen[1] += 1
        elif len(self._touched) < _TOUCHES_KEPT:
            self._touched[key] = [now, 1]
        else:
            # Full: the write lock is taken only if it is free, else the sample is dropped.
            db = self._connection
            if db is not None:
                with contextlib.suppress(sqlite3.OperationalError), _write(db):
                    self._flush_touches(db)
            self._touched.clear()

    def _flush_touches(self, db: sqlite3.Connection) -> None:
        if self._touched:
            db.executemany(
                "UPDATE records SET used_at = max(used_at, ?), uses = uses + ? WHERE key = ?",
                [(at, uses, key) for key, (at, uses) in self._touched.items()],
            )
            self._touched.clear()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with self._lock:
                return work(self._open())
        except sqlite3.OperationalError as exc:
            if not _is_busy(exc):
                raise BackendUnavailable(f"the disk store {self.path}", str(exc)) from exc
        except (sqlite3.DatabaseError, OSError) as exc:
            raise BackendUnavailable(f"the disk store {self.path}", str(exc)) from exc
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="cache-disk")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run_patiently, work)

    def _run_patiently(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Repeat work until another process lets go of the write lock, within the time budget."""
        deadline = time.monotonic() + self._timeout
        pause = 0.001
        while True:
            try:
                with self._lock:
                    return work(self._open())
            except sqlite3.OperationalError as exc:
                if not _is_busy(exc) or time.monotonic() > deadline:
                    raise BackendUnavailable(f"the disk store {self.path}", str(exc)) from exc
            except (sqlite3.DatabaseError, OSError) as exc:
                raise BackendUnavailable(f"the disk store {self.path}", str(exc)) from exc
            time.sleep(pause)
            pause = min(pause * 2, 0.02)

    def _open(self) -> sqlite3.Connection:
        self._leave_what_crossed_a_fork()
        if self._connection is not None:
            return self._connection
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=0)
        try:
            db.execute(f"PRAGMA busy_timeout = {int(self._timeout * 1000)}")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA mmap_size = 268435456")
            _create(db)
            db.execute("PRAGMA busy_timeout = 0")
        except BaseException:
            db.close()
            raise
        self._connection = db
        return db

    def _leave_what_crossed_a_fork(self) -> None:
        """Start afresh in a forked child.

        Using or closing the parent's connection can damage the file, and an executor whose
        thread stayed in the parent takes work and never does it.
        """
        if self._pid != os.getpid():
            self._left_behind.append((self._connection, self._thread))
            self._connection = self._thread = None
            self._pid = os.getpid()


def group_of(storage_key: str) -> str:
    """Return kind and namespace, `llm:default` of `cm1:llm:default:kprompt`."""
    _, kind, namespace, *_ = (*storage_key.split(":", 3), "", "")
    return f"{kind}:{namespace}"


def _create(db: sqlite3.Connection) -> None:
    if db.execute("PRAGMA user_version").fetchone()[0] == _SCHEMA_NUMBER:
        return
    with _write(db):
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found == _SCHEMA_NUMBER:
            return
        if found:
            raise sqlite3.DatabaseError(f"its layout is {found}, this program reads {_SCHEMA_NUMBER}; move it aside")
        for statement in _statements(_SCHEMA):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {_SCHEMA_NUMBER}")


def _statements(script: str) -> Iterator[str]:
    """Split a script; `executescript` would commit the transaction that it stands in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextlib.contextmanager
def _write(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _last_note(db: sqlite3.Connection, stream: str) -> int:
    row = db.execute("SELECT max(id) FROM notes WHERE stream = ?", (stream,)).fetchone()
    if row[0] is not None:
        return int(row[0])
    dropped = db.execute("SELECT upto FROM notes_dropped WHERE stream = ?", (stream,)).fetchone()
    return int(dropped[0]) if dropped else 0


def _range(prefix: str) -> tuple[str, bytes]:
    """Return bounds around every key with a prefix: SQLite compares bytes, and no UTF-8 holds an FF."""
    return prefix, prefix.encode() + b"\xff"


def _chunks(keys: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(keys), size):
        yield list(keys[start : start + size])


def _is_busy(error: sqlite3.OperationalError) -> bool:
    # Python's own errors of this class carry no code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
