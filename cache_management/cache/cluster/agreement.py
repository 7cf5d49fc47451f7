"""The two questions by which nodes agree on a slot table: promise, then accept.

Single-decree Paxos for each epoch (Lamport, "Paxos Made Simple", 2001). Whoever has the promise of a majority knows
every table that a majority accepted before, and no earlier proposer can have another one accepted any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from cache_management.cache.cluster.envelope import NOTHING, Versions
from cache_management.cache.cluster.inspection import Seen, look_at, version_of_table
from cache_management.cache.cluster.node import MARKER, PROMISE, TABLE, Marker, Node
from cache_management.cache.cluster.table import Table
from cache_management.cache.errors import BackendUnavailable


class Promises(msgspec.Struct, frozen=True):
    """What those nodes hold that promised and count, and how many did not answer."""

    seen: dict[Node, Seen]
    silent: int


async def promises(
    nodes: Sequence[Node], token: bytes, versions: Versions, counts: Callable[[Node, Seen], bool]
) -> Promises:
    """Ask nodes to wait for no earlier proposer.

    Args:
        token: The proposer's, larger than any it knows of.
        versions: Learns of larger ones.
    """

    async def ask(node: Node) -> Seen | None:
        promised, _ = await node.control("promise", [PROMISE, TABLE], [token])
        if promised != token:
            versions.observe(promised)
            return None
        seen = await look_at(node)
        return seen if counts(node, seen) else None

    found = await asyncio.gather(*(ask(node) for node in nodes), return_exceptions=True)
    _raise_others(found)
    return Promises(
        {node: each for node, each in zip(nodes, found, strict=True) if isinstance(each, Seen)},
        silent=sum(isinstance(each, BackendUnavailable) for each in found),
    )


async def acceptances(
    nodes: Sequence[Node], token: bytes, table: Table, seen: Mapping[Node, Seen], marks: Mapping[Node, Marker]
) -> list[Node]:
    """Ask nodes to keep a table, each with its new marker in the same step; return those that do."""
    version = version_of_table(table, token)
    encoded = table.encode()

    async def ask(node: Node) -> bool:
        mark = marks[node].text() if node in marks else NOTHING
        words = [token, version, encoded, seen[node].marker_text, mark]
        return bool(await node.control("accept", [PROMISE, TABLE, MARKER], words))

    asked = [node for node in nodes if node in seen]
    found = await asyncio.gather(*(ask(node) for node in asked), return_exceptions=True)
    _raise_others(found)
    return [node for node, each in zip(asked, found, strict=True) if each is True]


def _raise_others(found: Sequence[Any]) -> None:
    for each in found:
        if isinstance(each, BaseException) and not isinstance(each, BackendUnavailable):
            raise each
