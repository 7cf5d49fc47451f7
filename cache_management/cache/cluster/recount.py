"""Counts the sums of slots anew that differ after a repair.

A node adds to the sum of a slot what it stores, and cannot see what other hands do: a key that was dropped by the
server, by a person or by a damage keeps its part in the sum, and has it twice when it is brought back. The keys of such
a slot are counted page by page; the sum is taken over if nothing was written to the slot since. What a scan shows twice
makes a wrong sum, which is found by the next repair.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cache_management.cache.backends.redis_connection import Argument
from cache_management.cache.cluster.envelope import names_in
from cache_management.cache.cluster.levelling import ENTRY, PIECE
from cache_management.cache.cluster.node import DIGESTS, RECOUNT, Node
from cache_management.cache.cluster.slots import slot_of


class Recount:
    """One node's count. The sums so far are kept on the node, so that another process can go on.

    Args:
        who: The same in every process that takes part.
    """

    def __init__(self, node: Node, *, who: str) -> None:
        self.node = node
        self._who = who
        self._slots: Collection[int] | None = None

    async def begin(self, slots: Collection[int]) -> None:
        self._slots = slots
        await self._run("begin", (), sorted(slots))

    async def step(self, cursor: int, *, limit: int) -> int:
        """Count a page of keys; return the next cursor, 0 when the sums are taken over, or somebody else began."""
        ((after, found),) = await self.node.marked(("SCAN", cursor, "COUNT", limit, "TYPE", "string"))
        if self._slots is None:
            (begun,) = await self.node.noted(("HKEYS", RECOUNT))
            self._slots = {int(slot) for slot in begun or () if slot.isdigit()}
        names = [
            name for name in names_in(found) if name.startswith((ENTRY, PIECE)) and slot_of(name[2:]) in self._slots
        ]
        if names and await self._run("add", names, [slot_of(name[2:]) for name in names]) < 0:
            return 0
        if int(after) == 0:
            await self._run("end", (), ())
        return int(after)

    async def _run(self, what: str, names: Sequence[str], slots: Sequence[int]) -> int:
        args: list[Argument] = [self._who, what, *slots]
        return int(await self.node.run("recount", [DIGESTS, RECOUNT, *names], args))
