"""What metrics are told of jobs: everything once, and totals that never go down."""

from __future__ import annotations

from collections import Counter

from cache_management.models.store import Stores
from cache_management.models.store.census import Census, JobTally
from cache_management.models.store.pruning import Keep
from tests.models.acting import Acting

DAY = 86_400


def totals(census: Census) -> Counter[str]:
    """Sum what was done, over kept and pruned jobs."""
    sums: Counter[str] = Counter()
    for tally in (*census.kept, *census.pruned):
        for name in ("jobs", "done", "failed", "skipped", "cancelled"):
            sums[name] += getattr(tally, name)
    return sums


def test_a_live_job_counts_by_its_shards_and_an_ended_one_by_itself(acting: Acting, stores: Stores) -> None:
    first, second = acting.planned(3, shards=2)
    acting.work(acting.claim(first), 2)
    assert stores.census.take().kept == [JobTally("warm", "running", jobs=1, done=2)]

    acting.jobs.request(first.job_id, "cancel", by="me")
    acting.clock.advance(100)
    acting.jobs.reconcile()

    assert stores.census.take().kept == [JobTally("warm", "cancelled", jobs=1, done=2, cancelled=4)]
    assert second.job_id == first.job_id


def test_vectors_are_no_items(acting: Acting, stores: Stores) -> None:
    rings = acting.planned(4, embed=True)
    acting.run(rings)

    assert stores.census.take().kept == [JobTally("warm", "succeeded", jobs=1, done=4)]


def test_totals_stay_when_history_goes(acting: Acting, stores: Stores) -> None:
    for _ in range(2):
        acting.run(acting.planned(3))
    (ring,) = acting.planned(2)
    acting.jobs.fail_shard(acting.claim(ring), "cannot go on")
    acting.clock.advance(31 * DAY)
    acting.run(acting.planned(5))
    before = totals(stores.census.take())
    assert before == {"jobs": 4, "done": 11, "failed": 2, "skipped": 0, "cancelled": 0}

    assert stores.pruning.prune(Keep(), limit=2).jobs == 2
    assert totals(stores.census.take()) == before
    assert stores.pruning.prune(Keep()).jobs == 1

    after = stores.census.take()
    assert totals(after) == before
    assert after.kept == [JobTally("warm", "succeeded", jobs=1, done=5)]
    assert {(each.state, each.jobs) for each in after.pruned} == {("succeeded", 2), ("failed", 1)}
    acting.clock.advance(31 * DAY)
    stores.pruning.prune(Keep())
    assert totals(stores.census.take()) == before


def test_the_totals_of_pruned_jobs_are_never_pruned_themselves(acting: Acting, stores: Stores) -> None:
    acting.run(acting.planned(3))
    acting.clock.advance(31 * DAY)
    stores.pruning.prune(Keep())

    acting.clock.advance(1000 * DAY)
    stores.pruning.prune(Keep(stats_days=0))

    assert totals(stores.census.take())["done"] == 3
    assert stores.operations.usage(since=acting.clock.now, period_seconds=DAY) == []


def test_leases_are_running_until_they_are_over_and_the_oldest_job_has_its_age(acting: Acting, stores: Stores) -> None:
    first, second = acting.planned(3, shards=2)
    acting.clock.advance(100)
    acting.claim(first)
    acting.claim(second)
    assert (stores.census.take().running, stores.census.take().expired) == ({"warm": 2}, {})

    acting.clock.advance(61)

    found = stores.census.take()
    assert (found.running, found.expired, found.oldest) == ({}, {"warm": 2}, {"warm": 161})


def test_an_empty_database_has_nothing_to_count(stores: Stores) -> None:
    assert stores.census.take() == Census(kept=[], pruned=[], running={}, expired={}, oldest={})
