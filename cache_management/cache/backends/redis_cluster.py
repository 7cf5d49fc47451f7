"""A Redis Cluster: the entries lie on several primaries, each key on the one that holds its slot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

from cache_management.cache.backends.base import Surplus, Swept
from cache_management.cache.backends.redis import RedisBackend, ms
from cache_management.cache.backends.redis_eviction import Eviction
from cache_management.cache.backends.redis_node import Servers
from cache_management.cache.backends.redis_nodes import RedisClusterNodes
from cache_management.cache.backends.redis_slots import Address, Walk, read_own_slots, read_walk
from cache_management.cache.clock import Clock
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendUnavailable, ConfigurationError
from cache_management.cache.events import Listener
from cache_management.cache.patterns import escape_glob
from cache_management.cache.records import Record

_LOOKS_FOR_A_PAGE = 50
_SCAN_PAGE = 1000


class RedisClusterBackend(RedisBackend):
    """Keeps records as `RedisBackend` does, on whichever primary holds the slot of a key.

    One round trip per call and node. No command names two keys, so keys need no braces and no move of slots splits a
    call. Copies are not watched (`is_current` is False), and the nodes evict by themselves (`maxmemory-policy`). See
    docs/design/0018-redis-cluster.md.
    """

    name = "redis cluster"

    def _open(self, config: CacheConfig, clock: Clock, listener: Listener) -> tuple[Servers, Eviction]:
        self._cluster = RedisClusterNodes(config)
        return self._cluster, ServersEvict()

    async def _frames(self, keys: Sequence[str]) -> list[bytes | None]:
        # MGET, which takes a key of another type for absent; GET would fail the others too.
        return [frame for (frame,) in await self._cluster.pipeline([("MGET", key) for key in keys])]

    def _groups(self, keys: Sequence[str]) -> list[Sequence[str]]:
        return [[key] for key in keys]

    async def acquire(self, name: str, *, owner: str, ttl_seconds: float) -> int | None:
        """Take a free name, see `Leases.acquire`; tokens rise as far as the clocks of the nodes agree."""
        token = await self._cluster.run_script("acquire_lease_by_time", [name], [owner, ms(ttl_seconds)])
        return None if token is None else int(token)

    async def ping(self) -> None:
        """Return when every primary answers, and every slot has one."""
        table = await self._cluster.primaries()
        for node in table.ids:
            await self._cluster.node(node).call("PING")
        if None in table.owners:
            raise BackendUnavailable(self._cluster.address, f"nobody holds slot {table.owners.index(None)}")

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        bookmark: str | None = ""
        while bookmark is not None:
            keys, bookmark = await self.scan_page(prefix, bookmark, _SCAN_PAGE)
            for key in keys:
                yield key

    async def _scan_page(self, prefix: str, bookmark: str, limit: int, *, of_type: str) -> tuple[list[str], str | None]:
        walk = read_walk(bookmark)
        match = escape_glob(prefix) + "*"
        keys: dict[str, None] = {}
        node: Address | None = None
        for _ in range(_LOOKS_FOR_A_PAGE):
            if not walk.node_id:
                walk = await self._begin_node(walk)
                node = None
            if node is None:
                node = await self._find(walk.node_id)
                if node is None:
                    walk = walk.lose(walk.node_id)
                    continue
            try:
                cursor, found = await self._cluster.node(node).call(
                    "SCAN", walk.cursor, "MATCH", match, "COUNT", limit, "TYPE", of_type
                )
                keys.update(dict.fromkeys(key.decode() for key in found))
                walk = walk.at(str(int(cursor)))
                if walk.cursor == "0":
                    lines = await self._cluster.node(node).call("CLUSTER", "NODES")
                    node_id, held, leaving = read_own_slots(lines.decode())
                    walk = walk.end(held, leaving) if node_id == walk.node_id else walk.lose(walk.node_id)
            except BackendUnavailable:
                if (await self._cluster.primaries()).find(walk.node_id) == node:
                    raise
                node = None  # a replica took over, or it moved: the walk goes on there
            if walk.is_over():
                return list(keys), None
            if 2 * len(keys) >= limit:
                break
        return list(keys), walk.text()

    async def _find(self, node_id: str) -> Address | None:
        return (await self._cluster.table()).find(node_id) or (await self._cluster.primaries()).find(node_id)

    async def _begin_node(self, walk: Walk) -> Walk:
        table = await self._cluster.primaries()
        if not walk.left:
            node_id = walk.again[0]
            node = table.find(node_id)
            return walk.lose(node_id) if node is None else walk.begin(node_id, table.slots_of(node))
        slot = min(walk.left)
        node = table.owners[slot]
        if node is None:
            raise BackendUnavailable(self._cluster.address, f"nobody holds slot {slot}")
        return walk.begin(table.ids[node], table.slots_of(node))


class ServersEvict:
    """The nodes evict by themselves: nothing is noted, and nothing is there to sweep."""

    def stored(self, key: str, record: Record, size_bytes: int) -> None: ...

    def read(self, key: str) -> None: ...

    def removed(self, keys: Iterable[str]) -> None: ...

    async def make_room(self) -> bool:
        return False

    async def surplus(self) -> Surplus:
        return Surplus()

    async def victims(self, limit: int) -> list[str]:
        return []

    def follow(self, config: CacheConfig) -> None:
        raise ConfigurationError(
            "the nodes of a Redis Cluster evict by themselves: leave eviction_policy out, set maxmemory-policy on each"
        )

    async def sweep(self, aim_bytes: int, limit: int) -> Swept:
        return Swept()

    async def forget_names(self, bookmark: str, limit: int) -> tuple[Swept, str | None]:
        return Swept(), None

    async def aclose(self) -> None: ...
