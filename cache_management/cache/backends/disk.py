"""An embedded store on disk, shared safely by several processes: SQLite in WAL mode.

Why SQLite and not LMDB: docs/design/0002-disk-store.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from cache_management.cache.backends import disk_tables as tables
from cache_management.cache.backends.base import Surplus, Swept, note_number
from cache_management.cache.backends.disk_eviction import Uses, adopt, fronts, read_surplus, rule_for
from cache_management.cache.backends.disk_ledger import Ledger, Removed, group_of, head_version
from cache_management.cache.backends.disk_schema import create, write
from cache_management.cache.backends.forks import forks
from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.clock import Clock, system_clock
from cache_management.cache.codec import HEAD_BYTES, unpack
from cache_management.cache.config import CacheConfig, EvictionObjective, EvictionPolicy
from cache_management.cache.errors import BackendUnavailable, CorruptRecord
from cache_management.cache.events import CorruptEvent, Listener, RemoveEvent, ignore
from cache_management.cache.identity import is_entry
from cache_management.cache.records import Head, Record

T = TypeVar("T")

_GET = "SELECT id, frame FROM records WHERE key = ?"
_PAGE = 1000
_SWEPT = 200
_USES_KEPT = 1024
_LOOK_EVERY_SECONDS = 1.0
_USES_KEPT_SECONDS = 10.0
_DROPPED_KEPT = 10_000
_CHECKPOINT_PAGES = 4000  # of 4 kB; the default of 1000 costs a write a sixth more


class DiskBackend(FullBackend):
    """Keeps records in one SQLite file below `folder`.

    Reads and uncontended writes run on the event loop (tens of microseconds); a write that
    finds another process writing waits on a thread, at most `timeout_seconds`. So does the opening;
    where that takes longer, because the file is of an older layout or lined up by another policy,
    calls are refused until it is done.

    A killed process loses nothing that was acknowledged; a power cut may lose the last moments,
    and never damages the file. Copies are told when `is_current` asks, without waiting: of other
    connections' changes by commit, not by key, and by key of what this one evicted or dropped itself.

    Args:
        max_size: Entries of each kind and namespace.
        size_limit_bytes: Bytes of all frames together; a larger one is not kept.
        policy: What goes first after what has expired. The file follows the process that opened it last.
        objective: What `EvictionPolicy.AUTO` aims at.
        cost_weight: How much a cost counts for `EvictionPolicy.GDSF`, 0 to 1.
        low_watermark: Share of a bound, which became narrower than what is there, that a sweep goes down to.
    """

    name = "disk"

    def __init__(
        self,
        folder: Path,
        *,
        max_size: int,
        size_limit_bytes: int,
        policy: EvictionPolicy = EvictionPolicy.LRU,
        objective: EvictionObjective = EvictionObjective.HIT_RATIO,
        cost_weight: float = 1.0,
        low_watermark: float = 0.8,
        timeout_seconds: float = 0.25,
        clock: Clock = system_clock,
        listener: Listener = ignore,
    ) -> None:
        self.path = folder / "cache.sqlite"
        self._max_size = max_size
        self._size_limit = size_limit_bytes
        self._rule = rule_for(policy, objective=objective, cost_weight=cost_weight)
        self._low = low_watermark
        self._timeout = timeout_seconds
        self._clock = clock
        self._listener = listener
        self._connection: sqlite3.Connection | None = None
        self._forks = forks()
        self._opened_after = self._forks[0]
        self._lock = threading.Lock()
        self._opening: Future[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._uses = Uses()
        self._flush_at = 0.0
        self._left_behind: list[object] = []
        self._watched: tuple[str, ...] = ()
        self._on_change: Callable[[Sequence[str] | None], None] = _ignore_change
        self._dropped: set[str] = set()
        self._told_at: int | None = None
        self._file: tuple[int, int] | None = None
        self._look_at = 0.0
        # Kept cursors: making one costs a third of a microsecond.
        self._select: Callable[..., sqlite3.Cursor] | None = None
        self._data_version: Callable[..., sqlite3.Cursor] | None = None

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        return await self._run(lambda db: self._get_many(db, keys))

    async def get(self, key: str) -> Record | None:
        # Straight, because a closure and two more calls would cost as much as all that stands around SQLite.
        now = self._clock()
        if self._select is not None and now < self._look_at and self._opened_after == self._forks[0]:
            try:
                with self._lock:
                    select = self._select  # another thread may have closed the file meanwhile
                    if select is not None:
                        row = select(_GET, (key,)).fetchone()
                        return None if row is None else self._read(key, row[0], row[1], now)
            except sqlite3.Error:
                pass  # asked again below, patiently or to say what is wrong
        return await self._run(lambda db: self._get(db, key))

    async def inspect_many(self, keys: Sequence[str]) -> dict[str, Record | None]:
        return await self._run(lambda db: self._inspect_many(db, keys))

    async def put_many(self, records: Mapping[str, Record]) -> None:
        evicted = await self._run(lambda db: self._put_many(db, records))
        self._tell_evicted(evicted)

    async def put_if(self, key: str, record: Record, *, expected: int | None) -> bool:
        is_stored, evicted = await self._write(lambda db: self._put_if(db, key, record, expected))
        self._tell_evicted(evicted)
        return is_stored

    async def delete_if(self, key: str, *, expected: int) -> bool:
        return await self._write(lambda db: self._delete_if(db, key, expected))

    async def delete_many(self, keys: Sequence[str]) -> int:
        return await self._run(lambda db: self._delete_many(db, keys))

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        after = ""
        while page := await self._run(functools.partial(self._page, prefix=prefix, after=after, limit=_PAGE)):
            for key in page:
                yield key
            after = page[-1]

    async def scan_page(self, prefix: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        page = await self._run(functools.partial(self._page, prefix=prefix, after=bookmark, limit=limit))
        return page, page[-1] if len(page) == limit else None

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
        """Wait for an opening and for writes that wait for another process, then close the file."""
        self._leave_what_crossed_a_fork()
        # First the threads, and not on the loop: they would open what was closed before.
        while self._opening is not None or self._thread is not None:
            opening, self._opening = self._opening, None
            thread, self._thread = self._thread, None
            if opening is not None:
                await _done(opening)
            if thread is not None:
                await asyncio.get_running_loop().run_in_executor(None, thread.shutdown)
        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._uses.flush(self._connection)
                self._connection.close()
            self._connection = self._select = self._data_version = None

    async def append(self, stream: str, items: Sequence[bytes]) -> str:
        return str(await self._write(lambda db: tables.append_notes(db, stream, items)))

    async def tail(self, stream: str) -> str:
        return await self._run(lambda db: str(tables.last_note(db, stream)))

    async def read_after(self, stream: str, cursor: str, *, limit: int) -> tuple[list[bytes], str]:
        start = note_number(stream, cursor)
        notes, last = await self._run(lambda db: tables.read_notes(db, stream, start, limit))
        return notes, str(last)

    async def trim(self, stream: str, cursor: str) -> None:
        upto = note_number(stream, cursor)
        if upto:
            await self._write(lambda db: tables.drop_notes(db, stream, upto))

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

    async def tagged_page(self, tag: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        page = await self._run(lambda db: tables.tagged_page(db, tag, bookmark, limit, self._clock()))
        return page, page[-1] if len(page) == limit else None

    async def tags_page(self, prefix: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        page = await self._run(lambda db: tables.tags_page(db, *_range(prefix), bookmark, limit))
        return page, page[-1] if len(page) == limit else None

    async def remove_tags(self, tags: Mapping[str, Sequence[str]]) -> None:
        await self._write(lambda db: tables.remove_tags(db, tags))

    async def surplus(self) -> Surplus:
        return await self._run(
            lambda db: read_surplus(
                db, max_size=self._max_size, size_limit=self._size_limit, low=self._low, now=self._clock()
            )
        )

    async def victims(self, aim: Mapping[str, int], limit: int) -> list[str]:
        return await self._run(lambda db: fronts(db, aim, limit))

    async def sweep(self, aim: Mapping[str, int], limit: int) -> Swept:
        # In parts: whoever wants to write meanwhile waits for one of them only.
        part = await self._take_out(lambda ledger: ledger.shrink(aim, min(limit, _SWEPT)))
        return Swept(part.entries, part.size_bytes, is_done=part.is_done)

    async def drop_expired(self, bookmark: str, limit: int) -> tuple[Swept, str | None]:
        part = await self._take_out(lambda ledger: ledger.drop_expired(min(limit, _SWEPT)))
        names = await self._write(lambda db: tables.drop_expired(db, self._clock()))
        return Swept(part.entries, part.size_bytes, names, is_done=part.is_done), None if part.is_done else "more"

    async def heads(self, keys: Sequence[str]) -> dict[str, Head]:
        return await self._run(lambda db: self._heads(db, keys))

    async def delete_older(self, keys: Sequence[str], version: int) -> list[str]:
        return await self._run(lambda db: self._delete_older(db, keys, version))

    async def stash(self, name: str, piece: bytes, *, ttl_seconds: float) -> None:
        now = self._clock()
        await self._write(lambda db: tables.stash(db, name, piece, now, now + ttl_seconds))

    async def stashed(self, name: str) -> bytes | None:
        return await self._run(lambda db: tables.stashed(db, name, self._clock()))

    async def drop_stashed(self, names: Sequence[str]) -> None:
        await self._write(lambda db: tables.drop_stashed(db, names))

    def watch(self, prefixes: Sequence[str], on_change: Callable[[Sequence[str] | None], None]) -> None:
        self._watched, self._on_change = tuple(prefixes), on_change

    def is_current(self) -> bool:
        if self._clock() >= self._look_at:
            self._leave_what_was_deleted()
        if not self._lock.acquire(blocking=False):
            return False  # our own thread is writing: ask the store
        try:
            ask = self._data_version if self._opened_after == self._forks[0] else None
            # Changes when another connection committed; our own commits do not count.
            version = None if ask is None else ask("PRAGMA data_version").fetchone()[0]
            dropped = self._dropped
            if dropped:
                self._dropped = set()
        except sqlite3.Error:
            return False
        finally:
            self._lock.release()
        if version != self._told_at or version is None:
            self._told_at = version
            self._on_change(None)
        elif dropped:
            self._on_change(list(dropped))
        return version is not None

    def _get(self, db: sqlite3.Connection, key: str) -> Record | None:
        row = db.execute(_GET, (key,)).fetchone()
        return None if row is None else self._read(key, row[0], row[1], self._clock())

    def _get_many(self, db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Record]:
        now = self._clock()
        found = {}
        for record_id, key, frame in _rows(db, keys):
            record = self._read(key, record_id, frame, now)
            if record is not None:
                found[key] = record
        return found

    def _inspect_many(self, db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Record | None]:
        now = self._clock()
        found = {key: self._unpack(key, frame) for _, key, frame in _rows(db, keys)}
        return {key: record for key, record in found.items() if record is None or not record.is_expired(now)}

    def _unpack(self, key: str, frame: bytes) -> Record | None:
        try:
            return unpack(key, frame)
        except CorruptRecord as exc:
            self._listener(CorruptEvent(backend=self.name, storage_key=key, detail=str(exc)))
            return None

    def _read(self, key: str, record_id: int, frame: bytes, now: float) -> Record | None:
        record = self._unpack(key, frame)
        if record is None:
            return None
        expires_at = record.expires_at
        if expires_at is not None and expires_at <= now:
            return None
        self._uses.add(record_id, now)
        if now >= self._flush_at or len(self._uses) > _USES_KEPT:
            self._flush_uses(now)
        return record

    def _flush_uses(self, now: float) -> None:
        """Write down what was read, if that can be done now: a read neither waits for it nor fails by it."""
        self._flush_at = now + _USES_KEPT_SECONDS
        if self._connection is None:
            return
        try:
            self._uses.flush(self._connection)
        except sqlite3.Error:
            if len(self._uses) > _USES_KEPT:
                self._uses.clear()

    def _put_many(self, db: sqlite3.Connection, records: Mapping[str, Record]) -> dict[str, int]:
        with write(db):
            ledger = self._ledger(db)
            for key, record in records.items():
                ledger.put(key, record)
            ledger.save()
        if self._watched and ledger.dropped:
            self._note_dropped(ledger.dropped)
        return ledger.evicted

    def _put_if(
        self, db: sqlite3.Connection, key: str, record: Record, expected: int | None
    ) -> tuple[bool, dict[str, int]]:
        held = self._heads(db, [key]).get(key)
        if (None if held is None else held.version) != expected:
            return False, {}
        ledger = self._ledger(db)
        ledger.put(key, record)
        ledger.save()
        if self._watched and ledger.dropped:
            self._note_dropped(ledger.dropped)
        return True, ledger.evicted

    def _delete_if(self, db: sqlite3.Connection, key: str, expected: int) -> bool:
        held = self._heads(db, [key]).get(key)
        if held is None or held.version != expected:
            return False
        ledger = self._ledger(db)
        ledger.delete(key)
        ledger.save()
        return True

    def _note_dropped(self, keys: set[str]) -> None:
        """Remember what `is_current` must tell: our own commit is not heard here, and a later delete finds no row."""
        self._dropped.update(key for key in keys if key.startswith(self._watched))
        if len(self._dropped) > _DROPPED_KEPT:
            self._dropped.clear()
            self._told_at = None  # everything

    async def _take_out(self, choose: Callable[[Ledger], Removed]) -> Removed:
        """Let the ledger remove what it chooses itself, and tell of it."""

        def work(db: sqlite3.Connection) -> tuple[Removed, Ledger]:
            with write(db):
                ledger = self._ledger(db)
                removed = choose(ledger)
                ledger.save()
            if self._watched and ledger.dropped:
                self._note_dropped(ledger.dropped)
            return removed, ledger

        removed, ledger = await self._run(work)
        gone = Counter(group_of(key) for key in ledger.dropped)
        for group, count in gone.items():
            namespace, of_entries = group.rpartition(":")[2], is_entry(f"{group}:")
            evicted = ledger.evicted.get(group, 0)
            if evicted:
                self._listener(RemoveEvent("evicted", namespace, evicted, of_entries))
            if count > evicted:
                self._listener(RemoveEvent("expired", namespace, count - evicted, of_entries))
        return removed

    def _heads(self, db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Head]:
        now = self._clock()
        found = {}
        for chunk in _chunks(keys, 500):
            marks = ",".join("?" * len(chunk))
            for key, expires_at, size, start in db.execute(
                f"SELECT key, expires_at, length(frame), substr(frame, 1, {HEAD_BYTES}) FROM records"  # noqa: S608 - marks only
                f" WHERE key IN ({marks}) AND (expires_at IS NULL OR expires_at > ?)",
                (*chunk, now),
            ):
                found[key] = Head(head_version(start), expires_at, size)
        return found

    def _delete_older(self, db: sqlite3.Connection, keys: Sequence[str], version: int) -> list[str]:
        with write(db):
            ledger = self._ledger(db)
            removed = [key for key in dict.fromkeys(keys) if ledger.delete_older(key, version)]
            ledger.save()
        return removed

    def _delete_many(self, db: sqlite3.Connection, keys: Sequence[str]) -> int:
        with write(db):
            ledger = self._ledger(db)
            removed = sum([ledger.delete(key) for key in keys])
            ledger.save()
        return removed

    def _ledger(self, db: sqlite3.Connection) -> Ledger:
        return Ledger(
            db, self._rule, self._uses, max_size=self._max_size, size_limit=self._size_limit, now=self._clock()
        )

    def _page(self, db: sqlite3.Connection, *, prefix: str, after: str, limit: int) -> list[str]:
        low, high = _range(prefix)
        # One lower bound: of two SQLite takes the first, and goes through all pages before again for each page.
        bound, start = (">", after) if after and after >= low else (">=", low)
        return [
            row[0]
            for row in db.execute(
                f"SELECT key FROM records WHERE key {bound} ? AND key < CAST(? AS TEXT)"  # noqa: S608 - own text
                " AND (expires_at IS NULL OR expires_at > ?) ORDER BY key LIMIT ?",
                (start, high, self._clock(), limit),
            )
        ]

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run work as one transaction."""

        def transaction(db: sqlite3.Connection) -> T:
            with write(db):
                return work(db)

        return await self._run(transaction)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._leave_what_crossed_a_fork()
        if self._clock() >= self._look_at:
            self._leave_what_was_deleted()
        while self._connection is None:
            await self._wait_until_open()
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
        deadline = time.monotonic() + self._timeout
        is_wanted = threading.Event()
        is_wanted.set()
        patient = functools.partial(self._run_patiently, work, deadline, is_wanted)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, patient)
        except asyncio.CancelledError:
            # Done by now or never: it must not come after what this process writes next.
            with self._lock:
                is_wanted.clear()
            raise

    async def _wait_until_open(self) -> None:
        """Let a thread open the file; those who wait for it share it, and its failure.

        Whoever has waited for `timeout_seconds` goes without. A file that is brought up to date
        may take longer than that: the work goes on, so that it is done once.
        """
        deadline = time.monotonic() + self._timeout
        while True:
            opening = self._opening
            joined = opening is not None and not opening.done()
            if opening is None or not joined:
                opener = ThreadPoolExecutor(1, thread_name_prefix="cache-disk-open")
                opening = self._opening = opener.submit(self._run_patiently, lambda _: None, deadline)
                opener.shutdown(wait=False)  # a thread of its own, which ends with the work
            await _done(opening, max(0.0, deadline - time.monotonic()))
            if not opening.done():
                raise BackendUnavailable(
                    f"the disk store {self.path}",
                    f"it is not open after {self._timeout:.3g} s: locked by another process, "
                    "or being brought up to date",
                )
            error = opening.exception()
            if joined and _gave_up_waiting(error) and time.monotonic() < deadline:
                continue  # it ended with the time of whoever began it; the time of this caller goes on
            if isinstance(error, BackendUnavailable):
                raise BackendUnavailable(error.backend, error.reason) from error
            return opening.result()

    def _run_patiently(
        self, work: Callable[[sqlite3.Connection], T], deadline: float, is_wanted: threading.Event | None = None
    ) -> T:
        """Repeat work until another process lets go of the write lock, once at least and within the time budget."""
        pause = 0.001
        while True:
            try:
                with self._lock:
                    if is_wanted is not None and not is_wanted.is_set():
                        raise BackendUnavailable(f"the disk store {self.path}", "its caller was cancelled")
                    return work(self._open())
            except sqlite3.OperationalError as exc:
                if not _is_busy(exc) or time.monotonic() > deadline:
                    raise BackendUnavailable(f"the disk store {self.path}", str(exc)) from exc
            except (sqlite3.DatabaseError, OSError) as exc:
                raise BackendUnavailable(f"the disk store {self.path}", str(exc)) from exc
            time.sleep(pause)
            pause = min(pause * 2, 0.02)

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        for folder in (*reversed(self.path.parent.parents), self.path.parent):  # `parents=True` makes them for all
            folder.mkdir(exist_ok=True, mode=0o700)
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=0)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            create(db)
            adopt(db, self._rule)
        except BaseException:
            db.close()
            raise
        self._connection = db
        self._file = _identity(self.path)
        self._look_at = self._clock() + _LOOK_EVERY_SECONDS
        self._select = db.cursor().execute
        self._data_version = db.cursor().execute
        self._told_at = None
        self._flush_at = self._clock() + _USES_KEPT_SECONDS
        return db

    def _tell_evicted(self, evicted: Mapping[str, int]) -> None:
        for group, count in evicted.items():
            self._listener(RemoveEvent("evicted", group.rpartition(":")[2], count, is_entry(f"{group}:")))

    def evict_by(self, config: CacheConfig) -> None:
        rule = rule_for(
            config.eviction_policy, objective=config.eviction_objective, cost_weight=config.eviction_cost_weight
        )
        self._leave_what_crossed_a_fork()
        with self._lock:
            self._rule = rule
            # Whoever opens the file lines it up; uses that are not written yet are written then.
            if self._connection is not None:
                self._connection.close()
                self._connection = self._select = self._data_version = None

    def _leave_what_was_deleted(self) -> None:
        """Begin anew when the file is no longer the one at its path: nobody else sees what is written to it."""
        if not self._lock.acquire(blocking=False):
            return  # the next call looks
        try:
            self._look_at = self._clock() + _LOOK_EVERY_SECONDS
            if self._connection is None or _identity(self.path) == self._file:
                return
            self._connection.close()
            self._connection = self._select = self._data_version = None
        finally:
            self._lock.release()
        self._on_change(None)

    def _leave_what_crossed_a_fork(self) -> None:
        """Start afresh in a forked child.

        Using or closing the parent's connection can damage the file, and an executor whose
        thread stayed in the parent takes work and never does it.
        """
        if self._opened_after != self._forks[0]:
            self._left_behind.append((self._connection, self._thread, self._select, self._data_version))
            self._connection = self._opening = self._thread = self._select = self._data_version = None
            self._lock = threading.Lock()  # the parent's thread may have held it when it forked
            self._uses = Uses()
            self._opened_after = self._forks[0]


