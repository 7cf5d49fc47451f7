"""A repair from begin to end, part by part: nodes are brought up, moves come to their end, copies are compared.

nodes   those that do not count are read in, and slots that move go on moving
pass    copies are compared, the newer one goes where it is missing; a full pass also forgets what may be forgotten

A `Place` says where the work stands. Any part may be done twice: then less is left to be done. What a node cannot
do now, because it does not answer, is left for the next repair and told.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

import msgspec

from cache_management.cache.cluster.bookmarks import Bookmark
from cache_management.cache.cluster.distributed import DistributedCache
from cache_management.cache.cluster.levelling import Levelled
from cache_management.cache.cluster.repair import Repair, Sleep
from cache_management.cache.errors import BackendUnavailable

PAGE = 500
STEP_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 1.0
_MOST_WAITS = 600

FATES = ("added", "removed", "given_up", "data_loss_possible")
"""What befalls a node that is to be written down."""


class Place(msgspec.Struct, frozen=True):
    """Where a repair stands, and what was done so far.

    `brought` copies went to nodes that did not count, and to slots that moved. `differing` is how many slots differed
    when the pass began. `read` nodes were gone through; those that did not count are in `passed_over`, by address.
    `waits` says why something had to be left. `waited` is for how many parts others were waited for. `mended_by` is the
    keeper that brings, and how much it had brought by then.
    """

    step: Literal["nodes", "pass", "done"] = "nodes"
    scan: str = ""
    tally: Levelled = msgspec.field(default_factory=Levelled)
    brought: int = 0
    differing: int | None = None
    nodes: int = 0
    read: int = 0
    passed_over: tuple[str, ...] = ()
    waits: str = ""
    waited: int = 0
    mended_by: tuple[str, int] = ("", 0)


def summary_of(place: Place) -> dict[str, Any]:
    """Return what a person or a script is told of a repair; keys are not in it."""
    tally = place.tally
    told: dict[str, Any] = {
        "step": place.step,
        "looked_at": tally.seen,
        "copied": tally.copied,
        "brought": place.brought,
        "copied_bytes": tally.bytes,
        "dropped": tally.emptied,
        "cleared": tally.cleared,
        "slots_differing": place.differing,
        "nodes": place.nodes,
        "nodes_read": place.read,
        "passed_over": list(place.passed_over),
        "waits": place.waits,
    }
    return {name: value for name, value in told.items() if value is not None}


class Mending:
    """The work of a repair. `advance` from place to place until the step is "done".

    Args:
        full: Look at every key, not only at those of slots that differ, and forget what may be forgotten.
        keys_per_second: How many keys are looked at in a second at most; 0 is no bound.
    """

    def __init__(
        self,
        cache: DistributedCache,
        *,
        full: bool = False,
        keys_per_second: float = 0,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._membership = cache.backend.membership
        self._keeper = cache.backend.keeper
        self._repair = Repair(self._membership, listener=cache.tell, full=full)
        self._keys_per_second = keys_per_second
        self._sleep = sleep

    async def advance(self, place: Place, *, limit: int = PAGE, seconds: float = STEP_SECONDS) -> Place:
        """Work for about so many seconds, at least one page of `limit` keys.

        Raises:
            ConfigurationError: The nodes cannot be one cluster.
            BackendUnavailable: Too few nodes answer; part of it may be done.
        """
        match place.step:
            case "nodes":
                return await self._mend(place, seconds)
            case "pass":
                return await self._compare(place, limit, seconds)
            case "done":
                return place

    async def _mend(self, place: Place, seconds: float) -> Place:
        await self._membership.connect()
        keeper = self._keeper
        owner, before = place.mended_by
        if owner != keeper.owner:
            before = keeper.brought().copied
        waits, is_done = "", True
        try:
            is_done = await keeper.mend(seconds=seconds)
        except BackendUnavailable as exc:
            waits = str(exc)
        # It goes on between two parts.
        after = keeper.brought().copied
        place = msgspec.structs.replace(place, brought=place.brought + after - before, mended_by=(keeper.owner, after))
        if not is_done and not keeper.is_mending:
            place = msgspec.structs.replace(place, waited=place.waited + 1)
            is_done = place.waited >= _MOST_WAITS
            waits = "another process is at them, and does not come to an end"
        if not is_done:
            return place
        differing = len((await self._repair.differences()).slots)
        nodes = len(self._membership.nodes())
        return msgspec.structs.replace(place, step="pass", waits=waits, differing=differing, nodes=nodes)

    async def _compare(self, place: Place, limit: int, seconds: float) -> Place:
        began, seen = time.monotonic(), place.tally.seen
        if self._keys_per_second:
            limit = max(1, min(limit, int(self._keys_per_second)))
        while place.step == "pass":
            some, after = await self._repair.step(place.scan, limit=limit)
            place = self._behind(place, some, after)
            if time.monotonic() - began >= seconds or (self._keys_per_second and place.tally.seen - seen >= limit):
                break
        if self._keys_per_second:
            pause = (place.tally.seen - seen) / self._keys_per_second - (time.monotonic() - began)
            await self._sleep(min(max(0.0, pause), _LONGEST_PAUSE_SECONDS))
        return place

    def _behind(self, place: Place, some: Levelled, after: str | None) -> Place:
        tally = Levelled()
        tally.add(place.tally)
        tally.add(some)
        if after is None:
            return msgspec.structs.replace(place, step="done", scan="", tally=tally)
        bookmark = Bookmark.read_text(after)
        by_id = self._membership.by_id
        return msgspec.structs.replace(
            place,
            scan=after,
            tally=tally,
            read=len(bookmark.read),
            passed_over=tuple(sorted(by_id[each].address for each in bookmark.missed if each in by_id)),
        )
