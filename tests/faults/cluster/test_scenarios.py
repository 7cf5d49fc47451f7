"""Deterministic compositions of faults: the cache survives each."""

from __future__ import annotations

import pytest

from tests.faults.cluster.scenarios import SCENARIOS, Scenario
from tests.faults.cluster.stage import KEYS, open_stage
from tests.waiting import eventually

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_the_cache_survives(scenario: Scenario) -> None:
    async with open_stage() as stage:
        await scenario(stage)
        wrongs = stage.wrongs()

    assert not wrongs, "\n".join(wrongs)


async def test_who_starts_while_nodes_are_away_is_served_when_they_are_back() -> None:
    """Under addresses of its own it cannot tell a node that forgot who it was and one that is frozen from strangers."""
    async with open_stage() as stage:
        player = await stage.player(housekeeping=False)
        assert await player.set_all() == {"ok"}
        stage.nodes[1].pause()
        stage.empty(0)

        newcomer = await stage.player(waits=False)
        assert (await newcomer.get(KEYS[0]))[0] != "ok"
        stage.nodes[1].resume()

        await eventually(newcomer.can_get_all, timeout=20)
        assert not newcomer.oddities
        assert not stage.wrongs()