async def _done(opening: Future[None], timeout_seconds: float | None = None) -> None:
    """Wait for the end of what a thread does; neither a caller that leaves nor a closed loop disturbs it."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[None] = loop.create_future()

    def wake(_: Future[None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, nobody waits any more
            loop.call_soon_threadsafe(waiting.set_result, None)

    opening.add_done_callback(wake)
    await asyncio.wait((waiting,), timeout=timeout_seconds)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells one file from another at the same path, None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _ignore_change(keys: Sequence[str] | None) -> None:
    """Stand in while nobody watches."""


def _range(prefix: str) -> tuple[str, bytes]:
    """Return bounds around every key with a prefix: SQLite compares bytes, and no UTF-8 holds an FF."""
    return prefix, prefix.encode() + b"\xff"


def _rows(db: sqlite3.Connection, keys: Sequence[str]) -> Iterator[tuple[int, str, bytes]]:
    """Yield the id, key and frame of what stands under keys."""
    for chunk in _chunks(keys, 500):
        marks = ",".join("?" * len(chunk))
        yield from db.execute(
            f"SELECT id, key, frame FROM records WHERE key IN ({marks})",  # noqa: S608 - marks only
            chunk,
        ).fetchall()


def _chunks(keys: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(keys), size):
        yield list(keys[start : start + size])


def _gave_up_waiting(error: BaseException | None) -> bool:
    cause = error.__cause__ if isinstance(error, BackendUnavailable) else None
    return isinstance(cause, sqlite3.OperationalError) and _is_busy(cause)


def _is_busy(error: sqlite3.OperationalError) -> bool:
    # Python's own errors of this class carry no code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
