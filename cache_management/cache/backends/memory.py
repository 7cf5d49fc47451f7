"""A bounded dict in this process."""

from __future__ import annotations

import heapq
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.clock import Clock, system_clock
from cache_management.cache.config import EvictionObjective, EvictionPolicy
from cache_management.cache.errors import JournalGap
from cache_management.cache.events import Listener, RemoveEvent, ignore
from cache_management.cache.eviction import evictor_factory
from cache_management.cache.eviction.base import Evictor
from cache_management.cache.records import Record, Weight

ENTRY_OVERHEAD_BYTES = 600
"""What an entry takes beside the characters of its key and its value: objects and places in tables.

Measured by a test: 430 (lru) to 840 (lfu, gdsf) bytes with a TTL on CPython 3.11.
"""

_JOURNAL_LENGTH = 100_000


class MemoryBackend(Backend, Journal):
    """Keeps records in this process, at most `max_size` of each kind and namespace.

    Kinds are bounded apart, so that vectors do not push out the answers they belong to.
    For one event loop; nothing is locked.

    Args:
        max_size: Entries of each kind and namespace.
        memory_limit: Bytes of everything together: keys, values and `ENTRY_OVERHEAD_BYTES` for
            each entry. The kind and namespace that holds most gives way. An entry that is larger
            by itself is not kept, and pushes nothing out.
        policy: What goes first after what has expired; see `evictor_factory`, also for the next two.
        objective: What `EvictionPolicy.AUTO` aims at.
        cost_weight: How much a cost counts for `EvictionPolicy.GDSF`, 0 to 1.

    Raises:
        ConfigurationError: A policy of one's own cannot be loaded.
    """

    name = "memory"

    def __init__(
        self,
        *,
        max_size: int,
        memory_limit: int | None = None,
        policy: Any = EvictionPolicy.LRU,
        objective: EvictionObjective = EvictionObjective.HIT_RATIO,
        cost_weight: float = 1.0,
        clock: Clock = system_clock,
        listener: Listener = ignore,
    ) -> None:
        self._max_size = max_size
        self._memory_limit = sys.maxsize if memory_limit is None else memory_limit
        self._make_evictor = evictor_factory(policy, objective=objective, cost_weight=cost_weight)
        self._clock = clock
        self._listener = listener
        self._slots: dict[str, _Slot] = {}
        self._size_bytes = 0
        self._groups: dict[str, _Group] = {}
        self._streams: dict[str, _Stream] = {}

    @property
    def size_bytes(self) -> int:
        """Return what everything takes, as `memory_limit` counts it."""
        return self._size_bytes

    # The single forms are written out: a dict for one key would cost as much as the rest of a call.

    async def get(self, key: str) -> Record | None:
        slot = self._slots.get(key)
        if slot is None:
            return None
        record = slot.record
        if record.expires_at is not None and record.expires_at <= self._clock():
            self._remove(key)
            return None
        slot.group.on_hit(key)
        return record

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        found = {}
        now = self._clock()
        for key in keys:
            slot = self._slots.get(key)
            if slot is None:
                continue
            if slot.record.is_expired(now):
                self._remove(key)
                continue
            slot.group.on_hit(key)
            found[key] = slot.record
        return found

    async def put(self, key: str, record: Record) -> None:
        self._put(key, record)

    async def put_many(self, records: Mapping[str, Record]) -> None:
        for key, record in records.items():
            self._put(key, record)

    async def delete_many(self, keys: Sequence[str]) -> int:
        now = self._clock()
        removed = 0
        for key in keys:
            slot = self._slots.get(key)
            if slot is not None:
                removed += not slot.record.is_expired(now)
                self._remove(key)
        return removed

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        now = self._clock()
        for key, slot in list(self._slots.items()):
            if key.startswith(prefix) and not slot.record.is_expired(now) and key in self._slots:
                yield key

    async def ping(self) -> None:
        return None

    async def aclose(self) -> None:
        return None

    async def append(self, stream: str, items: Sequence[bytes]) -> str:
        notes = self._streams.setdefault(stream, _Stream())
        notes.add(items)
        return str(notes.next)

    async def tail(self, stream: str) -> str:
        return str(self._streams.setdefault(stream, _Stream()).next)

    async def read_after(self, stream: str, cursor: str, *, limit: int) -> tuple[list[bytes], str]:
        notes = self._streams.setdefault(stream, _Stream())
        start = int(cursor or 0)
        first = notes.next - len(notes.items)
        if start < first or start > notes.next:
            raise JournalGap(f"stream {stream!r} begins at {first}, asked for {start}")
        items = [notes.items[at - first] for at in range(start, min(start + limit, notes.next))]
        return items, str(start + len(items))

    def _put(self, key: str, record: Record) -> None:
        expires_at = record.expires_at
        if expires_at is not None and expires_at <= self._clock():
            self._remove(key)
            return
        size = _size_of(key, record)
        old = self._slots.get(key)
        group = self._group(key) if old is None else old.group
        if size > self._memory_limit:
            self._remove(key)  # what stood there is out of date
            self._tell(group, "evicted", 1)
            return
        count, total = (1, size) if old is None else (0, size - old.size_bytes)
        if group.count + count > self._max_size or self._size_bytes + total > self._memory_limit:
            self._make_room(group, key, size)
            old = self._slots.get(key)
            count, total = (1, size) if old is None else (0, size - old.size_bytes)
        group.count += count
        group.size_bytes += total
        self._size_bytes += total
        self._slots[key] = _Slot(record, size, group)
        # A record of a kind that knows its cost says so; others are of unknown cost.
        group.evictor.on_insert(key, Weight(size, getattr(record, "cost", 0.0), expires_at))
        if expires_at is not None and (old is None or old.record.expires_at != expires_at):
            group.expire_later(key, expires_at, self._slots)

    def _group(self, key: str) -> _Group:
        # "cm1:llm:default:" of "cm1:llm:default:kprompt"
        name = key[: key.find(":", key.find(":", 4) + 1)]
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(name, self._make_evictor())
        return group

    def _remove(self, key: str) -> None:
        slot = self._slots.pop(key, None)
        if slot is not None:
            group = slot.group
            group.count -= 1
            group.size_bytes -= slot.size_bytes
            self._size_bytes -= slot.size_bytes
            group.evictor.on_remove(key)

    def _make_room(self, group: _Group, key: str, size: int) -> None:
        """Remove entries until a record of `size` fits under `key`: what has expired, then victims.

        Room is made first and the record enters then, so that the newest is never its own victim.
        """
        now = self._clock()
        gone: dict[tuple[_Group, Literal["evicted", "expired"]], int] = {}
        while True:
            old = self._slots.get(key)
            if group.count + (old is None) > self._max_size:
                crowded: Iterable[_Group] = (group,)
            elif self._size_bytes + size - (old.size_bytes if old else 0) > self._memory_limit:
                crowded = self._groups.values()
            else:
                break
            for place in crowded:
                victim = place.expired(now, self._slots)
                if victim is not None:
                    reason: Literal["evicted", "expired"] = "expired"
                    break
            else:
                place = max(crowded, key=_held)
                victim = place.evictor.victim()
                reason = "evicted"
            if victim is None:  # an evictor that lost count must not hang the store
                break
            self._remove(victim)
            if victim != key:
                gone[place, reason] = gone.get((place, reason), 0) + 1
        for (place, reason), count in gone.items():
            self._tell(place, reason, count)

    def _tell(self, group: _Group, reason: Literal["evicted", "expired"], count: int) -> None:
        self._listener(RemoveEvent(reason=reason, namespace=group.name.rpartition(":")[2], count=count))


