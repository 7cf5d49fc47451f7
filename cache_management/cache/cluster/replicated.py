"""A backend over several independent Redis nodes: what a majority acknowledged survives the loss of any one of them.

    key -> slot -> its voters by the slot table -> as many answers as the consistency level asks for

See docs/design/0019-replicated-cache.md for what is promised and why.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import msgspec

from cache_management.cache.backends.base import Surplus, Swept
from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.clock import Clock, system_clock
from cache_management.cache.cluster.coordination import Coordination
from cache_management.cache.cluster.envelope import (
    DELETED,
    VALUE,
    VERSION_BYTES,
    grave,
    read_head,
    read_value,
    token_of,
    value_copy,
    version_of,
)
from cache_management.cache.cluster.hot_keys import HotKeys
from cache_management.cache.cluster.journal import ReplicatedJournal
from cache_management.cache.cluster.keeper import Keeper
from cache_management.cache.cluster.levelling import ENTRY, PIECE
from cache_management.cache.cluster.membership import Membership
from cache_management.cache.cluster.node import Node
from cache_management.cache.cluster.quorum import Level, Quorum, Superseded
from cache_management.cache.cluster.relief import Relief
from cache_management.cache.cluster.slots import slot_of
from cache_management.cache.cluster.walk import Walk
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendRefused, BackendUnavailable, CorruptRecord
from cache_management.cache.events import CorruptEvent, Listener, ignore
from cache_management.cache.records import Head, Record

_AT_ONCE = 500
_CLOCKS_AGREE_SECONDS = 0.05
_CHANGE_LEASE_SECONDS = 20.0
_CHANGE_SECONDS = 5.0  # so much less than the lease as the clocks of nodes may be apart
_HOT_READS, _HOT_SHARE = 1000, 0.01
_BYTES_AT_ONCE = 4 * 2**20


class ReplicatedBackend(FullBackend):
    """Keeps each record on several nodes.

    Args:
        membership: The nodes and the slot table.
        config: The memory limits and the eviction policy of the nodes.
        level: What reads and writes wait for; deletes wait for a majority at least.
        hedge_seconds: How long to wait for a node before the next one is asked as well.
        clock: The application's; records carry their expiry in it, the nodes keep it in their own time.
    """

    name = "replicated"

    def __init__(
        self,
        membership: Membership,
        *,
        config: CacheConfig,
        level: Level = "quorum",
        hedge_seconds: float = 0.03,
        clock: Clock = system_clock,
        listener: Listener = ignore,
    ) -> None:
        self.membership = membership
        self.keeper = Keeper(membership, listener=listener)
        self.quorum = Quorum(membership, hedge_seconds=hedge_seconds, missed=self.keeper.missed)
        self.level: Level = level
        self.hot = HotKeys(clock=clock)
        self.keeper.on_look = self._spread_hot
        self._clock = clock
        self._listener = listener
        self._coordination = Coordination(membership)
        self._journal = ReplicatedJournal(membership)
        self._walk = Walk(membership)
        self.relief = Relief(membership, self._walk, config)
        self._watched: tuple[tuple[str, ...], Callable[[Sequence[str] | None], None]] | None = None
        membership.reopened = self._watch_node

    # Reading.

    async def get(self, key: str) -> Record | None:
        self.keeper.begin()
        name = ENTRY + key
        self.hot.note(name)
        copy = await self.quorum.read_one(name, slot_of(key), self.level)
        if copy[VERSION_BYTES : VERSION_BYTES + 1] != VALUE:
            return None
        try:
            is_live = read_head(copy).is_live(1000 * self.membership.now())
        except CorruptRecord as exc:
            self._listener(CorruptEvent(backend=self.name, storage_key=key, detail=str(exc)))
            return None
        return self._opened(ENTRY, key, copy) if is_live else None

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        found = await self.inspect_many(keys)
        return {key: record for key, record in found.items() if record is not None}

    async def inspect_many(self, keys: Sequence[str]) -> dict[str, Record | None]:
        found = {}
        for key, copy in (await self._copies(ENTRY, keys)).items():
            found[key] = self._opened(ENTRY, key, copy)
        return found

    async def has(self, key: str) -> bool:
        """Tell whether there is a record, without reading it."""
        self.keeper.begin()
        heads = await self.quorum.read({ENTRY + key: slot_of(key)}, self.level, heads_only=True)
        return any(read_head(head).is_live(self.membership.now() * 1000) for head in heads.values())

    async def _copies(self, kind: str, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the live copies by key."""
        live: dict[str, bytes] = {}
        self.keeper.begin()
        if kind == ENTRY:
            for key in keys:
                self.hot.note(kind + key)
        for page in _pages(list(dict.fromkeys(keys))):
            wanted = {kind + key: slot_of(key) for key in page}
            copies = await self.quorum.read(wanted, self.level)
            now_ms = self.membership.now() * 1000
            for name, copy in copies.items():
                if copy[VERSION_BYTES : VERSION_BYTES + 1] == VALUE and read_head(copy).is_live(now_ms):
                    live[name[len(kind) :]] = copy
        return live

    def _opened(self, kind: str, key: str, copy: bytes) -> Record | None:
        try:
            record = read_value(kind + key, copy)
        except CorruptRecord as exc:
            self._listener(CorruptEvent(backend=self.name, storage_key=key, detail=str(exc)))
            return None
        return self._in_own_time(record)

    def _spread_hot(self) -> None:
        """Let every keeper serve the keys that are read most."""
        sketch = self.hot.sketch()
        least = max(_HOT_READS, _HOT_SHARE * sketch.total)
        self.quorum.spread = frozenset(key for key, count in sketch.counts.items() if count >= least)

    # The nodes' time and the application's.

    def _in_own_time(self, record: Record) -> Record:
        shift = self._shift()
        if record.expires_at is None or not shift:
            return record
        return msgspec.structs.replace(record, expires_at=record.expires_at - shift)

    def _in_their_time(self, expires_at: float | None) -> float | None:
        return None if expires_at is None else expires_at + self._shift()

    def _shift(self) -> float:
        """Return how far the nodes' time is ahead of the application's, in seconds; 0 when they agree."""
        shift = self.membership.now() - self._clock()
        return shift if abs(shift) > _CLOCKS_AGREE_SECONDS else 0.0

    # Writing.

    async def put(self, key: str, record: Record) -> None:
        await self.put_many({key: record})

    async def put_many(self, records: Mapping[str, Record]) -> None:
        now = self._clock()
        expired = [key for key, record in records.items() if record.is_expired(now)]
        await self._put(ENTRY, {key: record for key, record in records.items() if not record.is_expired(now)})
        if expired:
            await self.delete_many(expired)

    async def put_fenced(self, key: str, record: Record, token: int) -> None:
        """Store a record as of the moment a lease was taken.

        Raises:
            Superseded: The key was written or deleted since.
        """
        await self._put(ENTRY, {key: record}, version=version_of(token))

    async def put_if(self, key: str, record: Record, *, expected: int | None) -> bool:
        """Store over what was read; see `Conditional`.

        Nodes cannot compare together, so that a lease lets one writer at a time read and write. Whoever stands still
        for too long finds that his write comes too late, or that something newer is held. A writer that dies leaves the
        key to others at the end of the lease.
        """
        stored = msgspec.structs.replace(record, expires_at=self._in_their_time(record.expires_at))
        return await self._write_if(key, value_copy(b"", ENTRY + key, stored), expected)

    async def delete_if(self, key: str, *, expected: int) -> bool:
        return await self._write_if(key, grave(b"", DELETED, self.membership.now_ms()), expected)

    async def _write_if(self, key: str, tail: bytes, expected: int | None) -> bool:
        self.keeper.begin()
        lease, owner = f"if:{key}", secrets.token_hex(16)
        token = await self._coordination.acquire(lease, owner=owner, ttl_seconds=_CHANGE_LEASE_SECONDS)
        if token is None:
            return False
        # Nodes refuse the write long before the lease ends and somebody else may read and write.
        until_ms = self.membership.now_ms() + int(1000 * _CHANGE_SECONDS)
        try:
            copy = await self.quorum.read_one(ENTRY + key, slot_of(key), self._least_quorum())
            held = None
            if copy[VERSION_BYTES : VERSION_BYTES + 1] == VALUE and read_head(copy).is_live(self.membership.now_ms()):
                found = self._opened(ENTRY, key, copy)
                held = None if found is None else found.version
            if held != expected:
                return False
            await self.quorum.write(
                {ENTRY + key: (slot_of(key), tail)}, self._least_quorum(), version=version_of(token), until_ms=until_ms
            )
        except Superseded:
            return False
        finally:
            with contextlib.suppress(BackendUnavailable):
                await self._coordination.release(lease, owner=owner)
        return True

    def _least_quorum(self) -> Level:
        return "all" if self.level == "all" else "quorum"

    async def _put(self, kind: str, records: Mapping[str, Record], *, version: bytes | None = None) -> None:
        await self.membership.connect()
        self.keeper.begin()
        copies: dict[str, tuple[int, bytes]] = {}
        size = 0
        for key, record in records.items():
            stored = msgspec.structs.replace(record, expires_at=self._in_their_time(record.expires_at))
            copies[kind + key] = (slot_of(key), value_copy(b"", kind + key, stored))
            size += len(record.value)
            if len(copies) >= _AT_ONCE or size >= _BYTES_AT_ONCE:
                await self._write(copies, version)
                copies, size = {}, 0
        if copies:
            await self._write(copies, version)

    async def _write(self, copies: Mapping[str, tuple[int, bytes]], version: bytes | None) -> None:
        given: dict[str, bytes] = {}
        until_ms = self.membership.writes_until()
        try:
            await self.quorum.write(copies, self.level, version=version, given=given, until_ms=until_ms)
        except BackendRefused as exc:
            if not exc.reason.partition("it refused: ")[2].startswith("OOM"):
                raise
            if not await self.relief.make_room(sum(len(tail) for _, tail in copies.values())):
                raise
            await self.quorum.write(copies, self.level, version=version, given=given, until_ms=until_ms)

    async def delete_many(self, keys: Sequence[str]) -> int:
        return await self._delete(ENTRY, keys)

    async def _delete(self, kind: str, keys: Sequence[str]) -> int:
        """Leave tombstones at a majority at least, whatever the level: what is believed gone must be gone."""
        await self.membership.connect()
        self.keeper.begin()
        level = self._least_quorum()
        count = 0
        for page in _pages(list(dict.fromkeys(keys))):
            now_ms = self.membership.now_ms()
            tail = grave(b"", DELETED, now_ms)
            copies = {kind + key: (slot_of(key), tail) for key in page}
            before = await self.quorum.write(copies, level)
            count += sum(bool(head) and read_head(head).is_live(now_ms) for head in before.values())
        return count

    # Walking.

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        seen: set[str] = set()
        bookmark: str | None = ""
        while bookmark is not None:
            keys, bookmark = await self.scan_page(prefix, bookmark, 1000)
            for key in keys:
                if key not in seen:
                    seen.add(key)
                    yield key

    async def scan_page(self, prefix: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        self.keeper.begin()
        return await self._walk.page(ENTRY, prefix, bookmark, limit)

    async def ping(self) -> None:
        """Return when a majority of the voters of every slot answers."""
        await self.membership.connect()
        await self.membership.refresh()
        await self.quorum.read({ENTRY: slot_of("")}, "quorum", heads_only=True)

    async def aclose(self) -> None:
        await self.keeper.aclose()
        await self.membership.aclose()

    # What else a backend can do.

    async def append(self, stream: str, items: Sequence[bytes]) -> str:
        return await self._journal.append(stream, items)

    async def tail(self, stream: str) -> str:
        return await self._journal.tail(stream)

    async def read_after(self, stream: str, cursor: str, *, limit: int) -> tuple[list[bytes], str]:
        return await self._journal.read_after(stream, cursor, limit=limit)

    async def trim(self, stream: str, cursor: str) -> None:
        await self._journal.trim(stream, cursor)

    async def acquire(self, name: str, *, owner: str, ttl_seconds: float) -> int | None:
        self.keeper.begin()
        return await self._coordination.acquire(name, owner=owner, ttl_seconds=ttl_seconds)

    async def acquire_fence(self, name: str, *, owner: str, ttl_seconds: float) -> int | None:
        """Take a lease whose token `put_fenced` takes."""
        self.keeper.begin()
        return await self._coordination.acquire(name, owner=owner, ttl_seconds=ttl_seconds, is_fence=True)

    async def renew(self, name: str, *, owner: str, ttl_seconds: float) -> bool:
        return await self._coordination.renew(name, owner=owner, ttl_seconds=ttl_seconds)

    async def release(self, name: str, *, owner: str) -> bool:
        return await self._coordination.release(name, owner=owner)

    async def add_tags(self, tags: Mapping[str, Mapping[str, float | None]]) -> None:
        await self.membership.connect()
        for tag, keys in tags.items():
            await self._coordination.add_tag(tag, {key: self._in_their_time(at) for key, at in keys.items()})

    async def tagged(self, tag: str) -> list[str]:
        return await self._coordination.tagged(tag)

    async def tagged_page(self, tag: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        return await self._coordination.tagged_page(tag, bookmark, limit)

    async def tags_page(self, prefix: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        return await self._walk.tags_page(prefix, bookmark, limit)

    async def remove_tags(self, tags: Mapping[str, Sequence[str]]) -> None:
        await self._coordination.remove_tags(tags)

    async def stash(self, name: str, piece: bytes, *, ttl_seconds: float) -> None:
        await self._put(PIECE, {name: Record(piece, self._clock() + ttl_seconds, 0)})

    async def stashed(self, name: str) -> bytes | None:
        copy = (await self._copies(PIECE, [name])).get(name)
        record = None if copy is None else self._opened(PIECE, name, copy)
        return None if record is None else record.value

    async def drop_stashed(self, names: Sequence[str]) -> None:
        await self._delete(PIECE, names)

    def evict_by(self, config: CacheConfig) -> None:
        self.relief.follow(config)

    async def surplus(self) -> Surplus:
        return await self.relief.surplus()

    async def victims(self, aim: Mapping[str, int], limit: int) -> list[str]:
        return await self.relief.victims(aim, limit)

    async def sweep(self, aim: Mapping[str, int], limit: int) -> Swept:
        return await self.relief.sweep(aim, limit)

    async def drop_expired(self, bookmark: str, limit: int) -> tuple[Swept, str | None]:
        return await self.relief.drop_expired(bookmark, limit)

    async def heads(self, keys: Sequence[str]) -> dict[str, Head]:
        found = {}
        for key, copy in (await self._copies(ENTRY, keys)).items():
            record = self._opened(ENTRY, key, copy)
            found[key] = (
                Head(0, None, len(copy)) if record is None else Head(record.version, record.expires_at, len(copy))
            )
        return found

    async def delete_older(self, keys: Sequence[str], version: int) -> list[str]:
        removed = []
        for page in _pages(keys):
            for key, copy in (await self._copies(ENTRY, page)).items():
                record = self._opened(ENTRY, key, copy)
                if (record is None or record.version < version) and await self._delete_this(key, copy):
                    removed.append(key)
        return removed

    async def _delete_this(self, key: str, copy: bytes) -> bool:
        """Delete what was read and nothing newer: by a tombstone that is just newer than it."""
        tail = grave(b"", DELETED, self.membership.now_ms())
        above = version_of(token_of(copy[:VERSION_BYTES]) + 1)
        try:
            await self.quorum.write({ENTRY + key: (slot_of(key), tail)}, "quorum", version=above)
        except Superseded:
            return False
        return True

    # Copies of entries elsewhere.

    def watch(self, prefixes: Sequence[str], on_change: Callable[[Sequence[str] | None], None]) -> None:
        self._watched = (tuple(ENTRY + prefix for prefix in prefixes), on_change)
        for node in self.membership.known():
            self._watch_node(node)

    def _watch_node(self, node: Node) -> None:
        if self._watched is None:
            return
        prefixes, on_change = self._watched

        def told(keys: Sequence[str] | None) -> None:
            on_change(None if keys is None else [key[len(ENTRY) :] for key in keys])

        node.redis.watch(prefixes, told)

    def is_current(self) -> bool:
        """Tell whether no acknowledged change can have gone unheard: too few nodes are silent for that."""
        nodes = self.membership.nodes()
        silent = sum(not (node.state == "member" and node.redis.is_current()) for node in nodes)
        heard_by = 1 if self.level == "one" else self.membership.replication.quorum
        return self.membership.table is not None and silent < heard_by


def _pages(keys: Sequence[str]) -> list[Sequence[str]]:
    return [keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE)]
