"""Drops what a node holds of slots that are not its any more.

While a slot moves away everything of it is brought to its new voters, so that what is left is worth nothing. It must be
gone before the node becomes a voter of that slot again: by then the tombstone of a deleted entry may be forgotten, and
an old copy would come back.
"""

from __future__ import annotations

from collections.abc import Sequence

from cache_management.cache.cluster.envelope import VERSION_BYTES
from cache_management.cache.cluster.levelling import ENTRY, PIECE
from cache_management.cache.cluster.membership import Membership
from cache_management.cache.cluster.node import Node
from cache_management.cache.cluster.slots import slot_of

_OF_SLOTS = (ENTRY, PIECE, "t:", "j:")
_KEYS_A_PAGE = 1000


async def drop_strays(membership: Membership, node: Node) -> int:
    """Drop all strays of a node; return how many.

    Raises:
        BackendUnavailable: It does not answer, or does not count.
    """
    cursor, dropped = 0, 0
    while True:
        ((after, found),) = await node.marked(("SCAN", cursor, "COUNT", _KEYS_A_PAGE))
        dropped += await drop_strays_among(membership, node, [raw.decode(errors="replace") for raw in found])
        cursor = int(after)
        if cursor == 0:
            return dropped


async def drop_strays_among(membership: Membership, node: Node, names: Sequence[str]) -> int:
    """Drop those of some names of a node that are strays; return how many."""
    strays = [
        name for name in names if name.startswith(_OF_SLOTS) and node not in membership.route(slot_of(name[2:])).nodes
    ]
    entries = [name for name in strays if name.startswith((ENTRY, PIECE))]
    if entries:
        heads = await node.heads(entries)
        await node.shed(
            entries,
            [slot_of(name[2:]) for name in entries],
            [head[:VERSION_BYTES] for head in heads],
            [b""] * len(entries),
        )
    for name in strays:
        if not name.startswith((ENTRY, PIECE)):
            await node.only("UNLINK", name)
    return len(strays)
