"""Brings a node up to date that lost what it held, or missed too much: then it counts again.

    its marker is lost, or names another process   ->  syncing: it takes writes and counts for nothing
    everything its slots' other voters hold is on it ->  member

What it acknowledged before it forgot stands on at least one other voter, so that all of them must be read. While one
of them does not answer, nothing is certain: the node waits (see `ReplicationConfig.on_majority_loss`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from cache_management.cache.backends.redis_connection import Refusal
from cache_management.cache.cluster.coordination import LEASE, TAG
from cache_management.cache.cluster.envelope import NOTHING, is_version, names_in, number_in
from cache_management.cache.cluster.inspection import look_at
from cache_management.cache.cluster.journal import STREAM, note_in
from cache_management.cache.cluster.levelling import Levelled, Levelling, keys_of
from cache_management.cache.cluster.membership import Membership
from cache_management.cache.cluster.node import COLLECTED, FLOOR, MARKER, PASSES, PROMISE, Marker, Node
from cache_management.cache.cluster.slots import SLOTS, slot_of
from cache_management.cache.cluster.table import Table
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.events import Listener, NodeChange, NodeEvent

logger = logging.getLogger("cache_management")

_TYPES = {TAG: b"zset", STREAM: b"stream", LEASE: b"string"}
_TOKEN_LIFE_MS = 7 * 24 * 3600 * 1000


class Syncing:
    """Reads nodes in that do not count."""

    def __init__(self, membership: Membership, *, listener: Listener) -> None:
        self._membership = membership
        self._listener = listener
        self._waiting_since: dict[str, float] = {}
        self.tally = Levelled()

    async def bring_up(self, node: Node, *, accept_loss: bool = False) -> bool:
        """Bring a node up to date; return whether it counts now.

        Args:
            accept_loss: Go on without what other nodes hold that do not count either.

        Raises:
            BackendUnavailable: A node did not answer; what was done is not lost, and may be gone on with.
        """
        membership = self._membership
        table = membership.table
        if table is None or not membership.is_confirmed:
            return False
        seen = await look_at(node)
        marker = seen.marker
        if marker is not None and membership.is_own(node, marker) and marker.epoch == table.epoch:
            if marker.state == "member":
                node.admit(marker)
                return True
        elif marker is not None and marker.cluster == table.cluster and marker.epoch > table.epoch:
            await membership.refresh()
            return False
        slots = self._slots_of(node)
        peers = self._peers_of(slots, node)
        away = [peer for peer in peers if peer.state != "member" or peer.breaker.state == "open"]
        if not away:
            self._waiting_since.pop(node.id, None)  # whoever is silent next is waited for anew
        elif not accept_loss and not await self._may_go_without(node, away):
            return False
        present = [peer for peer in peers if peer not in away]
        mark = Marker(table.cluster, node.id, node.run_id or "", table.epoch, "syncing")
        held = seen.marker_text
        if await self._is_out_of_date(node, present, is_known=self._is_still_good(node, marker)):
            # Only what it was when it was looked at: another client may have brought it up meanwhile.
            if not await node.control("empty", [MARKER, PROMISE], [held]):
                return False
            held = NOTHING
        if not await membership.remark(node, held, mark):
            return False
        node.admit(mark)
        membership.is_out(node, "it is behind")
        self._tell(node, "syncing", f"{len(present)} nodes to read")
        done = await self._read_in(node, slots, present)
        if membership.table is None or membership.table.epoch != table.epoch:
            return False
        if node.id in table.rejoin:
            await self._take_back(node, present)
            return await self.bring_up(node, accept_loss=accept_loss)
        member = msgspec.structs.replace(mark, state="member")
        if not await membership.remark(node, mark.text(), member):
            return False
        if away:
            names = ", ".join(peer.address for peer in away)
            self._tell(node, "data_loss_possible", f"it counts again without having read {names}")
            logger.warning("%s counts again, and what only %s held may be lost", node.address, names)
        self._waiting_since.pop(node.id, None)
        node.admit(member)
        membership.counts(node, f"{done.copied} copies were brought to it")
        return True

    def _slots_of(self, node: Node) -> set[int]:
        return {slot for slot in range(SLOTS) if node in self._membership.route(slot).nodes}

    def _peers_of(self, slots: Collection[int], node: Node) -> list[Node]:
        peers = {peer for slot in slots for peer in self._membership.route(slot).nodes}
        return sorted(peers - {node}, key=lambda peer: peer.address)

    async def _may_go_without(self, node: Node, away: list[Node]) -> bool:
        """Tell whether to go on although some of what the node acknowledged may stand only where nobody can read."""
        if self._membership.replication.on_majority_loss == "wait":
            return False
        lost = 0
        for peer in away:
            try:
                seen = await look_at(peer)
            except BackendUnavailable:
                continue
            # It answers and has forgotten, too: nobody will ever know what the two held.
            lost += (
                seen.marker is None or not self._membership.is_own(peer, seen.marker) or seen.marker.state == "syncing"
            )
        if lost == len(away):
            return True
        since = self._waiting_since.setdefault(node.id, time.monotonic())
        return time.monotonic() - since >= self._membership.grace_seconds

    def _is_still_good(self, node: Node, marker: Marker | None) -> bool:
        table = self._membership.table
        return (
            table is not None
            and marker is not None
            and marker.cluster == table.cluster
            and marker.node == node.id
            and table.rejoin.get(node.id, 0) <= marker.epoch
        )

    async def _is_out_of_date(self, node: Node, peers: list[Node], *, is_known: bool) -> bool:
        """Tell whether a node holds what others have forgotten since: it would come back."""
        if not is_known:
            return True
        collected = 0
        for peer in peers:
            (at,) = await peer.noted(("GET", COLLECTED))
            collected = max(collected, number_in(at))
        last, own, floor = await node.redis.replies_to([("HGET", PASSES, node.id), ("GET", COLLECTED), ("GET", FLOOR)])
        if any(type(reply) is Refusal for reply in (last, own, floor)):
            return True  # damaged
        return number_in(last) < collected

    async def _read_in(self, node: Node, slots: Collection[int], peers: list[Node]) -> Levelled:
        done = Levelled()
        levelling = Levelling(self._membership, targets=lambda route: (node,))
        for peer in peers:
            async for names in keys_of(peer, slots):
                # The node itself, too: it would count without what it could not be asked for.
                some = await levelling.level(names, required=(peer, node))
                done.add(some)
                self.tally.add(some)
            await read_in_the_rest(self._membership, node, peer, slots)
            floor, promise, collected = await peer.noted(("GET", FLOOR), ("GET", PROMISE), ("GET", COLLECTED))
            await _raise_to(node, FLOOR, floor, is_version)
            await _raise_to(node, PROMISE, promise, is_version)
            await _raise_to(node, COLLECTED, collected, bytes.isdigit)
        await node.only("HSET", PASSES, node.id, self._membership.now_ms())
        return done

    async def _take_back(self, node: Node, peers: list[Node]) -> None:
        """Let a node that was given up be given up once more only after another such outage.

        Else it would be taken for given up whenever it is away, and counted on with all it holds when it is back.
        """
        for peer in peers:
            await peer.only("HSET", PASSES, node.id, self._membership.now_ms())
        await self._membership.propose(lambda table: _with(table, node.id))

    def _tell(self, node: Node, what: NodeChange, detail: str) -> None:
        self._listener(NodeEvent(node=node.address, what=what, detail=detail))


def _with(table: Table, node_id: str) -> Table:
    if node_id not in table.rejoin:
        return table
    return msgspec.structs.replace(table, rejoin={each: at for each, at in table.rejoin.items() if each != node_id})


async def read_in_the_rest(membership: Membership, node: Node, peer: Node, slots: Collection[int]) -> None:
    """Bring tags, leases and notes of some slots from one node to another."""
    cursor = 0
    while True:
        ((after, found),) = await peer.marked(("SCAN", cursor, "MATCH", "[tlj]:*", "COUNT", 1000))
        for name in names_in(found):
            if slot_of(name[2:].removesuffix(":token") if name.startswith(LEASE) else name[2:]) not in slots:
                continue
            # A type that it never has was not written by this program.
            (kind,) = await peer.marked(("TYPE", name))
            if kind != _TYPES[name[:2]]:
                continue
            if name.startswith(TAG):
                (words,) = await peer.marked(("ZRANGE", name, 0, -1, "WITHSCORES"))
                pairs = [word for key, score in _pairs(words) for word in (score, key)]
                if pairs:
                    await node.run("tag", [name], ["add", membership.now_ms(), *pairs])
            elif name.startswith(STREAM):
                await _read_in_notes(node, peer, name)
            elif name.startswith(LEASE) and not name.endswith(":token"):
                owner, ms, token = await peer.noted(("GET", name), ("PTTL", name), ("GET", f"{name}:token"))
                if owner and ms > 0:
                    words = ["copy", owner, ms, token or b"", _TOKEN_LIFE_MS]
                    await node.run("lease", [FLOOR, name, f"{name}:token"], words)
            elif name.startswith(LEASE):
                (token,) = await peer.noted(("GET", name))
                lease = name.removesuffix(":token")
                await node.run("lease", [FLOOR, lease, name], ["copy", b"", 0, token or b"", _TOKEN_LIFE_MS])
        cursor = int(after)
        if cursor == 0:
            return


def _pairs(words: list[Any]) -> list[tuple[bytes, str]]:
    """Return the members of a sorted set with their scores, as `ZADD` takes them."""
    # RESP3 answers with pairs, older servers with one list.
    pairs = words if words and isinstance(words[0], list) else zip(words[::2], words[1::2], strict=True)
    return [(key, "inf" if float(score) == math.inf else f"{float(score):.0f}") for key, score in pairs]


async def _read_in_notes(node: Node, peer: Node, name: str) -> None:
    (theirs,) = await peer.noted(("XRANGE", name, "-", "+"))
    rows = await node.redis.replies_to([("XRANGE", name, "-", "+")])
    own = {found[0] for row in ([] if type(rows[0]) is Refusal else rows[0]) if (found := note_in(row))}
    words: list[bytes] = []
    for note_id, note in sorted(found for row in theirs or () if (found := note_in(row))):
        if note_id not in own:
            words += [note_id, note]
    for start in range(0, len(words), 1000):
        await node.run("note", [name], [100_000, _TOKEN_LIFE_MS, *words[start : start + 1000]])


async def _raise_to(node: Node, key: str, least: bytes | None, is_readable: Callable[[bytes], bool]) -> None:
    held = await node.redis.call("GET", key)
    # Damaged text may be larger than all that is ever written.
    if held and not is_readable(held):
        held = None
    if least and is_readable(least) and (held or b"") < least:
        await node.only("SET", key, least)
