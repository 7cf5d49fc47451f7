"""The slot table: which nodes there are, and which of them keep and vote for each slot; one epoch after the other.

Pure. While slots move, both lists of theirs count: a write must be kept by a majority of the old list and of the
new one, and so must what a read finds.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cache_management.cache.cluster.slots import SLOTS, Placement
from cache_management.cache.errors import CorruptRecord


class Table(msgspec.Struct, frozen=True):
    """One epoch of the cluster.

    `addresses` has every node by its id, as whoever added it reaches it. `moving` has one bit for each slot that
    still has two lists: `previous` and `placement`. `rejoin` names nodes that were given up while they were away,
    with the epoch since which their old markers count no more. `gone` has addresses of nodes that were removed: a
    client that still names one must not take it for a node that came since.
    """

    cluster: str
    epoch: int
    copies: int
    placement: bytes
    addresses: dict[str, str]
    previous: bytes = b""
    moving: bytes = b""
    rejoin: dict[str, int] = {}
    gone: tuple[str, ...] = ()

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    def is_moving(self, slot: int) -> bool:
        return bool(self.moving) and bool(self.moving[slot >> 3] & (1 << (slot & 7)))

    def moving_slots(self) -> list[int]:
        return [slot for slot in range(SLOTS) if self.is_moving(slot)] if self.moving else []

    def electors(self) -> frozenset[str]:
        """Return the ids of the nodes that agree on the next table."""
        return frozenset(self.addresses)


def read_table(stored: bytes) -> Table:
    """Read what `Table.encode` wrote.

    Raises:
        CorruptRecord: It is something else.
    """
    try:
        table = msgspec.msgpack.decode(stored, type=Table)
    except msgspec.MsgspecError as exc:
        raise CorruptRecord(f"a slot table cannot be read: {exc}") from exc
    Placement.decode(table.placement)
    if table.moving:
        Placement.decode(table.previous)
        if len(table.moving) != SLOTS // 8:
            raise CorruptRecord("a slot table does not say which of its slots move")
    return table


def bits_of(slots: Iterable[int]) -> bytes:
    """Return slots as one bit each; empty for none."""
    bits = bytearray(SLOTS // 8)
    for slot in slots:
        bits[slot >> 3] |= 1 << (slot & 7)
    return bytes(bits) if any(bits) else b""


def majority(count: int) -> int:
    return count // 2 + 1


class Lists:
    """The voters of each slot by one table, decoded."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.placement = Placement.decode(table.placement)
        self.previous = Placement.decode(table.previous) if table.moving else None

    def voters(self, slot: int) -> tuple[tuple[str, ...], ...]:
        """Return the lists of a slot that must agree: one, or two while it moves."""
        new = self.placement.voters_of(slot)
        if self.previous is None or not self.table.is_moving(slot):
            return (new,)
        old = self.previous.voters_of(slot)
        return (old, new) if old != new else (new,)
