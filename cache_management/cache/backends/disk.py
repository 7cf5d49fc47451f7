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

from cache_management.cache.backends import disk_tables as tables
from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.clock import Clock, system_clock
from cache_management.cache.codec import pack, unpack
from cache_management.cache.config import EvictionPolicy
from cache_management.cache.errors import BackendUnavailable, CorruptRecord
from cache_management.cache.events import CorruptEvent, Listener, RemoveEvent, ignore
from cache_management.cache.records import Record

T = TypeVar("T")

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
_TOUCHES_KEPT = 256


class DiskBackend(FullBackend):
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

    async def get(self, key: str) -> Record | None:
        return await self._run(lambda db: self._get(db, key))

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
        return str(await self._write(lambda db: tables.append_notes(db, stream, items)))

    async def tail(self, stream: str) -> str:
        return await self._run(lambda db: str(tables.last_note(db, stream)))

    async def read_after(self, stream: str, cursor: str, *, limit: int) -> tuple[list[bytes], str]:
        notes, last = await self._run(lambda db: tables.read_notes(db, stream, int(cursor or 0), limit))
        return notes, str(last)

    async def acquire(self, name: str, *, owner: str, ttl_seconds: float) -> int | None:
        now = self._clock()
        return await self._write(lambda db: tables.acquire_lease(db, name, owner, now, now + ttl_seconds))

    async def renew(self, name: str, *, owner: str, ttl_seconds: float) -> bool:
        now = self._clock()
        return await self._write(lambda db: tables.renew_lease(db, name, owner, now, now + ttl_seconds))

    async def release(self, name: str, *, owner: str) -> bool:
        return await self._write(lambda db: tables.release_lease(db, name, owner, self._clock()))

    async def add_tags(self, tags: Mapping[str, Mapping[str, float | None]]) -> None:
        await self._write(lambda db: tables.add_tags(db, tags, self._clock()))

    async def tagged(self, tag: str) -> list[str]:
        return await self._run(lambda db: tables.tagged(db, tag, self._clock()))

    async def remove_tags(self, tags: Mapping[str, Sequence[str]]) -> None:
        await self._write(lambda db: tables.remove_tags(db, tags))

    def watch(self, prefixes: Sequence[str], on_change: Callable[[Sequence[str] | None], None]) -> None:
        return None  # nobody vouches for copies yet

    def is_current(self) -> bool:
        return False

    def _get(self, db: sqlite3.Connection, key: str) -> Record | None:
        row = db.execute("SELECT frame FROM records WHERE key = ?", (key,)).fetchone()
        return None if row is None else self._read(key, row[0], self._clock())

    def _get_many(self, db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Record]:
        now = self._clock()
        found = {}
        for chunk in _chunks(keys, 500):
            marks = ",".join("?" * len(chunk))
            for key, frame in db.execute(f"SELECT key, frame FROM records WHERE key IN ({marks})", chunk):  # noqa: S608 - marks only
                record = self._read(key, frame, now)
                if record is not None:
                    found[key] = record
        return found

    def _read(self, key: str, frame: bytes, now: float) -> Record | None:
        try:
            record = unpack(key, frame)
        except CorruptRecord as exc:
            self._listener(CorruptEvent(backend=self.name, storage_key=key, detail=str(exc)))
            return None
        if record.is_expired(now):
            return None
        self._touch(key, now)
        return record

    def _put_many(self, db: sqlite3.Connection, records: Mapping[str, Record]) -> dict[str, int]:
        now = self._clock()
        live = [(key, record) for key, record in records.items() if not record.is_expired(now)]
        gone = [key for key, record in records.items() if record.is_expired(now)]
        with tables.write(db):
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
        with tables.write(db):
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
                with contextlib.suppress(sqlite3.OperationalError), tables.write(db):
                    self._flush_touches(db)
            self._touched.clear()

    def _flush_touches(self, db: sqlite3.Connection) -> None:
        if self._touched:
            db.executemany(
                "UPDATE records SET used_at = max(used_at, ?), uses = uses + ? WHERE key = ?",
                [(at, uses, key) for key, (at, uses) in self._touched.items()],
            )
            self._touched.clear()

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run work as one transaction."""

        def transaction(db: sqlite3.Connection) -> T:
            with tables.write(db):
                return work(db)

        return await self._run(transaction)

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
            tables.create(db)
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


def _range(prefix: str) -> tuple[str, bytes]:
    """Return bounds around every key with a prefix: SQLite compares bytes, and no UTF-8 holds an FF."""
    return prefix, prefix.encode() + b"\xff"


def _chunks(keys: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(keys), size):
        yield list(keys[start : start + size])


def _is_busy(error: sqlite3.OperationalError) -> bool:
    # Python's own errors of this class carry no code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
