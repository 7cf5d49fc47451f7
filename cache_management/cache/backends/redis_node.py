"""Talks to one Redis or Valkey server: connections when needed, time budget, translated errors, scripts."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from importlib.resources import files
from math import inf
from typing import Any, Literal, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from cache_management.cache.backends.redis_connection import (
    CLOSED_HERE,
    Argument,
    Command,
    ConnectionLost,
    RedisConnection,
    Refusal,
    retrieve,
)
from cache_management.cache.backends.redis_sentinel import find_primary
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendRefused, BackendUnavailable, WrongServer

logger = logging.getLogger("cache_management")

_BYTES_PER_SECOND = 20_000_000  # what a slow link still carries; large values get more time by it
LARGE_BYTES = 2**18  # what travels on a connection of its own: small calls must not queue behind it
_COMMANDS_AT_ONCE = 500
_BYTES_AT_ONCE = 2**20
# What may be asked again when nobody knows whether the server did it.
READS = frozenset({"GET", "MGET", "PING", "SCAN", "XRANGE", "XREVRANGE", "XINFO", "ZRANGE", "ZRANGEBYSCORE", "ZSCAN"})

OnChange = Callable[[Sequence[str] | None], None]
Examine = Callable[[bytes, float], None]
"""Gets what `INFO server` says on a new connection, and the server's Unix seconds less the loop's time."""
Mode = Literal["standalone", "cluster"]


class Unreached(BackendUnavailable):
    """There is no connection: nothing of what was asked was sent."""


class Servers(Protocol):
    """What a backend asks: one server, or many that look like one."""

    async def call(self, *command: Argument, payload_bytes: int = 0) -> Any: ...

    async def pipeline(self, commands: Sequence[Command], *, payload_bytes: int = 0) -> list[Any]: ...

    async def run_script(
        self, name: str, keys: Sequence[str], args: Sequence[Argument], *, payload_bytes: int = 0
    ) -> Any: ...

    def watch(self, prefixes: Sequence[str], on_change: OnChange) -> None: ...

    def is_current(self) -> bool: ...

    async def aclose(self) -> None: ...


class RedisNode:
    """One server. Connections belong to an event loop and a process: others open their own.

    Everything raises BackendUnavailable: no answer in time, connection lost, or refused. What may
    have been done already is never sent twice.

    Args:
        examine: Looks at each server process that is connected to, before anything is asked of it; when it
            raises BackendUnavailable the connection is given up.
    """

    def __init__(self, config: CacheConfig, *, mode: Mode = "standalone", examine: Examine | None = None) -> None:
        server = _Server(config, mode, examine)
        self.address = server.address
        self._seconds = config.timeout_seconds
        self._small = _Lane(server, config.timeout_seconds, self._tell)
        self._small.greet = self._track
        self._large = _Lane(server, config.timeout_seconds)
        self._watched: tuple[Sequence[str], OnChange] | None = None
        self._has_said_why = False

    async def call(self, *command: Argument, payload_bytes: int = 0) -> Any:
        """Run one command; return its reply."""
        reply = await self.reply_to(command, payload_bytes=payload_bytes)
        if type(reply) is Refusal:
            raise BackendRefused(self.address, words(reply))
        return reply

    async def reply_to(self, command: Command, *, payload_bytes: int = 0, deadline: float | None = None) -> Any:
        """Run one command; return its reply, which may be a Refusal. The deadline is of the loop's clock."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        budget = self._seconds + payload_bytes / _BYTES_PER_SECOND
        deadline = now + budget if deadline is None else deadline
        lane = self._small if payload_bytes <= LARGE_BYTES else self._large
        for may_retry in (True, False):
            try:
                connection = lane.usable(loop, now)
                if connection is None:
                    connection = await lane.opened(loop, deadline)
                    now = loop.time()
                return await connection.ask(command, now, deadline)
            except TimeoutError:
                raise self._late(budget) from None
            except ConnectionLost as exc:
                if not may_retry or exc.is_wanted or (exc.was_sent and command[0] not in READS):
                    raise self._lost(exc) from exc
        raise AssertionError("unreachable: the second attempt returns or raises")

    def ask(self, command: Command, *, payload_bytes: int = 0) -> asyncio.Future[Any] | None:
        """Send one command at once; None when there is no connection that may be written to unseen.

        The future raises TimeoutError and ConnectionLost; an error reply is a Refusal, not raised.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        lane = self._small if payload_bytes <= LARGE_BYTES else self._large
        connection = lane.usable(loop, now)
        if connection is None:
            return None
        return connection.ask(command, now, now + self.budget(payload_bytes))

    def ask_all(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]] | None:
        """Send small commands together; see `ask`."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        connection = self._small.usable(loop, now)
        if connection is None:
            return None
        return connection.ask_all(commands, now, now + self._seconds)

    def budget(self, payload_bytes: int) -> float:
        """Return the seconds that a call with so much to carry may take."""
        return self._seconds + payload_bytes / _BYTES_PER_SECOND

    async def pipeline(self, commands: Sequence[Command], *, payload_bytes: int = 0) -> list[Any]:
        """Run commands in order, a bounded part at a time; return their replies.

        Other calls may come between them. What follows a refused command in its part is done,
        later parts are not.
        """
        replies: list[Any] = []
        budget = self.budget(payload_bytes)
        deadline = asyncio.get_running_loop().time() + budget
        for part in parts(commands):
            answers = await self.replies_to(part, payload_bytes=payload_bytes, deadline=deadline)
            for answer in answers:
                if type(answer) is Refusal:
                    raise BackendRefused(self.address, words(answer))
            replies += answers
        return replies

    async def replies_to(
        self, commands: Sequence[Command], *, payload_bytes: int = 0, deadline: float | None = None
    ) -> list[Any]:
        """Run commands in order and nothing between them; return their replies, some of which may be Refusals."""
        loop = asyncio.get_running_loop()
        budget = self.budget(payload_bytes)
        deadline = loop.time() + budget if deadline is None else deadline
        lane = self._small if payload_bytes <= LARGE_BYTES else self._large
        for may_retry in (True, False):
            try:
                connection = lane.usable(loop, loop.time()) or await lane.opened(loop, deadline)
                return await connection.ask_all(commands, loop.time(), deadline)
            except TimeoutError:
                raise self._late(budget) from None
            except ConnectionLost as exc:
                if not may_retry or exc.is_wanted or exc.was_sent:
                    raise self._lost(exc) from exc
        raise AssertionError("unreachable: the second attempt returns or raises")

    async def run_script(
        self, name: str, keys: Sequence[str], args: Sequence[Argument], *, payload_bytes: int = 0
    ) -> Any:
        """Run one of the scripts in `lua/`; a server that does not know it yet is taught."""
        script, digest = script_of(name)
        try:
            return await self.call("EVALSHA", digest, len(keys), *keys, *args, payload_bytes=payload_bytes)
        except BackendUnavailable as exc:
            if "NOSCRIPT" not in exc.reason:
                raise
        return await self.call("EVAL", script, len(keys), *keys, *args, payload_bytes=payload_bytes)

    def _lost(self, exc: ConnectionLost) -> BackendUnavailable:
        was_asked_for = exc.was_sent or exc.is_wanted  # closed here: nobody opens another for this call
        return (BackendUnavailable if was_asked_for else Unreached)(self.address, str(exc))

    def _late(self, budget: float) -> BackendUnavailable:
        return BackendUnavailable(self.address, f"no answer within {budget:.3g} s")

    # Watching: answers and changes come over one connection, in the server's order.

    def watch(self, prefixes: Sequence[str], on_change: OnChange) -> None:
        """Hear of keys below prefixes that others change; see `Watched`."""
        self._watched = (list(prefixes), on_change)
        for connection in self._small.open_connections():
            if connection.loop is _running_loop():
                self._track(connection)
            else:
                connection.loop.call_soon_threadsafe(self._track, connection)

    def is_current(self) -> bool:
        """Tell whether changes up to a second ago were told."""
        loop = _running_loop()
        connection = None if loop is None else self._small.connections.get(loop)
        return connection is not None and connection.is_tracking and connection.is_current()

    def _track(self, connection: RedisConnection) -> asyncio.Future[list[Any]] | None:
        if self._watched is None or not connection.is_open:
            return None
        prefixes, _ = self._watched
        now = connection.loop.time()
        future = connection.track(prefixes, now, now + self._seconds)
        future.add_done_callback(lambda future: self._tracks(connection, future))
        return future

    def _tracks(self, connection: RedisConnection, future: asyncio.Future[list[Any]]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        reply = future.result()[-1]
        if type(reply) is not Refusal:
            connection.is_tracking = True
            # Whatever was copied before was copied unwatched.
            self._tell(None)
        elif not self._has_said_why:
            self._has_said_why = True
            logger.warning("%s does not tell of changes, so nobody keeps copies: %s", self.address, words(reply))

    def _tell(self, keys: Sequence[str] | None) -> None:
        if self._watched is not None:
            self._watched[1](keys)

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        await self._small.aclose()
        await self._large.aclose()


class _Lane:
    """One connection for each event loop, opened when somebody needs it."""

    def __init__(self, server: _Server, patience_seconds: float, on_change: OnChange | None = None) -> None:
        self.connections: dict[asyncio.AbstractEventLoop, RedisConnection] = {}
        self._openings: dict[asyncio.AbstractEventLoop, asyncio.Task[RedisConnection]] = {}
        self._server = server
        self._patience = patience_seconds
        self._on_change = on_change
        self.greet: Callable[[RedisConnection], asyncio.Future[list[Any]] | None] = lambda _: None

    def usable(self, loop: asyncio.AbstractEventLoop, now: float) -> RedisConnection | None:
        """Return the connection if it may be written to without a look at it."""
        connection = self.connections.get(loop)
        return connection if connection is not None and now <= connection.trusted_until else None

    def open_connections(self) -> list[RedisConnection]:
        return [each for each in list(self.connections.values()) if each.is_open and not each.loop.is_closed()]

    async def opened(self, loop: asyncio.AbstractEventLoop, deadline: float) -> RedisConnection:
        """Return an open connection; those who wait for a new one share it, and its failure."""
        connection = self.connections.get(loop)
        if connection is not None and connection.is_open and connection.has_unread():
            # Perhaps the end, of which this loop did not hear while it stood still. One turn to see it, one to read.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if connection is not None and (connection.is_open or connection.was_closed):
            return connection  # closed here meanwhile: it says so, and nobody opens another
        opening = self._openings.get(loop)
        if opening is None or opening.done():
            self._forget_closed_loops()
            opening = self._openings[loop] = loop.create_task(self._open(loop))
            opening.add_done_callback(retrieve)
        await asyncio.wait((opening,), timeout=deadline - loop.time())
        if not opening.done():
            raise TimeoutError
        if opening.cancelled():
            raise BackendUnavailable(self._server.address, CLOSED_HERE)
        error = opening.exception()
        if isinstance(error, BackendUnavailable):
            raise Unreached(error.backend, error.reason) from error
        return opening.result()

    async def _open(self, loop: asyncio.AbstractEventLoop) -> RedisConnection:
        server = self._server
        connection = RedisConnection(patience_seconds=self._patience, on_change=self._on_change)
        try:
            async with asyncio.timeout(self._patience):
                await server.connect(loop, connection)
                now = loop.time()
                greeting = connection.ask_all(server.greeting, now, inf)
                # In the same breath: no other command may come before tracking is on.
                tracking = self.greet(connection)
                replies = await greeting
                for reply in replies[: server.needed]:
                    if type(reply) is Refusal:
                        raise BackendUnavailable(server.address, f"it refused: {words(reply)}")
                    if server.examine is None:  # else that decides what it will have
                        server.check_mode(reply)
                if server.examine is not None:
                    seconds, micros = replies[-1]
                    server.examine(replies[-2], int(seconds) + int(micros) / 1e6 - (now + loop.time()) / 2)
                if tracking is not None:
                    await tracking
        except TimeoutError:
            connection.end("it took too long")
            raise BackendUnavailable(server.address, f"no answer within {self._patience:.3g} s") from None
        except (OSError, ConnectionLost) as exc:
            connection.end("it could not be opened")
            raise BackendUnavailable(server.address, str(exc) or type(exc).__name__) from exc
        except BaseException:
            connection.end("it could not be opened")
            raise
        self.connections[loop] = connection
        return connection

    def _forget_closed_loops(self) -> None:
        for loop, connection in list(self.connections.items()):
            if loop.is_closed():
                del self.connections[loop]
                connection.abandon()
        for loop in [each for each in list(self._openings) if each.is_closed()]:
            del self._openings[loop]

    async def aclose(self) -> None:
        self._forget_closed_loops()
        loop = asyncio.get_running_loop()
        opening = self._openings.pop(loop, None)
        if opening is not None:
            opening.cancel()
            await asyncio.wait((opening,))
        connection = self.connections.pop(loop, None)
        if connection is not None:
            await connection.aclose()


class _Server:
    """Where a server is and what it wants to hear first."""

    def __init__(self, config: CacheConfig, mode: Mode, examine: Examine | None) -> None:
        self._mode = mode
        self._patience = config.timeout_seconds
        self.examine = examine
        password = config.redis_password.get_secret_value() if config.redis_password else None
        user, database = config.redis_username, config.redis_db
        self._host, self._port, self._tls = config.redis_host, config.redis_port, config.redis_ssl
        self._path: str | None = None
        self.address = f"redis at {config.redis_host}:{config.redis_port}"
        if config.url and config.url.startswith("unix:"):
            parts = urlsplit(config.url)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            self._path = unquote(parts.path)
            self.address = "redis at its unix socket"
            user = query.get("username") or (unquote(parts.username) if parts.username else user)
            password = query.get("password") or (unquote(parts.password) if parts.password else password)
            database = int(query.get("db", database))
        self._sentinels = config.sentinels
        if config.url and self._sentinels:
            parts = urlsplit(config.url)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            self._primary_name = unquote(parts.path.strip("/").partition("/")[0])
            self._sentinel_hello = _hello(query.get("sentinel_username"), query.get("sentinel_password"))
            self.address = f"redis primary {self._primary_name!r}"
        hello = _hello(user, password)
        if database:
            hello.append(("SELECT", database))
        self.greeting = [*hello, ("CLIENT", "SETINFO", "LIB-NAME", "cache-management")]
        self.needed = len(hello)  # its name is for the operator's eyes; older servers have no place for it
        if examine is not None:
            self.greeting += [("INFO", "server"), ("TIME",)]

    def check_mode(self, reply: object) -> None:
        """Look at what a server says of itself in its answer to HELLO.

        Raises:
            WrongServer: It is of another kind than the settings say.
        """
        if not isinstance(reply, dict):
            return
        mode = reply.get(b"mode", b"").decode()
        if self._sentinels and reply.get(b"role", b"master") != b"master":
            why = "the Sentinels named a server that is no primary: it was one, or is about to become one"
        elif mode == "cluster" and self._mode != "cluster":
            why = "it is a node of a Redis Cluster; write its url as redis+cluster://host:port[,host:port...]"
        elif mode in {"standalone", "sentinel"} and self._mode == "cluster":
            kind = "a Sentinel" if mode == "sentinel" else "a server of its own"
            why = f"it is {kind} and no node of a Redis Cluster; a single server has the url redis://host:port"
        elif mode == "sentinel":
            why = "it is a Sentinel, which keeps nothing; write its url as redis+sentinel://host:port/name"
        else:
            return
        raise WrongServer(self.address, why)

    async def connect(self, loop: asyncio.AbstractEventLoop, connection: RedisConnection) -> None:
        if self._path is not None:
            await loop.create_unix_connection(lambda: connection, self._path)
            return
        host, port = self._host, self._port
        tls = self._context if self._tls else None
        if self._sentinels:
            host, port = await find_primary(
                self._sentinels,
                self._primary_name,
                hello=self._sentinel_hello,
                tls=tls,
                patience_seconds=self._patience,
            )
        await loop.create_connection(lambda: connection, host, port, ssl=tls)

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context()


def _hello(user: str | None, password: str | None) -> list[Command]:
    if user:
        return [("HELLO", 3, "AUTH", user, password or "")]
    # Servers without users know this form only.
    return [("AUTH", password), ("HELLO", 3)] if password else [("HELLO", 3)]


@cache
def script_of(name: str) -> tuple[str, str]:
    """Return a script of `lua/` and its digest."""
    text = (files("cache_management.cache.backends") / "lua" / f"{name}.lua").read_text()
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def parts(commands: Sequence[Command]) -> Iterator[list[Command]]:
    """Cut commands into parts of a bounded size that travel at once."""
    part: list[Command] = []
    size = 0
    for command in commands:
        length = sum(len(word) if isinstance(word, str | bytes) else 8 for word in command)
        if part and (len(part) == _COMMANDS_AT_ONCE or size + length > _BYTES_AT_ONCE):
            yield part
            part, size = [], 0
        part.append(command)
        size += length
    if part:
        yield part


def words(error: Refusal) -> str:
    """Return what a server said."""
    # A server that does not know a command repeats its arguments: a prompt, or a password.
    return str(error).partition(", with args")[0]


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
