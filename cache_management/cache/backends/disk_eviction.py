"""What goes first when the disk store is full: the rules of `cache/eviction`, over tables that processes share.

Every entry has a place (rank, tick) in the queue of its group; the lowest goes first. A use only ever
raises the place that is due to an entry, so it is written beside the queue, late and in batches. The
entry is moved when it comes to the front, and goes when it stands where it belongs. What this very
process has read is looked up then, so only the uses of other processes arrive late.
"""

from __future__ import annotations

import math
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, assert_never

import msgspec
import xxhash

from cache_management.cache.backends.base import Surplus
from cache_management.cache.backends.disk_schema import write
from cache_management.cache.config import EvictionObjective, EvictionPolicy
from cache_management.cache.records import Weight

# As in cache/eviction/s3fifo.py and gdsf.py; a test compares them.
_SMALL_SHARE = 0.1
_MOST_USES = 3
_USES_TO_STAY = 2
_COSTS_REMEMBERED = 1000
_SMALL, _MAIN = 0.0, 1.0

_TOO_OLD = 2.0**43
"""Times one use: where L is larger, a use hardly moves an entry any more. A float ends at 2**53."""

_USE = """
UPDATE marks SET used_at = max(used_at, :at), uses = uses + :uses, wanted = CASE WHEN worth > 0
    THEN coalesce(:age, (SELECT age FROM groups WHERE groups.id = grp)) + (uses + :uses + 1) * worth ELSE wanted END
WHERE id = :id
"""


class Group(msgspec.Struct):
    """A row of `groups`. `age` is L; `small` counts the small queue; `tick` and `ghosts` number what came."""

    id: int
    name: str
    policy: str = ""
    entries: int = 0
    bytes: int = 0
    age: float = 0.0
    costs_known: int = 0
    log_cost: float = 0.0
    small: int = 0
    tick: int = 0
    ghosts: int = 0
    was_full: int = 0

    def next_tick(self) -> int:
        self.tick += 1
        return self.tick


class Place(NamedTuple):
    """Where an entry is put in the queue; a use is `worth` something where ranks rise with use."""

    worth: float
    rank: float
    tick: float


class Uses:
    """What this process read or wrote over, until it is written down.

    A crash loses them, and other processes learn of them late: both only blur what goes first.
    """

    def __init__(self) -> None:
        self._noted: dict[int, list[float]] = {}

    def __len__(self) -> int:
        return len(self._noted)

    def add(self, record_id: int, now: float) -> None:
        noted = self._noted.get(record_id)
        if noted is None:
            self._noted[record_id] = [now, 1]
        else:
            noted[0] = now
            noted[1] += 1

    def clear(self) -> None:
        self._noted.clear()

    def flush(self, db: sqlite3.Connection) -> None:
        """Write everything down, in a transaction of its own."""
        if not self._noted:
            return
        with write(db):
            db.executemany(
                _USE, [{"id": key, "at": at, "uses": uses, "age": None} for key, (at, uses) in self._noted.items()]
            )
        self._noted.clear()

    def apply(self, db: sqlite3.Connection, record_id: int, age: float) -> bool:
        """Write down the uses of one entry, inside a transaction; return whether there were any."""
        noted = self._noted.pop(record_id, None)
        if noted is None:
            return False
        db.execute(_USE, {"id": record_id, "at": noted[0], "uses": noted[1], "age": age})
        return True


class Rule(ABC):
    """Decides which entry of a group goes next. Stands in the file by its `name`."""

    name: str
    weighs = False
    """Whether an overwrite moves an entry more than a read does."""

    @abstractmethod
    def place(self, db: sqlite3.Connection, group: Group, key: str, weight: Weight, *, at: float, uses: int) -> Place:
        """Return where an entry belongs that was used `uses` times since it was stored, last `at`."""

    @abstractmethod
    def victim(self, db: sqlite3.Connection, group: Group, uses: Uses) -> int | None:
        """Return the id of the entry that goes next, or None when there is none."""

    def removed(self, db: sqlite3.Connection, group: Group, key: str, rank: float, *, evicted: bool) -> None:  # noqa: B027 - most rules keep nothing
        """Learn that an entry is gone."""


