"""A blocking transport as an upstream of the loop: a thread for each answer, never far ahead of who reads it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from cache_management.gateway.calls import Headers, Reply, decoded

_AHEAD_BYTES = 2**20


class Transfers:
    """The answers of one client that are under way."""

    def __init__(self) -> None:
        self._running: set[_Transfer] = set()

    async def ask(self, send: Callable[[], Any], *, is_left: Callable[[], bool], broken: Exception) -> Reply:
        """Send a request on a thread of its own.

        Args:
            send: Returns a response of httpx.
            is_left: Tells whether the application still waits for the answer.
            broken: What a reader gets of an answer that is ended before its time.

        Raises:
            What `send` raises.
        """
        transfer = _Transfer(send, is_left, broken)
        self._running.add(transfer)
        return await transfer.begin(self._running.discard)

    def end(self, *, left_only: bool) -> None:
        """Read no more of what is under way."""
        for transfer in list(self._running):
            if transfer.is_left() or not left_only:
                transfer.leave()


class _Transfer:
    """One answer on its way: a thread brings it, one reader on a loop takes it."""

    def __init__(self, send: Callable[[], Any], is_left: Callable[[], bool], broken: Exception) -> None:
        self._send = send
        self.is_left = is_left
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._head: asyncio.Future[tuple[int, Headers]] = self._loop.create_future()
        self._came = asyncio.Event()
        # It guards all that follows, and tells the thread that there is room, or nobody who reads.
        self._room = threading.Condition()
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._has_ended = self._has_left = False
        self._error: BaseException | None = None
        self._socket: socket.socket | None = None

    async def begin(self, done: Callable[[_Transfer], None]) -> Reply:
        try:
            context = contextvars.copy_context()  # whose computation this is a part of
            threading.Thread(target=context.run, args=(self._run, done), name="cache-upstream", daemon=True).start()
        except RuntimeError:
            done(self)
            raise
        try:
            status, headers = await self._head
        except BaseException:
            self.leave()
            raise
        return Reply(status, headers, _Body(self))

    async def take(self) -> bytes | None:
        """Return what came next, None at the end."""
        while True:
            with self._room:
                if self._parts:
                    part = self._parts.popleft()
                    self._size -= len(part)
                    self._room.notify()
                    return part
                if self._error is not None:
                    raise self._error
                if self._has_ended:
                    return None
                self._came.clear()
            await self._came.wait()

    def leave(self) -> None:
        """Take no more: the thread ends, also one that waits for a provider that says nothing."""
        with self._room:
            if self._has_ended or self._has_left:
                return
            self._has_left = True
            self._error = self._broken
            self._parts.clear()
            if self._socket is not None:
                # Closed, it would not wake who reads from it. As a plain socket: one of TLS would take its state away
                # from that reader.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            self._room.notify()
        self._tell(self._settle, self._broken)
        self._tell(self._came.set)

    def _run(self, done: Callable[[_Transfer], None]) -> None:
        try:
            self._read()
        finally:
            done(self)

    def _read(self) -> None:
        try:
            response = self._send()
        except BaseException as exc:  # noqa: BLE001 - the thread has nobody else to tell
            self._end(exc)
            self._tell(self._settle, exc)
            return
        try:
            with self._room:
                self._socket = _socket_of(response)
            self._tell(self._settle, (response.status_code, decoded(response.headers.raw)))
            for part in response.stream if self._is_wanted() else ():
                if not self._put(part):
                    break
            self._end(None)
        except BaseException as exc:  # noqa: BLE001
            self._end(exc)
        finally:
            response.close()

    def _is_wanted(self) -> bool:
        with self._room:
            return not self._has_left

    def _put(self, part: bytes) -> bool:
        """Hand on what came, as soon as there is room; False when nobody takes it."""
        with self._room:
            self._room.wait_for(lambda: self._size < _AHEAD_BYTES or self._has_left)
            if self._has_left:
                return False
            self._parts.append(part)
            self._size += len(part)
        self._tell(self._came.set)
        return True

    def _end(self, error: BaseException | None) -> None:
        with self._room:
            self._has_ended = True
            self._error = self._error or error
            # From here on it may serve another request, which must not be cut off.
            self._socket = None
        self._tell(self._came.set)

    def _settle(self, found: tuple[int, Headers] | BaseException) -> None:
        if self._head.done():
            return
        if isinstance(found, BaseException):
            self._head.set_exception(found)
        else:
            self._head.set_result(found)

    def _tell(self, how: Callable[..., Any], *what: object) -> None:
        # A loop that is closed has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(how, *what)


class _Body(AsyncIterator[bytes]):
    """The reader's end."""

    def __init__(self, transfer: _Transfer) -> None:
        self._transfer = transfer
        # One who drops it without closing it leaves, too. Not at exit: nothing of it is left then.
        weakref.finalize(self, transfer.leave).atexit = False

    async def __anext__(self) -> bytes:
        part = await self._transfer.take()
        if part is None:
            raise StopAsyncIteration
        return part

    async def aclose(self) -> None:
        self._transfer.leave()


def _socket_of(response: Any) -> socket.socket | None:
    """Return the connection of an answer, when it is of this answer alone: HTTP/2 shares one."""
    if not response.extensions.get("http_version", b"").startswith(b"HTTP/1"):
        return None
    stream = response.extensions.get("network_stream")
    found = None if stream is None else stream.get_extra_info("socket")
    return found if isinstance(found, socket.socket) else None
