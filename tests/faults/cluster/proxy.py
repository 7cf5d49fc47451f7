"""A wire between one client process and one node that can be cut, slowed and held: partitions without iptables."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any


class Mode(StrEnum):
    """What a wire does. "Held" bytes lie in the wire; `Wire.heal` delivers them late, or ends their connections."""

    PASS = "pass"
    BLACKHOLE = "blackhole"  # accepts, and holds everything
    RESET = "reset"  # every connection ends at once, new ones too
    DELAY = "delay"
    HOLD_REQUESTS = "hold requests"  # one way: the node hears nothing
    HOLD_REPLIES = "hold replies"  # the other way: it does what it is asked, and nobody hears of it
    DRIP = "drip"  # a few bytes at a time


HOLDING = (Mode.BLACKHOLE, Mode.HOLD_REQUESTS, Mode.HOLD_REPLIES)
_DRIP_BYTES, _DRIP_SECONDS = 16, 0.005
_END_AT_ONCE = struct.pack("ii", 1, 0)


class Wire:
    """Listens on a port of its own and passes bytes on to a node. Called from any thread."""

    def __init__(self, board: Board, target: int) -> None:
        self._board = board
        self.target = target
        self.mode = Mode.PASS
        self.delay = (0.0, 0.0)
        self.opened = 0
        self.trapped = threading.Event()
        self._trap: tuple[bytes, Mode | None, int, int] | None = None
        self.halves: set[_Half] = set()
        self.port: int = board.run(self._listen())

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def set(self, mode: Mode, *, delay_seconds: float = 0.05, jitter_seconds: float = 0.05) -> None:
        """Begin to do something else; what is held stays held. A delay is at least the given one, up to both."""

        def change() -> None:
            self.mode = mode
            self.delay = (delay_seconds, jitter_seconds)
            if mode is Mode.RESET:
                self._end_all()
            for half in list(self.halves):
                half.follow()

        self._board.do(change)

    def heal(self, *, deliver: bool) -> None:
        """Pass again. What was held arrives now (`deliver`), or its connections end with it."""

        def change() -> None:
            was, self.mode = self.mode, Mode.PASS
            if was in HOLDING and not deliver:
                self._end_all()
            for half in list(self.halves):
                half.follow()

        self._board.do(change)

    def trap(self, words: bytes, mode: Mode | None, *, after: int = 0, times: int = 1) -> None:
        """Do something else from the moment on that a request with these words comes by for the first time.

        That request is the first to feel it; with `after`, so many such requests pass before. `trapped` is set then.
        None cuts every connection once, that request with it; so many `times`, one request after the other.
        """
        self.trapped.clear()
        self._trap = (words, mode, after, times)

    def spring(self, data: bytes) -> None:
        """Look at a request; on the loop."""
        if self._trap is None or self._trap[0] not in data:
            return
        words, mode, after, times = self._trap
        if after:
            self._trap = (words, mode, after - 1, times)
            return
        self._trap = (words, mode, 0, times - 1) if times > 1 else None
        self.trapped.set()
        if mode is not None:
            self.mode = mode
        if mode in (None, Mode.RESET):
            self._end_all()

    def cut(self) -> None:
        """End every connection once; new ones are as before."""
        self._board.do(self._end_all)

    def _end_all(self) -> None:
        for half in list(self.halves):
            half.end()

    async def _listen(self) -> int:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Half(self, asks=True), "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        self._server.close()
        self._end_all()


class _Half(asyncio.Protocol):
    """One end of a connection through a wire; what it reads goes out at its `other` end."""

    def __init__(self, wire: Wire, *, asks: bool, other: _Half | None = None) -> None:
        self._wire = wire
        self._asks = asks
        self._other = other
        self._transport: asyncio.Transport | None = None
        self._queue: deque[tuple[float, bytes]] = deque()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._dialling: asyncio.Task[Any] | None = None
        self._has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._wire.halves.add(self)
        if self._wire.mode is Mode.RESET:
            self.end()
        elif self._asks:
            self._wire.opened += 1
            self._dialling = self._loop.create_task(self._dial())
        elif self._other is not None:
            self._other.follow()

    async def _dial(self) -> None:
        try:
            _, other = await self._loop.create_connection(
                lambda: _Half(self._wire, asks=False, other=self), "127.0.0.1", self._wire.target
            )
        except OSError:
            self.end()
            return
        self._other = other
        if self._has_ended:
            other.end()
        self.follow()

    def data_received(self, data: bytes) -> None:
        if self._asks:
            self._wire.spring(data)
            if self._has_ended:
                return
        if not self._queue and self._wire.mode is Mode.PASS and self._out is not None:
            self._out.write(data)
            return
        shortest, jitter = self._wire.delay
        wait = shortest + random.uniform(0, jitter) if self._wire.mode is Mode.DELAY else 0.0
        due = self._loop.time() + wait
        if self._queue:
            due = max(due, self._queue[-1][0])
        self._queue.append((due, data))
        self.follow()

    @property
    def _out(self) -> asyncio.Transport | None:
        transport = None if self._other is None else self._other._transport
        return None if transport is None or transport.is_closing() else transport

    def follow(self) -> None:
        """Send on what may go now, and come back for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        mode, out = self._wire.mode, self._out
        if out is None or mode is Mode.BLACKHOLE or mode is (Mode.HOLD_REQUESTS if self._asks else Mode.HOLD_REPLIES):
            return
        now = self._loop.time()
        while self._queue:
            due, data = self._queue[0]
            if due > now and mode is Mode.DELAY:
                self._timer = self._loop.call_at(due, self.follow)
                return
            self._queue.popleft()
            if mode is Mode.DRIP and len(data) > _DRIP_BYTES:
                out.write(data[:_DRIP_BYTES])
                self._queue.appendleft((due, data[_DRIP_BYTES:]))
                self._timer = self._loop.call_later(_DRIP_SECONDS, self.follow)
                return
            out.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        # What one end sent before it closed arrives at the other still, unless it is held.
        self._transport = None
        self._wire.halves.discard(self)
        self._has_ended = True
        if self._other is not None and self._other._transport is not None:
            if exc is not None or self._wire.mode in HOLDING or self._queue:
                self._linger()
            else:
                self._other._transport.close()
        if self._dialling is not None and not self._dialling.done() and self._wire.mode not in HOLDING:
            self._dialling.cancel()

    def _linger(self) -> None:
        """Keep what a client that gave up had sent, to be delivered late; then end the other end too."""
        if self._out is None:
            self._queue.clear()
        elif self._queue or self._wire.mode in HOLDING:
            self.follow()
            self._loop.call_later(0.02, self._linger)
        else:
            self._out.close()

    def end(self) -> None:
        """End both ends with a reset, whatever is under way."""
        self._has_ended = True
        self._queue.clear()
        for half in (self, self._other):
            if half is None or half._transport is None:
                continue
            half._queue.clear()
            raw = half._transport.get_extra_info("socket")
            with suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _END_AT_ONCE)
            half._transport.abort()


class Board:
    """The event loop, on a thread of its own, that all wires of a test run on."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wires", daemon=True)
        self._thread.start()
        self._wires: list[Wire] = []

    def wire(self, target: int) -> Wire:
        """Lay a wire to a port of this machine."""
        made = Wire(self, target)
        self._wires.append(made)
        return made

    def run(self, job: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(job, self._loop).result(timeout=10)

    def do(self, change: Callable[[], None]) -> None:
        """Run something on the loop, and return when it is done."""

        async def run() -> None:
            change()

        self.run(run())

    def close(self) -> None:
        """End every connection and the thread."""

        async def stop() -> None:
            for wire in self._wires:
                wire.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)

        self.run(stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()
