"""The cache under test, as the client processes drive it."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

from cache_management.cache.clock import Clock
from cache_management.cache.cluster.distributed import DistributedCache
from cache_management.cache.cluster.envelope import HEAD_BYTES
from cache_management.cache.cluster.slots import slot_of
from cache_management.cache.config import CacheConfig, ReplicationConfig
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.events import Event, NodeEvent
from tests.faults.cluster.targets import ClientSpec, NotDone, Unsure

T = TypeVar("T")


class DistributedTarget:
    """DistributedCache with `strict`: what it cannot promise it says."""

    def __init__(self, spec: ClientSpec, *, clock: Clock) -> None:
        replication = {"replicas": 1, "consistency_level": "quorum", **spec.replication}
        self.cache = DistributedCache(
            spec.nodes,
            replication_config=ReplicationConfig(**replication),
            config=CacheConfig(strict=True, timeout_seconds=spec.timeout_seconds),
            clock=clock,
            listener=_tell,
        )

    async def set(self, key: str, value: str, ttl_seconds: float | None) -> None:
        await _answer(self.cache.set(key, value, ttl_seconds=ttl_seconds))

    async def get(self, key: str) -> str | None:
        found: str | None = await _answer(self.cache.get(key))
        return found

    async def delete(self, key: str) -> None:
        await _answer(self.cache.delete(key))

    async def exists(self, key: str) -> bool:
        return bool(await _answer(self.cache.exists(key)))

    async def get_many(self, keys: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = await _answer(self.cache.get_many(keys))
        return found

    async def set_many(self, values: Mapping[str, str]) -> None:
        await _answer(self.cache.set_many(values))

    async def states(self) -> list[str]:
        """Return how each node stands; whoever asks looks after them, too."""
        self.cache.backend.keeper.begin()
        try:
            return [status.state for status in await self.cache.statuses()]
        except BackendUnavailable:
            return []

    async def repair(self) -> None:
        """Bring every copy up to date."""
        await _answer(self.cache.repair())

    async def differences(self) -> list[str]:
        """Read every head on every node; return what its voters do not agree on."""
        membership = self.cache.backend.membership
        heads: dict[str, dict[str, bytes]] = {}
        for node in membership.nodes():
            cursor = 0
            while True:
                after, names = await node.redis.call("SCAN", cursor, "MATCH", "e:*", "COUNT", 1000)
                commands = [("GETRANGE", name, 0, HEAD_BYTES - 1) for name in names]
                for name, head in zip(names, await node.redis.pipeline(commands), strict=True):
                    heads.setdefault(name.decode(), {})[node.id] = head
                cursor = int(after)
                if cursor == 0:
                    break
        found = []
        for name, held in heads.items():
            route = membership.route(slot_of(name[2:]))
            # Those that only vote keep what a keeper missed, and nothing once it has it.
            keepers = {node.id: held.get(node.id, b"")[:25] for node in route.keepers}
            others = {at: head[:25] for at, head in held.items() if at not in keepers}
            if len(set(keepers.values())) > 1 or any(head > max(keepers.values()) for head in others.values()):
                found.append(f"{name}: {held}")
        return found

    def keep_still(self) -> None:
        """Never look after the nodes from here."""
        self.cache.backend.keeper.begin = lambda: None  # type: ignore[method-assign]

    async def move(self, *, to: str | None = None, away: str | None = None) -> None:
        """Add or remove a node, and wait until the keys are where they belong."""
        if to is not None:
            self.cache.add_node(to)
        if away is not None:
            self.cache.remove_node(away)
        await _answer(self.cache.rebalance())

    async def close(self) -> None:
        await self.cache.close()


def _tell(event: Event) -> None:
    if isinstance(event, NodeEvent):
        print(f"{time.monotonic():.3f} {event.node} {event.what}: {event.detail}", file=sys.stderr)


async def _answer(call: Awaitable[T]) -> T:
    try:
        return await call
    except BackendUnavailable as exc:
        if getattr(exc, "indeterminate", True):
            raise Unsure(str(exc)) from exc
        raise NotDone(str(exc)) from exc