class _RankRule(Rule):
    """Lowest rank goes first; among equals the one that was used longest ago."""

    ages = False

    def __init__(self, name: str) -> None:
        self.name = name

    def place(self, db: sqlite3.Connection, group: Group, key: str, weight: Weight, *, at: float, uses: int) -> Place:
        worth = self._worth(group, weight)
        if worth and group.age > _TOO_OLD * worth:
            _lower(db, group)
        return Place(worth, self._base(group, weight) + (uses + 1) * worth, at)

    def victim(self, db: sqlite3.Connection, group: Group, uses: Uses) -> int | None:
        for found in _fronts(db, group, "rank, tick, wanted, used_at", "grp = ?", group.id):
            record_id, rank, tick, wanted, used_at = found
            if uses.apply(db, record_id, group.age):
                continue
            if (wanted, used_at) == (rank, tick):
                if self.ages:
                    group.age = rank
                return int(record_id)
            db.execute("UPDATE marks SET rank = wanted, tick = used_at WHERE id = ?", (record_id,))
        return None

    def _base(self, group: Group, weight: Weight) -> float:
        return group.age

    def _worth(self, group: Group, weight: Weight) -> float:
        """Return what one use adds to the rank."""
        return 0.0


class _Lru(_RankRule):
    """All ranks are equal."""


class _Ttl(_RankRule):
    weighs = True

    def _base(self, group: Group, weight: Weight) -> float:
        return math.inf if weight.expires_at is None else weight.expires_at


class _Lfu(_RankRule):
    ages = True

    def _worth(self, group: Group, weight: Weight) -> float:
        return 1.0


class _Gdsf(_RankRule):
    ages = True
    weighs = True

    def __init__(self, name: str, cost_weight: float) -> None:
        super().__init__(name)
        self._cost_weight = cost_weight

    def _worth(self, group: Group, weight: Weight) -> float:
        size = max(weight.size_bytes, 1)
        if not self._cost_weight:
            return 1.0 / size
        if weight.cost > 0:
            group.costs_known = min(group.costs_known + 1, _COSTS_REMEMBERED)
            log_cost = math.log(weight.cost)
            group.log_cost += (log_cost - group.log_cost) / group.costs_known
        else:
            log_cost = group.log_cost
        return math.exp(self._cost_weight * log_cost) / size


class _S3Fifo(Rule):
    """The small queue has rank 0, the main queue 1; `ghosts` are the names of what left the small one."""

    name = "s3fifo"

    def place(self, db: sqlite3.Connection, group: Group, key: str, weight: Weight, *, at: float, uses: int) -> Place:
        # Until the store is full nothing has to make room: what comes by then skips probation.
        if not group.was_full or _forget_ghost(db, group, key):
            return Place(0.0, _MAIN, group.next_tick())
        group.small += 1
        return Place(0.0, _SMALL, group.next_tick())

    def victim(self, db: sqlite3.Connection, group: Group, uses: Uses) -> int | None:
        group.was_full = 1
        found = self._leaving_small(db, group, uses) if group.small >= _SMALL_SHARE * group.entries else None
        return self._leaving_main(db, group, uses) if found is None else found

    def removed(self, db: sqlite3.Connection, group: Group, key: str, rank: float, *, evicted: bool) -> None:
        if rank != _SMALL:
            return
        group.small -= 1
        if evicted:
            group.ghosts += 1
            db.execute("INSERT OR REPLACE INTO ghosts VALUES (?, ?, ?)", (group.id, _hash(key), group.ghosts))
            db.execute("DELETE FROM ghosts WHERE grp = ? AND number < ?", (group.id, group.ghosts - group.entries))

    def _leaving_small(self, db: sqlite3.Connection, group: Group, uses: Uses) -> int | None:
        for record_id, used in _fronts(db, group, "uses", "grp = ? AND rank = ?", group.id, _SMALL):
            if uses.apply(db, record_id, 0.0):
                continue
            if used < _USES_TO_STAY:
                return int(record_id)
            self._to_main(db, group, record_id, 0)
            group.small -= 1
        return None

    def _leaving_main(self, db: sqlite3.Connection, group: Group, uses: Uses) -> int | None:
        for record_id, used in _fronts(db, group, "uses", "grp = ? AND rank = ?", group.id, _MAIN):
            if uses.apply(db, record_id, 0.0):
                continue
            if used <= 0:
                return int(record_id)
            self._to_main(db, group, record_id, min(used, _MOST_USES) - 1)
        return None

    def _to_main(self, db: sqlite3.Connection, group: Group, record_id: int, uses: int) -> None:
        db.execute(
            "UPDATE marks SET rank = ?, wanted = ?, tick = ?, uses = ? WHERE id = ?",
            (_MAIN, _MAIN, group.next_tick(), uses, record_id),
        )


