"""Ask a server of metrics, as Prometheus would."""

from __future__ import annotations

import urllib.request

from cache_management.services.provider import free_port as port_below


def free_port() -> int:
    """Find a port that nobody listens on, below those that connections of other tests are given meanwhile."""
    return port_below(highest=32_000)


def scrape(url: str, *, timeout: float = 10.0) -> str:
    """Return what is told there; as long as Prometheus waits unless told otherwise."""
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return str(answer.read().decode())
