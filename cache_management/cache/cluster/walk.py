"""Lists what a replicated cache holds: node after node, each key once as a rule.

A key is shown when its newest version, by a majority of its voters, is there to be served. Nodes that hold it do not
show it when one that was read before surely held it then, and leave what is new to the last of them. It is shown
twice when that one goes away before its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cache_management.cache.backends.redis_connection import Command
from cache_management.cache.cluster.bookmarks import Bookmark
from cache_management.cache.cluster.coordination import TAG
from cache_management.cache.cluster.envelope import (
    NOTHING,
    VERSION_BYTES,
    Head,
    moment_of,
    names_in,
    number_in,
    read_head,
)
from cache_management.cache.cluster.membership import Membership
from cache_management.cache.cluster.node import CAME_IN, Node
from cache_management.cache.cluster.slots import slot_of
from cache_management.cache.cluster.voters import heads_on_voters
from cache_management.cache.errors import BackendUnavailable, QuorumNotReached
from cache_management.cache.patterns import escape_glob

_LOOKS_FOR_A_PAGE = 50
_STRAGGLERS_MS = 10_000  # a write may reach its last voter so much later


class Walk:
    """Walks through the entries and the tags of a replicated cache."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    async def page(self, kind: str, prefix: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        """Return some keys of a kind with a prefix that are there to be served, and the bookmark behind them."""
        heads, after = await self.heads_page(kind, prefix, bookmark, limit)
        now_ms = self._membership.now() * 1000
        return [key for key, head in heads.items() if head.is_live(now_ms)], after

    async def heads_page(self, kind: str, prefix: str, bookmark: str, limit: int) -> tuple[dict[str, Head], str | None]:
        """Return the newest heads of some keys, of tombstones and stubs too, and the bookmark behind them."""
        membership = self._membership
        await membership.connect()
        place = Bookmark.read_text(bookmark, now_ms=membership.now_ms())
        place = place.in_epoch(membership.known_table().epoch)
        node = place.at(membership.nodes())
        if node is None:
            self._refuse_holes(place)
            return {}, None
        try:
            cursor, names = await self._names(node, kind + prefix, place.cursor_at(node), limit, of_type="string")
            heads, counted_on = await self._newest(names, place, node)
            after = place.counting_on(counted_on, epoch=membership.known_table().epoch).behind(node, cursor)
        except BackendUnavailable:
            self._refuse_holes(place.skipped(node))
            return {}, place.skipped(node).text()
        return {name[len(kind) :]: head for name, head in heads.items()}, self._text(after)

    async def _names(self, node: Node, prefix: str, cursor: int, limit: int, *, of_type: str) -> tuple[int, list[str]]:
        names: dict[str, None] = {}
        match = escape_glob(prefix) + "*"
        if not node.may_be_asked():
            await self._membership.refresh()
            if not node.may_be_asked():
                raise BackendUnavailable(node.address, "it does not count now")
        for _ in range(_LOOKS_FOR_A_PAGE):
            command: Command = ("SCAN", cursor, "MATCH", match, "COUNT", limit, "TYPE", of_type)
            ((after, found),) = await node.marked(command)
            cursor = int(after)
            names.update(dict.fromkeys(names_in(found)))
            if cursor == 0 or 2 * len(names) >= limit:
                break
        return cursor, list(names)

    async def _newest(self, names: Sequence[str], place: Bookmark, node: Node) -> tuple[dict[str, Head], set[Node]]:
        """Return the newest heads by name, and the later nodes that any are left for to show.

        Those that an earlier node of the walk has shown are left out, too.
        """
        if not names:
            return {}, set()
        membership = self._membership
        routes = {name: membership.route(slot_of(name[2:])) for name in names}
        held = await heads_on_voters(routes, Node.may_be_asked)
        showed = await self._unchanged(place)
        later = [
            each for each in membership.nodes() if each is not node and each.id not in (*place.read, *place.missed)
        ]
        counted_on: set[Node] = set()
        newest: dict[str, Head] = {}
        for name, heads_by_node in held.items():
            if not routes[name].agree(heads_by_node):
                raise QuorumNotReached("too few of its nodes answered for a walk", indeterminate=False)
            head = max(heads_by_node.values(), key=lambda head: head[:VERSION_BYTES])
            if head == NOTHING:
                continue
            is_older = moment_of(head[:VERSION_BYTES]) < place.began_ms - _STRAGGLERS_MS
            if is_older and any(heads_by_node.get(each) for each in showed):
                continue
            # Whether an earlier node had this when it was read cannot be told; that a later one has it now can.
            # Only of a keeper: another voter drops its copy as soon as the keepers have theirs.
            holders = [each for each in later if each in routes[name].keepers and heads_by_node.get(each)]
            if holders and not is_older:
                counted_on.add(holders[-1])
                continue
            newest[name] = read_head(head)
        return newest, counted_on

    async def _unchanged(self, place: Bookmark) -> list[Node]:
        """Return the nodes that were read before and into which no copy came since the walk began."""
        nodes = [node for node in self._membership.nodes() if node.id in place.read and node.may_be_asked()]
        found = await asyncio.gather(*(node.marked(("GET", CAME_IN)) for node in nodes), return_exceptions=True)
        unchanged = []
        for node, each in zip(nodes, found, strict=True):
            if not isinstance(each, BaseException) and 1000 * number_in(each[0]) < place.began_ms - _STRAGGLERS_MS:
                unchanged.append(node)
        return unchanged

    def _text(self, place: Bookmark) -> str | None:
        place = place.in_epoch(self._membership.known_table().epoch)
        if place.at(self._membership.nodes()) is not None:
            return place.text()
        self._refuse_holes(place)
        return None

    def _refuse_holes(self, place: Bookmark) -> None:
        """Raise when so many nodes were passed over that keys may be missing."""
        membership = self._membership
        voters = membership.replication.voters
        if len(place.missed) > voters - membership.replication.quorum:
            raise QuorumNotReached("too many of its nodes did not answer for a walk", indeterminate=False)

    async def tags_page(self, prefix: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        """Return some tags with a prefix; one may come from each of its voters."""
        membership = self._membership
        await membership.connect()
        place = Bookmark.read_text(bookmark)
        node = place.at(membership.nodes())
        if node is None:
            return [], None
        try:
            cursor, names = await self._names(node, TAG + prefix, place.cursor_at(node), limit, of_type="zset")
        except BackendUnavailable:
            self._refuse_holes(place.skipped(node))
            return [], place.skipped(node).text()
        return [name[len(TAG) :] for name in names], self._text(place.behind(node, cursor))
