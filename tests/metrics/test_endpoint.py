from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest

from cache_management import MetricsCollector
from cache_management.cache.errors import ConfigurationError
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

        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}"):
            serve(MetricsCollector().families, host="127.0.0.1", port=port, path="/metrics")
