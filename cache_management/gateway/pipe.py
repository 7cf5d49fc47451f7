"""What the first caller of a stream reads while the answer is still collected."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

_HIGH_BYTES = 16 * 2**20


class Pipe:
    """Bytes from one task to one reader, of one event loop.

    The writer waits when the reader is 16 MiB behind, and no more once it has left.
    """

    def __init__(self) -> None:
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._moved = asyncio.Event()
        self._ended = False
        self._error: BaseException | None = None
        self.has_left = False
        self.is_whole = False

    async def put(self, data: bytes) -> None:
        """Hand on what came."""
        while self._size > _HIGH_BYTES and not self.has_left:
            self._moved.clear()
            await self._moved.wait()
        if not self.has_left and data:
            self._parts.append(data)
            self._size += len(data)
            self._moved.set()

    def end(self, error: BaseException | None = None, *, is_whole: bool = False) -> None:
        """Say that no more comes, and why if it should have; `is_whole` when only the storing is left."""
        if not self._ended:
            self._ended, self._error, self.is_whole = True, error, is_whole
            self._moved.set()

    def leave(self) -> None:
        """Take no more."""
        self.has_left = True
        self._parts.clear()
        self._moved.set()

    async def get(self) -> bytes | None:
        """Return the next bytes, None at the end.

        Raises:
            What the stream broke with.
        """
        while not self._parts:
            if self._ended or self.has_left:
                if self._error is not None:
                    raise self._error
                return None
            self._moved.clear()
            await self._moved.wait()
        part = self._parts.popleft()
        self._size -= len(part)
        self._moved.set()
        return part


class LiveBody(AsyncIterator[bytes]):
    """The reader's end of a pipe.

    When all has come its end waits for the answer to be stored, for at most `patience_seconds`: a program that ends
    with its last word would else end before it is kept.
    """

    def __init__(self, pipe: Pipe, keeping: asyncio.Task[Any], *, patience_seconds: float) -> None:
        self._pipe = pipe
        self._keeping = keeping
        self._patience = patience_seconds

    async def __anext__(self) -> bytes:
        part = await self._pipe.get()
        if part is None:
            await self._kept()
            raise StopAsyncIteration
        return part

    async def aclose(self) -> None:
        """Leave; what is computed goes on for others."""
        self._pipe.leave()
        await self._kept()

    async def _kept(self) -> None:
        if self._pipe.is_whole and not self._keeping.done():
            await asyncio.wait({self._keeping}, timeout=self._patience)