class _Group:
    """What shares one bound: the records of one kind and namespace."""

    def __init__(self, name: str, evictor: Evictor) -> None:
        self.name = name
        self.evictor = evictor
        self.on_hit: Callable[[str], None] = evictor.on_hit
        self.count = 0
        self.size_bytes = 0
        self._expiries: list[tuple[float, str]] = []

    def expire_later(self, key: str, expires_at: float, slots: Mapping[str, _Slot]) -> None:
        """Note when a record expires."""
        heapq.heappush(self._expiries, (expires_at, key))
        # Removing and overwriting leave dead notes; dropping them at twice the live set keeps memory bounded.
        if len(self._expiries) > 2 * self.count + 16:
            self._expiries = list({note for note in self._expiries if _stands(note, slots)})
            heapq.heapify(self._expiries)

    def expired(self, now: float, slots: Mapping[str, _Slot]) -> str | None:
        """Return a key whose record has expired, or None."""
        while self._expiries and self._expiries[0][0] <= now:
            note = self._expiries[0]
            if _stands(note, slots):
                return note[1]
            heapq.heappop(self._expiries)
        return None


class _Slot(msgspec.Struct, frozen=True, gc=False):
    record: Record
    size_bytes: int
    group: _Group


def _stands(note: tuple[float, str], slots: Mapping[str, _Slot]) -> bool:
    expires_at, key = note
    slot = slots.get(key)
    return slot is not None and slot.record.expires_at == expires_at


def _size_of(key: str, record: Record) -> int:
    return len(key) + len(record.value) + ENTRY_OVERHEAD_BYTES


def _held(group: _Group) -> int:
    return group.size_bytes


class _Stream:
    def __init__(self) -> None:
        self.items: deque[bytes] = deque(maxlen=_JOURNAL_LENGTH)
        self.next = 0

    def add(self, items: Sequence[bytes]) -> None:
        self.items.extend(items)
        self.next += len(items)
