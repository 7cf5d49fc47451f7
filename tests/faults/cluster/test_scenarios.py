"""Deterministic compositions of faults: the cache survives each."""

from __future__ import annotations

import pytest

from tests.faults.cluster.scenarios import SCENARIOS, Scenario
from tests.faults.cluster.stage import open_stage

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_the_cache_survives(scenario: Scenario) -> None:
    async with open_stage() as stage:
        await scenario(stage)
        wrongs = stage.wrongs()

    assert not wrongs, "\n".join(wrongs)
