"""Runs the application until it is told to stop, and lets what is under way end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from cache_management.cache.errors import ConfigurationError

try:
    import uvicorn
except ImportError as exc:
    raise ImportError("The proxy needs: pip install 'cache-management[serve]'") from exc

if TYPE_CHECKING:
    from cache_management.serve.app import Application

_CLOSING_SECONDS = 2


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigurationError: Nothing can listen there.
    """
    # The protocol is named: asyncio sends small pieces at once only on sockets that say TCP, and a client that waits
    # to acknowledge would hold up each answer for 40 ms.
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(1024)
        return bound
    except OSError as exc:
        bound.close()
        raise ConfigurationError(
            f"the proxy cannot listen at {host}:{port}: {exc.strerror}; choose another (--port, serve.port)"
        ) from exc


class Server(uvicorn.Server):
    """Serves one application on a socket; SIGTERM and SIGINT drain it, a second one ends it at once."""

    def __init__(self, application: Application, *, drain_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(
                application.asgi,
                http="h11",
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_CLOSING_SECONDS,
            )
        )
        self._application = application
        self._drain_seconds = drain_seconds
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Hear signals while it serves. Unlike the base's, it does not send them again at the end."""
        loop = asyncio.get_running_loop()
        heard = []
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):  # not on the main thread
                loop.add_signal_handler(number, self.handle_exit, number, None)
                heard.append(number)
        try:
            yield
        finally:
            for number in heard:
                loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; told again, stop."""
        if self._draining is not None:
            self.should_exit = self.force_exit = True
            return
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        await self._application.proxy.drain(self._drain_seconds)
        self.should_exit = True
