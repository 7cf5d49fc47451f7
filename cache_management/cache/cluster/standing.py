"""How the nodes of a replicated cache stand, for those who operate it: looked at, and left as it is."""

from __future__ import annotations

import asyncio

import msgspec

from cache_management.cache.cluster.membership import Membership
from cache_management.cache.cluster.node import Node
from cache_management.cache.cluster.slots import Placement
from cache_management.cache.errors import BackendRefused, BackendUnavailable


class NodeStanding(msgspec.Struct, frozen=True):
    """How one node stands.

    `state` is "member", "syncing", "out" (it answers and does not count), "unreachable" or "unused" (it belongs to
    no cluster yet). What a node did not say is None. `clock_seconds` is its clock against this host's monotonic
    one: only differences between nodes mean anything. `slots_first` is for how many slots it is asked first.
    """

    address: str
    state: str
    why: str = ""
    keys: int | None = None
    used_bytes: int | None = None
    limit_bytes: int | None = None
    policy: str | None = None
    keeps_log: bool | None = None
    run_id: str | None = None
    clock_seconds: float | None = None
    slots_first: int = 0
    is_leaving: bool = False


class Standing(msgspec.Struct, frozen=True):
    """How a replicated cache stands; `epoch` is 0 while its first slot table was not made.

    `tolerated` is how many voters of a slot may be away.
    """

    epoch: int
    slots_moving: int
    tolerated: int
    nodes: tuple[NodeStanding, ...]

    @property
    def away(self) -> tuple[NodeStanding, ...]:
        """Return the nodes that do not count."""
        return tuple(node for node in self.nodes if node.state not in ("member", "unused"))


async def look_over(membership: Membership) -> Standing:
    """Look at each node. A cluster that was never used is not made by it.

    Raises:
        ConfigurationError: The nodes cannot be one cluster.
        BackendUnavailable: None of them answers.
    """
    replication = membership.replication
    tolerated = replication.voters - replication.quorum
    if not await membership.is_made():
        nodes = await asyncio.gather(*(_standing(node, "unused") for node in membership.configured.values()))
        return Standing(0, 0, tolerated, tuple(nodes))
    await membership.connect()
    await membership.refresh()
    table = membership.known_table()
    load = Placement.decode(table.placement).load()
    nodes = await asyncio.gather(
        *(
            _standing(
                node,
                "out" if node.state == "unknown" else node.state,
                slots_first=load[node.id].first if node.id in load else 0,
                is_leaving=node.id not in load,
            )
            for node in membership.nodes()
        )
    )
    return Standing(table.epoch, len(table.moving_slots()), tolerated, tuple(nodes))


async def _standing(node: Node, state: str, *, slots_first: int = 0, is_leaving: bool = False) -> NodeStanding:
    standing = NodeStanding(node.address, state, slots_first=slots_first, is_leaving=is_leaving)
    try:
        (keys,) = await node.redis.pipeline([("DBSIZE",)])
        standing = msgspec.structs.replace(standing, keys=keys, run_id=node.run_id, clock_seconds=node.offset_seconds)
        (info,) = await node.redis.pipeline([("INFO",)])
    except BackendRefused:
        return standing
    except BackendUnavailable as exc:
        return msgspec.structs.replace(standing, state="unreachable", why=exc.reason, keys=None)
    lines = dict(line.split(":", 1) for line in info.decode(errors="replace").splitlines() if ":" in line)
    return msgspec.structs.replace(
        standing,
        used_bytes=int(lines.get("used_memory", 0)),
        limit_bytes=int(lines.get("maxmemory", 0)),
        policy=lines.get("maxmemory_policy"),
        keeps_log=lines.get("aof_enabled") == "1",
    )
