"""Makes room on the nodes of a replicated cache: what goes is taken from every voter, or leaves a stub.

Nodes run without eviction of their own: a server that drops one copy by itself would uncover an older one elsewhere.
What was read least lately goes first, among some picked by chance (Redis's own way), or with the "ttl" policy what
expires soonest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from cache_management.cache.backends.base import Surplus, Swept
from cache_management.cache.backends.redis_connection import Command
from cache_management.cache.cluster.envelope import (
    DELETED,
    NOTHING,
    STUB,
    VALUE,
    VERSION_BYTES,
    grave,
    moment_of,
    names_in,
    read_head,
)
from cache_management.cache.cluster.levelling import ENTRY, Levelling
from cache_management.cache.cluster.membership import WRITE_LIFE_MS, Membership
from cache_management.cache.cluster.node import Node
from cache_management.cache.cluster.slots import slot_of
from cache_management.cache.cluster.voters import heads_on_voters
from cache_management.cache.cluster.walk import Walk
from cache_management.cache.config import CacheConfig, EvictionPolicy
from cache_management.cache.errors import BackendUnavailable

_LOOKED_AT_PER_VICTIM = 4
_VICTIMS_AT_ONCE = 200


class _Room(msgspec.Struct, frozen=True):
    """What a server says of its memory, in bytes; `most` is 0 for no limit."""

    used: int
    most: int


class Relief:
    """Evicts from the nodes of a replicated cache."""

    def __init__(self, membership: Membership, walk: Walk, config: CacheConfig) -> None:
        self._membership = membership
        self._walk = walk
        self._config = config

    def follow(self, config: CacheConfig) -> None:
        """Evict by the limits and the policy of another configuration from now on."""
        self._config = config

    async def surplus(self) -> Surplus:
        """Say what has to go from nodes that are above their limit; `aim` is in bytes, by node id."""
        config = self._config
        aim: dict[str, int] = {}
        size = 0
        for node, room in (await self._rooms()).items():
            if room.most and room.used > config.eviction_high_watermark * room.most:
                aim[node.id] = int(config.eviction_low_watermark * room.most)
                size += room.used - aim[node.id]
        return Surplus(size_bytes=size, aim=aim)

    async def _rooms(self) -> dict[Node, _Room]:
        await self._membership.connect()
        nodes = [node for node in self._membership.nodes() if node.state == "member"]
        found = await asyncio.gather(*(_room(node) for node in nodes), return_exceptions=True)
        limit = self._config.redis_memory_limit
        rooms: dict[Node, _Room] = {}
        for node, each in zip(nodes, found, strict=True):
            if isinstance(each, _Room):
                rooms[node] = msgspec.structs.replace(each, most=limit) if limit else each
            elif not isinstance(each, BackendUnavailable):
                raise each
        return rooms

    async def victims(self, aim: Mapping[str, int], limit: int) -> list[str]:
        """Return some of the keys that would go first."""
        picked: dict[str, None] = {}
        for node_id in aim:
            node = self._membership.by_id.get(node_id)
            if node is not None and len(picked) < limit:
                picked.update(dict.fromkeys(await self._picked(node, limit - len(picked))))
        return [name[len(ENTRY) :] for name in picked]

    async def sweep(self, aim: Mapping[str, int], limit: int) -> Swept:
        """Remove up to about `limit` entries from nodes that are above their aim."""
        done = Swept()
        for node in await self._rooms():
            if node.id not in aim or done.entries >= limit:
                continue
            # Now, not before: what went from the nodes before went from this one, too.
            if (await _room(node)).used <= aim[node.id]:
                continue
            names = await self._picked(node, min(_VICTIMS_AT_ONCE, limit - done.entries))
            some = await self.evict(names)
            left = await _room(node)
            done = Swept(
                entries=done.entries + some.entries,
                size_bytes=done.size_bytes + some.size_bytes,
                is_done=done.is_done and (left.used <= aim[node.id] or not names),
            )
        return done

    async def make_room(self, size_bytes: int) -> bool:
        """Evict so that a write that was refused for want of memory may succeed; return whether anything went."""
        freed = Swept()
        for node, room in (await self._rooms()).items():
            most = self._config.eviction_high_watermark * room.most - size_bytes
            if room.most and room.used > most and (not freed.entries or (await _room(node)).used > most):
                some = await self.evict(await self._picked(node, _VICTIMS_AT_ONCE))
                freed = Swept(freed.entries + some.entries, freed.size_bytes + some.size_bytes)
        return freed.entries > 0

    async def _picked(self, node: Node, limit: int) -> list[str]:
        """Return names of entries of a node that go first among some picked by chance."""
        count = _LOOKED_AT_PER_VICTIM * limit
        found = await node.marked(*[("RANDOMKEY",)] * count)
        names = list(set(names_in(raw for raw in found if raw and raw.startswith(ENTRY.encode()))))
        if not names:
            return []
        # What is left of entries that are gone is small, and would count as gone once more.
        heads = {name: read_head(head) for name, head in zip(names, await node.heads(names), strict=True) if head}
        names = [name for name, head in heads.items() if head.kind == VALUE]
        if self._config.eviction_policy == EvictionPolicy.TTL:
            return sorted(names, key=lambda name: heads[name].moment_ms or 2**62)[:limit]
        commands: list[Command] = [("OBJECT", "IDLETIME", name) for name in names]
        idle = await node.marked(*commands) if commands else []
        ranked = sorted(zip(names, idle, strict=True), key=lambda pair: -(pair[1] or 0))
        return [name for name, _ in ranked[:limit]]

    async def evict(self, names: Sequence[str]) -> Swept:
        """Take entries from all their voters: older copies first, so that none is ever uncovered.

        Where a voter does not answer, the others keep a stub of the version: what that one holds stays hidden. The
        same is left of what was written a moment ago, as older writes of it may still be under way.
        """
        membership = self._membership
        routes = {name: membership.route(slot_of(name[2:])) for name in names}
        held = await heads_on_voters(routes, Node.may_be_asked)
        older: dict[Node, list[tuple[str, bytes, bytes]]] = {}
        newest: dict[Node, list[tuple[str, bytes, bytes]]] = {}
        now_ms = membership.now_ms()
        for name, heads in held.items():
            versions = {node: head[:VERSION_BYTES] for node, head in heads.items()}
            if not routes[name].agree(versions):
                continue
            version = max(versions.values())
            if any(head.startswith(version + DELETED) for head in heads.values()):
                continue  # it was deleted since: what that leaves must be the same on all voters
            # A write of an older version that is still under way would find nothing newer: not for an old entry.
            is_settled = moment_of(version) < now_ms - 2 * WRITE_LIFE_MS
            is_whole = set(versions) == set(routes[name].nodes) and is_settled
            for node, each in versions.items():
                if each == NOTHING:
                    continue
                stub = NOTHING if is_whole else grave(each, STUB, now_ms)
                (newest if each == version else older).setdefault(node, []).append((name, each, stub))
        await self._shed(older)
        entries, size = await self._shed(newest)
        return Swept(entries=entries, size_bytes=size)

    async def _shed(self, those: Mapping[Node, Sequence[tuple[str, bytes, bytes]]]) -> tuple[int, int]:
        names: set[str] = set()
        size = 0
        for node, each in those.items():
            keys = [name for name, _, _ in each]
            freed = await node.shed(
                keys,
                [slot_of(name[2:]) for name in keys],
                [version for _, version, _ in each],
                [stub for _, _, stub in each],
            )
            names.update(name for name, bytes_ in zip(keys, freed, strict=True) if bytes_)
            size += sum(freed)
        return len(names), size

    async def drop_expired(self, bookmark: str, limit: int) -> tuple[Swept, str | None]:
        """Drop the values of some entries past their time; their versions stay until a repair forgets them."""
        heads, after = await self._walk.heads_page(ENTRY, "", bookmark, limit)
        now_ms = self._membership.now() * 1000
        names = [ENTRY + key for key, head in heads.items() if head.kind == b"v" and not head.is_live(now_ms)]
        if not names:
            return Swept(), after
        done = await Levelling(self._membership, targets=lambda route: route.keepers, tidy=True).level(names)
        return Swept(entries=min(done.emptied, len(names)), size_bytes=0), after


async def _room(node: Node) -> _Room:
    (info,) = await node.marked(("INFO", "memory"))
    lines = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return _Room(int(lines["used_memory"]), int(lines.get("maxmemory", 0)))
