"""What goes from the history, and what stays."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from cache_management.models.job import JobEvent, JobInput, JobShard
from cache_management.models.store import Stores, pruning
from cache_management.models.store.pruning import Keep, Pruned
from tests.models.acting import Acting, HandClock, LossyDatabase

DAY = 86_400
KEEP = Keep(jobs_days=30, inputs_days=7, routine_days=1, stats_days=90)


def ended(acting: Acting, **options: object) -> str:
    """A job that ends with one dead item, whose input is kept for a retry."""
    (ring,) = acting.planned(1, inputs=[(b"the words of a prompt", 1)], **options)
    acting.jobs.fail_shard(acting.claim(ring), "cannot go on")
    return ring.job_id


def test_jobs_go_whole_when_they_are_old(acting: Acting, stores: Stores, database: LossyDatabase) -> None:
    ended(acting)
    acting.clock.advance(10 * DAY)
    young = ended(acting)
    acting.clock.advance(21 * DAY)

    assert stores.pruning.prune(KEEP).jobs == 1

    assert [job.id for job in stores.jobs.list()] == [young]
    with database.read() as connection:
        for table in (JobShard, JobEvent):
            assert set(connection.execute(select(table.job_id)).scalars()) == {young}


def test_a_job_that_lives_stays_however_old(acting: Acting, stores: Stores) -> None:
    ring = acting.submit(deadline_seconds=1000 * DAY, inputs=[(b"words", 1)])
    acting.clock.advance(400 * DAY)

    assert stores.pruning.prune(KEEP) == Pruned()
    assert acting.jobs.count_inputs(ring.job_id) == 1


def test_prompts_go_before_their_jobs(acting: Acting, stores: Stores) -> None:
    job_id = ended(acting)
    acting.clock.advance(8 * DAY)

    assert stores.pruning.prune(KEEP) == Pruned(inputs=1)
    assert stores.jobs.get(job_id).state == "failed"
    assert acting.jobs.count_inputs(job_id) == 0


def test_minutes_of_statistics_go_before_hours_and_days_stay(stores: Stores, clock: HandClock) -> None:
    for seconds in (60, 3600, DAY):
        stores.operations.add_stats({"hits": 1}, period_seconds=seconds)
    clock.advance(3 * DAY)
    assert stores.pruning.prune(KEEP) == Pruned(stats=1)
    clock.advance(90 * DAY)

    assert stores.pruning.prune(KEEP) == Pruned(stats=1)
    assert stores.operations.sum_stats() == {"hits": 1}


def test_a_bounded_number_goes_at_once_until_nothing_is_left(
    acting: Acting, stores: Stores, database: LossyDatabase
) -> None:
    for _ in range(5):
        ended(acting)
    acting.clock.advance(8 * DAY)

    went = [stores.pruning.prune(KEEP, limit=2).inputs for _ in range(4)]

    assert went == [2, 2, 1, 0]
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(JobInput)).scalar_one() == 0


def test_the_items_of_a_large_job_go_before_it_a_bounded_number_at_a_time(
    acting: Acting, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "_ITEMS_TO_A_ROW", 2)
    (ring,) = acting.planned(5)
    acting.jobs.fail_shard(acting.claim(ring), "cannot go on")
    acting.clock.advance(31 * DAY)

    went = [stores.pruning.prune(KEEP, limit=1) for _ in range(4)]

    assert [(each.items, each.jobs) for each in went] == [(2, 0), (2, 0), (1, 1), (0, 0)]
    assert stores.jobs.list() == []
