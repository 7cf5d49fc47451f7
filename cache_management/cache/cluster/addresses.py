"""How the nodes of a replicated cache are named: "host:port", or "host:port/database". Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cache_management.cache.config import ReplicationConfig
from cache_management.cache.errors import ConfigurationError

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.\-]+):(\d{1,5})(?:/(\d{1,5}))?")


def check_address(address: object) -> str:
    """Return an address in the form that all of them have: its host in small letters.

    Raises:
        ConfigurationError: It is none; the message says what is wrong with it.
    """
    if not isinstance(address, str):
        raise ConfigurationError(f"node {address!r:.80} is no text: write host:port")
    found = _ADDRESS.fullmatch(address.strip().removeprefix("redis://"))
    if found is None:
        raise ConfigurationError(f"node {address!r:.80} cannot be read: write host:port, or host:port/database")
    host, port, database = found.groups()
    if not 1 <= int(port) <= 65_535:
        raise ConfigurationError(f"node {address!r:.80} has the port {port}: take one from 1 to 65535")
    return f"{host.lower()}:{int(port)}" + (f"/{int(database)}" if database and int(database) else "")


def check_nodes(nodes: Sequence[object], replication: ReplicationConfig) -> tuple[list[str], ReplicationConfig]:
    """Return the addresses, and the replication that so many nodes can give.

    Raises:
        ConfigurationError: One cannot be read or stands twice, or there are fewer than copies are to be kept on.
    """
    if isinstance(nodes, str | bytes) or not nodes:
        raise ConfigurationError(f'nodes={nodes!r:.80} names no nodes: give a list, such as ["cache-1:6379", ...]')
    addresses = [check_address(node) for node in nodes]
    for place, address in enumerate(addresses):
        if address in addresses[:place]:
            raise ConfigurationError(
                f"node {address} stands twice in the list: two copies on it would be lost together"
            )
    if len(addresses) >= replication.voters:
        return addresses, replication
    if replication.degrade == "one":
        fewer = max(0, len(addresses) - 1)
        # With two nodes a majority would be both: one answer has to do.
        return addresses, replication.model_copy(
            update={"replicas": 0 if fewer < 2 else fewer, "consistency_level": "one"}
        )
    third = " (with one additional copy a third node votes)" if replication.replicas == 1 else ""
    raise ConfigurationError(
        f"replicas={replication.replicas} needs {replication.voters} nodes{third}, and {len(addresses)} are given: add"
        " nodes, lower replicas, or choose degrade='one' and give up what a majority promises"
    )
