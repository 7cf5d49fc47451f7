"""Looks at nodes directly, past all that the cache does, and takes copies away from them."""

from __future__ import annotations

from collections.abc import Sequence

from redis import Redis

from cache_management.cache.cluster.envelope import NOTHING, VERSION_BYTES
from cache_management.cache.cluster.membership import Membership
from cache_management.cache.cluster.slots import slot_of


def copies_on(address: str) -> dict[str, bytes]:
    """Return what a node keeps, by name: the version and the kind of each copy."""
    with Redis.from_url(f"redis://{address}", decode_responses=False) as client:
        names = sorted(client.scan_iter(match="e:*", count=1000))
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.getrange(name, 0, VERSION_BYTES)
        return {name.decode(): head for name, head in zip(names, pipeline.execute(), strict=True)}


def are_level(addresses: Sequence[str]) -> bool:
    """Tell whether all nodes keep the same versions of the same keys."""
    first, *others = (copies_on(address) for address in addresses)
    return all(other == first for other in others)


async def lose_copies(membership: Membership, address: str, count: int) -> list[str]:
    """Let a node that counts lose some of its copies, as if it had never got them; return their names."""
    await membership.connect()
    (node,) = [each for each in membership.nodes() if each.address == address]
    names = sorted(copies_on(address))[:count]
    for start in range(0, len(names), 500):
        page = names[start : start + 500]
        versions = [head[:VERSION_BYTES] for head in await node.heads(page)]
        await node.shed(page, [slot_of(name[2:]) for name in page], versions, [NOTHING] * len(page))
    return names
