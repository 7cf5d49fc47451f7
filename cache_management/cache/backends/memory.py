"""A bounded dict in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence

from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.clock import Clock, system_clock
from cache_management.cache.config import EvictionPolicy
from cache_management.cache.errors import JournalGap
from cache_management.cache.events import Listener, RemoveEvent, ignore
from cache_management.cache.eviction import make_evictor
from cache_management.cache.eviction.base import Evictor
from cache_management.cache.records import Record, Weight

_JOURNAL_LENGTH = 100_000


class MemoryBackend(Backend, Journal):
    """Keeps records in this process, at most `max_size` of each kind and namespace.

    Kinds are bounded apart, so that vectors do not push out the answers they belong to.
    For one event loop; nothing is locked.
    """

    name = "memory"

    def __init__(
        self,
        *,
        max_size: int,
        policy: EvictionPolicy = EvictionPolicy.LRU,
        clock: Clock = system_clock,
        listener: Listener = ignore,
    ) -> None:
        self._max_size = max_size
        self._policy = policy
        self._clock = clock
        self._listener = listener
        self._records: dict[str, Record] = {}
        self._groups: dict[str, _Group] = {}
        self._streams: dict[str, _Stream] = {}

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        found = {}
        now = self._clock()
        for key in keys:
            record = self._records.get(key)
            if record is None:
                continue
            if record.is_expired(now):
                self._remove(key)
                continue
            self._group(key).evictor.on_hit(key)
            found[key] = record
        return found

    async def put_many(self, records: Mapping[str, Record]) -> None:
        now = self._clock()
        for key, record in records.items():
            if record.is_expired(now):
                self._remove(key)
                continue
            group = self._group(key)
            self._records[key] = record
            group.keys.add(key)
            group.evictor.on_insert(key, Weight(size_bytes=len(record.value), expires_at=record.expires_at))
            if len(group.keys) > self._max_size:
                self._shrink(group, spare=key)

    async def delete_many(self, keys: Sequence[str]) -> int:
        now = self._clock()
        removed = 0
        for key in keys:
            record = self._records.get(key)
            if record is not None:
                removed += not record.is_expired(now)
                self._remove(key)
        return removed

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        now = self._clock()
        for key, record in list(self._records.items()):
            if key.startswith(prefix) and not record.is_expired(now) and key in self._records:
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

    def _group(self, key: str) -> _Group:
        # "cm1:llm:default:" of "cm1:llm:default:kprompt"
        name = key[: key.find(":", key.find(":", 4) + 1)]
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(name, make_evictor(self._policy))
        return group

    def _remove(self, key: str) -> None:
        if self._records.pop(key, None) is not None:
            group = self._group(key)
            group.keys.discard(key)
            group.evictor.on_remove(key)

    def _shrink(self, group: _Group, *, spare: str) -> None:
        evicted = 0
        while len(group.keys) > self._max_size:
            key = group.evictor.victim()
            if key is None:
                break
            if key == spare and len(group.keys) > 1:
                # The newest entry is what the caller waits for: let it be the last to go.
                record = self._records[key]
                group.evictor.on_remove(key)
                key = group.evictor.victim()
                group.evictor.on_insert(spare, Weight(len(record.value), expires_at=record.expires_at))
                if key is None:
                    break
            self._remove(key)
            evicted += 1
        self._listener(RemoveEvent(reason="evicted", namespace=group.name.rpartition(":")[2], count=evicted))


class _Group:
    """What shares one bound: the records of one kind and namespace."""

    def __init__(self, name: str, evictor: Evictor) -> None:
        self.name = name
        self.evictor = evictor
        self.keys: set[str] = set()


class _Stream:
    def __init__(self) -> None:
        self.items: deque[bytes] = deque(maxlen=_JOURNAL_LENGTH)
        self.next = 0

    def add(self, items: Sequence[bytes]) -> None:
        self.items.extend(items)
        self.next += len(items)
