"""Cancel, pause and resume, by the table of job states."""

from __future__ import annotations

import pytest

from cache_management.cache.errors import JobError, JobNotFound
from cache_management.models.store.results import Ring
from tests.models.acting import Acting, shard_of


def bring_to(acting: Acting, state: str) -> str:
    """Make a job in a state; where it matters with a live run."""
    if state == "queued":
        return acting.submit().job_id
    if state == "dispatched":
        ring = acting.submit()
        acting.jobs.mark_dispatched(ring)
        return ring.job_id
    (ring,) = acting.planned(2)
    job_id = ring.job_id
    if state in ("paused", "cancelled"):
        acting.jobs.request(job_id, "pause" if state == "paused" else "cancel", by="user")
        return job_id
    claim = acting.claim(ring)
    if state in ("pausing", "cancelling"):
        acting.jobs.request(job_id, "pause" if state == "pausing" else "cancel", by="user")
    if state == "succeeded":
        acting.work(claim, 2, end="shard")
    return job_id


@pytest.mark.parametrize(
    ("state", "action", "expected"),
    [
        ("queued", "cancel", "cancelled"),
        ("dispatched", "cancel", "cancelled"),
        ("running", "cancel", "cancelling"),
        ("pausing", "cancel", "cancelling"),
        ("paused", "cancel", "cancelled"),
        ("cancelling", "cancel", "cancelling"),
        ("cancelled", "cancel", "cancelled"),
        ("queued", "pause", "paused"),
        ("dispatched", "pause", "paused"),
        ("running", "pause", "pausing"),
        ("pausing", "pause", "pausing"),
        ("paused", "pause", "paused"),
        ("pausing", "resume", "running"),
        ("paused", "resume", "running"),
        ("running", "resume", "running"),
        ("queued", "resume", "queued"),
    ],
)
def test_request_moves_a_job_as_the_table_says(acting: Acting, state: str, action: str, expected: str) -> None:
    job_id = bring_to(acting, state)
    assert acting.jobs.get(job_id).state == state

    requested = acting.jobs.request(job_id, action, by="user")

    assert requested.job.state == expected


@pytest.mark.parametrize(
    ("state", "action"),
    [
        ("cancelling", "pause"),
        ("cancelling", "resume"),
        ("cancelled", "resume"),
        ("cancelled", "pause"),
        ("succeeded", "cancel"),
        ("succeeded", "pause"),
        ("succeeded", "resume"),
    ],
)
def test_request_that_comes_too_late_is_refused(acting: Acting, state: str, action: str) -> None:
    job_id = bring_to(acting, state)

    with pytest.raises(JobError, match=f"cannot be {action}"):
        acting.jobs.request(job_id, action, by="user")

    assert acting.jobs.get(job_id).state == state


def test_request_for_an_unknown_job_is_refused(acting: Acting) -> None:
    with pytest.raises(JobNotFound):
        acting.jobs.request("nobody", "cancel", by="user")


def test_resume_rings_for_the_shards_that_have_work_at_their_cursor(acting: Acting) -> None:
    first, second = acting.planned(3, shards=2, embed=True)
    acting.work(acting.claim(first), end="chunk")
    acting.jobs.request(first.job_id, "pause", by="user")

    rings = acting.jobs.request(first.job_id, "resume", by="user").rings

    assert [ring.shard for ring in rings] == [1, 2, 101]
    assert acting.claim(rings[0]).cursor == 1
    acting.run(rings[1:])
    assert second in rings


def test_resume_while_a_run_still_works_lets_it_go_on(acting: Acting) -> None:
    (ring,) = acting.planned(2)
    claim = acting.claim(ring)
    acting.jobs.request(ring.job_id, "pause", by="user")

    rings = acting.jobs.request(ring.job_id, "resume", by="user").rings

    assert rings == []
    committed = acting.work(claim)
    assert committed is not None
    assert committed.claim is not None


def test_paused_jobs_are_not_rung_for(acting: Acting) -> None:
    job_id = bring_to(acting, "paused")
    acting.clock.advance(600)

    assert acting.jobs.reconcile() == []
    assert acting.jobs.get(job_id).state == "paused"


