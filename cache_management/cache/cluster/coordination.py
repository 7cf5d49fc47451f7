"""Leases and tags on the voters of their slot.

A lease is held when a majority gave it. It keeps work from being done twice; what must not be undone by somebody
whose lease ended is compared with the fencing token where it is stored (`put_fenced`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from cache_management.cache.backends.redis_connection import Argument
from cache_management.cache.cluster.bookmarks import Bookmark
from cache_management.cache.cluster.envelope import token_of
from cache_management.cache.cluster.membership import Membership, Route
from cache_management.cache.cluster.node import FLOOR, Node
from cache_management.cache.cluster.slots import slot_of
from cache_management.cache.cluster.voters import ask_all, ask_enough
from cache_management.cache.errors import BackendUnavailable, QuorumNotReached

T = TypeVar("T")
LEASE, TAG = "l:", "t:"
_TOKEN_LIFE_MS = 7 * 24 * 3600 * 1000
_TRIES = 6


def _leased(node: Node, keys: Sequence[str], args: Sequence[Argument]) -> asyncio.Future[Any]:
    return node.run("lease", keys, args)


class Coordination:
    """The leases and tags of a replicated cache."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    async def acquire(self, name: str, *, owner: str, ttl_seconds: float, is_fence: bool = False) -> int | None:
        """Take a lease; with `is_fence` whatever is written or deleted from then on is newer than its token."""
        membership = self._membership
        await membership.connect()
        slot = slot_of(name)
        ms = math.ceil(ttl_seconds * 1000)
        for attempt in range(_TRIES):
            token = membership.versions.next()
            route = membership.route(slot)
            keys = [FLOOR, LEASE + name, f"{LEASE}{name}:token"]
            args: list[Argument] = ["fence" if is_fence else "take", owner, ms, token, _TOKEN_LIFE_MS]
            answers = await ask_all(route, partial(_leased, keys=keys, args=args))
            taken = {node for node, answer in answers.items() if answer == 1}
            if route.agree(taken):
                return token_of(token)
            if taken:
                await self._free(name, owner, list(taken), route)
            lasts = [answer for answer in answers.values() if isinstance(answer, bytes)]
            for last in lasts:
                membership.versions.observe(last)
            if not lasts:
                if route.agree(answers):
                    return None
                await asyncio.sleep(0.01 * attempt)
                await membership.refresh()
        raise QuorumNotReached("too few of its nodes answered for a lease", indeterminate=False)

    async def _free(self, name: str, owner: str, nodes: Sequence[Node], route: Route) -> dict[Node, Any]:
        keys = [FLOOR, LEASE + name, f"{LEASE}{name}:token"]
        return await ask_all(route, lambda node: node.run("lease", keys, ["free", owner, 0, "", 0]), nodes=nodes)

    async def renew(self, name: str, *, owner: str, ttl_seconds: float) -> bool:
        keys = [FLOOR, LEASE + name, f"{LEASE}{name}:token"]
        args: list[Argument] = ["keep", owner, math.ceil(ttl_seconds * 1000), "", 0]
        slot = slot_of(name)
        answers = await ask_enough(self._membership, slot, lambda node: node.run("lease", keys, args))
        return self._membership.route(slot).agree({node for node, answer in answers.items() if answer == 1})

    async def release(self, name: str, *, owner: str) -> bool:
        keys = [FLOOR, LEASE + name, f"{LEASE}{name}:token"]
        slot = slot_of(name)
        answers = await ask_enough(
            self._membership, slot, lambda node: node.run("lease", keys, ["free", owner, 0, "", 0])
        )
        return self._membership.route(slot).agree({node for node, answer in answers.items() if answer == 1})

    async def add_tag(self, tag: str, keys: Mapping[str, float | None]) -> None:
        args: list[Argument] = ["add", self._membership.now_ms()]
        for key, expires_at in keys.items():
            args += ["inf" if expires_at is None else math.ceil(expires_at * 1000), key]
        await ask_enough(self._membership, slot_of(tag), lambda node: node.run("tag", [TAG + tag], args))

    async def remove_tags(self, tags: Mapping[str, Sequence[str]]) -> None:
        await self._membership.connect()
        for tag, keys in tags.items():
            args: list[Argument] = ["remove", self._membership.now_ms(), *keys]

            def ask(node: Node, tag: str = tag, args: Sequence[Argument] = args) -> asyncio.Future[Any]:
                return node.run("tag", [TAG + tag], args)

            await ask_enough(self._membership, slot_of(tag), ask)

    async def tagged(self, tag: str) -> list[str]:
        now_ms = self._membership.now_ms()

        def ask(node: Node) -> asyncio.Future[list[bytes]]:
            return asyncio.ensure_future(self._members(node, tag, now_ms))

        answers = await ask_enough(self._membership, slot_of(tag), ask)
        return list(dict.fromkeys(key.decode() for keys in answers.values() for key in keys))

    async def _members(self, node: Node, tag: str, now_ms: int) -> list[bytes]:
        (keys,) = await node.marked(("ZRANGEBYSCORE", TAG + tag, f"({now_ms}", "+inf"))
        return list(keys)

    async def tagged_page(self, tag: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        """Return some keys of a tag; one voter after the other is read, so that a key may come more than once."""
        membership = self._membership
        await membership.connect()
        route = membership.route(slot_of(tag))
        place = Bookmark.read_text(bookmark)
        keys: list[str] = []
        while not keys and (node := place.at(route.nodes)) is not None:
            try:
                ((after, words),) = await node.marked(("ZSCAN", TAG + tag, place.cursor_at(node), "COUNT", limit))
            except BackendUnavailable:
                place = place.skipped(node)
                continue
            now_ms = membership.now_ms()
            pairs = zip(words[::2], words[1::2], strict=True)
            keys = [key.decode() for key, expires_at in pairs if float(expires_at) > now_ms]
            place = place.behind(node, int(after))
        if place.at(route.nodes) is not None:
            return keys, place.text()
        if not route.agree([each for each in route.nodes if each.id in place.read]):
            raise QuorumNotReached("too few of its nodes answered", indeterminate=False)
        return keys, None
