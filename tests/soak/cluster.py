"""Composed faults against a replicated cache, one seed after another: `python -m tests.soak.cluster --minutes 30`.

Each round starts a cluster of its own, of a shape that its seed chooses, hurts it while client processes with clocks
an hour apart work on it, and judges all that they saw: nothing acknowledged may be lost, nothing deleted may return,
nothing may go back. Some rounds take one node away for long and count how many operations still succeed. Exit code 1
when anything is wrong; its history is kept. `--seed N` repeats from a round's seed on: the same acts, not the same
moments.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from tests.faults.cluster.arena import Arena, ClientGone
from tests.faults.cluster.nemesis import RECOVERY_SECONDS
from tests.faults.cluster.rounds import Verdict, differences_that_stay, run_round, serve_without_one

LEAST_SERVED = 0.99
_SHAPES: list[dict[str, Any]] = [
    {"nodes": 3, "replication": {"replicas": 1}},
    {"nodes": 3, "replication": {"replicas": 2}},
    {"nodes": 4, "replication": {"replicas": 1}},
    {"nodes": 5, "replication": {"replicas": 2}},
    {"nodes": 3, "replication": {"replicas": 1}, "appendonly": True},
]


class Totals(msgspec.Struct):
    """What a soak adds up to. `served` are the shares of operations that succeeded without one of the nodes."""

    rounds: int = 0
    operations: int = 0
    acknowledged: int = 0
    unsure: int = 0
    refused: int = 0
    acts: int = 0
    violations: dict[str, int] = {}
    slowest_recovery_seconds: float = 0.0
    served: list[float] = []
    wrong_seeds: list[int] = []

    def add(self, verdict: Verdict) -> None:
        for name in ("operations", "acknowledged", "unsure", "refused"):
            setattr(self, name, getattr(self, name) + getattr(verdict, name))
        self.rounds += 1
        self.acts += len(verdict.acts)
        self.violations = dict(Counter(self.violations) + Counter(verdict.counts()))
        self.slowest_recovery_seconds = max(self.slowest_recovery_seconds, verdict.slowest_recovery_seconds)


def soak(seconds: float, seed: int, *, round_seconds: float, target: str, mutant: str | None, keep_in: Path) -> Totals:
    """Fight rounds until the time is over; says what each one showed as it goes."""
    totals = Totals()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        wrong = _round(totals, seed, min(round_seconds, until - time.monotonic()), target, mutant, keep_in)
        if wrong:
            totals.wrong_seeds.append(seed)
            print(f"WRONG with seed {seed}:\n{wrong}", flush=True)
        seed += 1
    return totals


def _round(totals: Totals, seed: int, seconds: float, target: str, mutant: str | None, keep_in: Path) -> str:
    rng = random.Random(seed)
    shape = rng.choice(_SHAPES)
    try:
        if target != "naive" and rng.random() < 0.15:
            # Many keys: what is to be seen is the loss of the node, not who loses a race.
            with Arena(seed=seed, mutant=mutant, keys=500, **shape) as arena:
                share = serve_without_one(arena, rng, seconds=8.0)
            totals.served.append(round(share, 5))
            if share < LEAST_SERVED:
                return f"only {share:.2%} of the operations succeeded without one node"
        with Arena(seed=seed, target=target, mutant=mutant, clients=rng.choice((2, 3, 4)), **shape) as arena:
            kind = rng.choices(("composed", "moves", "full"), (7, 2, 1))[0] if target != "naive" else "composed"
            verdict = run_round(arena, seconds=seconds, seed=seed, kind=kind, keep_in=keep_in)
            different = differences_that_stay(arena, RECOVERY_SECONDS)
    except (ClientGone, AssertionError) as exc:
        totals.rounds += 1
        return f"{type(exc).__name__}: {exc}"
    totals.add(verdict)
    print(
        f"seed {seed} {kind} {shape}: {verdict.operations} operations, {verdict.acknowledged} acknowledged,"
        f" {verdict.unsure} unsure, {verdict.refused} refused, {len(verdict.acts)} acts, back in"
        f" {verdict.slowest_recovery_seconds:.1f} s at most: {verdict.counts() or 'nothing wrong'}",
        flush=True,
    )
    if different:
        return f"{len(different)} entries differ between their voters after the repair, such as {different[:3]}"
    return "" if verdict.is_good else verdict.told()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--round-seconds", type=float, default=25.0)
    parser.add_argument("--target", choices=("distributed", "naive"), default="distributed")
    parser.add_argument("--mutant", help="plant one of the faults of tests/faults/cluster/mutants.py")
    parser.add_argument("--keep-in", type=Path, default=Path(tempfile.gettempdir()), help="where bad histories go")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    totals = soak(
        given.minutes * 60,
        given.seed,
        round_seconds=given.round_seconds,
        target=given.target,
        mutant=given.mutant,
        keep_in=given.keep_in,
    )
    print(json.dumps(msgspec.to_builtins(totals), indent=2), flush=True)
    print("something is wrong" if totals.wrong_seeds else "nothing was lost, stale or resurrected")
    return 1 if totals.wrong_seeds else 0


if __name__ == "__main__":
    sys.exit(main())
