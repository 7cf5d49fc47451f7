"""Writes of the disk store: records, their marks and the sums, kept in step inside one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

from cache_management.cache.backends.disk_eviction import Group, Rule, Uses, load_group, rule_named, save_group
from cache_management.cache.codec import HEAD_BYTES, pack, read_head
from cache_management.cache.errors import CorruptRecord
from cache_management.cache.records import Record, Weight

_EXPIRED_AT_ONCE = 64

Found = tuple[int, int, float | None]  # id, size and expiry of a record that is stored


class Removed(NamedTuple):
    """What went, and whether nothing more has to."""

    entries: int
    size_bytes: int
    is_done: bool


class Ledger:
    """The changes of one transaction. `save` comes last; `evicted` says how many went, by group.

    `dropped` holds the keys that went, or did not come, without being asked for: evicted, expired, too large.
    `removed` counts the entries that went.

    Both bounds are kept as in the memory store: room is made before an entry enters, so that the
    newest is never its own victim; what has expired goes first; and for bytes the group that
    holds most gives way.
    """

    def __init__(
        self, db: sqlite3.Connection, rule: Rule, uses: Uses, *, max_size: int, size_limit: int, now: float
    ) -> None:
        self.evicted: dict[str, int] = {}
        self.dropped: set[str] = set()
        self.removed = 0
        self._db = db
        self._rule = rule
        self._uses = uses
        self._max_size = max_size
        self._size_limit = size_limit
        self._now = now
        self._store: Group | None = None
        self._groups: dict[int, Group] = {}
        self._ids: dict[str, int] = {}

    def put(self, key: str, record: Record) -> None:
        """Store a record; an expired one is stored as absent."""
        db = self._db
        if record.is_expired(self._now):
            self.delete(key)
            self.dropped.add(key)
            return
        frame = pack(key, record)
        size = len(frame)
        if size > self._size_limit:
            self.delete(key)  # what stood there is out of date
            self.dropped.add(key)
            self._count_evicted(group_of(key))
            return
        old = _find(db, key)
        if old is None or old[1] != size:
            # Sums change, so bounds may break. An overwrite of the same size moves nothing but the frame.
            group = self._group_named(group_of(key))
            old = self._make_room(group, key, size, old)
            growth = size - (0 if old is None else old[1])
            group.bytes += growth
            self._whole.bytes += growth
            if old is None:
                self._insert(group, key, record, frame)
                self.dropped.discard(key)
                return
        self._overwrite(key, record, frame, old)

    def delete(self, key: str) -> bool:
        """Remove a record; return whether it was there and not expired."""
        old = _find(self._db, key)
        if old is None:
            return False
        record_id, _, expires_at = old
        self._remove(record_id, evicted=False)
        return expires_at is None or expires_at > self._now

    def delete_older(self, key: str, version: int) -> bool:
        """Remove a record if its version is smaller; return whether it went, and was not expired."""
        row = self._db.execute("SELECT substr(frame, 1, ?) FROM records WHERE key = ?", (HEAD_BYTES, key)).fetchone()
        return row is not None and head_version(row[0]) < version and self.delete(key)

    def shrink(self, aim: Mapping[str, int], most: int) -> Removed:
        """Remove up to `most` entries, those that go first, until every group holds no more than its aim says.

        The aim names groups with their entries, and "" with the bytes of them all.
        """
        self.removed, before = 0, self._whole.bytes
        looked = 0
        is_done = False
        while not is_done and looked < most:
            group = self._above(aim)
            expired = self._drop_expired(most - looked) if group is not None else 0
            looked += expired or 1
            is_done = group is None or not (expired or self._evict(group))
        return Removed(self.removed, before - self._whole.bytes, is_done)

    def drop_expired(self, most: int) -> Removed:
        """Remove up to `most` entries that are past their life."""
        self.removed, before = 0, self._whole.bytes
        looked = self._drop_expired(most)
        return Removed(self.removed, before - self._whole.bytes, looked < most)

    def _above(self, aim: Mapping[str, int]) -> Group | None:
        for name, most in aim.items():
            if name and (group := self._group_named(name)).entries > most:
                return group
        return self._largest() if "" in aim and self._whole.bytes > aim[""] else None

    def save(self) -> None:
        """Write the sums that changed."""
        if self._store is not None:
            self._db.execute("UPDATE groups SET bytes = ? WHERE id = 0", (self._store.bytes,))
            for group in self._groups.values():
                save_group(self._db, group)

    def _insert(self, group: Group, key: str, record: Record, frame: bytes) -> None:
        db = self._db
        expires_at = record.expires_at
        found = db.execute("INSERT INTO records (key, expires_at, frame) VALUES (?, ?, ?)", (key, expires_at, frame))
        weight = Weight(len(frame), record.cost_micro, expires_at)
        worth, rank, tick = self._rule.place(db, group, key, weight, at=self._now, uses=0)
        db.execute(
            "INSERT INTO marks VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?, ?)",
            (found.lastrowid, group.id, self._now, record.cost_micro, worth, rank, rank, tick, expires_at),
        )
        group.entries += 1

    def _overwrite(self, key: str, record: Record, frame: bytes, old: Found) -> None:
        db = self._db
        record_id, _, old_expiry = old
        expires_at = record.expires_at
        db.execute("UPDATE records SET expires_at = ?, frame = ? WHERE id = ?", (expires_at, frame, record_id))
        self._uses.add(record_id, self._now)
        if expires_at is not None and (old_expiry is None or expires_at < old_expiry):
            # A later expiry is noticed when the earlier one is due; an earlier one would be missed.
            db.execute(
                "UPDATE marks SET due = ? WHERE id = ? AND (due IS NULL OR due > ?)",
                (expires_at, record_id, expires_at),
            )
        if self._rule.weighs:
            self._weigh_again(record_id, key, Weight(len(frame), record.cost_micro, expires_at))

    def _weigh_again(self, record_id: int, key: str, weight: Weight) -> None:
        group = self._group_named(group_of(key))
        row = self._db.execute("SELECT uses, used_at FROM marks WHERE id = ?", (record_id,)).fetchone()
        if row is None:
            return
        place = self._rule.place(self._db, group, key, weight, at=row[1], uses=row[0])
        self._db.execute(
            "UPDATE marks SET cost = ?, worth = ?, wanted = ? WHERE id = ?",
            (weight.cost, place.worth, place.rank, record_id),
        )
        # Queued no later than it is wanted, or it would not come to the front in time.
        self._db.execute("UPDATE marks SET rank = wanted, tick = used_at WHERE id = ? AND rank > wanted", (record_id,))

    def _make_room(self, group: Group, key: str, size: int, old: Found | None) -> Found | None:
        """Remove entries until a frame of `size` may stand under a key; return what stands there then."""
        while True:
            if old is None and group.entries >= self._max_size:
                crowded = group
            elif self._whole.bytes + size - (0 if old is None else old[1]) > self._size_limit:
                crowded = self._largest()
            else:
                return old
            if not self._drop_expired(_EXPIRED_AT_ONCE) and not self._evict(crowded):
                raise sqlite3.DatabaseError(f"{crowded.name} counts {crowded.entries} entries and has none")
            if old is not None:
                old = _find(self._db, key)  # it may have been among them

    def _evict(self, group: Group) -> bool:
        """Remove the entry of a group that goes first; return whether there was one."""
        victim = self._rule.victim(self._db, group, self._uses)
        if victim is None:
            return False
        self.dropped.add(self._remove(victim, evicted=True))
        self._count_evicted(group.name)
        return True

    def _drop_expired(self, most: int) -> int:
        """Look after at most so many entries whose expiry is due; return how many there were."""
        rows = self._db.execute(
            "SELECT marks.id, expires_at FROM marks JOIN records ON records.id = marks.id WHERE due <= ?"
            " ORDER BY due LIMIT ?",
            (self._now, most),
        ).fetchall()
        for record_id, expires_at in rows:
            if expires_at is None or expires_at > self._now:
                self._db.execute("UPDATE marks SET due = ? WHERE id = ?", (expires_at, record_id))
            else:
                self.dropped.add(self._remove(record_id, evicted=False))
        return len(rows)

    def _remove(self, record_id: int, *, evicted: bool) -> str:
        """Take an entry out; return its key."""
        db = self._db
        record = db.execute("DELETE FROM records WHERE id = ? RETURNING key, length(frame)", (record_id,)).fetchall()
        mark = db.execute("DELETE FROM marks WHERE id = ? RETURNING grp, rank", (record_id,)).fetchall()
        if not record or not mark:
            raise sqlite3.DatabaseError(f"entry {record_id} is there by half; the file is damaged")
        (key, size), (group_id, rank) = record[0], mark[0]
        group = self._group_by_id(group_id)
        self.removed += 1
        group.entries -= 1
        group.bytes -= size
        self._whole.bytes -= size
        self._rule.removed(db, group, key, rank, evicted=evicted)
        return str(key)

    @property
    def _whole(self) -> Group:
        """The row of the whole store. Reading it first tells which rule the file is lined up by."""
        if self._store is None:
            self._store = load_group(self._db, "id", 0)
            if self._store is None:
                raise sqlite3.DatabaseError("its sums are missing; the file is damaged")
            if self._store.policy != self._rule.name:
                # Another process with another policy opened the file after us. The last one decides for all.
                self._rule = rule_named(self._store.policy)
        return self._store

    def _group_named(self, name: str) -> Group:
        found = self._ids.get(name)
        if found is not None:
            return self._groups[found]
        return self._keep(load_group(self._db, "name", name) or self._new_group(name))

    def _group_by_id(self, group_id: int) -> Group:
        known = self._groups.get(group_id)
        if known is not None:
            return known
        found = load_group(self._db, "id", group_id)
        if found is None:
            raise sqlite3.DatabaseError(f"group {group_id} is missing; the file is damaged")
        return self._keep(found)

    def _new_group(self, name: str) -> Group:
        made = self._db.execute("INSERT INTO groups (name) VALUES (?)", (name,)).lastrowid
        return Group(id=made or 0, name=name)

    def _keep(self, group: Group) -> Group:
        _ = self._whole  # the rule must be known before it is asked about a group
        self._groups[group.id] = group
        self._ids[group.name] = group.id
        return group

    def _largest(self) -> Group:
        """Return the group that holds most bytes."""
        self.save()
        row = self._db.execute("SELECT id FROM groups WHERE id > 0 ORDER BY bytes DESC LIMIT 1").fetchone()
        return self._group_by_id(row[0])

    def _count_evicted(self, name: str) -> None:
        self.evicted[name] = self.evicted.get(name, 0) + 1


def group_of(storage_key: str) -> str:
    """Return kind and namespace, `llm:default` of `cm1:llm:default:kprompt`."""
    _, kind, namespace, *_ = (*storage_key.split(":", 3), "", "")
    return f"{kind}:{namespace}"


def head_version(start: bytes) -> int:
    """Return the version of a frame by its beginning; 0 when it cannot be read."""
    try:
        return read_head(start)[0]
    except CorruptRecord:
        return 0


def _find(db: sqlite3.Connection, key: str) -> Found | None:
    found: Found | None = db.execute(
        "SELECT id, length(frame), expires_at FROM records WHERE key = ?", (key,)
    ).fetchone()
    return found
