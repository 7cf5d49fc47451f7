"""Which nodes there are and which count, agreed among the clients through the nodes themselves.

The slot table is a value that a majority of the nodes must accept, see agreement.py. A node's marker moves on to the
new epoch in the step in which it accepts the table, so that a client with an older one is turned away from then on.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import cached_property

import msgspec

from cache_management.cache.backends.guarded import Breaker
from cache_management.cache.backends.redis_connection import retrieve
from cache_management.cache.clock import Clock
from cache_management.cache.cluster.agreement import acceptances, promises
from cache_management.cache.cluster.envelope import Versions
from cache_management.cache.cluster.inspection import (
    Seen,
    listed,
    look_at,
    refuse_twins,
    refuse_used,
    several_clusters,
    version_of_table,
)
from cache_management.cache.cluster.node import MARKER, TABLE, Marker, Node
from cache_management.cache.cluster.slots import Placement, first_placement
from cache_management.cache.cluster.table import Lists, Table, majority
from cache_management.cache.config import CacheConfig, ReplicationConfig, ShardingStrategy
from cache_management.cache.errors import BackendRefused, BackendUnavailable, ConfigurationError
from cache_management.cache.events import Listener, NodeChange, NodeEvent

logger = logging.getLogger("cache_management")

Change = Callable[[Table], Table | Awaitable[Table]]

_PROPOSALS = 8
_PROPOSALS_IN_SILENCE = 2
GRACE_SECONDS = 60.0
"""How long is waited for nodes that do not answer, before others that forgot go on without them."""

WRITE_LIFE_MS = 60_000
"""How long a write may be under way, and how far the clocks of nodes may be apart."""


class Route(msgspec.Struct, frozen=True):
    """Who keeps and votes for a slot.

    `nodes` are all of them, first the one to read from; `groups` the lists that must each agree, with how many of
    them; `keepers` those that hold values as a rule (the others vote, and hold them when a keeper is away). `needed`
    is how many make a majority where there is one list, else 0.
    """

    nodes: tuple[Node, ...]
    groups: tuple[tuple[frozenset[Node], int], ...]
    keepers: frozenset[Node]
    needed: int

    def agree(self, nodes: Iterable[Node]) -> bool:
        """Tell whether these nodes are enough of every list."""
        given = set(nodes)
        return all(len(voters & given) >= needed for voters, needed in self.groups)


class Membership:
    """The nodes of a replicated cache, as one client knows them.

    Nothing is connected until `connect`, which every operation awaits.

    Args:
        nodes_clock: Stands in for the time of the nodes.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        strategy: ShardingStrategy,
        replication: ReplicationConfig,
        *,
        config: CacheConfig,
        clock: Clock,
        listener: Listener,
        nodes_clock: Clock | None = None,
    ) -> None:
        self._nodes_clock = nodes_clock
        self.replication = replication
        self.timeout_seconds = config.timeout_seconds
        self._clock = clock
        self._listener = listener
        self._config = config
        self.configured = {address: self._node(address) for address in sorted(addresses)}
        self.by_id: dict[str, Node] = {}
        self.versions = Versions(self.now)
        self._strategy = strategy
        self.table: Table | None = None
        self.version = b""
        self.is_confirmed = False
        self.woken: Callable[[], None] = lambda: None
        self.reopened: Callable[[Node], None] = lambda _: None
        self._lists: Lists | None = None
        self._routes: dict[int, Route] = {}
        self._offset: float | None = None
        self.grace_seconds = GRACE_SECONDS
        self._unconfirmed_since: float | None = None
        self._out: set[Node] = set()
        self._breaker = Breaker()
        self._refreshing: asyncio.Task[None] | None = None
        self._lock: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    def _node(self, address: str) -> Node:
        return Node(address, self._config, on_change=self._changed)

    @cached_property
    def first(self) -> Placement:
        """The first table of these nodes, by their addresses."""
        wanted = self.replication
        return first_placement(
            list(self.configured), voters=wanted.voters, copies=wanted.copies, strategy=self._strategy
        )

    # What the client knows without asking.

    def now(self) -> float:
        """Return Unix seconds as the nodes tell the time: the same for every client, whatever its own clock says."""
        if self._nodes_clock is not None:
            return self._nodes_clock()
        return self._clock() if self._offset is None else time.monotonic() + self._offset

    def now_ms(self) -> int:
        return int(self.now() * 1000)

    def writes_until(self) -> int:
        """Return the moment, in ms, after which a write that is sent now comes too late."""
        return self.now_ms() + WRITE_LIFE_MS

    def copies_until(self) -> int:
        """Return the moment, in ms, until which what was just read may be copied to another node."""
        return self.now_ms() + min(WRITE_LIFE_MS, int(250 * self.replication.max_outage_seconds))

    def route(self, slot: int) -> Route:
        """Return who votes for a slot.

        Raises:
            BackendUnavailable: There is no table yet.
        """
        found = self._routes.get(slot)
        return found if found is not None else self._make_route(slot)

    def _make_route(self, slot: int) -> Route:
        table = self.known_table()
        lists = (self._lists or Lists(table)).voters(slot)
        ids = dict.fromkeys(node_id for voters in lists for node_id in voters)
        groups = tuple(
            (frozenset(self.by_id[node_id] for node_id in voters), majority(len(voters))) for voters in lists
        )
        keepers = frozenset(self.by_id[node_id] for voters in lists for node_id in voters[: table.copies])
        nodes = tuple(self.by_id[node_id] for node_id in ids)
        route = Route(nodes, groups, keepers, groups[0][1] if len(groups) == 1 else 0)
        self._routes[slot] = route
        return route

    def nodes(self) -> list[Node]:
        """Return the nodes of the table, or before there is one those that were configured."""
        if self.table is None:
            return list(self.configured.values())
        return [
            self.by_id[node_id]
            for node_id in sorted(self.table.addresses, key=lambda node_id: self.by_id[node_id].address)
        ]

    def leavers(self) -> list[Node]:
        """Return the nodes of the table that have no slots and no part in a move any more."""
        if self.table is None or self._lists is None or self.table.moving:
            return []
        stay = set(self._lists.placement.nodes)
        return [node for node_id, node in self.by_id.items() if node_id not in stay]

    def known(self) -> list[Node]:
        """Return every node that this client ever heard of."""
        return list({*self.configured.values(), *self.by_id.values()})

    def _changed(self, node: Node) -> None:
        self.woken()

    def is_out(self, node: Node, detail: str) -> None:
        """Say, once, that a node does not count any more."""
        if node not in self._out:
            self._out.add(node)
            self._tell(node, "out", detail)

    def counts(self, node: Node, detail: str) -> None:
        """Say that a node counts, if it did not."""
        if node in self._out:
            self._out.discard(node)
            self._tell(node, "member", detail)

    def _tell(self, node: Node, what: NodeChange, detail: str) -> None:
        self._listener(NodeEvent(node=node.address, what=what, detail=detail))

    # Coming to know.

    async def connect(self) -> None:
        """Get to know the table, or make the first one; returns at once when it is known.

        Raises:
            ConfigurationError: The nodes cannot be one cluster: two are one server, one belongs to another, ...
            BackendUnavailable: Too few of them answer.
        """
        if self.is_known():
            return
        async with self._one_at_a_time():
            if self.is_known():
                return
            if not self._breaker.may_call():
                raise BackendUnavailable("the replicated cache", "its nodes did not answer a moment ago")
            try:
                await self._connect()
            except BackendUnavailable:
                self._breaker.failed()
                raise
            self._breaker.succeeded()

    def is_known(self) -> bool:
        """Tell whether there is a table to go by."""
        return self.table is not None

    async def is_made(self) -> bool:
        """Tell whether any of the configured nodes holds a table; nothing is made.

        Raises:
            ConfigurationError: A node is none that could be used.
            BackendUnavailable: None of them answers.
        """
        if self.is_known():
            return True
        seen = await self._look_at(self.configured.values())
        if not seen:
            names = ", ".join(self.configured)
            raise BackendUnavailable("the replicated cache", f"none of its nodes answers: {names}")
        return any(each.table is not None for each in seen.values())

    def known_table(self) -> Table:
        """Return the table.

        Raises:
            BackendUnavailable: There is none yet.
        """
        if self.table is None:
            raise BackendUnavailable("the replicated cache", "no node has told which slots there are yet")
        return self.table

    def _one_at_a_time(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        if self._lock is None or self._lock[0] is not loop:
            self._lock = (loop, asyncio.Lock())
        return self._lock[1]

    async def _connect(self) -> None:
        nodes = list(self.configured.values())
        seen = await self._look_at(nodes)
        refuse_twins(nodes)
        known = [each for each in seen.values() if each.table is not None]
        strangers = [node for node, each in seen.items() if each.table is None and each.keys]
        clusters = {each.table.cluster for each in known if each.table}
        if len(clusters) > 1:
            raise ConfigurationError(several_clusters(seen))
        if strangers and not (known and all(seen[node].marker for node in strangers)):
            raise ConfigurationError(
                f"node {strangers[0].address} holds {seen[strangers[0]].keys} keys that are not this cache's: give it"
                " an empty database of its own (host:port/1), or empty it"
            )
        if known:
            newest = max(known, key=lambda each: each.version)
            if newest.table is not None:
                self._name(newest.table, seen)
                await self._name_the_rest(newest.table, seen)
            await self._adopt(newest, seen)
        elif len(seen) < len(nodes):
            missing = "; ".join(
                f"{node.address} does not answer ({node.trouble})" for node in nodes if node not in seen
            )
            raise BackendUnavailable("the replicated cache", f"its first start needs every node, and {missing}")
        else:
            await self._create(seen)

    async def _look_at(self, nodes: Iterable[Node]) -> dict[Node, Seen]:
        """Return what those nodes say that answer."""
        wanted = [node for node in nodes if node.breaker.may_call()]
        found = await asyncio.gather(*(look_at(node) for node in wanted), return_exceptions=True)
        seen: dict[Node, Seen] = {}
        for node, each in zip(wanted, found, strict=True):
            if isinstance(each, Seen):
                node.answers()
                seen[node] = each
            elif not isinstance(each, BackendUnavailable):
                raise each
            else:
                node.trouble = each.reason
                if not isinstance(each, BackendRefused):
                    node.breaker.failed()
        offsets = [node.offset_seconds for node in {*wanted, *self.by_id.values()} if node.offset_seconds is not None]
        if offsets:
            self._offset = statistics.median(offsets)
        return seen

    async def _create(self, seen: dict[Node, Seen]) -> None:
        """Make the first table: every node is there and was never used."""
        nodes = list(self.configured.values())
        await asyncio.to_thread(lambda: self.first)
        ids = {node: secrets.token_hex(8) for node in nodes}
        made = Table(
            cluster=secrets.token_hex(8),
            epoch=1,
            copies=self.replication.copies,
            placement=msgspec.structs.replace(self.first, nodes=tuple(ids[node] for node in nodes)).encode(),
            addresses={ids[node]: node.address for node in nodes},
        )
        for attempt in range(_PROPOSALS):
            token = self.versions.next()
            held = (await promises(nodes, token, self.versions, lambda _, seen: True)).seen
            tables = [each for each in held.values() if each.table is not None]
            # Somebody else began a moment ago: what it began is finished.
            table = max(tables, key=lambda each: each.version).table if tables else made
            if table is None or len(held) < len(nodes):
                await asyncio.sleep(0.01 * (attempt + 1) * (1 + secrets.randbelow(100) / 100))
                continue
            by_address = {address: node_id for node_id, address in table.addresses.items()}
            if set(by_address) != {node.address for node in nodes} or any(
                node.run_id is None or (each.keys and each.table is None) for node, each in seen.items()
            ):
                # Another client reaches them under other addresses: it finishes what it began.
                await asyncio.sleep(0.05)
                seen = await self._look_at(nodes)
                if all(each.marker for each in seen.values()):
                    await self._adopt(max(seen.values(), key=lambda each: each.version), seen)
                    return
                continue
            marks = {
                node: Marker(table.cluster, by_address[node.address], node.run_id or "", 1, "member") for node in nodes
            }
            if len(await acceptances(nodes, token, table, held, marks)) >= majority(len(nodes)):
                for node in nodes:
                    node.id = by_address[node.address]
                self._install(table, version_of_table(table, token), is_confirmed=True)
                await self._meet(nodes)
                return
        raise BackendUnavailable("the replicated cache", "its first slot table could not be agreed on; try again")

    async def _adopt(self, newest: Seen, seen: dict[Node, Seen]) -> None:
        """Take a table that a node holds, and make sure that a majority of its nodes holds it."""
        table = newest.table
        if table is None:
            return
        self._name(table, seen)
        self._install(table, newest.version, is_confirmed=False)
        try:
            await self._propose(lambda table: table)
        except BackendUnavailable:
            # Too few to agree on anything. What can be read from one node still can.
            if self.replication.on_majority_loss == "accept":
                await self.confirm_what_is_left()
            await self._meet(self.nodes())

    async def confirm_what_is_left(self, *, accept_loss: bool = False) -> None:
        """Go on with the newest table that is left, if no node that answers holds a newer one.

        So many forgot that no majority can agree: nobody will ever know of a table that only they held. Nodes that do
        not answer are waited for, for a minute, or not at all with `accept_loss`.
        """
        nodes = self.nodes()
        seen = await self._look_at(nodes)
        newest = max((each.version for each in seen.values()), default=b"")
        if self._unconfirmed_since is None:
            self._unconfirmed_since = time.monotonic()
        is_over = accept_loss or time.monotonic() - self._unconfirmed_since >= self.grace_seconds
        # Where only silence keeps a majority from agreeing, nothing is known to be forgotten: it may be cut off.
        has_forgotten = any(each.table is None for each in seen.values())
        if newest == self.version and (len(seen) == len(nodes) or (is_over and has_forgotten)):
            self.is_confirmed, self._unconfirmed_since = True, None
            for node, each in seen.items():
                if not self._is_member(node, each):
                    self._tell(node, "data_loss_possible", "most nodes forgot which slots there are")

    def _name(self, table: Table, seen: dict[Node, Seen]) -> None:
        """Find out which node of the table each address leads to: by what the server says, else by its address."""
        for node, each in seen.items():
            if each.marker is not None and each.marker.node in table.addresses:
                if each.marker.cluster != table.cluster:
                    raise ConfigurationError(several_clusters(seen))
                node.id = each.marker.node
        taken = {node.id for node in self.known() if node.id}
        by_address = {address: node_id for node_id, address in table.addresses.items()}
        for node in self.configured.values():
            node_id = by_address.get(node.address, "")
            if not node.id and node_id and node_id not in taken:
                node.id = node_id
                taken.add(node_id)

    async def _name_the_rest(self, table: Table, seen: dict[Node, Seen]) -> None:
        """Find out about addresses that neither a server nor the table explains.

        A server that forgot what it was may be reached under another address than the table's: it is the one node
        that is left, if that does not answer where the table says it is. Other servers are no part of the cluster.
        """
        unnamed = [node for node in self.configured.values() if node.id not in table.addresses]
        taken = {node.id for node in self.configured.values()}
        left = [node_id for node_id in table.addresses if node_id not in taken]
        may_be_left = len(unnamed) == len(left) == 1 and unnamed[0].address not in table.gone
        if may_be_left and not await self._answers(table, left[0]):
            unnamed[0].id = left[0]
            return
        if 2 * len(unnamed) > len(self.configured):
            silent = [node for node in unnamed if node not in seen]
            if silent:
                # They may be the table's under other addresses, and say so when they are back.
                raise BackendUnavailable(
                    "the replicated cache",
                    f"it cannot be told yet which nodes they are: {listed(silent)} do not answer",
                )
            raise ConfigurationError(
                f"nodes {listed(unnamed)} are no part of the replicated cache that the others belong to (its nodes:"
                f" {', '.join(sorted(table.addresses.values()))}): name its nodes, or leave out those that belong to it"
            )
        if unnamed:
            logger.warning(
                "%s: no part of the replicated cache, whose nodes are %s: take it out of the list of nodes, or let it"
                " take part by `cache-cli nodes add`",
                listed(unnamed),
                ", ".join(sorted(table.addresses.values())),
            )

    async def _answers(self, table: Table, node_id: str) -> bool:
        node = self._node(table.addresses[node_id])
        try:
            seen = await look_at(node)
        except BackendUnavailable:
            return False
        finally:
            await node.aclose()
        return seen.marker is not None and seen.marker.cluster == table.cluster and seen.marker.node == node_id

    def _install(self, table: Table, version: bytes, *, is_confirmed: bool) -> None:
        """Use a table from now on."""
        lists = Lists(table)
        known = {node.id: node for node in [*self.by_id.values(), *self.configured.values()] if node.id}
        for node_id, address in table.addresses.items():
            if node_id not in known:
                node = known[node_id] = self._node(address)
                node.id = node_id
                self.reopened(node)
        for node_id, node in known.items():
            if node_id not in table.addresses:
                node.forget()
        if self.table is None or table.epoch != self.table.epoch:
            for node in known.values():
                node.forget()
        self.by_id = {node_id: known[node_id] for node_id in table.addresses}
        self._routes, self._lists = {}, lists
        self.table, self.version, self.is_confirmed = table, version, is_confirmed
        if is_confirmed:
            self._unconfirmed_since = None

    async def refresh(self) -> None:
        """Read the table anew, and look at each node whether it counts; those who ask at once share it."""
        loop = asyncio.get_running_loop()
        if self._refreshing is None or self._refreshing.done() or self._refreshing.get_loop() is not loop:
            self._refreshing = loop.create_task(self._refresh())
            self._refreshing.add_done_callback(retrieve)
        await asyncio.shield(self._refreshing)

    async def _refresh(self) -> None:
        async with self._one_at_a_time():
            if self.table is None:
                await self._connect()
                return
            seen = await self._look_at(self.nodes())
            newest = max(
                (each for each in seen.values() if each.table is not None and each.table.cluster == self.table.cluster),
                key=lambda each: each.version,
                default=None,
            )
            if newest is None or newest.table is None:
                await self._meet(self.nodes())
            elif newest.table.epoch > self.table.epoch or not self.is_confirmed:
                await self._adopt(newest, seen)
            else:
                await self._meet(self.nodes(), seen)

    async def _meet(self, nodes: Sequence[Node], seen: dict[Node, Seen] | None = None) -> None:
        """Take nodes for what their markers say; bring the markers of members to the table's epoch."""
        if seen is None:
            seen = await self._look_at(nodes)
        await asyncio.gather(*(self._meet_one(node, each) for node, each in seen.items()), return_exceptions=True)

    async def _meet_one(self, node: Node, seen: Seen) -> None:
        table, marker = self.table, seen.marker
        if table is None or marker is None or not self.is_own(node, marker):
            node.forget()
            self.is_out(node, "it was restarted, or lost what it held")
            return
        if marker.epoch < table.epoch and self.is_confirmed and table.rejoin.get(node.id, 0) <= marker.epoch:
            moved = msgspec.structs.replace(marker, epoch=table.epoch)
            if not await self.remark(node, seen.marker_text, moved):
                return
            marker = moved
        if marker.epoch == table.epoch:
            node.admit(marker)
            if node.state == "member":
                self.counts(node, "what it holds was never in doubt")
        else:
            node.forget()

    def is_own(self, node: Node, marker: Marker) -> bool:
        """Tell whether a marker is of this cluster, this node, and the process that is connected to."""
        table = self.table
        return (
            table is not None
            and marker.cluster == table.cluster
            and marker.node == node.id
            and marker.run_id == node.run_id
        )

    def _is_member(self, node: Node, seen: Seen) -> bool:
        return seen.marker is not None and seen.marker.state == "member" and self.is_own(node, seen.marker)

    def is_given_up(self, node: Node) -> bool:
        """Tell whether a node was away for so long that it comes back empty."""
        return self.table is not None and node.state != "member" and node.id in self.table.rejoin

    async def remark(self, node: Node, held: bytes, marker: Marker) -> bool:
        """Change a node's marker if it is still the one held; return whether it was."""
        table = self.known_table()
        words = [held, marker.text(), self.version, table.encode()]
        return bool(await node.control("remark", [MARKER, TABLE], words))

    # Agreeing.

    async def propose(self, change: Change) -> Table:
        """Make the next table from the newest one; a change that returns what it got changes nothing.

        Raises:
            BackendUnavailable: No majority of the nodes agrees now. The change may still come about.
        """
        await self.connect()
        async with self._one_at_a_time():
            return await self._propose(change)

    async def _propose(self, change: Change) -> Table:
        in_silence = 0
        for attempt in range(_PROPOSALS):
            table = self.known_table()
            electors = [self.by_id[node_id] for node_id in table.electors()]
            token = self.versions.next()
            found = await promises(electors, token, self.versions, self._is_member)
            promised = found.seen
            newest = max(promised.values(), key=lambda each: each.version, default=None)
            if newest is not None and newest.table is not None and newest.table.epoch > table.epoch:
                self._name(newest.table, promised)
                self._install(newest.table, newest.version, is_confirmed=False)
                continue
            if newest is None or newest.table is None or len(promised) < majority(len(electors)):
                in_silence += len(electors) - found.silent < majority(len(electors))
                if in_silence == _PROPOSALS_IN_SILENCE:
                    break  # not in each other's way: too few are there
                await asyncio.sleep(0.02 * (attempt + 1) * (1 + secrets.randbelow(100) / 100))
                continue
            current = newest.table
            following = change(current)
            if not isinstance(following, Table):
                following = await following
            if following is current:
                holders = [each for each in promised.values() if each.version == newest.version]
                if len(holders) >= majority(len(electors)):
                    self._install(current, newest.version, is_confirmed=True)
                    await self._meet(self.nodes())
                    return current
            else:
                following = msgspec.structs.replace(following, epoch=current.epoch + 1)
            if await self._settle(token, current, following, promised):
                self._install(following, version_of_table(following, token), is_confirmed=True)
                await self._meet(self.nodes())
                return following
        raise BackendUnavailable("the replicated cache", "no majority of its nodes agrees on a slot table now")

    async def _settle(self, token: bytes, current: Table, following: Table, promised: dict[Node, Seen]) -> bool:
        nodes = {self.by_id[node_id] for node_id in current.electors()}
        newcomers = [self._newcomer(following, node_id) for node_id in following.electors() - current.electors()]
        seen = dict(promised)
        if newcomers:
            for _ in range(_PROPOSALS):
                fresh = await self._look_at(newcomers)
                if len(fresh) == len(newcomers):
                    break
            for node in newcomers:
                if node not in fresh:
                    raise BackendUnavailable(
                        node.address, f"a new node must answer before it can be added ({node.trouble})"
                    )
                refuse_used(node, fresh[node], following)
            seen |= fresh
            nodes |= set(newcomers)
        refuse_twins(list(nodes))
        marks = {}
        for node in nodes:
            each = seen.get(node)
            if each is None or node.id not in following.addresses:
                continue
            if each.marker is None and node in newcomers:
                marks[node] = Marker(following.cluster, node.id, node.run_id or "", following.epoch, "member")
            elif each.marker is not None and following.rejoin.get(node.id, 0) <= each.marker.epoch:
                marks[node] = msgspec.structs.replace(each.marker, epoch=following.epoch)
        accepted = {node.id for node in await acceptances(list(nodes), token, following, seen, marks)}
        return all(
            len(accepted & table.electors()) >= majority(len(table.electors())) for table in (current, following)
        )

    def _newcomer(self, table: Table, node_id: str) -> Node:
        address = table.addresses[node_id]
        node = self.configured.get(address) or self._node(address)
        if node.id and node.id != node_id:
            node = self._node(address)
        node.id = node_id
        self.configured[address] = node
        return node

    async def aclose(self) -> None:
        for node in self.known():
            await node.aclose()
