"""Brings copies of entries to the same, newest version: what repair, read-in of a node and moves have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence

import msgspec

from cache_management.cache.cluster.envelope import (
    NOTHING,
    STUB,
    VALUE,
    VERSION_BYTES,
    Head,
    grave,
    names_in,
    read_head,
)
from cache_management.cache.cluster.membership import Membership, Route
from cache_management.cache.cluster.node import Node
from cache_management.cache.cluster.slots import slot_of
from cache_management.cache.cluster.voters import heads_on_voters
from cache_management.cache.errors import BackendUnavailable

ENTRY, PIECE = "e:", "s:"
_KEYS_A_PAGE = 500
_BYTES_AT_ONCE = 2 * 2**20

Shed = tuple[str, bytes, bytes]
"""A name, the version that is to be dropped, and the stub to leave, empty for nothing."""

Targets = Callable[[Route], Collection[Node]]


class Levelled(msgspec.Struct):
    """What was done: entries looked at, copies made, values of expired ones dropped, hand-offs and graves cleared."""

    seen: int = 0
    copied: int = 0
    bytes: int = 0
    emptied: int = 0
    cleared: int = 0

    def add(self, other: Levelled) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


async def keys_of(node: Node, slots: Collection[int] | None) -> AsyncIterator[list[str]]:
    """Yield the names of the entries and pieces of a node, of some slots or of all, by pages."""
    cursor = 0
    page: list[str] = []
    while True:
        ((after, found),) = await node.marked(("SCAN", cursor, "COUNT", _KEYS_A_PAGE, "TYPE", "string"))
        page += [
            name
            for name in names_in(found)
            if name.startswith((ENTRY, PIECE)) and (slots is None or slot_of(name[2:]) in slots)
        ]
        cursor = int(after)
        if page and (len(page) >= _KEYS_A_PAGE or cursor == 0):
            yield page
            page = []
        if cursor == 0:
            return


class Levelling:
    """Compares the copies of entries on their voters and brings those that are behind to the newest version.

    Args:
        targets: Which voters to bring up to date; the others are only read.
        clear_before_ms: Forget tombstones and stubs that are older than this moment where all voters agree.
        tidy: Drop values past their time, and hand-offs that every keeper holds.
        all_of_the_new: Of slots that move, a majority of the new list must take part.
    """

    def __init__(
        self,
        membership: Membership,
        *,
        targets: Targets,
        clear_before_ms: int = 0,
        tidy: bool = False,
        all_of_the_new: bool = False,
    ) -> None:
        self._all_of_the_new = all_of_the_new
        self._membership = membership
        self._targets = targets
        self._clear_before_ms = clear_before_ms
        self._tidy = tidy

    async def level(self, names: Sequence[str], *, required: Collection[Node] = ()) -> Levelled:
        """Bring the copies of some entries to the same version.

        Args:
            required: Which nodes must be read; others that do not answer are left out, and get no copies either.

        Raises:
            BackendUnavailable: One of them did not answer, or one that should get a copy could not take it.
        """
        until_ms = self._membership.copies_until()
        routes = {name: self._membership.route(slot_of(name[2:])) for name in names}
        held = await self._heads(routes, required)
        done = Levelled(seen=len(names))
        wanted: dict[Node, list[tuple[str, bytes, Collection[Node]]]] = {}
        for name, heads in held.items():
            new_list, needed = routes[name].groups[-1]
            if self._all_of_the_new and len(new_list & heads.keys()) < needed:
                raise BackendUnavailable("the replicated cache", "too few of the nodes that slots move to answer")
            newest = max(heads.values(), key=lambda head: head[:VERSION_BYTES])
            if newest == NOTHING:
                continue
            version = newest[:VERSION_BYTES]
            if self._is_old_grave(read_head(newest)) and all(
                head[:VERSION_BYTES] in (version, NOTHING) for head in heads.values()
            ):
                continue
            route = routes[name]
            behind = [
                node
                for node in self._targets(route)
                if node in heads
                and heads[node][:VERSION_BYTES] < version
                and self._is_needed(node, route, heads, version)
            ]
            if behind:
                whole = [node for node, head in heads.items() if head == newest and node.state == "member"]
                source = whole[0] if whole else next(node for node, head in heads.items() if head == newest)
                wanted.setdefault(source, []).append((name, version, behind))
        for source, those in wanted.items():
            await self._copy(source, those, until_ms, done)
        if self._tidy or self._clear_before_ms:
            await self._clear(routes, await self._heads(routes, ()), done)
        return done

    async def _heads(self, routes: dict[str, Route], required: Collection[Node]) -> dict[str, dict[Node, bytes]]:
        held = await heads_on_voters(
            routes, lambda node: node.state != "unknown" and node.breaker.may_call(), required=required
        )
        return {name: heads for name, heads in held.items() if heads}

    def _is_needed(self, node: Node, route: Route, heads: dict[Node, bytes], version: bytes) -> bool:
        """Tell whether a voter is to hold a copy: one that only votes is, while a keeper is behind."""
        keepers = route.keepers
        return node in keepers or any(heads.get(each, NOTHING)[:VERSION_BYTES] != version for each in keepers)

    async def _copy(
        self, source: Node, those: Sequence[tuple[str, bytes, Collection[Node]]], until_ms: int, done: Levelled
    ) -> None:
        copies = await source.fetch([name for name, _, _ in those])
        by_target: dict[Node, list[tuple[str, bytes]]] = {}
        for (name, _, targets), copy in zip(those, copies, strict=True):
            if copy:
                for target in targets:
                    by_target.setdefault(target, []).append((name, copy))
        for target, pairs in by_target.items():
            for page in _by_size(pairs):
                names = [name for name, _ in page]
                await target.copy(
                    names, [slot_of(name[2:]) for name in names], [copy for _, copy in page], until_ms=until_ms
                )
                done.copied += len(page)
                done.bytes += sum(len(copy) for _, copy in page)

    def _is_old_grave(self, head: Head) -> bool:
        return head.kind != VALUE and head.moment_ms < self._clear_before_ms

    async def _clear(self, routes: dict[str, Route], held: dict[str, dict[Node, bytes]], done: Levelled) -> None:
        now_ms = self._membership.now_ms()
        sheds: dict[Node, list[Shed]] = {}
        graves: dict[Node, list[Shed]] = {}
        for name, heads in held.items():
            route = routes[name]
            known = [head for head in heads.values() if head]
            if not known:
                continue
            version = max(known)[:VERSION_BYTES]
            head = read_head(max(known))
            keepers = [node for node in route.keepers if not self._membership.is_given_up(node)]
            if any(heads.get(node, NOTHING)[:VERSION_BYTES] != version or node.state != "member" for node in keepers):
                continue
            voters = [node for node in route.nodes if not self._membership.is_given_up(node)]
            is_whole = set(heads) >= set(voters) and all(node.state == "member" for node in voters)
            if is_whole and self._is_old_grave(head):
                for node, copy in heads.items():
                    if copy:
                        # Older copies first: once the tombstone is gone nothing hides them.
                        first = copy[:VERSION_BYTES] != version
                        (sheds if first else graves).setdefault(node, []).append((name, copy[:VERSION_BYTES], NOTHING))
                done.cleared += 1
                continue
            for node, copy in heads.items():
                if copy and self._tidy and node not in route.keepers and copy[:VERSION_BYTES] <= version:
                    sheds.setdefault(node, []).append((name, copy[:VERSION_BYTES], NOTHING))
                    done.cleared += 1
                elif copy and self._tidy and read_head(copy).kind == VALUE:
                    # Evicted while this node was away (of one version a stub is the larger text), or past its time.
                    is_evicted = copy[:VERSION_BYTES] == version and head.kind != VALUE
                    if is_evicted or not read_head(copy).is_live(now_ms):
                        moment_ms = head.moment_ms if is_evicted else read_head(copy).moment_ms
                        stub = grave(copy[:VERSION_BYTES], STUB, moment_ms)
                        sheds.setdefault(node, []).append((name, copy[:VERSION_BYTES], stub))
                        done.emptied += 1
        for node, those in (*sheds.items(), *graves.items()):
            names = [name for name, _, _ in those]
            await node.shed(
                names, [slot_of(name[2:]) for name in names], [each[1] for each in those], [each[2] for each in those]
            )


def _by_size(pairs: Sequence[tuple[str, bytes]]) -> list[list[tuple[str, bytes]]]:
    pages: list[list[tuple[str, bytes]]] = [[]]
    size = 0
    for name, copy in pairs:
        if pages[-1] and size + len(copy) > _BYTES_AT_ONCE:
            pages.append([])
            size = 0
        pages[-1].append((name, copy))
        size += len(copy)
    return pages
