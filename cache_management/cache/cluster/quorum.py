"""Asks the voters of keys, and waits until enough of them have answered.

    read    one full copy and the heads of so many others as a majority needs; the newest version wins, and is
            brought to a majority before anybody is told of it
    write   to every keeper at once; done when a majority has it

A voter that fails, or is late by the hedge delay, is made up for by the next one.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from cache_management.cache.backends.redis_connection import ConnectionLost, Refusal, retrieve
from cache_management.cache.cluster.envelope import NOTHING, VERSION_BYTES, Versions
from cache_management.cache.cluster.membership import Membership, Route
from cache_management.cache.cluster.node import Node
from cache_management.cache.errors import BackendRefused, BackendUnavailable, QuorumNotReached

Level = Literal["one", "quorum", "all"]
_TRIES = 4
_PAUSE_SECONDS = 0.01
_QUICK_SECONDS = 0.002
_QUICK = 2  # so many nodes are asked by the quick way: three voters or fewer


class _Asked:
    """One key: who was asked, and what they said."""

    __slots__ = ("asked", "given", "key", "replies", "route", "slot")

    def __init__(self, key: str, slot: int, route: Route) -> None:
        self.key = key
        self.slot = slot
        self.route = route
        self.asked: set[Node] = set()
        self.replies: dict[Node, Any] = {}
        self.given = NOTHING

    def next_nodes(self, needs: Callable[[Route, set[Node]], bool], answered: set[Node]) -> list[Node]:
        """Return whom to ask so that, with those who answered, there will be enough; as far as there are any."""
        chosen: list[Node] = []
        have = set(answered)
        fallback = [node for node in self.route.nodes if node not in self.asked]
        fallback.sort(key=lambda node: not node.is_preferred())
        for node in fallback:
            if needs(self.route, have):
                break
            if node.is_preferred() or node.may_be_asked():
                chosen.append(node)
                have.add(node)
        return chosen


class _Round:
    """Waits for answers of nodes until it is said to be over, or nobody is left to answer."""

    def __init__(self, hedge_seconds: float, on_late: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._waiting = 0
        self._hedge_seconds = hedge_seconds
        self._on_late = on_late
        self.late: set[Node] = set()

    def ask(
        self, node: Node, answer: asyncio.Future[Any], took: Callable[[Any], None], failed: Callable[[], None]
    ) -> None:
        self._waiting += 1
        self.late.add(node)

        def settle(future: asyncio.Future[Any]) -> None:
            self._waiting -= 1
            self.late.discard(node)
            if self._over.done():
                return
            if future.exception() is None:
                took(future.result())
            else:
                failed()
            if self._waiting == 0:
                self.end()

        answer.add_done_callback(settle)

    def end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    async def wait(self) -> None:
        if self._waiting == 0:
            return
        timer = self._loop.call_later(self._hedge_seconds, self._hedge)
        try:
            await self._over
        finally:
            timer.cancel()
            self.end()

    def _hedge(self) -> None:
        if not self._over.done():
            for node in self.late:
                node.suspect()
            self._on_late()


class Quorum:
    """Reads and writes copies on as many nodes as a consistency level asks for.

    Args:
        hedge_seconds: How long to wait for a voter before the next one is asked as well.
        missed: Told of entries that a node has missed a write of.
    """

    def __init__(
        self,
        membership: Membership,
        *,
        hedge_seconds: float,
        missed: Callable[[Node, str], None],
    ) -> None:
        self.membership = membership
        self._hedge_seconds = hedge_seconds
        self._missed = missed
        self.spread: frozenset[str] = frozenset()
        self._flying: dict[asyncio.Future[Any], Node] = {}
        self._timer: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None

    @property
    def versions(self) -> Versions:
        return self.membership.versions

    # Reading.

    async def read_one(self, key: str, slot: int, level: Level) -> bytes:
        """Return the newest copy of one key, nothing when there is none: as `read`, and quicker when all is well."""
        copy = await self._quick(key, slot, level)
        return (await self.read({key: slot}, level)).get(key, NOTHING) if copy is None else copy

    async def _quick(self, key: str, slot: int, level: Level) -> bytes | None:
        """Ask the first node for the copy and as many as are needed for its head; None when it is not that simple."""
        if self.membership.table is None:
            return None
        route = self.membership.route(slot)
        needed = 1 if level == "one" else route.needed
        if level == "all" or not 1 <= needed <= _QUICK:
            return None
        nodes = route.nodes if key not in self.spread else self._turned(route)
        first, second = nodes[0], nodes[needed - 1]
        if not first.is_preferred() or not second.is_preferred():
            return None
        expected, answer = first.marker, first.ask_copy(key)
        if answer is None:
            return None
        flying = self._flying
        try:
            if needed == 1:
                flying[answer] = first
                self._watch()
                reply = await answer
                return (reply[1] or NOTHING) if _is_whole(reply) and first.answered(expected, reply[0]) else None
            other_expected, other = second.marker, second.ask_head(key)
            if other is None:
                return None
            flying[answer], flying[other] = first, second
            self._watch()
            held, marker = await other
            reply = await answer
            if not (
                _is_whole(reply)
                and _is_whole(held)
                and first.answered(expected, reply[0])
                and second.answered(other_expected, marker)
            ):
                return None
            copy: bytes = reply[1] or NOTHING
            return copy if copy[:VERSION_BYTES] == held[:VERSION_BYTES] else None
        except (TimeoutError, ConnectionLost):
            return None
        finally:
            flying.pop(answer, None)
            if needed > 1 and other is not None:
                flying.pop(other, None)

    def _turned(self, route: Route) -> tuple[Node, ...]:
        """Return the nodes in another order: everybody reads this key, so that every keeper shall serve it."""
        keepers = [node for node in route.nodes if node in route.keepers]
        turn = secrets.randbelow(len(keepers))
        rest = [node for node in route.nodes if node not in route.keepers]
        return (*keepers[turn:], *keepers[:turn], *rest)

    def _watch(self) -> None:
        """See to it that quick questions are given up after the hedge delay: one timer for all of them."""
        if self._timer is None or self._timer[0] is not (loop := asyncio.get_running_loop()):
            loop = asyncio.get_running_loop()
            self._timer = (loop, loop.call_later(self._hedge_seconds, self._look, set(self._flying)))

    def _look(self, before: set[asyncio.Future[Any]]) -> None:
        self._timer = None
        for answer in before & self._flying.keys():
            if not answer.done():
                self._flying[answer].suspect()
                answer.set_exception(TimeoutError())
                retrieve(answer)  # who asked for two may see the other's end first, and never look at this one
        if self._flying:
            self._watch()

    async def read(self, keys: Mapping[str, int], level: Level, *, heads_only: bool = False) -> dict[str, bytes]:
        """Return the newest copies by key, tombstones too; with `heads_only` perhaps only the heads of them.

        Args:
            keys: With their slots.

        Raises:
            QuorumNotReached: Too few nodes answered.
        """
        await self.membership.connect()
        began = time.monotonic()
        found: dict[str, bytes] = {}
        left = keys
        for attempt in range(_TRIES):
            # As of now, before anything is read: by the time it is copied it may be deleted, and that forgotten.
            until_ms = self.membership.copies_until()
            asked = [_Asked(key, slot, self.membership.route(slot)) for key, slot in left.items()]
            await self._ask_for_copies(asked, level, heads_only)
            unsure = []
            failed = {}
            for each in asked:
                if not _enough(each.route, set(each.replies), level):
                    failed[each.key] = each.slot
                    continue
                newest = max(each.replies.values(), key=_version_of)
                each.given = newest[:VERSION_BYTES]
                if not newest:
                    continue
                if (level == "one" and len(newest) > VERSION_BYTES) or self._is_settled(each, newest, heads_only):
                    found[each.key] = newest
                else:
                    unsure.append(each)
            for each, copy in zip(
                unsure,
                await asyncio.gather(*(self._settle(each, heads_only, until_ms) for each in unsure)),
                strict=True,
            ):
                if copy is None:
                    failed[each.key] = each.slot
                else:
                    found[each.key] = copy
            if not failed:
                return found
            left = failed
            if not await self._think_again(attempt, began, [each for each in asked if each.key in failed]):
                break
        raise QuorumNotReached(_too_few(left, level), indeterminate=False)

    async def _ask_for_copies(self, asked: list[_Asked], level: Level, heads_only: bool) -> None:
        unsatisfied = {each.key: each for each in asked}

        def needs(route: Route, nodes: set[Node]) -> bool:
            return _enough(route, nodes, level)

        def send(those: list[_Asked], *, full: bool) -> None:
            fetches: dict[Node, list[_Asked]] = {}
            heads: dict[Node, list[_Asked]] = {}
            for each in those:
                for node in each.next_nodes(needs, set(each.replies)):
                    first = (full or not each.asked) and not heads_only
                    each.asked.add(node)
                    (fetches if first else heads).setdefault(node, []).append(each)
            for node, batch in fetches.items():
                request(node, batch, node.fetch([each.key for each in batch]))
            for node, batch in heads.items():
                request(node, batch, node.heads([each.key for each in batch]))

        def request(node: Node, batch: list[_Asked], answer: asyncio.Future[Any]) -> None:
            def took(copies: Sequence[bytes | None]) -> None:
                for each, copy in zip(batch, copies, strict=True):
                    each.replies[node] = copy or NOTHING
                    if each.key in unsatisfied and needs(each.route, set(each.replies)):
                        del unsatisfied[each.key]
                if not unsatisfied:
                    round_.end()

            round_.ask(node, answer, took, lambda: send([each for each in batch if each.key in unsatisfied], full=True))

        round_ = _Round(self._hedge_seconds, lambda: send(list(unsatisfied.values()), full=True))
        send(asked, full=False)
        await round_.wait()

    def _is_settled(self, each: _Asked, newest: bytes, heads_only: bool) -> bool:
        holders = {node for node, copy in each.replies.items() if copy[:VERSION_BYTES] == each.given}
        if not each.route.agree(holders):
            return False
        return heads_only or len(newest) > _HEAD or newest[VERSION_BYTES : VERSION_BYTES + 1] != b"v"

    async def _settle(self, each: _Asked, heads_only: bool, until_ms: int) -> bytes | None:
        """Get the whole of the newest copy and bring it to enough voters; None when that did not succeed."""
        copies = [copy for copy in each.replies.values() if copy[:VERSION_BYTES] == each.given]
        copy: bytes = max(copies, key=len)
        if len(copy) <= _HEAD and copy[VERSION_BYTES : VERSION_BYTES + 1] == b"v":
            having = [node for node, held in each.replies.items() if held[:VERSION_BYTES] == each.given]
            for node in sorted(having, key=lambda node: not node.is_preferred()):
                try:
                    whole = (await node.fetch([each.key]))[0]
                except BackendUnavailable:
                    continue
                # Something newer since: the next try will find it.
                if whole[:VERSION_BYTES] == each.given:
                    copy = whole
                    break
            else:
                return None
        holders = {node for node, held in each.replies.items() if held[:VERSION_BYTES] == each.given}
        if each.route.agree(holders):
            return copy
        behind = [node for node in each.route.nodes if node not in holders and node.may_be_asked()]
        asked = {node.copy([each.key], [each.slot], [copy], until_ms=until_ms): node for node in behind}
        waiting = set(asked)
        # Until enough have it: one that stands still holds nobody up.
        while waiting and not each.route.agree(holders):
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for answer in done:
                error = answer.exception()
                if error is None and not answer.result()[0].startswith(b"!"):
                    holders.add(asked[answer])
                elif error is None:
                    return None
                elif not isinstance(error, BackendUnavailable):
                    raise error
        return copy if each.route.agree(holders) else None

    # Writing.

    async def write(
        self,
        copies: Mapping[str, tuple[int, bytes]],
        level: Level,
        *,
        version: bytes | None = None,
        given: dict[str, bytes] | None = None,
        until_ms: int | None = None,
    ) -> dict[str, bytes]:
        """Store copies under new versions; return the heads of what they replaced, where a node told.

        A copy has one version for good once any node may hold it: somebody may have seen it, and replaced it since.

        Args:
            copies: By key: the slot, and what follows the version.
            version: Write under this one (a fencing token), and not at all where something newer is held.
            given: What versions an earlier try gave, to whoever tries again; this one notes its own there.
            until_ms: Of an earlier try, too: until when what it sends may arrive (`Membership.writes_until`).

        Raises:
            QuorumNotReached: Too few nodes stored them, or another write overtook one that some had stored.
            Superseded: With `version`: something newer is held.
        """
        await self.membership.connect()
        # For all tries: what the first one left at a node may be read, deleted, and forgotten before the last one.
        until_ms = self.membership.writes_until() if until_ms is None else until_ms
        before: dict[str, bytes] = {}
        given = {} if given is None else given
        perhaps_held = set(given)
        left = dict(copies)
        began = time.monotonic()
        is_indeterminate = False
        refusal: BackendRefused | None = None
        for attempt in range(2 * _TRIES):
            asked = [_Asked(key, slot, self.membership.route(slot)) for key, (slot, _) in left.items()]
            for each in asked:
                each.given = given[each.key] = version or given.get(each.key) or self.versions.next()
            sent = time.monotonic()
            refusal = await self._store(asked, left, level, "w" if version is None else "f", until_ms) or refusal
            # A lock that was taken just now asks for a newer version. Hardly anybody has replaced this one yet: to read
            # it, bring it to a majority and write another takes three round trips, and this was one. Whoever did is
            # newer than what lies just above the lock's token.
            was_quick = time.monotonic() - sent <= _QUICK_SECONDS
            again = {}
            is_out_of_date = is_overtaken = False
            for each in asked:
                newer = [reply[1:] for reply in each.replies.values() if reply.startswith(b"!")]
                stored = {node for node, reply in each.replies.items() if not reply.startswith(b"!")}
                if newer and version is not None:
                    if each.key in perhaps_held and all(held[:VERSION_BYTES] == version for held in newer):
                        # An earlier try of this write, or of another one under the same token: nobody can tell.
                        raise QuorumNotReached(_too_few(left, level), indeterminate=True)
                    raise Superseded(each.key)
                for held in newer:
                    self.versions.observe(held[:VERSION_BYTES])
                # Where a majority has stored it, something newer elsewhere was not acknowledged before this one.
                if _enough(each.route, stored, level) and (not newer or each.route.agree(stored)):
                    before[each.key] = max((each.replies[node] for node in stored), key=_version_of)
                    continue
                if stored or len(each.replies) < len(each.asked):
                    perhaps_held.add(each.key)
                if not newer:
                    is_out_of_date = True
                elif each.key in perhaps_held and was_quick and all(_is_floor(held) for held in newer):
                    given[each.key] = self.versions.above(max(newer))
                elif each.key in perhaps_held:
                    is_overtaken = True
                else:
                    del given[each.key]
                again[each.key] = left[each.key]
            if not again:
                return before
            is_indeterminate = bool(before or perhaps_held)
            left = again
            if is_overtaken:
                break
            if is_out_of_date and not await self._think_again(attempt, began, [e for e in asked if e.key in again]):
                break
        if refusal is not None:
            raise refusal
        raise QuorumNotReached(_too_few(left, level), indeterminate=is_indeterminate)

    async def _store(
        self, asked: list[_Asked], copies: Mapping[str, tuple[int, bytes]], level: Level, how: str, until_ms: int
    ) -> BackendRefused | None:
        unsatisfied = {each.key: each for each in asked}
        refusals: list[BackendRefused] = []

        def needs(route: Route, nodes: set[Node]) -> bool:
            return _enough(route, nodes, level)

        def send(choose: Callable[[_Asked], Sequence[Node]], those: list[_Asked]) -> None:
            batches: dict[Node, list[_Asked]] = {}
            for each in those:
                for node in choose(each):
                    each.asked.add(node)
                    batches.setdefault(node, []).append(each)
            for node, batch in batches.items():
                request(node, batch)

        def request(node: Node, batch: list[_Asked]) -> None:
            counts = node.state == "member"
            answer = node.put(
                how,
                [each.key for each in batch],
                [each.slot for each in batch],
                [each.given + copies[each.key][1] for each in batch],
                until_ms=until_ms,
            )

            def took(replies: Sequence[bytes]) -> None:
                if not counts:
                    return
                for each, reply in zip(batch, replies, strict=True):
                    each.replies[node] = reply
                    stored = {node for node, said in each.replies.items() if not said.startswith(b"!")}
                    if each.key in unsatisfied and needs(each.route, stored):
                        del unsatisfied[each.key]
                if not unsatisfied:
                    round_.end()

            def failed() -> None:
                error = answer.exception()
                if isinstance(error, BackendRefused):
                    refusals.append(error)
                for each in batch:
                    self._missed(node, each.key)
                send(lambda each: each.next_nodes(needs, stored_by(each)), [e for e in batch if e.key in unsatisfied])

            round_.ask(node, answer, took, failed)

        def stored_by(each: _Asked) -> set[Node]:
            # Those that may still answer count as if they had: only what is missing is made up for.
            return {node for node in each.asked if not each.replies.get(node, NOTHING).startswith(b"!")} & {
                node for node in each.asked if node in each.replies or node in round_.late
            }

        def first(each: _Asked) -> list[Node]:
            keepers = each.route.keepers
            chosen = [node for node in each.route.nodes if node in keepers and _takes_writes(node)]
            members = {node for node in chosen if node.state == "member"}
            for node in each.route.nodes:
                if node in keepers and node not in members:
                    self._missed(node, each.key)
            each.asked |= set(chosen)
            return chosen + each.next_nodes(needs, members)

        def late() -> None:
            # Whoever is late counts for nothing now; a voter that is no keeper takes the copy for it.
            send(
                lambda each: each.next_nodes(needs, {n for n in each.replies if not each.replies[n].startswith(b"!")}),
                list(unsatisfied.values()),
            )

        round_ = _Round(self._hedge_seconds, late)
        send(first, asked)
        await round_.wait()
        return refusals[0] if refusals else None

    async def _think_again(self, attempt: int, began: float, failed: Sequence[_Asked]) -> bool:
        """Learn what changed, a new epoch or a node that counts again; return whether to try once more."""
        silent = {node for each in failed for node in each.route.nodes if node not in each.replies}
        if all(node.breaker.state == "open" for node in silent):
            return False  # known to be down: nothing is learnt by asking
        if attempt >= _TRIES - 1 or time.monotonic() - began > self.membership.timeout_seconds:
            return False
        await asyncio.sleep(_PAUSE_SECONDS * attempt)
        await self.membership.refresh()
        return True


class Superseded(Exception):
    """Something newer than a fencing token is held: what was computed under it is out of date."""


_HEAD = 39


def _version_of(copy: bytes) -> bytes:
    return copy[:VERSION_BYTES]


def _is_whole(reply: object) -> bool:
    return type(reply) is not Refusal


def _is_floor(newer: bytes) -> bool:
    """Tell whether what a write was refused for is the token of a lease, and not a copy."""
    return len(newer) == VERSION_BYTES


def _takes_writes(node: Node) -> bool:
    return node.state == "syncing" or node.is_preferred() or node.may_be_asked()


def _enough(route: Route, nodes: set[Node], level: Level) -> bool:
    if level == "one":
        return bool(nodes)
    if level == "all":
        return route.keepers <= nodes and route.agree(nodes)
    return route.agree(nodes)


def _too_few(keys: Mapping[str, Any], level: Level) -> str:
    return (
        f"too few of the nodes that keep {len(keys)} key{'' if len(keys) == 1 else 's'} answer and count (consistency"
        f" {level!r}): `cache-cli nodes status` shows which, and `cache-cli repair run` brings back what it can"
    )
