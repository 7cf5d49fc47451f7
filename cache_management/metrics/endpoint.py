"""An HTTP endpoint for scrapes and health checks. It has no password and listens on 127.0.0.1 unless told otherwise."""

from __future__ import annotations

import ipaddress
import logging
import os
import socketserver
import sys
import threading
from collections.abc import Callable, Collection, Iterable
from http import HTTPStatus
from socket import socket
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from cache_management.cache.errors import ConfigurationError
from cache_management.cache.readiness import Answer, Routes
from cache_management.metrics.families import Families, registry_of
from cache_management.metrics.forks import in_child, unforked

logger = logging.getLogger("cache_management")

_IDLE_SECONDS = 10.0
_CONNECTIONS = 64
"""How many connections are answered at once, each on a thread; one more is closed."""
_TEXT = "text/plain; charset=utf-8"


def serve(
    families: Families,
    *,
    host: str,
    port: int,
    path: str,
    routes: Routes | None = None,
    hosts: Collection[str] | None = None,
) -> WSGIServer:
    """Make a server that answers scrapes on one path, and what else there is on others; call its `serve_forever`.

    Args:
        families: What is told at a scrape.
        host: The address to listen at.
        port: 0 for one that is free.
        path: Where scrapes are answered.
        routes: What is answered on other paths.
        hosts: The names, without a port, by which it may be asked, beside `localhost` and addresses of numbers. With
            them no page of another name can read it through a browser whose name server says that it is here.

    Raises:
        ImportError: The extra is missing.
        ConfigurationError: Nothing can listen there.
    """
    registry = registry_of(families)
    from prometheus_client import make_wsgi_app

    scrape = make_wsgi_app(registry)
    others = routes or {}
    known = None if hosts is None else {"localhost", *(each.casefold() for each in hosts)}

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        asked = environ.get("PATH_INFO", "")
        if known is not None and not _is_known(environ.get("HTTP_HOST", ""), known):
            told: Answer = HTTPStatus.FORBIDDEN, _TEXT, b"this host name is not answered\n"
        elif environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            told = HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"use GET or HEAD\n"
        elif asked == path:
            scraped: Iterable[bytes] = scrape({**environ, "REQUEST_METHOD": "GET"}, start_response)
            return scraped
        else:
            told = others[asked]() if asked in others else _nothing_here((path, *others))
        status, kind, body = told
        headers = [("Content-Type", kind), ("Cache-Control", "no-store")]
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", "GET, HEAD"))
        start_response(f"{status:d} {HTTPStatus(status).phrase}", headers)
        return [body]

    try:
        return make_server(host, port, _for_head(answer), _Server, handler_class=_Quiet)
    except OSError as exc:
        raise ConfigurationError(
            f"nothing can be served at {host}:{port}: {exc.strerror}; choose another port (--port)"
        ) from exc


class Endpoint:
    """A server on a thread of its own; close it when it is not needed any more.

    A forked child has no endpoint: it stays with the parent.
    """

    def __init__(self, server: WSGIServer, path: str) -> None:
        self._server = server
        self._pid = os.getpid()
        self.port = server.server_port
        self.url = f"http://{server.server_name}:{self.port}{path}"
        self._thread = threading.Thread(target=server.serve_forever, name="cache-endpoint", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        if os.getpid() != self._pid:
            return  # the thread that would stop is not here
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


App = Callable[[dict[str, Any], Any], Iterable[bytes]]


def _for_head(app: App) -> App:
    """Answer HEAD as GET is answered, with its length and without its body."""

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "HEAD":
            return app(environ, start_response)
        begun: list[tuple[str, list[tuple[str, str]]]] = []
        length = sum(map(len, app(environ, lambda status, headers: begun.append((status, headers)))))
        ((status, headers),) = begun
        start_response(status, [*headers, ("Content-Length", str(length))])
        return []

    return answer


def _is_known(host: str, known: Collection[str]) -> bool:
    """Tell whether a `Host` header, with or without a port, is a name that is known or an address of numbers."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.casefold().removesuffix(".") in known:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _nothing_here(paths: Iterable[str]) -> Answer:
    return HTTPStatus.NOT_FOUND, _TEXT, f"there is {', '.join(paths)}\n".encode()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """Answers each connection on a thread, and so many at once; a forked child does not listen."""

    daemon_threads = True
    request_queue_size = 2 * _CONNECTIONS  # else those that are to be closed keep a scrape from coming through

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._free = threading.BoundedSemaphore(_CONNECTIONS)
        with unforked():
            super().__init__(*args, **kwargs)
            in_child(self, _Server._leave)

    def server_bind(self) -> None:
        # Not as its base does: that asks a name server for a name of the host, which may take long.
        given = str(self.server_address[0])
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = given or str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            logger.debug("a connection from %s is closed: %d are answered", client_address, _CONNECTIONS)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        # Who says nothing, or leaves, is no news: no traceback on standard error for each.
        logger.debug("a connection from %s ended early: %r", client_address, sys.exc_info()[1])

    def _leave(self) -> None:
        self.socket.close()


class _Quiet(WSGIRequestHandler):
    """Answers without a line for each on standard error, and leaves who says nothing."""

    timeout = _IDLE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - named by its base
        logger.debug(format, *args)
