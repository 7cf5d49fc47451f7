"""Asks all voters of a slot, or of many, and tells who answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from cache_management.cache.cluster.membership import Membership, Route
from cache_management.cache.cluster.node import Node
from cache_management.cache.errors import BackendUnavailable, QuorumNotReached

T = TypeVar("T")


async def ask_all(
    route: Route, ask: Callable[[Node], asyncio.Future[T]], *, nodes: Sequence[Node] | None = None
) -> dict[Node, T]:
    """Ask every voter that may be asked; return the answers of those that count."""
    asked = [node for node in (route.nodes if nodes is None else nodes) if node.may_be_asked()]
    found = await asyncio.gather(*(ask(node) for node in asked), return_exceptions=True)
    answers: dict[Node, T] = {}
    for node, each in zip(asked, found, strict=True):
        if not isinstance(each, BaseException):
            answers[node] = each
        elif not isinstance(each, BackendUnavailable):
            raise each
    return answers


async def ask_enough(membership: Membership, slot: int, ask: Callable[[Node], asyncio.Future[T]]) -> dict[Node, T]:
    """Ask every voter of a slot until a majority answers; asking twice must be harmless.

    Raises:
        QuorumNotReached: It does not, after the table was looked at anew.
    """
    await membership.connect()
    for attempt in range(3):
        route = membership.route(slot)
        answers = await ask_all(route, ask)
        if route.agree(answers):
            return answers
        await asyncio.sleep(0.01 * attempt)
        await membership.refresh()
    raise QuorumNotReached("too few of its nodes answered", indeterminate=True)


async def heads_on_voters(
    routes: Mapping[str, Route], may_ask: Callable[[Node], bool], *, required: Collection[Node] = ()
) -> dict[str, dict[Node, bytes]]:
    """Return the heads of entries, by name and by those of their voters that answered; an empty head for none.

    Args:
        routes: By the name under which a node keeps the entry.
        required: Which nodes must answer.

    Raises:
        BackendUnavailable: One of them did not.
    """
    by_node: dict[Node, list[str]] = {}
    for name, route in routes.items():
        for node in route.nodes:
            if node in required or may_ask(node):
                by_node.setdefault(node, []).append(name)
    found = await asyncio.gather(*(node.heads(names) for node, names in by_node.items()), return_exceptions=True)
    held: dict[str, dict[Node, bytes]] = {name: {} for name in routes}
    for (node, names), heads in zip(by_node.items(), found, strict=True):
        if isinstance(heads, BackendUnavailable) and node not in required:
            continue
        if isinstance(heads, BaseException):
            raise heads
        for name, head in zip(names, heads, strict=True):
            held[name][node] = head
    return held
