from __future__ import annotations

import http.client
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Collection
from typing import Any

import pytest

from cache_management import MetricsCollector
from cache_management.cache.errors import ConfigurationError
from cache_management.metrics import endpoint as module
from cache_management.metrics.endpoint import Endpoint, serve


def get(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as found:
            return found.status, found.headers["Content-Type"], found.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.headers["Content-Type"], exc.read().decode()


def test_it_answers_scrapes_and_other_paths_and_names_them() -> None:
    metrics = MetricsCollector()
    metrics.record_cache_hit("k")
    routes = {"/healthz": lambda: (200, "application/json", b"{}"), "/readyz": lambda: (503, "text/plain", b"no")}
    server = serve(metrics.families, host="127.0.0.1", port=0, path="/metrics", routes=routes)

    with Endpoint(server, "/metrics") as endpoint:
        base = f"http://127.0.0.1:{endpoint.port}"
        status, kind, text = get(f"{base}/metrics")
        assert (status, kind.startswith("text/plain")) == (200, True)
        assert 'cache_hits_total{kind="exact"} 1.0' in text
        assert get(f"{base}/healthz") == (200, "application/json", "{}")
        assert get(f"{base}/readyz") == (503, "text/plain", "no")
        assert get(f"{base}/elsewhere")[0] == 404
        assert "/readyz" in get(f"{base}/elsewhere")[2]


def test_a_client_that_says_nothing_keeps_nobody_waiting() -> None:
    server = serve(MetricsCollector().families, host="127.0.0.1", port=0, path="/metrics")

    with Endpoint(server, "/metrics") as endpoint, socket.create_connection(("127.0.0.1", endpoint.port)):
        assert get(f"http://127.0.0.1:{endpoint.port}/metrics")[0] == 200


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(ConfigurationError, match=f"nothing can be served at 127.0.0.1:{port}.*--port"):
            serve(MetricsCollector().families, host="127.0.0.1", port=port, path="/metrics")


def begin(hosts: Collection[str] | None = None) -> Endpoint:
    routes = {"/healthz": lambda: (200, "application/json", b"{}")}
    families = MetricsCollector().families
    return Endpoint(serve(families, host="127.0.0.1", port=0, path="/metrics", routes=routes, hosts=hosts), "/metrics")


def ask(endpoint: Endpoint, method: str, path: str, host: str | None = None) -> tuple[int, int, bytes]:
    """Return the status, the length that is told, and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=5)
    try:
        connection.request(method, path, headers={} if host is None else {"Host": host})
        found = connection.getresponse()
        return found.status, int(found.headers["Content-Length"]), found.read()
    finally:
        connection.close()


def test_head_is_answered_as_get_without_a_body_and_nothing_else_is() -> None:
    with begin() as endpoint:
        for path in ("/metrics", "/healthz"):
            length = len(ask(endpoint, "GET", path)[2])
            assert ask(endpoint, "HEAD", path) == (200, length, b"")
            assert ask(endpoint, "POST", path)[0] == 405
            assert ask(endpoint, "OPTIONS", path)[0] == 405


def test_only_names_that_are_known_are_answered_where_that_is_asked_for() -> None:
    with begin(hosts=["Cache.example"]) as endpoint:
        for host in ("cache.example", "CACHE.example:80", "localhost:8787", "localhost.", "127.0.0.1:1", "[::1]:80"):
            assert ask(endpoint, "GET", "/healthz", host)[0] == 200, host
        for host in ("evil.example", "evil.example:80", "", "127.0.0.1.evil.example", "localhost, evil"):
            assert ask(endpoint, "GET", "/healthz", host)[0] == 403, host
            assert ask(endpoint, "GET", "/metrics", host)[0] == 403, host
    with begin() as endpoint:
        assert ask(endpoint, "GET", "/metrics", "evil.example")[0] == 200


def test_a_forked_child_does_not_listen_and_can_close() -> None:
    endpoint = begin()
    stay, leave = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(leave)
        endpoint.close()
        os.read(stay, 1)
        os._exit(0)

    assert get(endpoint.url)[0] == 200
    endpoint.close()

    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", endpoint.port), timeout=5)
    finally:
        os.close(leave)
        os.close(stay)
    assert os.waitpid(child, 0)[1] == 0


def test_the_name_of_the_host_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: Any) -> str:
        raise AssertionError("a name server is asked")

    monkeypatch.setattr(socket, "getfqdn", slow)

    with Endpoint(
        serve(MetricsCollector().families, host="localhost", port=0, path="/metrics"), "/metrics"
    ) as endpoint:
        assert endpoint.url == f"http://localhost:{endpoint.port}/metrics"


def test_who_says_nothing_leaves_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module._Quiet, "timeout", 0.05)

    with begin() as endpoint, socket.create_connection(("127.0.0.1", endpoint.port), timeout=5) as client:
        assert client.recv(1) == b""

    assert capfd.readouterr().err == ""


def test_connections_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONNECTIONS", 2)

    with begin() as endpoint:
        address = ("127.0.0.1", endpoint.port)
        silent = [socket.create_connection(address, timeout=5) for _ in range(3)]
        assert silent[2].recv(1) == b""  # closed
        for each in silent:
            each.close()
