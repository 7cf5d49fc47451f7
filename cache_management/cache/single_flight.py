"""One computation per key: among the tasks of a process, and among processes by a lease.

The holder of the lease computes and stores; the others look for the value, not for the
lease. A holder that dies costs its lease's time and exactly one more computation. A holder that
fails leaves a mark for a moment, and those who waited compute side by side: one behind the other,
each would wait for the failures of all before it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Generic, TypeVar

from cache_management.cache.backends.base import Leases
from cache_management.cache.errors import BackendUnavailable

T = TypeVar("T")
logger = logging.getLogger("cache_management")

LEASE_SECONDS = 10.0
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.25
_MARK_SECONDS = 2.0  # more than anybody sleeps between two looks
_FAILED = "failed"
_computed_here: ContextVar[frozenset[str]] = ContextVar("computed_here", default=frozenset())
"""Names of the flights that this code is a part of: a computation that asks for itself must not wait for itself."""


class Flight(Generic[T]):
    """A computation under way, and the callers who wait for it."""

    __slots__ = ("holder", "task", "waiters")

    def __init__(self) -> None:
        self.holder: Holder | None = None
        self.task: asyncio.Task[None]
        self.waiters: set[asyncio.Future[T]] = set()


class SingleFlight(Generic[T]):
    """Joins equal computations.

    Tasks and futures belong to their event loop, so callers of one loop share a flight; between
    loops, as between processes, the lease joins them.

    Args:
        leases: Between processes; None joins within this process only.
        lease_seconds: How long a dead holder blocks the others.
        wait_seconds: How long to wait for another process before computing anyway.
    """

    def __init__(
        self, leases: Leases | None = None, *, lease_seconds: float = LEASE_SECONDS, wait_seconds: float = 120.0
    ) -> None:
        self._leases = leases
        self._lease_seconds = lease_seconds
        self._wait_seconds = wait_seconds
        self._loops: dict[asyncio.AbstractEventLoop, dict[str, Flight[T]]] = {}
        self._pid = os.getpid()

    async def run(
        self, name: str, compute: Callable[[Holder], Awaitable[T]], look: Callable[[], Awaitable[T | None]]
    ) -> T:
        """Return what `compute` returns, or what `look` finds because somebody else computed it.

        Callers of this process that come while it runs share it, its exception too. It is
        cancelled when all of them are.

        Args:
            name: What is computed; equal names are joined, but for one that is asked for within its own computation.
            compute: Gets the right under which it runs; asks it before it stores.
            look: Reads the stored value, None while there is none.
        """
        if name in _computed_here.get():
            return await compute(ALONE)
        loop = asyncio.get_running_loop()
        # One for each caller: whoever is cancelled cancels what it waits for, and that must be nobody else's.
        waiter: asyncio.Future[T] = loop.create_future()
        flights = self._loops.get(loop)
        if flights is None or self._pid != os.getpid():
            flights = await self._welcome(loop)
        flight = flights.get(name)
        if flight is None:
            flight = flights[name] = Flight()
            flight.waiters.add(waiter)
            # A task of its own, not the first caller's: timeouts and task groups inside the computation are
            # bound to the task they began in, so it could not be handed on when that caller is cancelled.
            flight.task = loop.create_task(self._fly(name, flight, flights, compute, look))
        else:
            flight.waiters.add(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            flight.waiters.discard(waiter)
            if not flight.waiters and not flight.task.done():
                # Out of sight first: a newcomer must not join a flight that is being cancelled.
                _land(name, flight, flights)
                flight.task.cancel()
            raise

    def forget(self, names: Iterable[str] | None) -> None:
        """Let callers from now on begin anew (None: under any name); who waits gets what it waits for."""
        for flights in list(self._loops.values()):  # of other threads too: each step is one of the dict's own
            if names is None:
                flights.clear()
            else:
                for name in names:
                    flights.pop(name, None)

    async def _welcome(self, loop: asyncio.AbstractEventLoop) -> dict[str, Flight[T]]:
        """Return the flights of a loop seen for the first time; forget those of loops that are gone."""
        if self._pid != os.getpid():
            # The computations of a parent go on there, under its leases.
            self._loops, self._pid = {}, os.getpid()
        flights = self._loops.setdefault(loop, {})
        for other in [other for other in list(self._loops) if other.is_closed()]:
            for flight in self._loops.pop(other, {}).values():
                if flight.holder is not None:
                    await flight.holder.release()
        return flights

    async def _fly(
        self,
        name: str,
        flight: Flight[T],
        flights: dict[str, Flight[T]],
        compute: Callable[[Holder], Awaitable[T]],
        look: Callable[[], Awaitable[T | None]],
    ) -> None:
        _computed_here.set(_computed_here.get() | {name})  # of this task and all that it begins
        # The waiters are told here: a callback of the task would cost each of them another turn of the loop.
        try:
            holder, found = await self.turn(name, look)
            flight.holder = holder
            try:
                value = await compute(holder) if found is None else found
            except GeneratorExit:
                raise
            except BaseException as exc:
                await holder.release(failed=isinstance(exc, Exception))
                raise
            await holder.release()
        except GeneratorExit:
            raise  # thrown away with its loop: nothing can be awaited and nobody be told
        except BaseException as exc:
            for waiter in _land(name, flight, flights):
                waiter.set_exception(exc)
            if not isinstance(exc, Exception):
                raise
        else:
            for waiter in _land(name, flight, flights):
                waiter.set_result(value)

    async def _has_failed(self, name: str) -> bool:
        if self._leases is None:
            return False
        try:
            return await self._leases.renew(_mark(name), owner=_FAILED, ttl_seconds=_MARK_SECONDS)
        except BackendUnavailable:
            return False

    async def turn(self, name: str, look: Callable[[], Awaitable[T | None]]) -> tuple[Holder, T | None]:
        """Wait for the right to compute, or for the value of whoever has it.

        Returns the right and None, or a right that is no use and what `look` found. Whoever gets
        the right gives it back, see `Holder.release`.
        """
        leases = self._leases
        if leases is None:
            return ALONE, None
        loop = asyncio.get_running_loop()
        owner = os.urandom(16).hex()  # not a name and a counter: forks would share them
        deadline = loop.time() + self._wait_seconds
        pause = _FIRST_PAUSE
        while True:
            try:
                token = await leases.acquire(name, owner=owner, ttl_seconds=self._lease_seconds)
            except BackendUnavailable:
                return ALONE, None
            if token is not None:
                holder = Holder(leases, name, owner, self._lease_seconds)
                try:
                    # Somebody may have stored and gone between the caller's look and this moment.
                    return holder, await look()
                except BaseException:
                    await holder.release()
                    raise
            if await self._has_failed(name):
                return ALONE, None
            if loop.time() > deadline:
                logger.warning("waited %.0f s for another process, computing without it", self._wait_seconds)
                return ALONE, None
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
            found = await look()
            if found is not None:
                return ALONE, found


def _mark(name: str) -> str:
    """Return the name of the lease that says that a computation has just failed."""
    return f"{name}:{_FAILED}"


def _land(name: str, flight: Flight[T], flights: dict[str, Flight[T]]) -> list[asyncio.Future[T]]:
    """Let newcomers begin anew; return who waits still."""
    if flights.get(name) is flight:
        flights.pop(name, None)  # another thread may have forgotten it this moment
    return [waiter for waiter in flight.waiters if not waiter.done()]


class Holder:
    """The right to compute and store one value, as long as its lease lasts.

    It is renewed every third of the lease's time, until it is given back or lost; not while
    `idle_since` (the loop's time) lies more than half the lease's time back. Who hands out what it
    computes bit by bit sets it for as long as a reader takes nothing.
    """

    def __init__(self, leases: Leases | None, name: str, owner: str, ttl_seconds: float) -> None:
        self._leases = leases
        self._name = name
        self._owner = owner
        self._ttl_seconds = ttl_seconds
        self._keeper: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self.lost = False
        self.idle_since: float | None = None
        if leases is not None:
            # A timer first: most computations are over before a task is worth its price.
            self._loop = asyncio.get_running_loop()
            self._keeper = self._loop.call_later(ttl_seconds / 3, self._begin_to_keep)

    async def still_holds(self) -> bool:
        """Tell whether what was computed may be stored: a late holder must not overwrite its successor."""
        if self._leases is None:
            return True
        if self.lost:
            return False
        try:
            self.lost = not await self._leases.renew(self._name, owner=self._owner, ttl_seconds=self._ttl_seconds)
        except BackendUnavailable:
            return True  # then the write will fail or not on its own
        return not self.lost

    async def release(self, *, failed: bool = False) -> None:
        """Give the right back, so that nobody waits for its time to end; say whether the computation failed."""
        if self._leases is None:
            return
        if self._keeper is not None and not self._loop.is_closed():
            self._keeper.cancel()
        try:
            if failed:
                await self._leases.acquire(_mark(self._name), owner=_FAILED, ttl_seconds=_MARK_SECONDS)
            await self._leases.release(self._name, owner=self._owner)
        except BackendUnavailable:
            return  # it ends by itself

    def _begin_to_keep(self) -> None:
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        while not self.lost:
            if self.idle_since is None or self._loop.time() - self.idle_since < self._ttl_seconds / 2:
                await self.still_holds()
            await asyncio.sleep(self._ttl_seconds / 3)


ALONE = Holder(None, "", "", 0.0)
"""The right of somebody who need not ask anybody."""
