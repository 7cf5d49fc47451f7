"""A circuit breaker: a store that is down costs a miss, not a wait.

closed   calls go through; failures in a row are counted
open     calls fail at once, without a connection, until a pause is over
probing  one call goes through; it closes the breaker, or opens it for twice as long
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Literal, TypeVar

from cache_management.cache.backends.base import Surplus, Swept
from cache_management.cache.backends.wrapped import FullBackend, WrappedBackend
from cache_management.cache.errors import BackendRefused, BackendUnavailable
from cache_management.cache.records import Head, Record

T = TypeVar("T")
logger = logging.getLogger("cache_management")

FAILURES_TO_OPEN = 5
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0


class Breaker:
    """Counts failures in a row and says whether a call may go; no I/O, no clock of its own."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
    ) -> None:
        self._monotonic = monotonic
        self._longest_pause = longest_pause_seconds
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._closed_again_at = 0.0
        self._probing_until = 0.0
        self.state: Literal["closed", "open"] = "closed"

    def may_call(self) -> bool:
        """Tell whether a call may go; at the end of a pause, one caller at a time may."""
        if self.state == "closed":
            return True
        now = self._monotonic()
        if now < self._closed_again_at or now < self._probing_until:
            return False
        # Should the probe never come back (its caller was cancelled), another may try after a pause.
        self._probing_until = now + self._pause
        return True

    def succeeded(self) -> bool:
        """Note a success; return whether it closed the breaker."""
        self._failures = 0
        if self.state == "closed":
            return False
        self.state = "closed"
        self._pause = FIRST_PAUSE_SECONDS
        self._probing_until = 0.0
        return True

    def failed(self) -> bool:
        """Note a failure; return whether it opened the breaker."""
        now = self._monotonic()
        if self.state == "open":
            # Calls from before it opened come back late; only the probe makes the pause longer.
            if now >= self._closed_again_at:
                self._pause = min(self._pause * 2, self._longest_pause)
                self._closed_again_at = now + self._pause
                self._probing_until = 0.0
            return False
        self._failures += 1
        if self._failures < FAILURES_TO_OPEN:
            return False
        self.state = "open"
        self._closed_again_at = now + self._pause
        return True


class GuardedBackend(WrappedBackend):
    """Fails at once while the store is known to be down; says so once, and once when it is back.

    Deletions and invalidations are let through in any state, and so are their notes in the journal:
    they must be tried.
    """

    def __init__(self, inner: FullBackend, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(inner)
        self.breaker = Breaker(monotonic=monotonic)

    async def get(self, key: str) -> Record | None:
        return await self._guard(self.inner.get, key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        return await self._guard(self.inner.get_many, keys)

    async def inspect_many(self, keys: Sequence[str]) -> dict[str, Record | None]:
        return await self._guard(self.inner.inspect_many, keys)

    async def put(self, key: str, record: Record) -> None:
        await self._guard(self.inner.put, key, record)

    async def put_many(self, records: Mapping[str, Record]) -> None:
        await self._guard(self.inner.put_many, records)

    async def put_if(self, key: str, record: Record, *, expected: int | None) -> bool:
        return await self._guard(lambda: self.inner.put_if(key, record, expected=expected))

    async def scan_page(self, prefix: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        return await self._guard(self.inner.scan_page, prefix, bookmark, limit)

    async def count(self, prefix: str = "") -> int:
        return await self._guard(self.inner.count, prefix)

    async def surplus(self) -> Surplus:
        return await self._guard(self.inner.surplus)

    async def victims(self, aim: Mapping[str, int], limit: int) -> list[str]:
        return await self._guard(self.inner.victims, aim, limit)

    async def sweep(self, aim: Mapping[str, int], limit: int) -> Swept:
        return await self._guard(self.inner.sweep, aim, limit)

    async def drop_expired(self, bookmark: str, limit: int) -> tuple[Swept, str | None]:
        return await self._guard(self.inner.drop_expired, bookmark, limit)

    async def heads(self, keys: Sequence[str]) -> dict[str, Head]:
        return await self._guard(self.inner.heads, keys)

    async def tags_page(self, prefix: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        return await self._guard(self.inner.tags_page, prefix, bookmark, limit)

    async def tail(self, stream: str) -> str:
        return await self._guard(self.inner.tail, stream)

    async def read_after(self, stream: str, cursor: str, *, limit: int) -> tuple[list[bytes], str]:
        return await self._guard(lambda: self.inner.read_after(stream, cursor, limit=limit))

    async def trim(self, stream: str, cursor: str) -> None:
        await self._guard(self.inner.trim, stream, cursor)

    async def acquire(self, name: str, *, owner: str, ttl_seconds: float) -> int | None:
        return await self._guard(lambda: self.inner.acquire(name, owner=owner, ttl_seconds=ttl_seconds))

    async def add_tags(self, tags: Mapping[str, Mapping[str, float | None]]) -> None:
        await self._guard(self.inner.add_tags, tags)

    async def stash(self, name: str, piece: bytes, *, ttl_seconds: float) -> None:
        await self._guard(lambda: self.inner.stash(name, piece, ttl_seconds=ttl_seconds))

    async def stashed(self, name: str) -> bytes | None:
        return await self._guard(self.inner.stashed, name)

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        async for key in self.inner.scan(prefix):
            yield key

    async def _guard(self, call: Callable[..., Awaitable[T]], *args: object) -> T:
        breaker = self.breaker
        if breaker.state != "closed" and not breaker.may_call():
            raise BackendUnavailable(self.name, "it failed several times in a row and is left alone for a while")
        try:
            found = await call(*args)
        except BackendRefused:
            # Who refuses is there: a full server still answers reads.
            self._answers()
            raise
        except BackendUnavailable as exc:
            if breaker.failed():
                logger.warning("%s is left alone for a while: %s", self.name, exc)
            raise
        self._answers()
        return found

    def _answers(self) -> None:
        if self.breaker.succeeded():
            logger.warning("%s answers again", self.name)
