"""Ask a server of metrics, as Prometheus would."""

from __future__ import annotations

import socket
import urllib.request


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scrape(url: str, *, timeout: float = 10.0) -> str:
    """Return what is told there; as long as Prometheus waits unless told otherwise."""
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return str(answer.read().decode())
