"""What a node says of itself, and whether nodes can be one replicated cache: refused before anything is written."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgspec

from cache_management.cache.backends.redis_connection import Refusal
from cache_management.cache.backends.redis_node import words
from cache_management.cache.cluster.envelope import VERSION_BYTES, is_version
from cache_management.cache.cluster.node import MARKER, OWN_PREFIXES, PROMISE, TABLE, Marker, Node, read_marker
from cache_management.cache.cluster.table import Table, read_table
from cache_management.cache.errors import BackendRefused, ConfigurationError, CorruptRecord

_VERSION_WIDTH = 10 + VERSION_BYTES  # of a table: its epoch, then its proposer's token
_KEYS_LOOKED_AT = 20


class Seen(msgspec.Struct, frozen=True):
    """What a node says of itself: its marker, its table with the version of it, and how many keys it holds.

    A node whose table or promise cannot be read says nothing: it forgot what it agreed to, and has no marker. `keys`
    are those that may be somebody else's.
    """

    marker: Marker | None
    marker_text: bytes
    version: bytes
    table: Table | None
    keys: int
    promise: bytes


def version_of_table(table: Table, token: bytes) -> bytes:
    """Return what orders tables: the epoch, then who proposed it."""
    return b"%010d%s" % (table.epoch, token)


async def look_at(node: Node) -> Seen:
    """Read what a node says of itself."""
    began = time.monotonic()
    replies = await node.redis.replies_to([("GET", MARKER), ("GET", TABLE), ("DBSIZE",), ("GET", PROMISE), ("TIME",)])
    for reply in replies:
        if type(reply) is Refusal and not str(reply).startswith("WRONGTYPE"):
            raise BackendRefused(node.redis.address, words(reply))
    is_damaged = type(replies[3]) is Refusal or (replies[3] is not None and not is_version(replies[3]))
    held, kept, keys, promise, moment = [None if type(reply) is Refusal else reply for reply in replies]
    seconds, micros = moment or (0, 0)
    node.offset_seconds = int(seconds) + int(micros) / 1e6 - (began + time.monotonic()) / 2
    marker, version, table = read_marker(held), b"", None
    if kept is not None:
        version = kept[:_VERSION_WIDTH]
        try:
            table = read_table(kept[_VERSION_WIDTH:])
        except CorruptRecord:
            table = None
        if table is None or not _is_version_of(table, version):
            is_damaged = True
    if is_damaged:
        marker, version, table = None, b"", None
    keys = keys or 0
    if keys and marker is None and table is None:
        picked = await node.redis.pipeline([("RANDOMKEY",)] * _KEYS_LOOKED_AT)
        # What it kept of this cache when it forgot the rest is not somebody else's.
        keys = keys if any(not name.startswith(OWN_PREFIXES) for name in picked if name) else 0
    return Seen(marker, held or b"", version, table, keys, promise or b"")


def _is_version_of(table: Table, version: bytes) -> bool:
    return version == version_of_table(table, version[10:]) and is_version(version[10:])


def refuse_twins(nodes: Sequence[Node]) -> None:
    """Raise ConfigurationError when two nodes are one server."""
    by_process: dict[str, Node] = {}
    for node in nodes:
        if node.run_id:
            other = by_process.setdefault(node.run_id, node)
            if other is not node:
                raise ConfigurationError(
                    f"nodes {other.address} and {node.address} are one server: two copies on it would be lost together;"
                    " name another server, or leave one of them out"
                )


def refuse_used(node: Node, seen: Seen, table: Table) -> None:
    """Raise ConfigurationError when a node cannot be added: it is another cache's, or holds foreign data."""
    if seen.marker is not None and seen.marker.cluster != table.cluster:
        raise ConfigurationError(
            f"node {node.address} belongs to another replicated cache: take it out there, or empty it, and add it again"
        )
    if seen.keys and seen.marker is None:
        raise ConfigurationError(
            f"node {node.address} holds {seen.keys} keys that are not this cache's: give it an empty database of its"
            " own (host:port/1), or empty it"
        )


def listed(nodes: Sequence[Node]) -> str:
    """Return the addresses of nodes in one line."""
    return ", ".join(node.address for node in nodes)


def several_clusters(seen: Mapping[Node, Seen]) -> str:
    """Say which nodes belong together."""
    by_cluster: dict[str, list[str]] = {}
    for node, each in seen.items():
        cluster = each.table.cluster if each.table else each.marker.cluster if each.marker else ""
        if cluster:
            by_cluster.setdefault(cluster, []).append(node.address)
    groups = " and ".join(", ".join(sorted(nodes)) for nodes in by_cluster.values())
    return (
        f"these nodes belong to different replicated caches: {groups}; name the nodes of one, or empty those that"
        " shall change over"
    )
