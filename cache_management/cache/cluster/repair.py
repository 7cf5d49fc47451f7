"""Finds copies that differ and brings them to the same version; forgets tombstones that everybody has seen.

Each node keeps a sum over (key, version) for every slot. Keepers whose sums agree hold the same; the others' keys are
compared one by one. Sums that differ though the copies do not are counted anew (see recount.py). Tombstones and stubs
go when they are older than `max_outage_seconds` and every voter has been compared; a node that was away for longer is
given up first, and comes back empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable

import msgspec

from cache_management.cache.cluster.bookmarks import Bookmark, Counting
from cache_management.cache.cluster.envelope import NOTHING, names_in, number_in
from cache_management.cache.cluster.levelling import ENTRY, PIECE, Levelled, Levelling
from cache_management.cache.cluster.membership import Membership
from cache_management.cache.cluster.node import COLLECTED, DIGESTS, PASSES, Node
from cache_management.cache.cluster.recount import Recount
from cache_management.cache.cluster.slots import SLOTS, slot_of
from cache_management.cache.cluster.strays import drop_strays_among
from cache_management.cache.cluster.table import Table
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.events import Listener, NodeEvent

_LOOKS = 3
_BETWEEN_LOOKS_SECONDS = 0.2

Sleep = Callable[[float], Awaitable[object]]


class Differences(msgspec.Struct, frozen=True):
    """Which slots differ among their keepers, and which nodes could not be compared."""

    slots: frozenset[int]
    nodes_away: tuple[str, ...]


class Repair:
    """One pass over a replicated cache, page by page: each step may be done again.

    Args:
        full: Look at every key, not only at those of slots that differ: drops values past their time and old
            tombstones, too.
    """

    def __init__(self, membership: Membership, *, listener: Listener, full: bool = True) -> None:
        self._membership = membership
        self._listener = listener
        self._full = full
        self._differing: frozenset[int] | None = None
        self._recount: Recount | None = None

    async def differences(self) -> Differences:
        """Compare the nodes slot by slot, by their sums."""
        membership = self._membership
        await membership.connect()
        await membership.refresh()
        nodes = membership.nodes()
        found = await asyncio.gather(*(self._sums(node) for node in nodes), return_exceptions=True)
        sums: dict[Node, dict[int, int]] = {}
        for node, each in zip(nodes, found, strict=True):
            if isinstance(each, dict):
                sums[node] = each
            elif not isinstance(each, BackendUnavailable):
                raise each
        slots = {slot for held in sums.values() for slot, total in held.items() if total}
        differing = set()
        for slot in slots:
            route = membership.route(slot)
            totals = {sums[node].get(slot, 0) for node in route.keepers if node in sums}
            if len(totals) > 1:
                differing.add(slot)
        return Differences(frozenset(differing), tuple(node.address for node in nodes if node not in sums))

    async def _sums(self, node: Node) -> dict[int, int]:
        (held,) = await node.noted(("HGETALL", DIGESTS))
        held = held or []
        pairs = held.items() if isinstance(held, dict) else zip(held[::2], held[1::2], strict=True)
        return {int(slot): number_in(total) for slot, total in pairs if slot.isdigit() and int(slot) < SLOTS}

    async def run(self) -> Levelled:
        """Make a whole pass."""
        done = Levelled()
        bookmark: str | None = ""
        while bookmark is not None:
            some, bookmark = await self.step(bookmark)
            done.add(some)
        return done

    async def step(self, bookmark: str, *, limit: int = 500) -> tuple[Levelled, str | None]:
        """Do a bounded part of a pass; return what was done and the bookmark behind it, None at the end."""
        membership = self._membership
        await membership.connect()
        place = Bookmark.read_text(bookmark, now_ms=membership.now_ms())
        clear_before_ms = place.began_ms - int(1000 * membership.replication.max_outage_seconds)
        if not bookmark:
            await self._begin(clear_before_ms)
        node = place.at(membership.nodes())
        if node is None:
            return Levelled(), await self._count(place, limit)
        if node.state != "member" or node.breaker.state == "open":
            await membership.refresh()
        try:
            if node.state != "member" or node.breaker.state == "open":
                raise BackendUnavailable(node.address, "it does not count, or does not answer")
            if self._differing is None:
                self._differing = (await self.differences()).slots
            differing = self._differing
            if not self._full and not differing:
                return Levelled(), place.behind(node, 0).text()
            command = ("SCAN", place.cursor_at(node), "COUNT", limit, "TYPE", "string")
            ((after, raws),) = await node.marked(command)
        except BackendUnavailable:
            return Levelled(), place.skipped(node).text()
        names = [name for name in names_in(raws) if name.startswith((ENTRY, PIECE))]
        done = await self._page(node, names, differing, clear_before_ms)
        return done, place.behind(node, int(after)).text()

    async def _page(self, node: Node, names: list[str], differing: frozenset[int], clear_before_ms: int) -> Levelled:
        membership = self._membership
        levelling = Levelling(
            membership,
            targets=lambda route: route.keepers,
            clear_before_ms=clear_before_ms if self._full else 0,
            tidy=self._full,
        )
        chosen, strays = [], []
        by_first: dict[Node, list[str]] = {}
        for name in names:
            slot = slot_of(name[2:])
            route = membership.route(slot)
            if node not in route.nodes:
                strays.append(name)
            first = next((each for each in route.nodes if each.state == "member"), node)
            if slot in differing or node not in route.keepers or (self._full and node is first):
                chosen.append(name)
            elif self._full:
                by_first.setdefault(first, []).append(name)
        # Where the sums agree the first keeper is looked at for all, but for what it lost without its sums.
        for first, those in by_first.items():
            try:
                heads = await first.heads(those)
            except BackendUnavailable:
                heads = [NOTHING] * len(those)
            chosen += [name for name, head in zip(those, heads, strict=True) if not head]
        done = Levelled()
        if chosen:
            done.add(await levelling.level(chosen))
        if strays and self._full:
            done.cleared += await drop_strays_among(membership, node, strays)
        return done

    # What a pass tells the nodes.

    async def _begin(self, clear_before_ms: int) -> None:
        membership = self._membership
        await membership.refresh()
        if not self._full:
            return
        members, away = [], []
        for node in membership.nodes():
            if node.breaker.state == "open":
                away.append(node)
                continue
            try:
                await node.only("SET", COLLECTED, clear_before_ms)
            except BackendUnavailable:
                away.append(node)
            else:
                members.append(node)
        away = [node for node in away if not membership.is_given_up(node)]
        wanted = membership.replication
        # Whoever is given up comes back empty: a majority must be left that knows.
        if away and len(away) <= wanted.voters - wanted.quorum:
            await self._give_up(away, members)

    async def _give_up(self, away: list[Node], members: list[Node]) -> None:
        """Let go of nodes that were in no pass for `max_outage_seconds`: else nobody could forget anything."""
        now_ms = self._membership.now_ms()
        for node in away:
            last = 0
            for member in members:
                (at,) = await member.noted(("HGET", PASSES, node.id))
                last = max(last, number_in(at))
            if not last:
                for member in members:
                    await member.only("HSETNX", PASSES, node.id, now_ms)
            elif now_ms - last > 1000 * self._membership.replication.max_outage_seconds:
                await self._membership.propose(lambda table, node_id=node.id: _without(table, node_id))  # type: ignore[misc]
                self._listener(NodeEvent(node=node.address, what="given_up", detail="it was away too long"))

    async def _end(self, place: Bookmark) -> None:
        if not self._full:
            return
        membership = self._membership
        read = [node for node in membership.nodes() if node.state == "member" and node.id in place.read]
        words = [word for node in read for word in (node.id, place.began_ms)]
        for node in read:
            with contextlib.suppress(BackendUnavailable):
                await node.only("HSET", PASSES, *words)

    # Sums that are wrong.

    async def _count(self, place: Bookmark, limit: int) -> str | None:
        """Count a page of what differs by its sums alone, now that the copies are level; None at the end."""
        membership = self._membership
        if place.counting is None:
            await self._end(place)
            differing = (await lasting_differences(self)).slots if self._differing != frozenset() or self._full else ()
            keepers = {node.id for slot in differing for node in membership.route(slot).keepers}
            counting = Counting(secrets.token_hex(8), tuple(sorted(keepers)))
        else:
            counting = place.counting
        if not counting.left:
            return None
        node = membership.by_id.get(counting.left[0])
        cursor = 0
        if node is not None and node.state == "member":
            with contextlib.suppress(BackendUnavailable):
                cursor = await self._count_on(node, counting, limit)
        return msgspec.structs.replace(place, counting=counting.behind(cursor)).text()

    async def _count_on(self, node: Node, counting: Counting, limit: int) -> int:
        if self._recount is None or self._recount.node is not node:
            self._recount = Recount(node, who=counting.who)
        if not counting.cursor:
            slots = (await self.differences()).slots
            await self._recount.begin([slot for slot in slots if node in self._membership.route(slot).keepers])
        return await self._recount.step(counting.cursor, limit=limit)


def _without(table: Table, node_id: str) -> Table:
    return msgspec.structs.replace(table, rejoin={**table.rejoin, node_id: table.epoch + 1})


async def lasting_differences(repair: Repair, *, sleep: Sleep = asyncio.sleep) -> Differences:
    """Compare the nodes, and once more what differs: what is just being written differs for a moment."""
    found = await repair.differences()
    for _ in range(_LOOKS - 1):
        if not found.slots:
            break
        await sleep(_BETWEEN_LOOKS_SECONDS)
        again = await repair.differences()
        found = Differences(found.slots & again.slots, again.nodes_away)
    return found
