"""A client as it is often written: to all nodes, one acknowledgement is enough, the first answer wins.

The harness must show how it loses values; it is also what the speed of quorums is compared with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError


class NaiveCache:
    """Replicates by writing everywhere, without versions, quorums or repair."""

    def __init__(self, nodes: Sequence[str], *, timeout_seconds: float) -> None:
        self._clients = []
        for node in nodes:
            host, _, port = node.rpartition(":")
            self._clients.append(
                Redis(
                    host=host,
                    port=int(port),
                    socket_timeout=timeout_seconds,
                    socket_connect_timeout=timeout_seconds,
                    retry=Retry(NoBackoff(), 0),
                    decode_responses=True,
                )
            )
        self._late: set[asyncio.Task[Any]] = set()

    async def set(self, key: str, value: str, *, ttl_seconds: float | None = None) -> None:
        lifetime = round((ttl_seconds or 3600) * 1000)
        await self._first([client.set(key, value, px=lifetime) for client in self._clients])

    async def get(self, key: str) -> str | None:
        found: str | None = await self._first([client.get(key) for client in self._clients])
        return found

    async def delete(self, key: str) -> None:
        await self._first([client.delete(key) for client in self._clients])

    async def exists(self, key: str) -> bool:
        return bool(await self._first([client.exists(key) for client in self._clients]))

    async def _first(self, calls: Sequence[Awaitable[Any]]) -> Any:
        tasks = [asyncio.ensure_future(call) for call in calls]
        for task in tasks:
            self._late.add(task)
            task.add_done_callback(self._forget)
        last: Exception | None = None
        for done in asyncio.as_completed(tasks):
            try:
                return await done
            except (RedisError, OSError) as exc:
                last = exc
        assert last is not None
        raise last

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()

    async def aclose(self) -> None:
        for client in self._clients:
            await client.aclose()
