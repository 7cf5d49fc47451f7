"""An HTTP endpoint for scrapes and health checks. It has no password and listens on 127.0.0.1 unless told otherwise."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from cache_management.cache.errors import ConfigurationError
from cache_management.cache.readiness import Answer, Routes
from cache_management.metrics.families import Families, registry_of

logger = logging.getLogger("cache_management")

_IDLE_SECONDS = 10.0


def serve(families: Families, *, host: str, port: int, path: str, routes: Routes | None = None) -> WSGIServer:
    """Make a server that answers scrapes on one path, and what else there is on others; call its `serve_forever`.

    Raises:
        ImportError: The extra is missing.
        ConfigurationError: Nothing can listen there.
    """
    registry = registry_of(families)
    from prometheus_client import make_wsgi_app
    from prometheus_client.exposition import ThreadingWSGIServer

    scrape = make_wsgi_app(registry)
    others = routes or {}

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        asked = environ.get("PATH_INFO", "")
        if asked == path:
            answer: Iterable[bytes] = scrape(environ, start_response)
            return answer
        status, kind, body = others[asked]() if asked in others else _nothing_here((path, *others))
        start_response(f"{status} {HTTPStatus(status).phrase}", [("Content-Type", kind), ("Cache-Control", "no-store")])
        return [body]

    try:
        return make_server(host, port, app, ThreadingWSGIServer, handler_class=_Quiet)
    except OSError as exc:
        raise ConfigurationError(
            f"metrics cannot be served at {host}:{port}: {exc.strerror}; choose another port (--port, metrics.port)"
        ) from exc


class Endpoint:
    """A server on a thread of its own; close it when it is not needed any more."""

    def __init__(self, server: WSGIServer, path: str) -> None:
        self._server = server
        self.port = server.server_port
        self.url = f"http://{server.server_name}:{self.port}{path}"
        self._thread = threading.Thread(target=server.serve_forever, name="cache-endpoint", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _nothing_here(paths: Iterable[str]) -> Answer:
    return HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", f"there is {', '.join(paths)}\n".encode()


class _Quiet(WSGIRequestHandler):
    """Answers without a line for each on standard error, and leaves who says nothing."""

    timeout = _IDLE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - named by its base
        logger.debug(format, *args)
