"""The layout of the disk store's file: made when it is missing, upgraded when it is old."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

SCHEMA_NUMBER = 2

# `records` is what reads need, and nothing that a read or an overwrite changes besides. What eviction
# needs stands apart in `marks`: many rows on a page, so that writing down a thousand reads is cheap.
_SCHEMA = """
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    expires_at REAL,
    frame BLOB NOT NULL
);
CREATE TABLE marks (
    id INTEGER PRIMARY KEY,          -- that of the record
    grp INTEGER NOT NULL,
    used_at REAL NOT NULL,
    uses INTEGER NOT NULL,           -- since it was stored; under s3fifo since it was last queued
    cost INTEGER NOT NULL,           -- micro-dollars, 0: unknown
    worth REAL NOT NULL,             -- of one use
    wanted REAL NOT NULL,            -- the rank that is due to it
    rank REAL NOT NULL,              -- where it is queued: never behind (wanted, used_at), and
    tick REAL NOT NULL,              -- moved there only when it comes to the front
    due REAL                         -- when to look at its expiry: never after it
);
CREATE INDEX marks_queue ON marks (grp, rank, tick);
CREATE INDEX marks_due ON marks (due) WHERE due IS NOT NULL;
-- Kind and namespace: what shares max_size. Row 0 is the whole store: its policy, and all bytes.
CREATE TABLE groups (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    policy TEXT NOT NULL DEFAULT '',
    entries INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    age REAL NOT NULL DEFAULT 0,
    costs_known INTEGER NOT NULL DEFAULT 0,
    log_cost REAL NOT NULL DEFAULT 0,
    small INTEGER NOT NULL DEFAULT 0,
    tick INTEGER NOT NULL DEFAULT 0,
    ghosts INTEGER NOT NULL DEFAULT 0,
    was_full INTEGER NOT NULL DEFAULT 0
);
INSERT INTO groups (id, name) VALUES (0, '');
CREATE TABLE ghosts (
    grp INTEGER NOT NULL, hash INTEGER NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (grp, hash)
) WITHOUT ROWID;
CREATE INDEX ghosts_age ON ghosts (grp, number);
"""

# These did not change since layout 1, of which two builds exist: without leases and tags, and with them.
_LASTING = """
CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, item BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS notes_stream ON notes (stream, id);
CREATE TABLE IF NOT EXISTS notes_dropped (stream TEXT PRIMARY KEY, upto INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases (name TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lease_tokens (last INTEGER NOT NULL);
INSERT INTO lease_tokens SELECT 0 WHERE NOT EXISTS (SELECT * FROM lease_tokens);
CREATE TABLE IF NOT EXISTS tags (
    tag TEXT NOT NULL, key TEXT NOT NULL, expires_at REAL, PRIMARY KEY (tag, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tags_expiry ON tags (expires_at) WHERE expires_at IS NOT NULL;
"""

_SET_ASIDE_1 = """
DROP TRIGGER records_added;
DROP TRIGGER records_removed;
DROP TRIGGER records_changed;
DROP TABLE totals;
ALTER TABLE records RENAME TO records_1;
"""

# The queue is made by the policy that opens the file next: no policy stands in row 0 yet.
_TAKE_OVER_1 = """
INSERT INTO groups (name, entries, bytes) SELECT grp, count(*), sum(length(frame)) FROM records_1 GROUP BY grp;
UPDATE groups SET bytes = (SELECT sum(bytes) FROM groups) WHERE id = 0;
INSERT INTO marks SELECT records_1.id, groups.id, used_at, uses, 0, 0, 0, 0, used_at, expires_at
    FROM records_1 JOIN groups ON groups.name = records_1.grp;
INSERT INTO records SELECT id, key, expires_at, frame FROM records_1 ORDER BY id;
DROP TABLE records_1;
"""


@contextlib.contextmanager
def write(db: sqlite3.Connection) -> Iterator[None]:
    """Run a block as one transaction that holds the write lock from its start."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite rolls back by itself when the disk is full
            db.execute("ROLLBACK")
        raise


def create(db: sqlite3.Connection) -> None:
    """Make the tables if they are missing, or bring those of layout 1 up to date in one transaction.

    Raises:
        sqlite3.DatabaseError: The file was made by a program with a layout unknown to this one.
    """
    if _layout(db) == SCHEMA_NUMBER:
        return
    with write(db):
        found = _layout(db)  # again: another process may have done it
        if found == SCHEMA_NUMBER:
            return
        if found > SCHEMA_NUMBER or found < 0:
            raise sqlite3.DatabaseError(
                f"its layout is {found}, this program reads up to {SCHEMA_NUMBER}; use a newer one, or move it aside"
            )
        scripts = [_SET_ASIDE_1, _SCHEMA, _TAKE_OVER_1, _LASTING] if found == 1 else [_SCHEMA, _LASTING]
        for script in scripts:
            for statement in _statements(script):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {SCHEMA_NUMBER}")


def _layout(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """Split a script; `executescript` would commit the transaction that it stands in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
