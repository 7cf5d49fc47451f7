"""Each planted fault is caught: a harness that never failed proves nothing."""

from __future__ import annotations

import pytest

from tests.faults.cluster.mutants import CAUGHT_BY, MUTANTS, planted
from tests.faults.cluster.stage import open_stage

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


@pytest.mark.parametrize("name", MUTANTS)
async def test_a_mutant_is_caught(name: str) -> None:
    # On a machine that is busy, a third node may be asked for a late second one, and hide what is wrong.
    for _ in range(3):
        with planted(name):
            async with open_stage() as stage:
                await CAUGHT_BY[MUTANTS[name]](stage)
                wrongs = stage.wrongs()
        if wrongs:
            return

    pytest.fail(f"{name} survived")
