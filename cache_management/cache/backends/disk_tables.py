"""The tables of the disk store, and what stands beside the records: notes, leases, tags.

Every function takes an open connection; those that write expect to be inside `write`.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence

from cache_management.cache.errors import JournalGap

SCHEMA_NUMBER = 1
NOTES_KEPT = 100_000

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
CREATE TABLE leases (name TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE lease_tokens (last INTEGER NOT NULL);
INSERT INTO lease_tokens VALUES (0);
CREATE TABLE tags (
    tag TEXT NOT NULL, key TEXT NOT NULL, expires_at REAL, PRIMARY KEY (tag, key)
) WITHOUT ROWID;
CREATE INDEX tags_expiry ON tags (expires_at) WHERE expires_at IS NOT NULL;
"""


@contextlib.contextmanager
def write(db: sqlite3.Connection) -> Iterator[None]:
    """Run a block as one transaction that holds the write lock from its start."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def create(db: sqlite3.Connection) -> None:
    """Make the tables if they are missing.

    Raises:
        sqlite3.DatabaseError: The file was made by a program with another layout.
    """
    if db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_NUMBER:
        return
    with write(db):
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found == SCHEMA_NUMBER:
            return
        if found:
            raise sqlite3.DatabaseError(f"its layout is {found}, this program reads {SCHEMA_NUMBER}; move it aside")
        for statement in _statements(_SCHEMA):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {SCHEMA_NUMBER}")


def _statements(script: str) -> Iterator[str]:
    """Split a script; `executescript` would commit the transaction that it stands in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def append_notes(db: sqlite3.Connection, stream: str, items: Sequence[bytes]) -> int:
    """Add notes, drop the oldest beyond what is kept, return the id of the last one."""
    db.executemany("INSERT INTO notes (stream, item) VALUES (?, ?)", [(stream, item) for item in items])
    last = last_note(db, stream)
    oldest = db.execute("SELECT min(id) FROM notes WHERE stream = ?", (stream,)).fetchone()[0]
    if oldest is not None and last - oldest > 2 * NOTES_KEPT:
        upto = last - NOTES_KEPT
        db.execute("DELETE FROM notes WHERE stream = ? AND id <= ?", (stream, upto))
        db.execute("INSERT OR REPLACE INTO notes_dropped VALUES (?, ?)", (stream, upto))
    return last


def last_note(db: sqlite3.Connection, stream: str) -> int:
    """Return the id of a stream's newest note, 0 when it has none."""
    row = db.execute("SELECT max(id) FROM notes WHERE stream = ?", (stream,)).fetchone()
    if row[0] is not None:
        return int(row[0])
    dropped = db.execute("SELECT upto FROM notes_dropped WHERE stream = ?", (stream,)).fetchone()
    return int(dropped[0]) if dropped else 0


def read_notes(db: sqlite3.Connection, stream: str, start: int, limit: int) -> tuple[list[bytes], int]:
    """Return notes behind an id, and the id of the last of them.

    Raises:
        JournalGap: Some of them are no longer held.
    """
    rows = db.execute(
        "SELECT id, item FROM notes WHERE stream = ? AND id > ? ORDER BY id LIMIT ?", (stream, start, limit)
    ).fetchall()
    dropped = db.execute("SELECT upto FROM notes_dropped WHERE stream = ?", (stream,)).fetchone()
    if dropped is not None and start < dropped[0]:
        raise JournalGap(f"stream {stream!r} was trimmed up to {dropped[0]}, asked for {start}")
    if not rows and start > (last := last_note(db, stream)):
        raise JournalGap(f"stream {stream!r} ends at {last}, asked for {start}: it began anew")
    return [row[1] for row in rows], rows[-1][0] if rows else start


def acquire_lease(db: sqlite3.Connection, name: str, owner: str, now: float, until: float) -> int | None:
    """Take a lease that nobody holds; return the next token."""
    taken = db.execute(
        "INSERT INTO leases VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE"
        " SET owner = excluded.owner, until = excluded.until WHERE leases.until <= ?",
        (name, owner, until, now),
    )
    if taken.rowcount != 1:
        return None
    db.execute("DELETE FROM leases WHERE until <= ?", (now,))
    (token,) = db.execute("UPDATE lease_tokens SET last = last + 1 RETURNING last").fetchone()
    return int(token)


def renew_lease(db: sqlite3.Connection, name: str, owner: str, now: float, until: float) -> bool:
    """Prolong a lease that this owner still holds."""
    renewed = db.execute(
        "UPDATE leases SET until = ? WHERE name = ? AND owner = ? AND until > ?", (until, name, owner, now)
    )
    return renewed.rowcount == 1


def release_lease(db: sqlite3.Connection, name: str, owner: str, now: float) -> bool:
    """Give a lease back if this owner has it."""
    row = db.execute("DELETE FROM leases WHERE name = ? AND owner = ? RETURNING until", (name, owner)).fetchone()
    return row is not None and row[0] > now


def add_tags(db: sqlite3.Connection, tags: Mapping[str, Mapping[str, float | None]], now: float) -> None:
    """Note keys under tags, and drop what expired."""
    rows = [(tag, key, expires_at) for tag, keys in tags.items() for key, expires_at in keys.items()]
    db.executemany(
        "INSERT INTO tags VALUES (?, ?, ?) ON CONFLICT (tag, key) DO UPDATE SET expires_at = excluded.expires_at", rows
    )
    db.execute("DELETE FROM tags WHERE expires_at <= ?", (now,))


def tagged(db: sqlite3.Connection, tag: str, now: float) -> list[str]:
    """Return the keys under a tag that have not expired."""
    rows = db.execute("SELECT key FROM tags WHERE tag = ? AND (expires_at IS NULL OR expires_at > ?)", (tag, now))
    return [row[0] for row in rows]


def remove_tags(db: sqlite3.Connection, tags: Mapping[str, Sequence[str]]) -> None:
    """Forget keys of tags."""
    rows = [(tag, key) for tag, keys in tags.items() for key in keys]
    db.executemany("DELETE FROM tags WHERE tag = ? AND key = ?", rows)
