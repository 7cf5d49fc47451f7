"""Compositions of faults, moved by hand, that a wrong implementation does not survive.

Each writes and reads through clients that record what they did; the checker judges. What a right cache may do (refuse)
and may not do (answer wrongly) is left to it: the scenarios themselves assert only that they came about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from cache_management.cache.cluster.scripts import script
from tests.faults.cluster.proxy import Mode
from tests.faults.cluster.stage import KEYS, Player, Stage, within
from tests.faults.cluster.targets import Unsure
from tests.waiting import eventually

Scenario = Callable[[Stage], Awaitable[None]]


async def a_forgetful_node_while_another_stands_still(stage: Stage) -> None:
    """An emptied node says "nothing there", and the only other one that could know better does not answer."""
    player = await stage.player()
    await _set_and_tidy(player)
    stage.empty(0)
    stage.nodes[1].pause()
    for _ in range(2):
        await player.states()  # what happened to its connections it knows then

    await within(0.5, player.get_all)

    stage.nodes[1].resume()
    await eventually(player.all_members, timeout=20)
    assert await player.get_all() == {"ok"}


async def a_forgetful_node_that_came_back(stage: Stage) -> None:
    """Once it counts again it must know all that the one knows which is away now."""
    player = await stage.player()
    await _set_and_tidy(player)
    stage.empty(0)
    await eventually(player.all_members, timeout=20)

    player.lose(1)
    await player.get_all()


async def a_sync_that_comes_to_a_halt(stage: Stage) -> None:
    """Half read in is not read in."""
    player = await stage.player(housekeeping=False)
    await _set_and_tidy(player)
    helper = await stage.player()
    for at in (1, 2):
        helper.wires[at].trap(b"SCAN", Mode.BLACKHOLE)
    stage.empty(0)
    await eventually(_trapped(helper))
    await eventually(_sees_all(player))

    player.lose(1)
    await within(0.2, player.get_all)


async def a_connection_that_breaks_during_a_sync(stage: Stage) -> None:
    """Who said which keys it has, and then did not say what is in them, has not been read."""
    await _sync_with_breaks(stage, (1, 2))


async def a_node_that_breaks_off_while_it_is_read_in(stage: Stage) -> None:
    """Who did not say what it has did not get what it lacks either."""
    await _sync_with_breaks(stage, (0,))


async def _sync_with_breaks(stage: Stage, broken: Sequence[int]) -> None:
    player = await stage.player(housekeeping=False)
    await _set_and_tidy(player)
    helper = await stage.player()
    stage.nodes[0].kill()
    for at in broken:
        helper.wires[at].trap(script("heads").digest.encode(), None, times=3)
    stage.nodes[0].restart(empty=True)
    await eventually(_trapped(helper))
    await eventually(helper.all_members, timeout=20)
    await eventually(player.all_members, timeout=20)

    for at in (1, 2):
        player.lose(at)
        await player.get_all()
        player.find(at)
        await eventually(player.can_get_all)


async def an_acknowledgement_by_a_minority(stage: Stage) -> None:
    """What one node has, one node can lose."""
    player = await stage.player()
    other = await stage.player()
    for away in (1, 2):
        player.lose(away)
    await player.set_all()
    stage.empty(0)
    await eventually(other.all_members, timeout=20)

    await other.get_all()


async def a_delete_that_one_node_missed(stage: Stage) -> None:
    """It still has the value, and the others must know better."""
    player = await stage.player(housekeeping=False)
    other = await stage.player(housekeeping=False)
    for at, keys in ((0, KEYS[0::3]), (1, KEYS[1::3]), (2, KEYS[2::3])):
        await eventually(lambda keys=keys: player.can_set_all(keys))
        player.lose(at)
        await eventually(lambda keys=keys: player.can_delete_all(keys))
        player.find(at)
        await eventually(player.all_members)

    await within(0.3, other.get_all)
    await other.repair()
    await other.get_all()


async def a_write_that_one_node_missed(stage: Stage) -> None:
    """It still has the old value; who reads must not take its word for it."""
    player = await stage.player(housekeeping=False)
    other = await stage.player(housekeeping=False)
    for at in (0, 1, 2):
        await eventually(player.can_set_all)
        player.lose(at)
        await eventually(player.can_set_all)

        await other.get_all()

        player.find(at)
    await other.repair()
    await other.get_all()


async def a_repair_after_a_missed_write(stage: Stage) -> None:
    """Which of two copies is newer is not said by where they stand."""
    player = await stage.player(housekeeping=False)
    other = await stage.player(housekeeping=False)
    for at, keys in enumerate((KEYS[0::3], KEYS[1::3], KEYS[2::3])):
        await eventually(lambda keys=keys: player.can_set_all(keys))
        player.lose(at)
        await eventually(lambda keys=keys: player.can_set_all(keys))
        player.find(at)
        await eventually(player.all_members)

    await other.repair()
    await other.get_all()


async def a_copy_near_its_end(stage: Stage) -> None:
    """A copy that is made late ends when the first one does."""
    player = await stage.player(housekeeping=False)
    player.lose(0)
    assert await player.set_all(1.0) == {"ok"}
    player.find(0)
    await asyncio.sleep(0.7)
    await player.repair()

    await asyncio.sleep(0.8)
    for at in (1, 2):
        player.lose(at)
        await player.get_all()
        player.find(at)


async def a_short_life_that_one_node_missed(stage: Stage) -> None:
    """When the newer value has expired, the older one on the node that missed it must not come back."""
    player = await stage.player(housekeeping=False)
    other = await stage.player(housekeeping=False)
    assert await player.set_all(600) == {"ok"}
    player.lose(1)
    assert await player.set_all(0.4) == {"ok"}
    await asyncio.sleep(0.8)
    with suppress(Unsure):
        await player.repair()

    await other.get_all()
    await other.repair()
    await other.get_all()


async def a_client_that_missed_a_move(stage: Stage) -> None:
    """It writes where the keys were, and must be told where they are."""
    late = await stage.player(housekeeping=False)
    mover = await stage.player()
    keys = [f"m{at}" for at in range(80)]  # few of them have moved so that it shows
    assert await late.set_all(keys=keys) == {"ok"}
    await mover.add_node(stage.start_node())

    await late.set_all(keys=keys)
    for at in range(3):
        mover.lose(at)
        await mover.get_all(keys)
        mover.find(at)
        await eventually(mover.can_get_all)


async def a_write_that_is_tried_again(stage: Stage) -> None:
    """Others saw it and replaced it while its client heard nothing: to try again is not to write again."""
    player = await stage.player(housekeeping=False)
    other = await stage.player(housekeeping=False)
    assert await player.set_all() == {"ok"}  # the nodes know the scripts
    for at in (1, 2):
        player.wires[at].set(Mode.HOLD_REPLIES)
    trying = asyncio.create_task(player.set("k"))

    async def is_seen() -> bool:
        return (await other.get("k"))[1] is not None

    await eventually(is_seen, pause=0)
    await asyncio.sleep(0.05)  # the third node is asked as well
    await other.set("k")
    for at in (1, 2):
        player.wires[at].heal(deliver=False)
    await trying

    await other.get("k")


async def _set_and_tidy(player: Player) -> None:
    """Write each key, and let only those nodes hold it that should: one that merely votes may have been asked too."""
    assert await player.set_all() == {"ok"}
    await player.repair()


def _sees_all(player: Player) -> Callable[[], Awaitable[bool]]:
    async def sees() -> bool:
        return set(await player.states()) <= {"member", "syncing"}

    return sees


def _trapped(player: Player) -> Callable[[], Awaitable[bool]]:
    async def is_trapped() -> bool:
        await player.states()  # looks at the nodes
        return any(wire.trapped.is_set() for wire in player.wires)

    return is_trapped


SCENARIOS: tuple[Scenario, ...] = (
    a_forgetful_node_while_another_stands_still,
    a_forgetful_node_that_came_back,
    a_sync_that_comes_to_a_halt,
    a_connection_that_breaks_during_a_sync,
    a_node_that_breaks_off_while_it_is_read_in,
    an_acknowledgement_by_a_minority,
    a_delete_that_one_node_missed,
    a_write_that_one_node_missed,
    a_repair_after_a_missed_write,
    a_copy_near_its_end,
    a_short_life_that_one_node_missed,
    a_client_that_missed_a_move,
    a_write_that_is_tried_again,
)
