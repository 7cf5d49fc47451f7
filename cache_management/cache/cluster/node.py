"""One node of a replicated cache: a Redis or Valkey server, and whether what it says counts.

    unknown    not yet looked at, restarted, or it lost its marker: it is asked nothing
    syncing    it takes writes and counts for nothing
    member     it counts

A server says by its marker what it is; the marker names the very process (`run_id`) that was admitted. Each
connection belongs to one process, and each answer comes with a check of the marker in the same step on the
server: a process that lost its memory cannot pass for the one that was admitted.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import msgspec

from cache_management.cache.backends.guarded import Breaker
from cache_management.cache.backends.redis_connection import Argument, Command, ConnectionLost, Refusal, retrieve
from cache_management.cache.backends.redis_node import RedisNode, words
from cache_management.cache.cluster.envelope import HEAD_BYTES, readable
from cache_management.cache.cluster.scripts import ScriptName, script
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendRefused, BackendUnavailable, ConfigurationError

T = TypeVar("T")

MARKER, TABLE, PROMISE = "cluster:member", "cluster:table", "cluster:promise"
DIGESTS, FLOOR, CAME_IN = "cluster:digests", "cluster:floor", "cluster:came-in"
PASSES, COLLECTED, RECOUNT = "cluster:passes", "cluster:collected", "cluster:recount"
OWN_PREFIXES = (b"cluster:", b"e:cm", b"s:cm", b"t:", b"j:", b"l:")
_SUSPECT_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 2.0  # a node that is back shall serve soon

State = Literal["unknown", "syncing", "member"]


class Marker(msgspec.Struct, frozen=True):
    """What a server keeps about itself: which cluster, which node, which process, since which table, and its state.

    `admission` is new each time the node begins anew: a server that was emptied and read in again between two
    questions has another one.
    """

    cluster: str
    node: str
    run_id: str
    epoch: int
    state: str
    admission: str = msgspec.field(default_factory=lambda: secrets.token_hex(4))

    def text(self) -> bytes:
        return f"{self.cluster} {self.node} {self.run_id} {self.epoch} {self.state} {self.admission}".encode()


def read_marker(text: bytes | None) -> Marker | None:
    """Read a marker; None for none, and for what is not one."""
    words = (text or b"").decode(errors="replace").split(" ")
    if len(words) != 6 or not words[3].isdecimal() or words[4] not in ("syncing", "member"):
        return None
    return Marker(words[0], words[1], words[2], int(words[3]), words[4], words[5])


class _Request(msgspec.Struct, frozen=True, gc=False):
    """What is asked of a node, and the marker that it must have; `script` is to be taught if it is not known."""

    command: Command
    payload_bytes: int
    expected: bytes
    script: ScriptName | None


class NotAdmitted(BackendUnavailable):
    """A node is there, and what it says does not count: it was restarted, emptied, or is in another epoch."""


class Node:
    """One server, as one client sees it.

    Args:
        address: "host:port" or "host:port/database".
        config: Credentials, TLS and the time budget.
        on_change: Called when the node turns out not to be what this client took it for.
    """

    def __init__(self, address: str, config: CacheConfig, *, on_change: Callable[[Node], None]) -> None:
        self.address = address
        self.redis = RedisNode(_config_of(address, config), examine=self._examine)
        self.id: str = ""
        self.run_id: str | None = None
        self.offset_seconds: float | None = None
        self.state: State = "unknown"
        self.marker: bytes = b""
        self.admission = ""
        self.breaker = Breaker(longest_pause_seconds=_LONGEST_PAUSE_SECONDS)
        self.is_marked_failed = False
        self.trouble = "it was not asked"
        self._suspect_until = 0.0
        self._on_change = on_change
        self._tasks: set[asyncio.Task[Any]] = set()

    def admit(self, marker: Marker) -> None:
        """Take what the server says from now on as said by this marker."""
        self.id, self.marker, self.admission = marker.node, marker.text(), marker.admission
        self.state = "member" if marker.state == "member" else "syncing"

    def forget(self) -> None:
        """Count on nothing that this server says."""
        self.state, self.marker = "unknown", b""

    def is_preferred(self) -> bool:
        """Tell whether to ask it first: a matter of speed, never of what counts."""
        return (
            self.state == "member"
            and not self.is_marked_failed
            and self.breaker.state == "closed"
            and time.monotonic() >= self._suspect_until
        )

    def may_be_asked(self) -> bool:
        """Tell whether a request may go; while its breaker is open, one at a time does."""
        return self.state == "member" and self.breaker.may_call()

    def answers(self) -> None:
        """Note that it answered."""
        self.breaker.succeeded()
        self._suspect_until = 0.0

    def suspect(self) -> None:
        """Ask others first for a moment: an answer is late."""
        self._suspect_until = time.monotonic() + _SUSPECT_SECONDS

    # Quick questions about one entry: the raw answers, for those who look at them themselves (`answered`).

    def ask_copy(self, key: str) -> asyncio.Future[Any] | None:
        """Read a copy; None when there is no connection at hand."""
        return self.redis.ask(("MGET", MARKER, key))

    def ask_head(self, key: str) -> asyncio.Future[Any] | None:
        """Read the head of a copy; None when there is no connection at hand."""
        # The marker last: as it stands now it stood before.
        return self.redis.ask_all((("GETRANGE", key, 0, HEAD_BYTES - 1), ("GET", MARKER)))

    def answered(self, expected: bytes, held: object) -> bool:
        """Tell whether an answer counts that came with a marker."""
        if held == expected == self.marker:
            self.answers()
            return True
        return False

    # Questions about entries. Their futures raise BackendUnavailable; NotAdmitted when the marker is another.

    def fetch(self, keys: Sequence[str]) -> asyncio.Future[list[bytes]]:
        """Read copies; nothing for none, and for what is none."""
        return self._asked(("MGET", MARKER, *keys), 0, self._without_marker)

    def heads(self, keys: Sequence[str]) -> asyncio.Future[list[bytes]]:
        """Read the heads of copies; an empty one for none."""
        return self._run("heads", [MARKER, *keys], [self.marker])

    def put(
        self, how: str, keys: Sequence[str], slots: Sequence[int], copies: Sequence[bytes], *, until_ms: int
    ) -> asyncio.Future[Any]:
        """Store copies that are newer than what is held; see lua/put.lua for `how` and the answers."""
        args: list[Argument] = [self.marker, f"{how}{until_ms}"]
        for slot, copy in zip(slots, copies, strict=True):
            args += [slot, copy]
        return self._run("put", [MARKER, DIGESTS, FLOOR, CAME_IN, *keys], args, sum(map(len, copies)))

    def copy(
        self, keys: Sequence[str], slots: Sequence[int], copies: Sequence[bytes], *, until_ms: int
    ) -> asyncio.Future[list[bytes]]:
        """Store what another node holds, unless it arrives after `until_ms` (the cluster's time)."""
        return self.put("c", keys, slots, copies, until_ms=until_ms)

    def shed(
        self, keys: Sequence[str], slots: Sequence[int], versions: Sequence[bytes], stubs: Sequence[bytes]
    ) -> asyncio.Future[list[int]]:
        """Drop values, or whole copies where the stub is empty, that still have their version."""
        args: list[Argument] = [self.marker]
        for slot, version, stub in zip(slots, versions, stubs, strict=True):
            args += [slot, version, stub]
        return self._run("shed", [MARKER, DIGESTS, *keys], args)

    def run(self, name: ScriptName, keys: Sequence[str], args: Sequence[Argument]) -> asyncio.Future[Any]:
        """Run another script that begins with the marker and what it is expected to be."""
        size = sum(len(arg) for arg in args if isinstance(arg, bytes))
        return self._run(name, [MARKER, *keys], [self.marker, *args], size)

    def only(self, command: str, key: str, *args: Argument) -> asyncio.Future[Any]:
        """Run a command that writes to one key, only if the node is what this client takes it for."""
        return self._run("only", [MARKER, key], [self.marker, command, *args])

    async def marked(self, *commands: Command) -> list[Any]:
        """Run commands that read, and make sure afterwards that the server was what it is taken for all the while."""
        expected = self.marker
        *replies, held = await self.redis.pipeline([*commands, ("GET", MARKER)])
        self._check(expected, held)
        return replies

    async def noted(self, *commands: Command) -> list[Any]:
        """Run commands as `marked` does; None where a key is of another type, and so not this program's."""
        expected = self.marker
        *replies, held = await self.redis.replies_to([*commands, ("GET", MARKER)])
        for reply in (*replies, held):
            if type(reply) is Refusal and not str(reply).startswith("WRONGTYPE"):
                raise BackendRefused(self.redis.address, words(reply))
        self._check(expected, None if type(held) is Refusal else held)
        return [None if type(reply) is Refusal else reply for reply in replies]

    async def ensure(self, name: ScriptName) -> None:
        """Teach the server a script."""
        await self.redis.call("SCRIPT", "LOAD", script(name).text)

    async def control(self, name: ScriptName, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run a script that is not about entries, whatever the server's state."""
        found = script(name)
        try:
            return await self.redis.call("EVALSHA", found.digest, len(keys), *keys, *args)
        except BackendRefused as exc:
            if "NOSCRIPT" not in exc.reason:
                raise
        return await self.redis.call("EVAL", found.text, len(keys), *keys, *args)

    async def aclose(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await self.redis.aclose()

    # How answers come in.

    def _run(
        self, name: ScriptName, keys: Sequence[str], args: Sequence[Argument], payload_bytes: int = 0
    ) -> asyncio.Future[Any]:
        command: Command = ("EVALSHA", script(name).digest, len(keys), *keys, *args)
        return self._asked(command, payload_bytes, _as_it_is, name)

    def _asked(
        self, command: Command, payload_bytes: int, read: Callable[[Any], T], name: ScriptName | None = None
    ) -> asyncio.Future[T]:
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        request = _Request(command, payload_bytes, self.marker, name)
        self._send(request, partial(self._settle, result, read, request))
        return result

    def _send(self, request: _Request, settle: Callable[[asyncio.Future[Any]], None]) -> None:
        raw: asyncio.Future[Any] | None = None
        try:
            raw = self.redis.ask(request.command, payload_bytes=request.payload_bytes)
        except ConnectionLost:
            raw = None
        if raw is None:
            self._later(self._call(request), settle)
        else:
            raw.add_done_callback(settle)

    def _later(self, call: Coroutine[Any, Any, Any], settle: Callable[[asyncio.Future[Any]], None]) -> None:
        task = asyncio.get_running_loop().create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(settle)

    async def _call(self, request: _Request) -> Any:
        return await self.redis.call(*request.command, payload_bytes=request.payload_bytes)

    def _settle(
        self,
        result: asyncio.Future[T],
        read: Callable[[Any], T],
        request: _Request,
        raw: asyncio.Future[Any],
    ) -> None:
        expected = request.expected
        error: BaseException | None = None
        if raw.cancelled():
            error = BackendUnavailable(self.address, "it was closed here")
        elif (failure := raw.exception()) is not None:
            error = failure
        elif type(reply := raw.result()) is Refusal:
            error = BackendRefused(self.address, str(reply).partition(", with args")[0])
        if isinstance(error, BackendRefused) and "NOSCRIPT" in error.reason and request.script is not None:
            again = msgspec.structs.replace(request, script=None)
            self._later(self._teach_and_call(request.script, again), partial(self._settle, result, read, again))
            return
        if error is None:
            self.answers()
            try:
                self._check(expected, expected)
                value = read(reply)
            except BackendUnavailable as exc:
                error = exc
        if result.done():
            return
        if error is None:
            result.set_result(value)
            return
        result.set_exception(self._translated(error, expected))
        retrieve(result)

    async def _teach_and_call(self, name: ScriptName, request: _Request) -> Any:
        await self.ensure(name)
        return await self._call(request)

    def _translated(self, error: BaseException, expected: bytes) -> BaseException:
        if isinstance(error, BackendRefused):
            self.answers()
            _, is_marker, held = error.reason.partition("CMMARKER ")
            if is_marker:
                return self._other_marker(expected, held.encode())
            return error
        if isinstance(error, NotAdmitted):
            return error
        if isinstance(error, TimeoutError):
            error = BackendUnavailable(self.address, "no answer in time")
        elif isinstance(error, ConnectionLost):
            error = BackendUnavailable(self.address, str(error))
        if isinstance(error, BackendUnavailable):
            self.suspect()
            self.breaker.failed()
        return error

    def _without_marker(self, reply: list[bytes | None]) -> list[bytes]:
        self._check(self.marker, reply[0])
        return [readable(copy) for copy in reply[1:]]

    def _check(self, expected: bytes, held: bytes | None) -> None:
        """Let an answer count only if the marker is the one expected, before and after.

        The connection may have been opened anew in between, to another process with an old marker: then what is
        expected has changed meanwhile.
        """
        if expected != self.marker or not expected:
            raise NotAdmitted(self.address, "it changed its state meanwhile")
        if held != expected:
            raise self._other_marker(expected, held or b"")

    def _other_marker(self, expected: bytes, held: bytes) -> NotAdmitted:
        if expected == self.marker:
            self.forget()
            self._on_change(self)
        if not held:
            return NotAdmitted(self.address, "it lost what it held, and counts again when it is brought up to date")
        return NotAdmitted(self.address, "it is in another state than this client knew")

    def _examine(self, info: bytes, offset_seconds: float) -> None:
        found = dict(line.split(":", 1) for line in info.decode(errors="replace").splitlines() if ":" in line)
        self.offset_seconds = offset_seconds
        if "cluster" in (found.get("redis_mode"), found.get("server_mode")):  # Valkey has a name of its own for it
            raise ConfigurationError(
                f"node {self.address} runs in cluster mode, where servers shard and replicate by themselves:"
                " use it as url redis+cluster://, or start it without cluster-enabled"
            )
        run_id = found.get("run_id", "")
        before, self.run_id = self.run_id, run_id
        if before is not None and before != run_id:
            self.forget()
            self._on_change(self)
            raise BackendUnavailable(self.address, "it was restarted, and counts again when it is brought up to date")


def _as_it_is(reply: Any) -> Any:
    return reply


def _config_of(address: str, config: CacheConfig) -> CacheConfig:
    host, _, rest = address.rpartition(":")
    port, _, database = rest.partition("/")
    return config.model_copy(
        update={"redis_host": host.strip("[]"), "redis_port": int(port), "redis_db": int(database or 0), "url": None}
    )
