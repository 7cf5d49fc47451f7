"""What stands beside the records of the disk store: notes, leases, tags, the stash.

Every function takes an open connection; those that write expect to be inside `disk_schema.write`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from cache_management.cache.errors import JournalGap

NOTES_KEPT = 100_000


def append_notes(db: sqlite3.Connection, stream: str, items: Sequence[bytes]) -> int:
    """Add notes, drop the oldest beyond what is kept, return the id of the last one."""
    db.executemany("INSERT INTO notes (stream, item) VALUES (?, ?)", [(stream, item) for item in items])
    last = last_note(db, stream)
    oldest = db.execute("SELECT min(id) FROM notes WHERE stream = ?", (stream,)).fetchone()[0]
    if oldest is not None and last - oldest > 2 * NOTES_KEPT:
        drop_notes(db, stream, last - NOTES_KEPT)
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


def drop_notes(db: sqlite3.Connection, stream: str, upto: int) -> None:
    """Forget the notes of a stream up to an id, and that they were there."""
    upto = min(upto, last_note(db, stream))  # ids are never used twice: beyond the last, the next would be a gap
    db.execute("DELETE FROM notes WHERE stream = ? AND id <= ?", (stream, upto))
    db.execute(
        "INSERT INTO notes_dropped VALUES (?, ?)"
        " ON CONFLICT (stream) DO UPDATE SET upto = max(notes_dropped.upto, excluded.upto)",
        (stream, upto),
    )


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


def tagged_page(db: sqlite3.Connection, tag: str, after: str, limit: int, now: float) -> list[str]:
    """Return the next keys under a tag that have not expired."""
    rows = db.execute(
        "SELECT key FROM tags WHERE tag = ? AND key > ? AND (expires_at IS NULL OR expires_at > ?)"
        " ORDER BY key LIMIT ?",
        (tag, after, now, limit),
    )
    return [row[0] for row in rows]


def tags_page(db: sqlite3.Connection, low: str, high: bytes, after: str, limit: int) -> list[str]:
    """Return the next tags within bounds."""
    rows = db.execute(
        "SELECT DISTINCT tag FROM tags WHERE tag >= ? AND tag < CAST(? AS TEXT) AND tag > ? ORDER BY tag LIMIT ?",
        (low, high, after, limit),
    )
    return [row[0] for row in rows]


def drop_expired(db: sqlite3.Connection, now: float) -> int:
    """Drop names under tags, and leases, that have ended; return how many names."""
    db.execute("DELETE FROM leases WHERE until <= ?", (now,))
    return db.execute("DELETE FROM tags WHERE expires_at <= ?", (now,)).rowcount


def remove_tags(db: sqlite3.Connection, tags: Mapping[str, Sequence[str]]) -> None:
    """Forget keys of tags."""
    rows = [(tag, key) for tag, keys in tags.items() for key in keys]
    db.executemany("DELETE FROM tags WHERE tag = ? AND key = ?", rows)


def stash(db: sqlite3.Connection, name: str, piece: bytes, now: float, until: float) -> None:
    """Keep a piece, and drop what expired."""
    # Made by the first who needs it: layout 2 knows programs with and without it.
    db.execute(
        "CREATE TABLE IF NOT EXISTS stash (name TEXT PRIMARY KEY, expires_at REAL NOT NULL, piece BLOB NOT NULL)"
    )
    db.execute("DELETE FROM stash WHERE expires_at <= ?", (now,))
    db.execute("INSERT OR REPLACE INTO stash VALUES (?, ?, ?)", (name, until, piece))


def stashed(db: sqlite3.Connection, name: str, now: float) -> bytes | None:
    """Return a piece that has not expired."""
    if not _has_stash(db):
        return None
    row = db.execute("SELECT piece FROM stash WHERE name = ? AND expires_at > ?", (name, now)).fetchone()
    return None if row is None else row[0]


def drop_stashed(db: sqlite3.Connection, names: Sequence[str]) -> None:
    """Forget pieces."""
    if _has_stash(db):
        db.executemany("DELETE FROM stash WHERE name = ?", [(name,) for name in names])


def _has_stash(db: sqlite3.Connection) -> bool:
    found = db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'stash'").fetchone()
    return found is not None