def rule_for(
    policy: EvictionPolicy,
    *,
    objective: EvictionObjective = EvictionObjective.HIT_RATIO,
    cost_weight: float = 1.0,
) -> Rule:
    """Return the rule that a configuration asks for."""
    match policy:
        case EvictionPolicy.AUTO:
            match objective:
                case EvictionObjective.HIT_RATIO:
                    return _S3Fifo()
                case EvictionObjective.BALANCED:
                    return rule_named("gdsf 0.5")
                case EvictionObjective.MONEY:
                    return rule_named("gdsf 1.0")
                case _:
                    assert_never(objective)
        case EvictionPolicy.GDSF:
            return rule_named(f"gdsf {float(cost_weight)}")
        case _:
            return rule_named(policy.value)


def rule_named(name: str) -> Rule:
    """Return the rule whose name stands in a file.

    Raises:
        sqlite3.DatabaseError: No rule has this name.
    """
    kind, _, number = name.partition(" ")
    match kind:
        case "lru":
            return _Lru(name)
        case "lfu":
            return _Lfu(name)
        case "ttl":
            return _Ttl(name)
        case "s3fifo":
            return _S3Fifo()
        case "gdsf":
            return _Gdsf(name, float(number))
        case _:
            raise sqlite3.DatabaseError(f"its eviction policy is {name!r}, which this program does not know")


def adopt(db: sqlite3.Connection, rule: Rule) -> None:
    """Line everything up by this rule if the file was lined up by another one.

    Uses, costs and the order of last use are kept. Reads every mark, so a change of policy
    costs some microseconds for each entry, once.
    """
    if _policy(db) == rule.name:
        return
    with write(db):
        was = _policy(db)
        if was == rule.name:
            return
        db.execute("DELETE FROM ghosts")
        db.execute("UPDATE groups SET age = 0, costs_known = 0, log_cost = 0, small = 0, tick = 0, was_full = 0")
        for (group_id,) in db.execute("SELECT id FROM groups WHERE id > 0").fetchall():
            group = load_group(db, "id", group_id)
            if group is None:
                continue
            rows = db.execute(
                "SELECT marks.id, cost, uses, used_at, expires_at, length(frame) FROM marks"
                " JOIN records ON records.id = marks.id WHERE grp = ? ORDER BY used_at, marks.id",
                (group_id,),
            ).fetchall()
            places = []
            for record_id, cost, uses, used_at, expires_at, size in rows:
                place = rule.place(db, group, "", Weight(size, cost, expires_at), at=used_at, uses=uses)
                places.append((place.worth, place.rank, place.rank, place.tick, record_id))
            db.executemany("UPDATE marks SET worth = ?, wanted = ?, rank = ?, tick = ? WHERE id = ?", places)
            save_group(db, group)
        db.execute("UPDATE groups SET policy = ? WHERE id = 0", (rule.name,))


def load_group(db: sqlite3.Connection, column: str, value: Any) -> Group | None:
    """Read a row of `groups` by its id or its name."""
    row = db.execute(
        "SELECT id, name, policy, entries, bytes, age, costs_known, log_cost, small, tick, ghosts, was_full"  # noqa: S608 - own text
        f" FROM groups WHERE {column} = ?",
        (value,),
    ).fetchone()
    return None if row is None else Group(*row)


