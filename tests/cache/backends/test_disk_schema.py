"""Files of older and newer programs."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from cache_management.cache.backends import disk, disk_schema
from cache_management.cache.backends.disk import DiskBackend
from cache_management.cache.backends.disk_schema import SCHEMA_NUMBER
from cache_management.cache.codec import pack
from cache_management.cache.config import EvictionPolicy
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.records import Record
from tests.contracts.clock import ManualClock
from tests.waiting import eventually

PREFIX = "cm1:llm:old:k"

# As layout 1 stood in the programs that wrote it.
LAYOUT_1 = """
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
PRAGMA user_version = 1;
"""
LAYOUT_1_WITH_LEASES_AND_TAGS = (
    LAYOUT_1
    + """
CREATE TABLE leases (name TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE lease_tokens (last INTEGER NOT NULL);
INSERT INTO lease_tokens VALUES (41);
CREATE TABLE tags (
    tag TEXT NOT NULL, key TEXT NOT NULL, expires_at REAL, PRIMARY KEY (tag, key)
) WITHOUT ROWID;
CREATE INDEX tags_expiry ON tags (expires_at) WHERE expires_at IS NOT NULL;
INSERT INTO tags VALUES ('tag', 'cm1:llm:old:k1', NULL);
"""
)


def write_layout_1(folder: Path, script: str, now: float) -> dict[str, Record]:
    """Make a file with ten entries: `k0` was used longest ago, `k9` expires soon."""
    records = {
        f"{PREFIX}{at}": Record(value=b"%d" % at * 500, expires_at=now + 60 if at == 9 else None, version=at)
        for at in range(10)
    }
    with closing(sqlite3.connect(folder / "cache.sqlite")) as db, db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(script)
        db.executemany(
            "INSERT INTO records (key, grp, frame, expires_at, used_at, uses) VALUES (?, 'llm:old', ?, ?, ?, ?)",
            [
                (key, pack(key, record), record.expires_at, now - 100 + at, 5 if at == 1 else 0)
                for at, (key, record) in enumerate(records.items())
            ],
        )
        db.execute("INSERT INTO notes (stream, item) VALUES ('s', x'6e6f7465')")
    return records


def opened(folder: Path, clock: ManualClock, **options: object) -> DiskBackend:
    defaults: dict[str, object] = {"max_size": 10, "size_limit_bytes": 10**9, "timeout_seconds": 20.0, "clock": clock}
    return DiskBackend(folder, **{**defaults, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("script", [LAYOUT_1, LAYOUT_1_WITH_LEASES_AND_TAGS], ids=["early", "late"])
async def test_entries_of_layout_1_are_kept(tmp_path: Path, script: str) -> None:
    clock = ManualClock()
    records = write_layout_1(tmp_path, script, clock.now)

    backend = opened(tmp_path, clock)

    assert await backend.get_many(list(records)) == records
    assert await backend.count() == 10
    assert (await backend.read_after("s", "", limit=10))[0] == [b"note"]
    token = await backend.acquire("name", owner="a", ttl_seconds=5)
    assert token == (42 if script is LAYOUT_1_WITH_LEASES_AND_TAGS else 1)
    assert await backend.tagged("tag") == (["cm1:llm:old:k1"] if script is LAYOUT_1_WITH_LEASES_AND_TAGS else [])
    await backend.aclose()
    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_NUMBER,)
        size = db.execute("SELECT sum(length(frame)) FROM records").fetchone()
        assert db.execute("SELECT entries, bytes FROM groups WHERE name = 'llm:old'").fetchone() == (10, *size)
        assert db.execute("SELECT bytes FROM groups WHERE id = 0").fetchone() == size
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize(("policy", "first_to_go"), [("lru", "0"), ("lfu", "0"), ("ttl", "9"), ("s3fifo", "0")])
async def test_order_of_layout_1_is_taken_over(tmp_path: Path, policy: str, first_to_go: str) -> None:
    clock = ManualClock()
    records = write_layout_1(tmp_path, LAYOUT_1, clock.now)
    backend = opened(tmp_path, clock, policy=EvictionPolicy(policy))

    await backend.put(PREFIX + "new", Record(value=b"new", expires_at=None, version=1))

    kept = {key async for key in backend.scan()}
    assert set(records) - kept == {PREFIX + first_to_go}
    await backend.aclose()


async def test_expired_entries_of_layout_1_go_first(tmp_path: Path) -> None:
    clock = ManualClock()
    records = write_layout_1(tmp_path, LAYOUT_1, clock.now)
    backend = opened(tmp_path, clock)
    clock.advance(61)

    await backend.put(PREFIX + "new", Record(value=b"new", expires_at=None, version=1))

    assert set(records) - {key async for key in backend.scan()} == {PREFIX + "9"}
    await backend.aclose()


async def test_upgrade_that_fails_leaves_layout_1_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    records = write_layout_1(tmp_path, LAYOUT_1, clock.now)
    with monkeypatch.context() as broken:
        broken.setattr(disk_schema, "_LASTING", "INSERT INTO nowhere VALUES (1);\n")
        with pytest.raises(BackendUnavailable, match="nowhere"):
            await opened(tmp_path, clock).ping()

    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT entries FROM totals").fetchone() == (10,)
    backend = opened(tmp_path, clock)
    assert await backend.get_many(list(records)) == records
    await backend.aclose()


@pytest.mark.parametrize("slow", ["create", "adopt"])
async def test_opening_that_takes_long_costs_the_budget_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    clock = ManualClock()
    records = write_layout_1(tmp_path, LAYOUT_1, clock.now)
    may_go_on = threading.Event()
    begun = []
    work = getattr(disk, slow)

    def slowed(*args: object) -> None:
        begun.append(threading.current_thread())
        may_go_on.wait(20)
        work(*args)

    monkeypatch.setattr(disk, slow, slowed)
    backend = opened(tmp_path, clock, timeout_seconds=0.05)
    backend.watch([PREFIX], lambda keys: None)

    for _ in range(2):
        found = await asyncio.gather(backend.get(PREFIX + "1"), backend.delete(PREFIX + "2"), return_exceptions=True)
        assert [type(each) for each in found] == [BackendUnavailable] * 2
        assert "not open after 0.05 s" in str(found[0])
        assert not backend.is_current()
    may_go_on.set()

    async def is_open() -> bool:
        try:
            return await backend.get_many(list(records)) == records
        except BackendUnavailable:
            return False

    await eventually(is_open)
    assert len(begun) == 1
    assert begun[0] is not threading.current_thread()
    await backend.aclose()


async def test_closing_waits_for_an_opening_and_closes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    write_layout_1(tmp_path, LAYOUT_1, clock.now)
    may_go_on = threading.Event()

    def slowed(db: sqlite3.Connection) -> None:
        may_go_on.wait(20)
        disk_schema.create(db)

    monkeypatch.setattr(disk, "create", slowed)
    backend = opened(tmp_path, clock, timeout_seconds=0.05)
    with pytest.raises(BackendUnavailable):
        await backend.ping()

    closing_ = asyncio.create_task(backend.aclose())
    await asyncio.sleep(0)
    assert not closing_.done()
    may_go_on.set()
    await closing_

    assert backend._connection is None
    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_NUMBER,)


@pytest.mark.parametrize("number", [SCHEMA_NUMBER + 1, 99, -1])
async def test_file_of_an_unknown_layout_is_unavailable_and_left_alone(tmp_path: Path, number: int) -> None:
    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db:
        db.execute(f"PRAGMA user_version = {number}")

    with pytest.raises(BackendUnavailable, match=f"layout is {number}, this program reads up to {SCHEMA_NUMBER}"):
        await opened(tmp_path, ManualClock()).get(PREFIX + "a")

    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)


# transactions that fail


async def test_a_full_disk_says_so_and_the_store_goes_on(tmp_path: Path) -> None:
    backend = opened(tmp_path, ManualClock(), max_size=100)
    await backend.put(PREFIX + "a", Record(value=b"a", expires_at=None, version=1))
    db = backend._connection
    assert db is not None
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages + 2}")

    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="database or disk is full"):
            await backend.put(PREFIX + "large", Record(value=bytes(100_000), expires_at=None, version=1))
        assert await backend.get(PREFIX + "a") is not None

    db.execute("PRAGMA max_page_count = 100000")
    await backend.put(PREFIX + "large", Record(value=bytes(100_000), expires_at=None, version=1))
    assert await backend.count() == 2
    await backend.aclose()


def test_a_commit_that_fails_leaves_no_transaction_open() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        db.execute("CREATE TABLE b (a INTEGER REFERENCES a DEFERRABLE INITIALLY DEFERRED)")

        with pytest.raises(sqlite3.IntegrityError), disk_schema.write(db):
            db.execute("INSERT INTO b VALUES (1)")

        with disk_schema.write(db):
            db.execute("INSERT INTO a VALUES (2)")
        assert db.execute("SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)").fetchone() == (1, 0)
