"""A minute of the soak: each kind of fault, with three seeds, by clients whose clocks are an hour apart.

`python -m tests.soak.cluster --minutes 30` does this at length; see also `test_mutants.py` for what it would find.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.cluster.arena import Arena
from tests.faults.cluster.nemesis import RECOVERY_SECONDS
from tests.faults.cluster.rounds import differences_that_stay, run_round, serve_without_one

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

SEEDS = (11, 12, 13)


@pytest.mark.parametrize("kind", ["forgetting", "stalling", "network", "composed"])
def test_nothing_is_lost_stale_or_resurrected(kind: str, tmp_path: Path) -> None:
    with Arena(seed=SEEDS[0]) as arena:
        for seed in SEEDS:
            print(f"seed {seed}")
            verdict = run_round(arena, seconds=3, seed=seed, kind=kind, keep_in=tmp_path)
            assert verdict.is_good, verdict.told()

        assert differences_that_stay(arena, RECOVERY_SECONDS) == []
    assert verdict.acknowledged > 500


def test_one_node_away_is_hardly_noticed() -> None:
    with Arena(seed=1, keys=500) as arena:
        share = serve_without_one(arena, random.Random(1), seconds=4)

    assert share >= 0.99
