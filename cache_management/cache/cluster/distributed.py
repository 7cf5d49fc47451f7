"""DistributedCache: values on several independent Redis nodes, with the calls of the reference."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from cache_management.cache.backends import open_keyring
from cache_management.cache.clock import Clock, system_clock
from cache_management.cache.cluster.addresses import check_address, check_nodes
from cache_management.cache.cluster.levelling import ENTRY, Levelled
from cache_management.cache.cluster.membership import Membership
from cache_management.cache.cluster.quorum import Superseded
from cache_management.cache.cluster.repair import Repair
from cache_management.cache.cluster.replicated import ReplicatedBackend
from cache_management.cache.cluster.slots import Placement, next_placement, slot_of
from cache_management.cache.cluster.values import decode_value, encode_value
from cache_management.cache.config import CacheBackend, CacheConfig, ReplicationConfig, ShardingStrategy
from cache_management.cache.errors import (
    BackendUnavailable,
    ConfigurationError,
    CorruptRecord,
    InvalidEntry,
    InvalidInput,
)
from cache_management.cache.events import CorruptEvent, Event, Listener, UnavailableEvent, fan_out, ignore
from cache_management.cache.identity import KeySpace
from cache_management.cache.records import Record

logger = logging.getLogger("cache_management")

LOCK_LEASE_SECONDS = 30.0
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.25
_LONG_KEYS_KEPT = 1000
_CORRUPT = object()
_LONGEST_LIFE_SECONDS = 100 * 366 * 24 * 3600  # what every store can still count in milliseconds


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class NodeStatus(msgspec.Struct, frozen=True):
    """How a node stands: "member", "syncing", "out" (it answers and does not count) or "unreachable"."""

    address: str
    state: str
    keys: int | None
    used_bytes: int | None
    slots_first: int
    is_marked_failed: bool


class DistributedCache:
    """A cache over independent Redis or Valkey nodes, sharded and replicated.

    With `consistency_level="quorum"` what `set` or `delete` acknowledged is still so after any one node was lost, with
    all it held. `get` never raises because nodes are down: it returns None and tells an event, unless
    `config.strict`. `delete` raises when it cannot be sure.

    Args:
        nodes: "host:port" each, or "host:port/database". All clients name the same nodes.
        sharding_strategy: How slots are given to nodes; used when the cluster is made, later the nodes know.
        replication_config: Copies and consistency.
        config: Credentials, TLS, time budget, namespace, default TTL and limits; its backend is not used.
        strict: Raise where too few nodes answer, instead of a miss or a False; None does as `config` says.
        listener: Hears of events; see `cache/events.py`.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        sharding_strategy: ShardingStrategy = ShardingStrategy.CONSISTENT_HASH,
        replication_config: ReplicationConfig | None = None,
        *,
        config: CacheConfig | None = None,
        strict: bool | None = None,
        clock: Clock = system_clock,
        listener: Listener = ignore,
    ) -> None:
        try:
            strategy = ShardingStrategy(sharding_strategy)
        except ValueError:
            raise ConfigurationError(
                f"sharding_strategy={sharding_strategy!r:.60}: take one of {', '.join(ShardingStrategy)}"
            ) from None
        if replication_config is not None and not isinstance(replication_config, ReplicationConfig):
            raise ConfigurationError(f"replication_config={replication_config!r:.80} is no ReplicationConfig")
        addresses, self.replication = check_nodes(nodes, replication_config or ReplicationConfig())
        self.config = config or CacheConfig(backend=CacheBackend.REDIS)
        if strict is not None:
            self.config = self.config.model_copy(update={"strict": strict})
        self._clock = clock
        self.listener = listener
        self._membership = Membership(
            addresses, strategy, self.replication, config=self.config, clock=clock, listener=self.tell
        )
        self.backend = ReplicatedBackend(
            self._membership,
            config=self.config,
            level=self.replication.consistency_level,
            clock=clock,
            listener=self.tell,
        )
        self._keys = KeySpace("dst", self.config.namespace)
        self._keyring = open_keyring(self.config)
        self._locks = KeySpace("lck", self.config.namespace)
        self._held: dict[str, _Lock] = {}
        self._long_keys: dict[str, str] = {}

    def tell(self, event: Event) -> None:
        """Tell the listener of something."""
        fan_out([self.listener])(event)

    # Values.

    async def set(
        self, key: str, value: Any, *, ttl_seconds: float | None = None, fencing_token: int | None = None
    ) -> bool:
        """Store a value; return whether it is stored for certain.

        Args:
            value: Text, bytes, a JSON value or a CachedResponse.
            ttl_seconds: None is the default of the configuration, -1 never.
            fencing_token: Of a lock (`fencing_token`): nothing is stored, and False returned, where the key was
                written or deleted after that lock was taken.

        Raises:
            InvalidEntry: The value cannot be stored; nothing was changed.
            QuorumNotReached: With `strict`: too few nodes stored it. It may be seen later if it is `indeterminate`.
        """
        storage_key = self._keys.to_storage(key)
        record = self._record(storage_key, value, ttl_seconds)
        try:
            if fencing_token is None:
                await self.backend.put(storage_key, record)
            else:
                await self.backend.put_fenced(storage_key, record, fencing_token)
        except Superseded:
            return False
        except BackendUnavailable as exc:
            self._tolerate(exc, "set")
            return False
        return True

    async def set_many(self, values: Mapping[str, Any], *, ttl_seconds: float | None = None) -> bool:
        """Store values; return whether all of them are stored for certain. See `set`."""
        storage_keys = {key: self._keys.to_storage(key) for key in values}
        records = {}
        for key, at in storage_keys.items():
            try:
                records[at] = self._record(at, values[key], ttl_seconds)
            except InvalidEntry as exc:
                raise InvalidEntry(f"{key!r:.60}: {exc}") from None
        try:
            await self.backend.put_many(records)
        except BackendUnavailable as exc:
            self._tolerate(exc, "set_many")
            return False
        return True

    async def get(self, key: str) -> Any:
        """Return a value; None when there is none, or when too few nodes answer."""
        storage_key = self._storage_key(key)
        try:
            record = await self.backend.get(storage_key)
        except BackendUnavailable as exc:
            self._tolerate(exc, "get")
            return None
        value = _CORRUPT if record is None else self._value(storage_key, record)
        return None if value is _CORRUPT else value

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values that are there."""
        if isinstance(keys, str):
            raise InvalidInput(f"get_many({keys!r:.40}) takes several keys: give a list, or use get")
        return await self._get(list(keys), "get_many")

    async def _get(self, keys: Sequence[str], operation: str) -> dict[str, Any]:
        storage_keys = {key: self._storage_key(key) for key in keys}
        try:
            records = await self.backend.get_many(list(storage_keys.values()))
        except BackendUnavailable as exc:
            self._tolerate(exc, operation)
            return {}
        found: dict[str, Any] = {}
        for key, storage_key in storage_keys.items():
            record = records.get(storage_key)
            value = _CORRUPT if record is None else self._value(storage_key, record)
            if value is not _CORRUPT:
                found[key] = value
        return found

    def _value(self, storage_key: str, record: Record) -> Any:
        try:
            encoded = record.value if self._keyring is None else self._keyring.open_sealed(record.value, storage_key)
            return decode_value(encoded, limit_bytes=self.config.max_entry_bytes)
        except CorruptRecord as exc:
            self.tell(CorruptEvent(self.backend.name, storage_key, str(exc)))
            return _CORRUPT

    def _storage_key(self, key: str) -> str:
        storage_key = self._keys.to_storage(key)
        if self._keys.is_hashed(storage_key):
            # What is hashed is named again when somebody asks which keys are hot.
            self._long_keys.pop(storage_key, None)
            self._long_keys[storage_key] = key
            if len(self._long_keys) > _LONG_KEYS_KEPT:
                del self._long_keys[next(iter(self._long_keys))]
        return storage_key

    async def delete(self, key: str) -> bool:
        """Delete a value; return whether there was one.

        Raises:
            QuorumNotReached: It may still be there: too few nodes answered.
        """
        return await self.backend.delete(self._keys.to_storage(key))

    async def exists(self, key: str) -> bool:
        """Tell whether there is a value."""
        storage_key = self._keys.to_storage(key)
        try:
            return await self.backend.has(storage_key)
        except BackendUnavailable as exc:
            self._tolerate(exc, "exists")
            return False

    def _record(self, storage_key: str, value: object, ttl_seconds: float | None) -> Record:
        life = self.config.ttl_seconds if ttl_seconds is None else ttl_seconds
        if life is not None and life != -1 and not (_is_number(life) and 0 < life <= _LONGEST_LIFE_SECONDS):
            raise InvalidInput(
                f"ttl_seconds={ttl_seconds!r:.40}: take a number above 0, up to a hundred years, -1 for never, or None"
                " for the default"
            )
        expires_at = None if life is None or life == -1 else self._clock() + life
        encoded = encode_value(value, limit_bytes=self.config.max_entry_bytes)
        return Record(encoded if self._keyring is None else self._keyring.seal(encoded, storage_key), expires_at, 0)

    def _tolerate(self, error: BackendUnavailable, operation: str) -> None:
        if self.config.strict:
            raise error
        self.tell(UnavailableEvent(error.backend, operation, error.reason))

    # Nodes. None of these waits for anything.

    def get_node_for_key(self, key: str) -> str:
        """Return the address of the node that a key is read from first: the first available one of its list."""
        storage_key = self._keys.to_storage(key)
        ids = self._placement().voters_of(slot_of(storage_key))
        by_id = {node.id: node for node in self._membership.nodes()} if self._membership.table else {}
        addresses = [by_id[node_id].address if node_id in by_id else node_id for node_id in ids]
        available = [address for address in addresses if self._is_available(address)]
        return (available or addresses)[0]

    def _placement(self) -> Placement:
        """Return the slot table as it will be when what was asked for has come about."""
        table = self._membership.table
        placement = self._membership.first if table is None else Placement.decode(table.placement)
        key = (placement, tuple(self.backend.keeper.wishes))
        cached = self.__dict__.get("_placed")
        if cached is not None and cached[0] is table and cached[1] == key[1]:
            found: Placement = cached[2]
            return found
        names = {node.id: node.address for node in self._membership.nodes()} if table else {}
        for what, address in self.backend.keeper.wishes:
            gone = [node_id for node_id in placement.nodes if names.get(node_id, node_id) == address]
            nodes = [*placement.nodes, address] if what == "add" else [n for n in placement.nodes if n not in gone]
            placement = next_placement(placement, nodes)
        self.__dict__["_placed"] = (table, key[1], placement)
        return placement

    def _is_available(self, address: str) -> bool:
        for node in self._membership.known():
            if node.address == address:
                return not node.is_marked_failed and node.breaker.state == "closed"
        return True

    def get_available_nodes(self) -> list[str]:
        """Return the addresses of the nodes that are asked: not those marked as failed or known to be down."""
        placement = self._placement()
        names = {node.id: node.address for node in self._membership.nodes()} if self._membership.table else {}
        return [
            address
            for address in (names.get(node_id, node_id) for node_id in placement.nodes)
            if self._is_available(address)
        ]

    def add_node(self, node: str) -> None:
        """Let a node take part: at once for routing; its data moves in the background, see `rebalance`.

        Raises:
            ConfigurationError: It cannot be read, or is one of the nodes.
        """
        address = check_address(node)
        if address in self._addresses():
            raise ConfigurationError(f"node {address} is one of the nodes already")
        self._wish("add", address)

    def remove_node(self, node: str) -> None:
        """Let a node go: at once for routing; its data moves to the others in the background, see `rebalance`.

        Raises:
            ConfigurationError: It is none of the nodes, or too few would be left.
        """
        address = check_address(node)
        known = self._addresses()
        if address not in known:
            raise ConfigurationError(f"node {address} is none of the nodes: {', '.join(known)}")
        if len(known) - 1 < self.replication.voters:
            raise ConfigurationError(
                f"node {address} cannot go: replicas={self.replication.replicas} needs {self.replication.voters} nodes;"
                " add one first"
            )
        self._wish("remove", address)

    def _addresses(self) -> list[str]:
        names = {node.id: node.address for node in self._membership.nodes()} if self._membership.table else {}
        return [names.get(node_id, node_id) for node_id in self._placement().nodes]

    def _wish(self, what: str, address: str) -> None:
        self.backend.keeper.wishes.append((what, address))
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            self.backend.keeper.begin()
            self.backend.keeper.wake()

    def mark_node_failed(self, node: str) -> None:
        """Ask other nodes first: a hint for routing, which changes nothing of what counts."""
        self._named(node).is_marked_failed = True

    def mark_node_recovered(self, node: str) -> None:
        """Take back `mark_node_failed`."""
        self._named(node).is_marked_failed = False
        self.backend.keeper.wake()

    def _named(self, name: str) -> Any:
        address = check_address(name)
        for node in self._membership.known():
            if node.address == address:
                return node
        raise ConfigurationError(f"node {address} is none of the nodes: {', '.join(self._addresses())}")

    def get_hot_spots(self, threshold: int = 1000) -> list[tuple[str, int]]:
        """Return the keys that this process read at least `threshold` times of late, with their counts, most first."""
        if not _is_number(threshold):
            raise InvalidInput(f"threshold={threshold!r:.40} is no number")
        hot = []
        for name, count in self.backend.hot.hot(threshold):
            key = self._keys.from_storage(name.removeprefix(ENTRY))
            if key is None:
                key = self._long_keys.get(name.removeprefix(ENTRY))
            if key is not None:
                hot.append((key, count))
        return hot

    # Upkeep.

    async def rebalance(self) -> int:
        """Move the slots that are to move since nodes came or went; return how many entries were copied.

        Raises:
            ConfigurationError: A node that was to be added cannot be.
            BackendUnavailable: Nodes that are needed do not answer; what was moved stays moved.
        """
        await self._membership.connect()
        keeper = self.backend.keeper
        done = Levelled()
        while True:
            done.add(await keeper.moves.finish())
            if keeper.refused:
                raise keeper.refused.pop(0)
            if not keeper.wishes:
                break
            await keeper.grant_wishes()
        return done.copied

    async def repair(self) -> Levelled:
        """Compare all copies, bring those that are behind up to date, and drop what is to be forgotten."""
        await self._membership.connect()
        await self.backend.keeper.look()
        return await Repair(self._membership, listener=self.tell).run()

    async def accept_loss(self) -> list[str]:
        """Let nodes count again although what they acknowledged may stand only where nobody can read it now.

        For the operator of a cache with `on_majority_loss="wait"`, or who does not want to wait for the minute of
        "accept". Returns the addresses of the nodes that count since.
        """
        await self._membership.connect()
        return await self.backend.keeper.accept_loss()

    async def statuses(self) -> list[NodeStatus]:
        """Return how each node stands."""
        self.backend.keeper.begin()
        return await node_statuses(self._membership)

    async def close(self) -> None:
        """Give locks back and free the connections."""
        for name in list(self._held):
            with contextlib.suppress(BackendUnavailable):
                await self.release_lock(name)
        await self.backend.aclose()

    aclose = close

    async def __aenter__(self) -> DistributedCache:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # Locks.

    async def acquire_lock(
        self,
        name: str,
        timeout: float = 10.0,  # noqa: ASYNC109 - the reference's word
        *,
        lease_seconds: float = LOCK_LEASE_SECONDS,
    ) -> bool:
        """Take a lock, waiting for it up to `timeout` seconds; return whether it was taken.

        It is renewed while this process runs, and ends by itself when it does not. It keeps work from being done
        twice; what must be safe even when the process stood still for longer than the lease is written with
        `set(..., fencing_token=cache.fencing_token(name))`.
        """
        if not (_is_number(timeout) and timeout >= 0 and _is_number(lease_seconds) and 0 < lease_seconds < math.inf):
            raise InvalidInput(f"timeout={timeout!r}, lease_seconds={lease_seconds!r}: take 0 or more, and above 0")
        lease = self._locks.to_storage(name)
        deadline = time.monotonic() + timeout
        pause = _FIRST_PAUSE
        while True:
            if name not in self._held:
                owner = secrets.token_hex(16)
                try:
                    token = await self.backend.acquire_fence(lease, owner=owner, ttl_seconds=lease_seconds)
                except BackendUnavailable as exc:
                    token = None
                    if time.monotonic() >= deadline:
                        self._tolerate(exc, "acquire_lock")
                if token is not None:
                    self._held[name] = _Lock(owner, token, lease_seconds)
                    self._held[name].keep(self.backend, lease)
                    return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    async def release_lock(self, name: str) -> bool:
        """Give a lock back; return whether this cache object still held it."""
        held = self._held.pop(name, None)
        if held is None:
            return False
        held.stop()
        try:
            return await self.backend.release(self._locks.to_storage(name), owner=held.owner)
        except BackendUnavailable as exc:
            self._tolerate(exc, "release_lock")
            return False

    def fencing_token(self, name: str) -> int | None:
        """Return the token of a lock that this cache object holds: larger than every earlier holder's."""
        held = self._held.get(name)
        return None if held is None else held.token


