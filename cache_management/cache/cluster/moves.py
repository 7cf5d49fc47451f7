"""Adds and removes nodes: slots move from list to list, and both lists count until the new one has everything.

    propose  a table in which the slots that change have two lists; every write and read needs a majority of both
    copy     what the old lists hold to the new ones, some slots at a time
    switch   those slots to the new list alone: the next epoch

The table says how far a move is: whoever finds one under way goes on with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Collection
from functools import partial

import msgspec

from cache_management.cache.backends.redis_connection import retrieve
from cache_management.cache.cluster.levelling import Levelled, Levelling, keys_of
from cache_management.cache.cluster.membership import Membership
from cache_management.cache.cluster.node import MARKER, Node, read_marker
from cache_management.cache.cluster.slots import Placement, changed_slots, next_placement
from cache_management.cache.cluster.strays import drop_strays
from cache_management.cache.cluster.syncing import read_in_the_rest
from cache_management.cache.cluster.table import Lists, Table, bits_of, majority
from cache_management.cache.errors import BackendUnavailable, ConfigurationError
from cache_management.cache.events import Listener, NodeEvent

logger = logging.getLogger("cache_management")

_TRIES = 5
_NO_PROMISE = "cluster:none"  # a node that is let go need not keep its own
_PAUSE_SECONDS = 0.2
STEPS = 2  # each reads the names of all that the old nodes hold
_GONE = 100


class Moves:
    """Changes the set of nodes of a replicated cache."""

    def __init__(self, membership: Membership, *, listener: Listener) -> None:
        self._membership = membership
        self._listener = listener
        self.tally = Levelled()
        self._finishing: asyncio.Task[Levelled] | None = None

    async def add(self, address: str) -> None:
        """Let a node take part; its share of the slots begins to move.

        Raises:
            ConfigurationError: It cannot: it is one of the nodes already, holds foreign data, ...
            BackendUnavailable: It does not answer, or no majority of the nodes agrees.
        """
        new_id = secrets.token_hex(8)
        clean = await self._clean_up()

        async def change(table: Table) -> Table:
            if address in table.addresses.values():
                return table
            _refuse_two_moves(table)
            addresses = {**table.addresses, new_id: address}
            return clean.check(table, await _moving(table, addresses, lambda nodes: [*nodes, new_id]), {new_id})

        await self._membership.propose(change)
        self._listener(NodeEvent(node=address, what="added", detail="its slots move to it"))

    async def remove(self, address: str) -> None:
        """Let a node go; its slots begin to move to the others.

        Raises:
            ConfigurationError: Too few nodes would be left.
            BackendUnavailable: No majority of the nodes agrees.
        """
        await self._membership.connect()
        gone = self._id_of(address)
        clean = await self._clean_up(but=gone)

        async def change(table: Table) -> Table:
            if gone not in Placement.decode(table.placement).nodes:
                return table
            _refuse_two_moves(table)
            following = await _moving(table, table.addresses, lambda nodes: [node for node in nodes if node != gone])
            return clean.check(table, following, set())

        await self._membership.propose(change)

    async def _clean_up(self, *, but: str = "") -> _Clean:
        """Drop strays, so that no node gets a slot of which it holds something old."""
        membership = self._membership
        await membership.connect()
        await membership.refresh()
        table = membership.known_table()
        _refuse_two_moves(table)
        clean: set[str] = set()
        for node in membership.nodes():
            if node.id != but and node.state == "member" and node.breaker.state == "closed":
                with contextlib.suppress(BackendUnavailable):
                    await drop_strays(membership, node)
                    clean.add(node.id)
        return _Clean(table.epoch, frozenset(clean))

    def _id_of(self, address: str) -> str:
        for node in self._membership.nodes():
            if node.address == address:
                return node.id
        raise ConfigurationError(f"{address} is not one of the nodes: {_names(self._membership)}")

    async def finish(self) -> Levelled:
        """Move all slots that are to move; return what was copied. May be broken off and called again.

        Those who ask for it in one event loop share the work.

        Raises:
            BackendUnavailable: A node that must be read or written does not answer.
        """
        loop = asyncio.get_running_loop()
        if self._finishing is None or self._finishing.done() or self._finishing.get_loop() is not loop:
            self._finishing = loop.create_task(self._finish())
            self._finishing.add_done_callback(retrieve)
        return await asyncio.shield(self._finishing)

    async def aclose(self) -> None:
        """Break off a move that this event loop is at; whoever looks next goes on with it."""
        task = self._finishing
        if task is not None and task.get_loop() is asyncio.get_running_loop() and not task.done():
            task.cancel()
            await asyncio.wait((task,))

    async def _finish(self) -> Levelled:
        membership = self._membership
        await membership.connect()
        done = Levelled()
        size = failures = 0
        while True:
            await membership.refresh()
            table = membership.known_table()
            slots = table.moving_slots()
            if not slots:
                await self._let_go(table)
                return done
            size = size or -(-len(slots) // STEPS)
            batch = frozenset(slots[:size])
            try:
                done.add(await self._copy(table, batch))
                await membership.propose(partial(_switched, copied=table, slots=batch))
            except BackendUnavailable:
                # A node that comes back, or another process that moves the same slots: what was copied stays copied.
                failures += 1
                if failures >= _TRIES:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS * failures)
                continue
            failures = 0

    async def _copy(self, table: Table, slots: frozenset[int]) -> Levelled:
        membership = self._membership
        lists = Lists(table)
        previous = lists.previous or lists.placement
        sources = {membership.by_id[node_id] for slot in slots for node_id in previous.voters_of(slot)}
        done = Levelled()
        read: set[str] = set()

        def newcomers(slot: int) -> set[Node]:
            return {membership.by_id[node_id] for node_id in lists.placement.voters_of(slot)}

        targets = sorted({node for slot in slots for node in newcomers(slot)}, key=lambda node: node.address)
        levelling = Levelling(membership, targets=lambda route: route.groups[-1][0], all_of_the_new=True)
        for source in sorted(sources, key=lambda node: node.address):
            try:
                async for names in keys_of(source, slots):
                    some = await levelling.level(names, required=(source,))
                    done.add(some)
                    self.tally.add(some)
                for target in targets:
                    of_target = {slot for slot in slots if target in newcomers(slot)}
                    if target is not source and target.state == "member":
                        await read_in_the_rest(membership, target, source, of_target)
            except BackendUnavailable:
                if source.state == "member" and source.breaker.state == "closed":
                    raise
                continue
            read.add(source.id)
        for slot in slots:
            old = previous.voters_of(slot)
            if len(read.intersection(old)) < majority(len(old)):
                raise BackendUnavailable("the replicated cache", "too few nodes answer to move their slots now")
        return done

    async def _let_go(self, table: Table) -> None:
        """Take nodes without slots out of the table, and empty them."""
        stay = set(Placement.decode(table.placement).nodes)
        gone = [self._membership.by_id[node_id] for node_id in table.addresses if node_id not in stay]
        if not gone:
            return
        await self._membership.propose(_pruned)
        for node in gone:
            self._listener(NodeEvent(node=node.address, what="removed", detail="its slots have moved"))
            try:
                held = await node.redis.call("GET", MARKER)
                marker = read_marker(held)
                if marker is not None and (marker.cluster, marker.node) == (table.cluster, node.id):
                    await node.control("empty", [MARKER, _NO_PROMISE], [held])
            except BackendUnavailable:
                logger.warning("%s was removed and does not answer: empty it before it is used again", node.address)


class _Clean(msgspec.Struct, frozen=True):
    """Which nodes hold nothing of slots that are not theirs, in which epoch."""

    epoch: int
    nodes: frozenset[str]

    def check(self, table: Table, following: Table, new: Collection[str]) -> Table:
        """Return the following table if only clean nodes, or new ones, get slots in it.

        Raises:
            BackendUnavailable: Others do, or the table is not the one that was cleaned up for.
        """
        old, placement = Placement.decode(table.placement), Placement.decode(following.placement)
        gainers = {
            node_id
            for slot in changed_slots(old, placement)
            for node_id in set(placement.voters_of(slot)) - set(old.voters_of(slot))
        }
        missing = [table.addresses[node_id] for node_id in sorted(gainers - self.nodes - set(new))]
        if table.epoch != self.epoch or missing:
            where = f": {', '.join(missing)} must answer, as slots move there" if missing else ": try again"
            raise BackendUnavailable("the replicated cache", "its nodes cannot change now" + where)
        return following


async def _moving(table: Table, addresses: dict[str, str], change: Callable[[list[str]], list[str]]) -> Table:
    old = Placement.decode(table.placement)
    # It takes a tenth of a second and more: the event loop has other things to do.
    new = await asyncio.to_thread(next_placement, old, change(list(old.nodes)))
    return msgspec.structs.replace(
        table,
        placement=new.encode(),
        previous=table.placement,
        moving=bits_of(_with_data_to_move(old, new)),
        addresses=addresses,
        gone=tuple(address for address in table.gone if address not in addresses.values()),
    )


def _with_data_to_move(old: Placement, new: Placement) -> list[int]:
    """Return the slots whose voters or keepers are others; another order alone asks for nothing."""
    return [
        slot
        for slot in changed_slots(old, new)
        if set(old.voters_of(slot)) != set(new.voters_of(slot)) or set(old.copies_of(slot)) != set(new.copies_of(slot))
    ]


def _switched(table: Table, *, copied: Table, slots: frozenset[int]) -> Table:
    """Let slots that were copied by a table have their new lists alone, if it is the same move still."""
    if (table.previous, table.placement) != (copied.previous, copied.placement):
        return table
    left = [slot for slot in table.moving_slots() if slot not in slots]
    if len(left) == len(table.moving_slots()):
        return table
    return msgspec.structs.replace(table, moving=bits_of(left), previous=table.previous if left else b"")


def _pruned(table: Table) -> Table:
    stay = set(Placement.decode(table.placement).nodes)
    if table.moving or stay == set(table.addresses):
        return table
    return msgspec.structs.replace(
        table,
        addresses={node_id: address for node_id, address in table.addresses.items() if node_id in stay},
        rejoin={node_id: epoch for node_id, epoch in table.rejoin.items() if node_id in stay},
        gone=(*table.gone, *(table.addresses[node_id] for node_id in table.addresses if node_id not in stay))[-_GONE:],
    )


def _refuse_two_moves(table: Table) -> None:
    if table.moving:
        raise MoveUnderWay("the replicated cache", "slots are still moving: the next change waits for them")


class MoveUnderWay(BackendUnavailable):
    """A change of nodes must wait until the one before it is done."""


def _names(membership: Membership) -> str:
    return ", ".join(node.address for node in membership.nodes())