def save_group(db: sqlite3.Connection, group: Group) -> None:
    """Write a row of `groups`."""
    db.execute(
        "UPDATE groups SET entries = ?, bytes = ?, age = ?, costs_known = ?, log_cost = ?, small = ?, tick = ?,"
        " ghosts = ?, was_full = ? WHERE id = ?",
        (
            group.entries,
            group.bytes,
            group.age,
            group.costs_known,
            group.log_cost,
            group.small,
            group.tick,
            group.ghosts,
            group.was_full,
            group.id,
        ),
    )


def read_surplus(db: sqlite3.Connection, *, max_size: int, size_limit: int, low: float, now: float) -> Surplus:
    """Say how far the store is above its bounds.

    A full store is where it should be, because each write makes its own room; only one that is above a bound, which
    became narrower, is brought down, and then a little further, so that the next writes find room.
    """
    aim = {}
    entries = 0
    for name, held in db.execute("SELECT name, entries FROM groups WHERE id > 0 AND entries > ?", (max_size,)):
        aim[name] = int(low * max_size)
        entries += held - aim[name]
    (size_bytes,) = db.execute("SELECT bytes FROM groups WHERE id = 0").fetchone()
    if size_bytes > size_limit:
        aim[""] = int(low * size_limit)
    expired, expired_bytes = db.execute(
        "SELECT count(*), coalesce(sum(length(frame)), 0) FROM marks JOIN records ON records.id = marks.id"
        " WHERE due <= :now AND expires_at <= :now",
        {"now": now},
    ).fetchone()
    return Surplus(entries, size_bytes - aim[""] if "" in aim else 0, aim, expired, expired_bytes)


def fronts(db: sqlite3.Connection, aim: Mapping[str, int], limit: int) -> list[str]:
    """Return keys from the fronts of an aim's queues, without looking whether they still belong there."""
    names = [name for name in aim if name]
    if "" in aim:
        names += [name for (name,) in db.execute("SELECT name FROM groups WHERE id > 0 ORDER BY bytes DESC LIMIT 1")]
    query = (
        "SELECT key FROM marks JOIN records ON records.id = marks.id JOIN groups ON groups.id = grp"
        " WHERE groups.name = ? ORDER BY rank, marks.tick LIMIT ?"
    )
    return [key for name in dict.fromkeys(names) for (key,) in db.execute(query, (name, limit))][:limit]


def _policy(db: sqlite3.Connection) -> str:
    return str(db.execute("SELECT policy FROM groups WHERE id = 0").fetchone()[0])


def _fronts(db: sqlite3.Connection, group: Group, columns: str, where: str, *values: object) -> Iterator[Any]:
    """Yield what stands at the front of a queue, again and again, until the queue is empty.

    Raises:
        sqlite3.DatabaseError: Nothing leaves the front: the file is damaged.
    """
    query = f"SELECT id, {columns} FROM marks WHERE {where} ORDER BY rank, tick LIMIT 1"  # noqa: S608 - own text
    # An entry comes to the front at most once for its uses, and once for each round through the main queue.
    for _ in range(100 + 10 * max(group.entries, 0)):
        row = db.execute(query, values).fetchone()
        if row is None:
            return
        yield row
    raise sqlite3.DatabaseError(f"the queue of {group.name} does not end; the file is damaged")


def _lower(db: sqlite3.Connection, group: Group) -> None:
    """Begin L anew: all ranks move down alike, so their order stays."""
    db.execute(
        "UPDATE marks SET rank = rank - :age, wanted = wanted - :age WHERE grp = :id",
        {"age": group.age, "id": group.id},
    )
    group.age = 0.0


def _forget_ghost(db: sqlite3.Connection, group: Group, key: str) -> bool:
    """Return whether a key left the small queue of late, and forget that."""
    return db.execute("DELETE FROM ghosts WHERE grp = ? AND hash = ?", (group.id, _hash(key))).rowcount > 0


def _hash(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key.encode()) - 2**63