class _Lock:
    """A lock that is held, and the task that renews it."""

    def __init__(self, owner: str, token: int, lease_seconds: float) -> None:
        self.owner = owner
        self.token = token
        self._lease_seconds = lease_seconds
        self._task: asyncio.Task[None] | None = None

    def keep(self, backend: ReplicatedBackend, lease: str) -> None:
        self._task = asyncio.get_running_loop().create_task(self._renew(backend, lease))

    async def _renew(self, backend: ReplicatedBackend, lease: str) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            with contextlib.suppress(BackendUnavailable):
                if not await backend.renew(lease, owner=self.owner, ttl_seconds=self._lease_seconds):
                    logger.warning("lock %r is lost: it was not renewed in time, and somebody else may hold it", lease)
                    return

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()


async def node_statuses(membership: Membership) -> list[NodeStatus]:
    """Look at each node."""
    await membership.connect()
    await membership.refresh()
    table = membership.table
    load = Placement.decode(table.placement).load() if table else {}

    async def look(node: Any) -> NodeStatus:
        keys = used = None
        try:
            keys, info = await node.redis.pipeline([("DBSIZE",), ("INFO", "memory")])
            lines = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
            used = int(lines["used_memory"])
            state = "out" if node.state == "unknown" else node.state
        except BackendUnavailable:
            state = "unreachable"
        first = load[node.id].first if node.id in load else 0
        return NodeStatus(node.address, state, keys, used, first, node.is_marked_failed)

    return list(await asyncio.gather(*(look(node) for node in membership.nodes())))
