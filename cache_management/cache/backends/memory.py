"""A bounded dict in this process."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

import msgspec

from cache_management.cache.backends.base import Surplus, Swept, note_number
from cache_management.cache.backends.local_leases import LocalLeases
from cache_management.cache.backends.local_lock import local_lock
from cache_management.cache.backends.local_stash import LocalStash
from cache_management.cache.backends.local_tags import LocalTags
from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.clock import Clock, system_clock
from cache_management.cache.config import CacheConfig, EvictionObjective, EvictionPolicy
from cache_management.cache.errors import JournalGap
from cache_management.cache.events import Listener, RemoveEvent, ignore
from cache_management.cache.eviction import evictor_factory
from cache_management.cache.eviction.base import Evictor
from cache_management.cache.identity import is_entry
from cache_management.cache.records import Head, Record, Weight

ENTRY_OVERHEAD_BYTES = 700
"""What an entry takes beside the characters of its key and its value: objects and places in tables.

Measured (a test repeats it) on CPython 3.11: 310 to 680 bytes with `lru`, 500 to 1000 with `lfu`
and `gdsf`. The larger figures are those of a full store of entries that expire.
"""

_JOURNAL_LENGTH = 100_000


class MemoryBackend(LocalLeases, LocalTags, LocalStash, FullBackend):
    """Keeps records in this process, at most `max_size` of each kind and namespace.

    Kinds are bounded apart, so that vectors do not push out the answers they belong to.
    Safe to share between threads, and after a fork.

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
        LocalLeases.__init__(self, clock)
        LocalTags.__init__(self, clock)
        LocalStash.__init__(self, clock)
        self._max_size = max_size
        self._memory_limit = sys.maxsize if memory_limit is None else memory_limit
        self._make_evictor = evictor_factory(policy, objective=objective, cost_weight=cost_weight)
        self._clock = clock
        self._listener = listener
        self._lock = local_lock()
        self._slots: dict[str, _Slot]
        self._size_bytes: int
        self._latest: _Group
        self._groups: dict[str, _Group]
        self.clear()
        self._streams: dict[str, _Stream] = {}

    @property
    def size_bytes(self) -> int:
        """Return what everything takes, as `memory_limit` counts it."""
        return self._size_bytes

    # The single forms are written out: a dict for one key would cost as much as the rest of a call.

    def peek(self, key: str) -> Record | None:
        slot = self._slots.get(key)
        if slot is None:
            return None
        record = slot.record
        if record.expires_at is not None and record.expires_at <= self._clock():
            with self._lock:
                if self._slots.get(key) is slot:
                    self._discard(key)
            return None
        lock = self._lock
        lock.acquire()  # `with` takes twice as long
        try:
            slot.group.on_hit(key)  # which ignores what has gone meanwhile
        finally:
            lock.release()
        return record

    async def get(self, key: str) -> Record | None:
        return self.peek(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        found = {}
        now = self._clock()
        with self._lock:
            for key in keys:
                slot = self._slots.get(key)
                if slot is None:
                    continue
                if slot.record.is_expired(now):
                    self._discard(key)
                    continue
                slot.group.on_hit(key)
                found[key] = slot.record
        return found

    async def inspect_many(self, keys: Sequence[str]) -> dict[str, Record | None]:
        now = self._clock()
        with self._lock:
            found = {key: self._slots[key].record for key in keys if key in self._slots}
        return {key: record for key, record in found.items() if not record.is_expired(now)}

    async def put(self, key: str, record: Record) -> None:
        self.keep(key, record)

    async def put_many(self, records: Mapping[str, Record]) -> None:
        for key, record in records.items():
            self.keep(key, record)

    async def put_if(self, key: str, record: Record, *, expected: int | None) -> bool:
        now = self._clock()
        with self._lock:
            if self._live_version(key, now) != expected:
                return False
            removed = self._keep(key, record, now)
        for event in removed:
            self._listener(event)
        return True

    async def delete_if(self, key: str, *, expected: int) -> bool:
        with self._lock:
            if self._live_version(key, self._clock()) != expected:
                return False
            self._discard(key)
        return True

    def _live_version(self, key: str, now: float) -> int | None:
        slot = self._slots.get(key)
        return None if slot is None or slot.record.is_expired(now) else slot.record.version

    async def delete_many(self, keys: Sequence[str]) -> int:
        now = self._clock()
        removed = 0
        with self._lock:
            for key in keys:
                slot = self._slots.get(key)
                if slot is not None:
                    removed += not slot.record.is_expired(now)
                    self._discard(key)
        return removed

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        now = self._clock()
        with self._lock:
            slots = list(self._slots.items())
        for key, slot in slots:
            if key.startswith(prefix) and not slot.record.is_expired(now) and key in self._slots:
                yield key

    async def ping(self) -> None:
        return None

    async def aclose(self) -> None:
        return None

    async def append(self, stream: str, items: Sequence[bytes]) -> str:
        with self._lock:
            notes = self._streams.setdefault(stream, _Stream())
            notes.add(items)
            return str(notes.next)

    async def tail(self, stream: str) -> str:
        return str(self._streams.setdefault(stream, _Stream()).next)

    async def read_after(self, stream: str, cursor: str, *, limit: int) -> tuple[list[bytes], str]:
        notes = self._streams.setdefault(stream, _Stream())
        start = note_number(stream, cursor)
        with self._lock:
            first = notes.next - len(notes.items)
            if start < first or start > notes.next:
                raise JournalGap(f"stream {stream!r} begins at {first}, asked for {start}")
            items = [notes.items[at - first] for at in range(start, min(start + limit, notes.next))]
        return items, str(start + len(items))

    async def trim(self, stream: str, cursor: str) -> None:
        with self._lock:
            self._streams.setdefault(stream, _Stream()).drop_before(note_number(stream, cursor))

    def watch(self, prefixes: Sequence[str], on_change: Callable[[Sequence[str] | None], None]) -> None:
        return None  # nobody else can change what lies in this process

    def is_current(self) -> bool:
        return True

    async def surplus(self) -> Surplus:
        # Bounds are kept at every write, and cannot be changed while the process lives.
        now = self._clock()
        with self._lock:
            slots = list(self._slots.values())
        sizes = [slot.size_bytes for slot in slots if slot.record.is_expired(now)]
        return Surplus(expired=len(sizes), expired_bytes=sum(sizes))

    async def victims(self, aim: Mapping[str, int], limit: int) -> list[str]:
        return []

    async def sweep(self, aim: Mapping[str, int], limit: int) -> Swept:
        return Swept()

    async def drop_expired(self, bookmark: str, limit: int) -> tuple[Swept, str | None]:
        now = self._clock()
        gone: Counter[tuple[str, bool]] = Counter()
        with self._lock:
            before = self._size_bytes
            for group in self._groups.values():
                while gone.total() < limit and (key := group.expired(now, self._slots)) is not None:
                    self._discard(key)
                    gone[group.namespace, group.holds_entries] += 1
            freed = before - self._size_bytes
        for (namespace, of_entries), count in gone.items():
            self._listener(RemoveEvent("expired", namespace, count, of_entries))
        names = self.drop_expired_tags()
        return Swept(gone.total(), freed, names), "more" if gone.total() >= limit else None

    async def heads(self, keys: Sequence[str]) -> dict[str, Head]:
        now = self._clock()
        found = {}
        with self._lock:
            for key in keys:
                slot = self._slots.get(key)
                if slot is not None and not slot.record.is_expired(now):
                    found[key] = Head(slot.record.version, slot.record.expires_at, slot.size_bytes)
        return found

    async def delete_older(self, keys: Sequence[str], version: int) -> list[str]:
        now = self._clock()
        removed = []
        with self._lock:
            for key in keys:
                slot = self._slots.get(key)
                if slot is not None and slot.record.version < version:
                    if not slot.record.is_expired(now):
                        removed.append(key)
                    self._discard(key)
        return removed

    def keep(self, key: str, record: Record) -> None:
        """Do what `put` does, without waiting."""
        now = self._clock()
        lock = self._lock
        lock.acquire()
        try:
            removed = self._keep(key, record, now)
        finally:
            lock.release()
        for event in removed:  # the listener may use this store
            self._listener(event)

    def _keep(self, key: str, record: Record, now: float) -> Sequence[RemoveEvent]:
        """Do it under the lock; return what was removed for it."""
        expires_at = record.expires_at
        if expires_at is not None and expires_at <= now:
            self._discard(key)
            return ()
        old = self._slots.get(key)
        group = self._group(key) if old is None else old.group
        size = len(key) + len(record.value) + ENTRY_OVERHEAD_BYTES
        if size > self._memory_limit:
            self._discard(key)  # what stood there is out of date
            return (RemoveEvent("evicted", group.namespace, 1, group.holds_entries),)
        removed = []
        # Room is made first and the record enters then, so that the newest is never its own victim.
        while (old is None and group.count >= self._max_size) or (
            self._size_bytes + size - (0 if old is None else old.size_bytes) > self._memory_limit
        ):
            if old is None and group.count >= self._max_size:
                removed.append(self._evict((group,), now))
            else:
                removed.append(self._evict(self._groups.values(), now))
                old = self._slots.get(key)
        if old is None:
            group.count += 1
            added = size
        else:
            added = size - old.size_bytes
        group.size_bytes += added
        self._size_bytes += added
        self._slots[key] = _Slot(record, size, group)
        group.evictor.on_insert(key, Weight(size, record.cost_micro, expires_at))
        if expires_at is not None and (old is None or old.record.expires_at != expires_at):
            group.expire_later(key, expires_at, self._slots)
        return removed

    def _group(self, key: str) -> _Group:
        if key.startswith(self._latest.name):  # most calls are for one kind and namespace
            return self._latest
        # "cm1:llm:default:" of "cm1:llm:default:kprompt"
        name = key[: key.find(":", key.find(":", 4) + 1) + 1] or ":"
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(name, self._make_evictor())
        self._latest = group
        return group

    def evict_by(self, config: CacheConfig) -> None:
        make = evictor_factory(
            config.eviction_policy, objective=config.eviction_objective, cost_weight=config.eviction_cost_weight
        )
        with self._lock:
            self._make_evictor = make
            for group in self._groups.values():
                group.use(make())
            # In the order in which they came; how often each was used is not known to every policy.
            for key, slot in self._slots.items():
                record = slot.record
                slot.group.evictor.on_insert(key, Weight(slot.size_bytes, record.cost_micro, record.expires_at))

    def clear(self) -> None:
        """Forget every record; leases, tags and journal stay."""
        with self._lock:
            self._slots = {}
            self._size_bytes = 0
            self._latest = _Group(":", self._make_evictor())  # of keys that name no kind and namespace
            self._groups = {":": self._latest}

    def discard(self, key: str) -> None:
        """Forget a record, if it is there."""
        with self._lock:
            self._discard(key)

    def _discard(self, key: str) -> None:
        slot = self._slots.pop(key, None)
        if slot is not None:
            group = slot.group
            group.count -= 1
            group.size_bytes -= slot.size_bytes
            self._size_bytes -= slot.size_bytes
            group.evictor.on_remove(key)

    def _evict(self, groups: Collection[_Group], now: float) -> RemoveEvent:
        """Remove one entry: an expired one of any of the groups, else the victim of the largest."""
        for group in groups:
            key = group.expired(now, self._slots)
            if key is not None:
                self._discard(key)
                return RemoveEvent("expired", group.namespace, 1, group.holds_entries)
        group = max(groups, key=_held)
        key = group.evictor.victim()
        if key not in self._slots:
            raise RuntimeError(f"{type(group.evictor).__name__} named {key!r}, which is not stored")
        self._discard(key)
        return RemoveEvent("evicted", group.namespace, 1, group.holds_entries)


class _Group:
    """What shares one bound: the records of one kind and namespace. The name ends with a colon."""

    def __init__(self, name: str, evictor: Evictor) -> None:
        self.name = name
        self.namespace = name.rpartition(":")[0].rpartition(":")[2]
        self.holds_entries = is_entry(name)
        self.use(evictor)
        self.count = 0
        self.size_bytes = 0
        self._expiries: list[tuple[float, str]] = []

    def use(self, evictor: Evictor) -> None:
        """Let an evictor that knows of nothing yet choose what goes."""
        self.evictor = evictor
        self.on_hit: Callable[[str], None] = evictor.on_hit

    def expire_later(self, key: str, expires_at: float, slots: Mapping[str, _Slot]) -> None:
        """Note when a record expires."""
        heappush(self._expiries, (expires_at, key))
        # Removing and overwriting leave dead notes; dropping them at twice the live set keeps memory bounded.
        if len(self._expiries) > 2 * self.count + 16:
            self._expiries = [
                note
                for note in self._expiries
                if (slot := slots.get(note[1])) is not None and slot.record.expires_at == note[0]
            ]
            if len(self._expiries) > self.count:  # an expiry that came back after another one
                self._expiries = list(set(self._expiries))
            heapify(self._expiries)

    def expired(self, now: float, slots: Mapping[str, _Slot]) -> str | None:
        """Return a key whose record has expired, or None."""
        while self._expiries and self._expiries[0][0] <= now:
            expires_at, key = self._expiries[0]
            slot = slots.get(key)
            if slot is not None and slot.record.expires_at == expires_at:
                return key
            heappop(self._expiries)
        return None


class _Slot(msgspec.Struct, frozen=True, gc=False):
    record: Record
    size_bytes: int
    group: _Group


def _held(group: _Group) -> int:
    return group.size_bytes


class _Stream:
    def __init__(self) -> None:
        self.items: deque[bytes] = deque(maxlen=_JOURNAL_LENGTH)
        self.next = 0

    def add(self, items: Sequence[bytes]) -> None:
        self.items.extend(items)
        self.next += len(items)

    def drop_before(self, start: int) -> None:
        while self.items and self.next - len(self.items) < start:
            self.items.popleft()