def test_requests_are_audited_with_who_asked(acting: Acting) -> None:
    (ring,) = acting.planned(1)

    acting.jobs.request(ring.job_id, "pause", by="ann")
    acting.jobs.request(ring.job_id, "resume", by="bob")
    acting.jobs.request(ring.job_id, "cancel", by="cyd")

    rows = [(row.actor, row.action) for row in acting.stores.audit.tail() if row.job_id == ring.job_id]
    assert rows == [
        ("tester", "job.submit"),
        ("ann", "job.pausing"),
        ("ann", "job.paused"),
        ("bob", "job.running"),
        ("cyd", "job.cancelling"),
        ("cyd", "job.cancelled"),
    ]


def test_a_doorbell_published_before_a_pause_is_refused_and_after_resume_harmless(acting: Acting) -> None:
    (early,) = acting.planned(1)
    acting.jobs.request(early.job_id, "pause", by="user")
    acting.jobs.mark_dispatched(early)
    (ring,) = acting.jobs.request(early.job_id, "resume", by="user").rings

    acting.claim(ring)

    assert not isinstance(acting.try_claim(early), Ring)
    assert acting.jobs.get(early.job_id).state == "running"


def test_a_job_that_is_held_pauses_with_its_reason_and_goes_on_at_its_cursor_when_resumed(acting: Acting) -> None:
    (ring,) = acting.planned(3)
    committed = acting.work(acting.claim(ring))
    assert committed is not None
    assert committed.claim is not None

    held = acting.jobs.hold(committed.claim, "the disk is full")

    job = acting.jobs.get(ring.job_id)
    assert held
    assert (job.state, job.last_error, job.done) == ("paused", "the disk is full", 1)
    assert shard_of(acting.jobs, ring.job_id, 1).deliveries == 0, "nothing was lost on it"
    acting.clock.advance(600)
    assert acting.jobs.reconcile() == []
    (again,) = acting.jobs.request(ring.job_id, "resume", by="user").rings
    assert acting.jobs.get(ring.job_id).last_error is None
    assert acting.claim(again).cursor == 1
    acting.clock.advance(600)
    acting.finish(ring.job_id)
    assert (acting.jobs.get(ring.job_id).state, acting.jobs.get(ring.job_id).last_error) == ("succeeded", None)


def test_holding_waits_for_other_runs_and_keeps_what_failed_before(acting: Acting) -> None:
    first, second, third = acting.planned(2, shards=3)
    acting.jobs.fail_shard(acting.claim(first), "the first failed")
    other = acting.claim(second)

    acting.jobs.hold(acting.claim(third), "the disk is full")

    assert acting.jobs.get(first.job_id).state == "pausing"
    acting.work(other, end="chunk")
    assert acting.jobs.get(first.job_id).state == "paused"
    acting.jobs.request(first.job_id, "resume", by="user")
    acting.finish(first.job_id)
    job = acting.jobs.get(first.job_id)
    assert (job.state, job.last_error) == ("partial", "the first failed")


def test_a_claim_that_is_lost_or_whose_job_is_cancelled_pauses_nothing(acting: Acting) -> None:
    (ring,) = acting.planned(2)
    lost = acting.claim(ring)
    acting.clock.advance(120)
    (again,) = acting.jobs.reconcile()
    claim = acting.claim(again)

    assert not acting.jobs.hold(lost, "the disk is full")
    assert acting.jobs.get(ring.job_id).state == "running"
    acting.jobs.request(ring.job_id, "cancel", by="user")
    assert acting.jobs.hold(claim, "the disk is full")
    assert (acting.jobs.get(ring.job_id).state, acting.jobs.get(ring.job_id).last_error) == ("cancelled", None)


def test_jobs_are_counted_by_state(acting: Acting) -> None:
    assert acting.jobs.count_by_state() == {}
    first = acting.submit()
    acting.submit()
    acting.submit()
    acting.jobs.request(first.job_id, "cancel", by="user")

    assert acting.jobs.count_by_state() == {"cancelled": 1, "queued": 2}
