"""Talks to the primaries of a Redis Cluster as if they were one server: routes by slot, follows redirects.

Each node has the connections and the time budget of `RedisNode`, and a breaker of its own: one that is down
costs the keys of its slots, and neither time nor the other nodes.

MOVED       the slot is elsewhere now: asked there, and the table of slots is read again
ASK         this key may have moved ahead of its slot: asked there, once, behind ASKING on the same connection
CLUSTERDOWN or no answer: the table is read again; who is no longer the owner is asked no more
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from math import inf
from typing import Any

from cache_management.cache.backends.guarded import Breaker
from cache_management.cache.backends.redis_connection import Argument, Command, Refusal, retrieve
from cache_management.cache.backends.redis_node import (
    READS,
    OnChange,
    RedisNode,
    Unreached,
    parts,
    script_of,
    words,
)
from cache_management.cache.backends.redis_slots import Address, Table, read_redirect, read_table, slot_of_command
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendRefused, BackendUnavailable

logger = logging.getLogger("cache_management")

_MOST_HOPS = 8
_ASKED_AT_ONCE = 3
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 2.0
# Tried in any state of a node: an entry believed gone must be gone. See GuardedBackend.
_ALWAYS_TRIED = frozenset({"UNLINK", "XADD", "EXPIRE", "ZREM", "ZRANGEBYSCORE", "ZSCAN", "PING", "CLUSTER"})
_SCRIPTS_ALWAYS_TRIED = frozenset({"delete_older", "release_lease", "renew_lease"})


_NOT_ASKED = object()


class LeftAlone(Unreached):
    """A node failed several times in a row: it is not even tried."""


class RedisClusterNodes:
    """The nodes of one cluster. Each command names one key, so that no slot that moves splits it (TRYAGAIN).

    Raises BackendUnavailable like `RedisNode`: what may have been done already is never sent twice.
    """

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        self._starts = config.cluster_nodes
        self.address = "redis cluster at " + ",".join(f"{host}:{port}" for host, port in self._starts)
        self._nodes: dict[Address, _Member] = {}
        self._table: Table | None = None
        self._readings: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}
        self._pause = _FIRST_PAUSE_SECONDS
        self._read_at: dict[asyncio.AbstractEventLoop, float] = {}

    async def call(self, *command: Argument, payload_bytes: int = 0) -> Any:
        """Run one command that names a key; return its reply."""
        return await self._call(command, payload_bytes)

    async def _call(self, command: Command, payload_bytes: int = 0, *, is_urgent: bool = False) -> Any:
        deadline = self._deadline(payload_bytes)
        address, reply = await self._ask(command, payload_bytes, deadline, is_urgent=is_urgent)
        if type(reply) is Refusal:
            raise BackendRefused(self.node(address).address, words(reply))
        return reply

    async def run_script(
        self, name: str, keys: Sequence[str], args: Sequence[Argument], *, payload_bytes: int = 0
    ) -> Any:
        """Run one of the scripts in `lua/` where its key lies."""
        script, digest = script_of(name)
        is_urgent = name in _SCRIPTS_ALWAYS_TRIED
        try:
            return await self._call(("EVALSHA", digest, len(keys), *keys, *args), payload_bytes, is_urgent=is_urgent)
        except BackendRefused as exc:
            if "NOSCRIPT" not in exc.reason:
                raise
        return await self._call(("EVAL", script, len(keys), *keys, *args), payload_bytes, is_urgent=is_urgent)

    async def pipeline(self, commands: Sequence[Command], *, payload_bytes: int = 0) -> list[Any]:
        """Run commands, those of one node in order, on all nodes at a time; return their replies.

        Raises:
            BackendUnavailable: Of a command that was not done; others may have been, also behind it.
        """
        deadline = self._deadline(payload_bytes)
        table = await self._known_table(deadline)
        places: dict[Address | None, list[int]] = {}
        for place, command in enumerate(commands):
            places.setdefault(table.owners[slot_of_command(command)], []).append(place)
        replies: list[Any] = [None] * len(commands)

        async def ask_one(address: Address | None, at: list[int]) -> None:
            each = [commands[place] for place in at]
            answers = await self._ask_all(address, each, payload_bytes, deadline)
            for place, answer in zip(at, answers, strict=True):
                replies[place] = answer

        done = await asyncio.gather(*(ask_one(*each) for each in places.items()), return_exceptions=True)
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome
        return replies

    async def _ask_all(
        self, address: Address | None, commands: Sequence[Command], payload_bytes: int, deadline: float
    ) -> list[Any]:
        """Ask one node in parts that travel at once; what it sends away or could not be sent goes its own way."""
        replies: list[Any] = []
        for part in parts(commands):
            try:
                member = self._member(address, slot_of_command(part[0]))
                self._check_breaker(member, part[0])
                answers = await member.replies_to(part, payload_bytes=payload_bytes, deadline=deadline)
            except LeftAlone:
                raise
            except Unreached:
                answers = [_NOT_ASKED] * len(part)
            for command, answer in zip(part, answers, strict=True):
                if answer is _NOT_ASKED or (type(answer) is Refusal and _verb(answer) in _SENT_AWAY):
                    where, reply = await self._ask(command, payload_bytes, deadline)
                else:
                    where, reply = address, answer
                if type(reply) is Refusal:
                    raise BackendRefused(self.node(where).address, words(reply))
                replies.append(reply)
        return replies

    async def _ask(
        self, command: Command, payload_bytes: int, deadline: float, *, is_urgent: bool = False
    ) -> tuple[Address | None, Any]:
        """Ask whoever has the slot of a command, wherever that leads; return who answered, and the reply."""
        slot = slot_of_command(command)
        address = (await self._known_table(deadline)).owners[slot]
        is_asking = False
        has_looked = False
        for _ in range(_MOST_HOPS):
            try:
                member = self._member(address, slot)
                if not is_urgent:
                    self._check_breaker(member, command)
                if is_asking:
                    _, reply = await member.replies_to(
                        [("ASKING",), command], payload_bytes=payload_bytes, deadline=deadline
                    )
                else:
                    reply = await member.reply_to(command, payload_bytes=payload_bytes, deadline=deadline)
            except LeftAlone:
                raise
            except BackendUnavailable as exc:
                may_repeat = isinstance(exc, Unreached) or command[0] in READS
                if has_looked or not may_repeat:
                    self._read_soon()
                    raise
                has_looked = True
                owner = await self._owner_anew(slot, deadline)
                if owner == address and not is_asking:
                    raise
                address, is_asking = owner, False
                continue
            if type(reply) is not Refusal:
                return address, reply
            is_asking = False
            match _verb(reply):
                case "MOVED":
                    address = read_redirect(words(reply), member.place)
                    self._move(slot, address)
                case "ASK":
                    address = read_redirect(words(reply), member.place)
                    is_asking = True
                case "CLUSTERDOWN" if not has_looked:
                    has_looked = True
                    address = await self._owner_anew(slot, deadline)
                case _:
                    return address, reply
        return address, reply

    def _member(self, address: Address | None, slot: int) -> _Member:
        if address is None:
            raise Unreached(self.address, f"nobody holds slot {slot}")
        return self.node(address)

    def _check_breaker(self, member: _Member, command: Command) -> None:
        if member.breaker.state != "closed" and command[0] not in _ALWAYS_TRIED and not member.breaker.may_call():
            self._read_soon()
            raise LeftAlone(member.address, "it failed several times in a row and is left alone for a while")

    def node(self, address: Address | None) -> _Member:
        """Return the node at an address."""
        place = address or self._starts[0]
        member = self._nodes.get(place)
        if member is None:
            member = self._nodes.setdefault(place, _Member(self._config, place))
        return member

    # The table of slots.

    async def table(self) -> Table:
        """Return the table as it was last read."""
        return await self._known_table(self._deadline(0))

    async def primaries(self) -> Table:
        """Read the table anew and return it.

        Raises:
            BackendUnavailable: No node tells.
        """
        deadline = self._deadline(0)
        self._read_at.pop(asyncio.get_running_loop(), None)
        await self._read_within(deadline)
        return await self._known_table(deadline)

    async def _known_table(self, deadline: float) -> Table:
        if self._table is None:
            await self._read_within(deadline)
        if self._table is None:
            raise Unreached(self.address, "no node answered a moment ago")
        return self._table

    async def _owner_anew(self, slot: int, deadline: float) -> Address | None:
        try:
            await self._read_within(deadline)
        except BackendUnavailable:
            if self._table is None:
                raise
        return self._table.owners[slot] if self._table is not None else None

    def _move(self, slot: int, address: Address) -> None:
        """Note what a node said of one slot; it is rarely the only one."""
        if self._table is not None:
            self._table.owners[slot] = address
        self._read_soon()

    def _read_soon(self) -> asyncio.Task[None] | None:
        """Read the table in the background, unless that is going on or was done a moment ago."""
        loop = asyncio.get_running_loop()
        reading = self._readings.get(loop)
        if reading is not None and not reading.done():
            return reading
        if loop.time() < self._read_at.get(loop, -inf) + self._pause:
            return None
        for gone in [each for each in list(self._readings) if each.is_closed()]:
            self._readings.pop(gone, None)
            self._read_at.pop(gone, None)
        reading = self._readings[loop] = loop.create_task(self._read())
        reading.add_done_callback(retrieve)
        return reading

    async def _read_within(self, deadline: float) -> None:
        """Read the table; those who wait for it share it, and its failure."""
        reading = self._read_soon()
        if reading is None:
            return
        await asyncio.wait((reading,), timeout=deadline - asyncio.get_running_loop().time())
        if not reading.done():
            raise Unreached(self.address, "no node told in time who holds which slots")
        error = None if reading.cancelled() else reading.exception()
        if isinstance(error, BackendUnavailable):
            raise Unreached(error.backend, error.reason) from error

    async def _read(self) -> None:
        known = self._table.nodes if self._table is not None else frozenset()
        nodes = list({*known, *self._starts})
        random.shuffle(nodes)
        try:
            self._table = await self._first_answer(nodes)
            self._pause = _FIRST_PAUSE_SECONDS
        except BackendUnavailable:
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            raise
        finally:
            loop = asyncio.get_running_loop()
            self._read_at[loop] = loop.time()

    async def _first_answer(self, nodes: Sequence[Address]) -> Table:
        """Ask a few nodes at a time; the first answer counts."""
        error: BackendUnavailable | None = None
        for start in range(0, len(nodes), _ASKED_AT_ONCE):
            asked = [asyncio.create_task(self._tell(node)) for node in nodes[start : start + _ASKED_AT_ONCE]]
            try:
                for each in asyncio.as_completed(asked):
                    try:
                        return await each
                    except BackendUnavailable as exc:
                        error = exc
            finally:
                for task in asked:
                    task.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
        raise error or BackendUnavailable(self.address, "it has no nodes")

    async def _tell(self, address: Address) -> Table:
        node = self.node(address)
        table = read_table(await node.call("CLUSTER", "SLOTS"), address)
        if not table.ids:
            raise BackendUnavailable(node.address, "it has joined no cluster that holds slots")
        return table

    def _deadline(self, payload_bytes: int) -> float:
        return asyncio.get_running_loop().time() + self.node(None).budget(payload_bytes)

    # Watching: a cluster's nodes would each have to be tracked, and each fail-over be told. Nobody keeps copies.

    def watch(self, prefixes: Sequence[str], on_change: OnChange) -> None:
        """Never tell of changes, see `is_current`."""

    def is_current(self) -> bool:
        """Tell that changes elsewhere are not told, so that nobody serves copies."""
        return False

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        reading = self._readings.pop(asyncio.get_running_loop(), None)
        self._read_at.pop(asyncio.get_running_loop(), None)
        if reading is not None:
            reading.cancel()
            await asyncio.wait((reading,))
        for member in list(self._nodes.values()):
            await member.aclose()


_SENT_AWAY = frozenset({"MOVED", "ASK", "CLUSTERDOWN"})


def _verb(refusal: Refusal) -> str:
    return str(refusal).partition(" ")[0]


class _Member(RedisNode):
    """One node, and whether it is left alone."""

    def __init__(self, config: CacheConfig, place: Address) -> None:
        host, port = place
        at_place = {"url": None, "redis_host": host, "redis_port": port, "redis_db": 0}
        super().__init__(config.model_copy(update=at_place), mode="cluster")
        self.place = place
        self.breaker = Breaker()

    async def reply_to(self, command: Command, *, payload_bytes: int = 0, deadline: float | None = None) -> Any:
        try:
            reply = await super().reply_to(command, payload_bytes=payload_bytes, deadline=deadline)
        except BackendUnavailable as exc:
            self._failed(exc)
            raise
        self._answered()
        return reply

    async def replies_to(
        self, commands: Sequence[Command], *, payload_bytes: int = 0, deadline: float | None = None
    ) -> list[Any]:
        try:
            replies = await super().replies_to(commands, payload_bytes=payload_bytes, deadline=deadline)
        except BackendUnavailable as exc:
            self._failed(exc)
            raise
        self._answered()
        return replies

    def _failed(self, exc: BackendUnavailable) -> None:
        if self.breaker.failed():
            logger.warning("%s is left alone for a while: %s", self.address, exc)

    def _answered(self) -> None:
        if self.breaker.succeeded():
            logger.warning("%s answers again", self.address)
