"""What the client processes drive: one face for the cache under test and the one that it is compared with."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
from redis.exceptions import RedisError

from tests.faults.cluster.naive import NaiveCache


class ClientSpec(msgspec.Struct, frozen=True):
    """How a client process is set up. `number` is unlike that of every other in the run."""

    number: int
    nodes: list[str]
    history: str
    seed: int
    target: str = "distributed"
    mutant: str | None = None
    clock_offset_seconds: float = 0.0
    timeout_seconds: float = 0.25
    replication: dict[str, Any] = {}
    workers: int = 4
    pause_seconds: float = 0.004
    keys: int = 16
    generation_seconds: float = 2.0


class Unsure(Exception):
    """A write may have taken effect, or may yet; a read gave no answer."""


class NotDone(Exception):
    """A write surely did not take effect and never will."""


class Target(Protocol):
    """A cache; what cannot be answered raises Unsure or NotDone."""

    async def set(self, key: str, value: str, ttl_seconds: float | None) -> None: ...
    async def get(self, key: str) -> str | None: ...
    async def delete(self, key: str) -> None: ...
    async def exists(self, key: str) -> bool: ...
    async def get_many(self, keys: Sequence[str]) -> dict[str, str]: ...
    async def set_many(self, values: Mapping[str, str]) -> None: ...
    async def states(self) -> list[str]: ...
    async def repair(self) -> None: ...
    async def differences(self) -> list[str]: ...
    async def move(self, *, to: str | None, away: str | None) -> None: ...
    async def close(self) -> None: ...


class NaiveTarget:
    """The naive client. It tells no refusal from a doubt, and knows no states of nodes."""

    def __init__(self, spec: ClientSpec) -> None:
        self._cache = NaiveCache(spec.nodes, timeout_seconds=spec.timeout_seconds)
        self._nodes = len(spec.nodes)

    async def set(self, key: str, value: str, ttl_seconds: float | None) -> None:
        await self._ask(self._cache.set(key, value, ttl_seconds=ttl_seconds))

    async def get(self, key: str) -> str | None:
        found: str | None = await self._ask(self._cache.get(key))
        return found

    async def delete(self, key: str) -> None:
        await self._ask(self._cache.delete(key))

    async def exists(self, key: str) -> bool:
        return bool(await self._ask(self._cache.exists(key)))

    async def get_many(self, keys: Sequence[str]) -> dict[str, str]:
        found = {key: await self.get(key) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    async def set_many(self, values: Mapping[str, str]) -> None:
        for key, value in values.items():
            await self.set(key, value, None)

    async def states(self) -> list[str]:
        return ["member"] * self._nodes

    async def repair(self) -> None:
        """Do nothing: it knows no repair."""

    async def differences(self) -> list[str]:
        return []

    async def move(self, *, to: str | None, away: str | None) -> None:
        """Do nothing: its nodes are what they are."""

    async def close(self) -> None:
        await self._cache.aclose()

    async def _ask(self, call: Any) -> Any:
        try:
            return await call
        except (RedisError, OSError) as exc:
            raise Unsure(str(exc)) from exc


def open_target(spec: ClientSpec) -> Target:
    """Build what a client process drives."""
    if spec.target == "naive":
        return NaiveTarget(spec)
    from tests.faults.cluster.distributed_target import DistributedTarget

    return DistributedTarget(spec, clock=lambda: time.time() + spec.clock_offset_seconds)
