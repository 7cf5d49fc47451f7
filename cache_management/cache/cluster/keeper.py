"""Looks after a replicated cache from within the processes that use it.

Nodes that came back are brought up to date, moves under way are finished, what a node missed is brought to it, and
now and then everything is compared. Workers do the same as recorded jobs; without any, this is enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable

from cache_management.cache.backends.redis_connection import retrieve
from cache_management.cache.cluster.coordination import Coordination
from cache_management.cache.cluster.envelope import number_in
from cache_management.cache.cluster.levelling import Levelled, Levelling
from cache_management.cache.cluster.membership import Membership
from cache_management.cache.cluster.moves import Moves, MoveUnderWay
from cache_management.cache.cluster.node import PASSES, Node
from cache_management.cache.cluster.repair import Repair
from cache_management.cache.cluster.syncing import Syncing
from cache_management.cache.errors import BackendUnavailable, CacheError, ConfigurationError, QuorumNotReached
from cache_management.cache.events import Listener

logger = logging.getLogger("cache_management")

_LOOK_SECONDS = 0.5
_LOOKS = 6
_CLAIM_SECONDS = 5.0  # so long a node waits when whoever brings it up dies, or its release is lost
_MOST_MISSED = 20_000
_REFRESH_SECONDS = 2.0  # an idle process, too, shall notice soon that a node forgot what it held
_PAUSE_SECONDS = 0.01
Wish = tuple[str, str]


class Keeper:
    """One background task for each event loop that uses the cache."""

    def __init__(self, membership: Membership, *, listener: Listener) -> None:
        self.membership = membership
        self.moves = Moves(membership, listener=listener)
        self.wishes: list[Wish] = []
        self.refused: list[ConfigurationError] = []
        self._granting: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        self._listener = listener
        self._syncing = Syncing(membership, listener=listener)
        self._coordination = Coordination(membership)
        self._missed: dict[Node, set[str]] = {}
        self.owner = secrets.token_hex(8)
        self._task: asyncio.Task[None] | None = None
        self._mending: asyncio.Task[bool] | None = None
        self._wake: asyncio.Event | None = None
        self._next_refresh = 0.0
        self._next_pass = time.monotonic() + self._pass_seconds() * (0.5 + secrets.randbelow(100) / 100)
        self.on_look: Callable[[], None] = lambda: None
        membership.woken = self.wake

    def begin(self) -> None:
        """Look after the cache while the running event loop runs."""
        if self._task is None or self._task.done() or self._task.get_loop() is not asyncio.get_running_loop():
            self._wake = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(self._wake))

    def wake(self) -> None:
        """Look at once."""
        if self._wake is not None:
            with contextlib.suppress(RuntimeError):
                self._wake.set()

    def missed(self, node: Node, name: str) -> None:
        """Note that a node did not get a copy of an entry."""
        names = self._missed.setdefault(node, set())
        if len(names) < _MOST_MISSED:
            names.add(name)
        else:
            self._next_pass = 0.0

    async def aclose(self) -> None:
        tasks = [task for task in (self._task, self._mending) if task is not None]
        self._task = self._mending = None
        for task in tasks:
            if task.get_loop() is asyncio.get_running_loop():
                task.cancel()
                await asyncio.wait((task,))
        await self.moves.aclose()

    async def _run(self, wake: asyncio.Event) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await wake.wait()
            wake.clear()
            try:
                await self.look()
            except BackendUnavailable as exc:
                logger.debug("looking after the replicated cache: %s", exc)
            except CacheError as exc:
                logger.warning("the replicated cache cannot be looked after: %s", exc)
            except Exception:
                logger.exception("looking after the replicated cache failed")
            await asyncio.sleep(0.05 + secrets.randbelow(100) / 1000)

    def brought(self) -> Levelled:
        """Return what this process ever brought to nodes that did not count, and to slots that moved."""
        both = Levelled()
        both.add(self._syncing.tally)
        both.add(self.moves.tally)
        return both

    async def look(self) -> None:
        """Do what is to be done now."""
        self.on_look()
        if self.membership.table is None:
            return
        await self._mend()
        await self._tell_missed()
        if time.monotonic() >= self._next_pass:
            self._next_pass = time.monotonic() + self._pass_seconds()
            await self._claimed("cluster:pass", self._pass)

    async def mend(self, *, seconds: float) -> bool:
        """Bring nodes up to date and let moves go on, for about so long; return whether there is no more to wait for.

        What was begun goes on behind the time, and the next call waits for it. False, too, while another process is
        at it. What cannot be done now, such as for a node that does not answer, is not waited for.

        Raises:
            BackendUnavailable: Nodes that a move needs do not answer.
        """
        loop = asyncio.get_running_loop()
        until = time.monotonic() + seconds
        if self._mending is None or self._mending.get_loop() is not loop:
            self._mending = loop.create_task(self._look_and_mend())
            self._mending.add_done_callback(retrieve)
        task = self._mending
        await asyncio.wait((task,), timeout=seconds)
        if not task.done():
            return False
        self._mending = None
        if task.result():
            return True
        await asyncio.sleep(max(0.0, until - time.monotonic()))
        return False

    @property
    def is_mending(self) -> bool:
        """Tell whether what `mend` began in this process goes on."""
        return self._mending is not None and not self._mending.done()

    async def _look_and_mend(self) -> bool:
        await self.membership.connect()
        # A node that was restarted may not have been asked since; one that was away is asked again within two seconds.
        for _ in range(_LOOKS):
            await self.membership.refresh()
            if all(node.breaker.state == "closed" for node in self.membership.nodes()):
                break
            await asyncio.sleep(_LOOK_SECONDS)
        return await self._mend()

    async def _mend(self) -> bool:
        """Do what is to be done about nodes and moves; return False when another process is at some of it."""
        membership = self.membership
        is_left = False
        is_whole = membership.is_confirmed and all(node.state == "member" for node in membership.nodes())
        if not is_whole or time.monotonic() >= self._next_refresh:
            self._next_refresh = time.monotonic() + _REFRESH_SECONDS
            await membership.refresh()
        for node in membership.nodes():
            if node.state != "member":
                is_ours = await self._claimed(
                    f"cluster:sync:{node.id}",
                    lambda node=node: self._bring_up(node),  # type: ignore[misc]
                )
                # Where it does not answer, others try in vain: they are not waited for.
                is_left |= not is_ours and node.breaker.state == "closed"
        try:
            await self.grant_wishes()
        except ConfigurationError as exc:
            # Whoever waits for the move hears of it.
            self.refused.append(exc)
            logger.warning("%s", exc)
        if membership.known_table().moving or self._has_leavers():
            is_left |= not await self._claimed("cluster:move", self.moves.finish)
        return not is_left

    async def accept_loss(self) -> list[str]:
        """Bring up what answers and does not count, whatever the others may have held; return the addresses."""
        await self.membership.refresh()
        if not self.membership.is_confirmed:
            await self.membership.confirm_what_is_left(accept_loss=True)
        back = []
        for node in self.membership.nodes():
            if node.state != "member":
                with contextlib.suppress(BackendUnavailable):
                    if await self._syncing.bring_up(node, accept_loss=True):
                        back.append(node.address)
        return back

    def _has_leavers(self) -> bool:
        membership = self.membership
        return membership.table is not None and bool(membership.leavers())

    async def _claimed(self, name: str, work: Callable[[], Awaitable[object]]) -> bool:
        """Do work that one process is enough for; return whether this one did it.

        Without a majority to ask, do it anyway: it may be done twice.
        """
        nodes = self.membership.nodes()
        if 2 * sum(node.state == "member" for node in nodes) <= len(nodes):
            await work()  # asking would take many seconds, and come to nothing
            return True
        owner = f"{self.owner}:{secrets.token_hex(4)}"
        try:
            token = await self._coordination.acquire(name, owner=owner, ttl_seconds=_CLAIM_SECONDS)
        except QuorumNotReached:
            await work()
            return True
        if token is None:
            return False
        renewal = asyncio.get_running_loop().create_task(self._renew(name, owner))
        try:
            await work()
        finally:
            renewal.cancel()
            with contextlib.suppress(BackendUnavailable):
                await self._coordination.release(name, owner=owner)
        return True

    async def _renew(self, name: str, owner: str) -> None:
        while True:
            await asyncio.sleep(_CLAIM_SECONDS / 3)
            with contextlib.suppress(BackendUnavailable):
                await self._coordination.renew(name, owner=owner, ttl_seconds=_CLAIM_SECONDS)

    async def _bring_up(self, node: Node) -> None:
        with contextlib.suppress(BackendUnavailable):
            await self._syncing.bring_up(node)

    async def grant_wishes(self) -> None:
        """Let nodes come and go as was asked, one change after the other; stop at one that must wait.

        Raises:
            ConfigurationError: A node cannot come or go: it is passed over.
            BackendUnavailable: Nodes that are needed do not answer; the wish stays.
        """
        loop = asyncio.get_running_loop()
        if self._granting is None or self._granting[0] is not loop:
            self._granting = (loop, asyncio.Lock())
        async with self._granting[1]:
            while self.wishes:
                what, address = self.wishes[0]
                try:
                    await (self.moves.add(address) if what == "add" else self.moves.remove(address))
                except MoveUnderWay:
                    return
                except BackendUnavailable:
                    raise
                except CacheError:
                    self.wishes.pop(0)
                    raise
                self.wishes.pop(0)

    async def _tell_missed(self) -> None:
        membership = self.membership
        for node in [node for node in self._missed if node.state == "member" and node.breaker.state == "closed"]:
            names = self._missed.pop(node)
            some: list[str] = []
            levelling = Levelling(membership, targets=lambda route: route.keepers)
            try:
                while names:
                    some = [names.pop() for _ in range(min(500, len(names)))]
                    await levelling.level(some, required=(node,))
                    some = []
            except BackendUnavailable:
                # The next look tries again, and the others need not wait for this one.
                self._missed.setdefault(node, set()).update(names, some)

    def _pass_seconds(self) -> float:
        return max(5.0, self.membership.replication.max_outage_seconds / 4)

    async def _pass(self) -> None:
        """Compare everything, unless somebody did a while ago."""
        membership = self.membership
        latest = 0
        for node in membership.nodes():
            if node.state == "member":
                (passes,) = await node.marked(("HVALS", PASSES))
                latest = max([latest, *(number_in(at) for at in passes)])
        if membership.now_ms() - latest > 900 * self._pass_seconds():
            repair = Repair(membership, listener=self._listener)
            bookmark: str | None = ""
            while bookmark is not None:
                _, bookmark = await repair.step(bookmark)
                await asyncio.sleep(_PAUSE_SECONDS)  # the application comes first
                if time.monotonic() >= self._next_refresh:
                    # A pass over much takes long: a node that comes back meanwhile does not wait for its end.
                    with contextlib.suppress(BackendUnavailable):
                        await self._mend()
