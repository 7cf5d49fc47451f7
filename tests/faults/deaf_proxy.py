"""A broker that answers everything but what a consumer waits for."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress


class DeafProxy:
    """Passes bytes on to a server; once `deaf` is set, whatever holds a BRPOP goes nowhere."""

    def __init__(self, port: int) -> None:
        self.deaf = False
        self.swallowed = 0
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port: int = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(timeout=10)

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(self._pass_on(reader, back, asked=True), self._pass_on(there, writer, asked=False))
        finally:
            back.close()
            writer.close()

    async def _pass_on(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, *, asked: bool) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                if asked and self.deaf and b"BRPOP" in data:
                    self.swallowed += 1
                    continue
                to.write(data)
                await to.drain()
        to.close()

    def close(self) -> None:
        """End every connection and the thread."""

        async def stop() -> None:
            if self._server is not None:
                self._server.close()
            passing = asyncio.all_tasks() - {asyncio.current_task()}
            for task in passing:
                task.cancel()
            await asyncio.gather(*passing, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()
