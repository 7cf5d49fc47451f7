"""Table 15: the replicated cache: its speed, its gaps when a node is hurt, its recovery, and what versions cost.

Real servers on this machine: the client and all nodes share its cores, so that asking three nodes costs more here
than where each node has a machine of its own.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import msgspec

from tests.bench import cluster_gaps, cluster_recovery, cluster_speed
from tests.bench.measure import Report

NAME = "cluster"


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured; a count of 0 leaves that part out."""

    rounds: int
    run_seconds: float
    kills: int
    stops: int
    hurt_seconds: float = 1.5
    cluster_kills: int
    entries: int
    missed: int
    versioned: int


FULL = Sizes(
    rounds=12, run_seconds=0.04, kills=5, stops=5, cluster_kills=3, entries=100_000, missed=10_000, versioned=20_000
)
QUICK = Sizes(
    rounds=3, run_seconds=0.02, kills=1, stops=1, cluster_kills=1, entries=10_000, missed=1_000, versioned=2_000
)


async def measure(sizes: Sizes) -> Report:
    """Measure the table."""
    report = Report(
        name=NAME,
        title="15. the replicated cache",
        rows=[],
        notes=[
            "ratio: ours / beside, above 1 is better for calls/s and entries/s; CPU: calls for each CPU second of the"
            " client; alone: one call after the other",
            "values of 1,000 characters; replicas=2 on 3 nodes unless said; naive: redis-py, asks all three nodes and"
            " takes the first answer, no versions; redis-py and RedisBackend: one node; the Redis Cluster: 3 primaries",
        ],
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cm-bench-")))
        if sizes.rounds:
            await cluster_speed.measure(report, folder / "speed", sizes.rounds, sizes.run_seconds)
        if sizes.versioned:
            await cluster_speed.measure_versions(report, folder / "versions", sizes.versioned)
        for hurt, count in (("SIGKILL", sizes.kills), ("SIGSTOP", sizes.stops)):
            if count:
                await cluster_gaps.measure(report, folder / hurt, hurt, count, sizes.hurt_seconds)
        if sizes.cluster_kills:
            await cluster_gaps.measure_redis_cluster(report, folder / "slots", sizes.cluster_kills)
        if sizes.entries:
            await cluster_recovery.measure(report, folder / "recovery", sizes.entries, sizes.missed)
    return report
