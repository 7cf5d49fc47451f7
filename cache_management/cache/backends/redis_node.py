"""Talks to one Redis or Valkey server: connections, time budget, translated errors, scripts."""

from __future__ import annotations

import asyncio
import contextlib
from functools import cache
from importlib.resources import files
from types import TracebackType
from typing import Any

from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendUnavailable

try:
    import redis.asyncio as aioredis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError, ResponseError
except ImportError as exc:
    raise ImportError("The Redis backend needs: pip install 'cache-management[redis]'") from exc

_CONNECTIONS = 64
_BYTES_PER_SECOND = 20_000_000  # what a slow link still carries; large values get more time by it


class RedisNode:
    """One server. Connections belong to an event loop: a second `asyncio.run` opens new ones."""

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        self._seconds = config.timeout_seconds
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._free = asyncio.Semaphore(_CONNECTIONS)
        self.address = _address(config)

    def talk(self, payload_bytes: int = 0) -> _Call:
        """Open a call: `async with node.talk() as client`.

        More callers than connections wait their turn, inside their own time budget. Every
        failure inside becomes BackendUnavailable.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # The old loop is gone or elsewhere, and with it the sockets that belonged to it.
            self._client, self._loop = _connect(self._config), loop
            self._free = asyncio.Semaphore(_CONNECTIONS)
        return _Call(self._client, self._free, self._seconds + payload_bytes / _BYTES_PER_SECOND, self.address)

    async def run_script(self, client: Any, name: str, keys: list[str], args: list[Any]) -> Any:
        """Run one of the scripts in `lua/`; a server that does not know it yet is taught."""
        return await client.register_script(_script(name))(keys=keys, args=args)

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        client, loop = self._client, self._loop
        self._client = self._loop = None
        if client is not None and loop is asyncio.get_running_loop():
            with contextlib.suppress(RedisError, OSError):
                await client.aclose()


class _Call:
    """One turn at the server. A class and not a generator: this is the hot path of every read."""

    __slots__ = ("_address", "_budget", "_client", "_free", "_holds", "_timeout")

    def __init__(self, client: Any, free: asyncio.Semaphore, budget: float, address: str) -> None:
        self._client = client
        self._free = free
        self._budget = budget
        self._address = address
        self._holds = False
        self._timeout = asyncio.timeout(budget)

    async def __aenter__(self) -> Any:
        await self._timeout.__aenter__()
        try:
            await self._free.acquire()
        except BaseException as exc:
            await self.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        self._holds = True
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._holds:
            self._free.release()
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as exc:
            raise BackendUnavailable(self._address, f"no answer within {self._budget:.3g} s") from exc
        if error is None:
            return
        if isinstance(error, ResponseError):
            # In a pipeline the client puts the command before the server's words, with the key: a prompt.
            words = str(error).rpartition("caused error: ")[2]
            raise BackendUnavailable(self._address, f"it refused: {words}") from None
        if isinstance(error, RedisError | OSError):
            raise BackendUnavailable(self._address, str(error) or type(error).__name__) from error


@cache
def _script(name: str) -> str:
    return (files("cache_management.cache.backends") / "lua" / f"{name}.lua").read_text()


def _connect(config: CacheConfig) -> Any:
    # The whole call has its own time budget, so the client must not retry at leisure inside it;
    # one retry remains for a connection that the server closed while it was idle.
    options: dict[str, Any] = {
        "max_connections": _CONNECTIONS,
        "socket_timeout": None,
        "socket_connect_timeout": config.timeout_seconds,
        "retry": Retry(NoBackoff(), 1),
    }
    if config.url and config.url.startswith("unix:"):
        return aioredis.Redis.from_pool(aioredis.ConnectionPool.from_url(config.url, **options))
    if config.redis_ssl:
        options["connection_class"] = aioredis.SSLConnection
    pool = aioredis.ConnectionPool(
        host=config.redis_host,
        port=config.redis_port,
        db=config.redis_db,
        username=config.redis_username,
        password=config.redis_password.get_secret_value() if config.redis_password else None,
        **options,
    )
    return aioredis.Redis.from_pool(pool)


def _address(config: CacheConfig) -> str:
    if config.url and config.url.startswith("unix:"):
        return "redis at its unix socket"
    return f"redis at {config.redis_host}:{config.redis_port}"
