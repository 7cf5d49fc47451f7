"""One computation per key: among the tasks of a process, and among processes by a lease.

The holder of the lease computes and stores; the others look for the value, not for the
lease. A holder that dies costs its lease's time and exactly one more computation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from cache_management.cache.backends.base import Leases
from cache_management.cache.errors import BackendUnavailable

T = TypeVar("T")
logger = logging.getLogger("cache_management")

LEASE_SECONDS = 10.0
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.25


class Flight(Generic[T]):
    """A computation under way, and how many wait for it."""

    def __init__(self, task: asyncio.Task[T]) -> None:
        self.task = task
        self.waiting = 0


class SingleFlight(Generic[T]):
    """Joins equal computations.

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
        self._flights: dict[str, Flight[T]] = {}

    async def run(
        self, name: str, compute: Callable[[Holder], Awaitable[T]], look: Callable[[], Awaitable[T | None]]
    ) -> T:
        """Return what `compute` returns, or what `look` finds because somebody else computed it.

        Callers of this process that come while it runs share it, its exception too. It is
        cancelled when all of them are.

        Args:
            name: What is computed; equal names are joined.
            compute: Gets the right under which it runs; asks it before it stores.
            look: Reads the stored value, None while there is none.
        """
        flight = self._flights.get(name)
        if flight is None:
            task = asyncio.get_running_loop().create_task(self._fly(name, compute, look))
            flight = self._flights[name] = Flight(task)
            task.add_done_callback(lambda done: self._land(name, done))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if flight.waiting == 0 and not flight.task.done():
                # Out of sight first: a newcomer must not join a flight that is being cancelled.
                self._flights.pop(name, None)
                flight.task.cancel()

    def _land(self, name: str, task: asyncio.Task[T]) -> None:
        flight = self._flights.get(name)
        if flight is not None and flight.task is task:
            del self._flights[name]
        if not task.cancelled():
            task.exception()  # seen: a flight whose passengers all left must not complain at exit

    async def _fly(
        self, name: str, compute: Callable[[Holder], Awaitable[T]], look: Callable[[], Awaitable[T | None]]
    ) -> T:
        async with self.turn(name, look) as (holder, found):
            return await compute(holder) if found is None else found

    @contextlib.asynccontextmanager
    async def turn(self, name: str, look: Callable[[], Awaitable[T | None]]) -> AsyncIterator[tuple[Holder, T | None]]:
        """Wait for the right to compute, or for the value of whoever has it.

        Yields the right and None, or a right that is no use and what `look` found.
        """
        if self._leases is None:
            yield Holder.alone(), None
            return
        owner = uuid.uuid4().hex
        deadline = asyncio.get_running_loop().time() + self._wait_seconds
        pause = _FIRST_PAUSE
        while True:
            try:
                token = await self._leases.acquire(name, owner=owner, ttl_seconds=self._lease_seconds)
            except BackendUnavailable:
                yield Holder.alone(), None
                return
            if token is not None:
                async with self._held(self._leases, name, owner, token) as holder:
                    # Somebody may have stored and gone between the caller's look and this moment.
                    yield holder, await look()
                return
            if asyncio.get_running_loop().time() > deadline:
                logger.warning("waited %.0f s for another process, computing without it", self._wait_seconds)
                yield Holder.alone(), None
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
            found = await look()
            if found is not None:
                yield Holder.alone(), found
                return

    @contextlib.asynccontextmanager
    async def _held(self, leases: Leases, name: str, owner: str, token: int) -> AsyncIterator[Holder]:
        holder = Holder(leases, name, owner, token, self._lease_seconds)
        renewing = asyncio.get_running_loop().create_task(holder.keep())
        try:
            yield holder
        finally:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing
            with contextlib.suppress(BackendUnavailable):
                await leases.release(name, owner=owner)


class Holder:
    """The right to compute and store one value, as long as its lease lasts."""

    def __init__(self, leases: Leases | None, name: str, owner: str, token: int, ttl_seconds: float) -> None:
        self._leases = leases
        self._name = name
        self._owner = owner
        self._ttl_seconds = ttl_seconds
        self.token = token
        self.lost = False

    @classmethod
    def alone(cls) -> Holder:
        """Return the right of somebody who need not ask anybody."""
        return cls(None, "", "", 0, 0.0)

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

    async def keep(self) -> None:
        """Renew at a third of the lease's time, until cancelled or lost."""
        while not self.lost:
            await asyncio.sleep(self._ttl_seconds / 3)
            await self.still_holds()
