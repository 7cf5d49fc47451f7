"""Who may work on a shard, and for how long."""

from __future__ import annotations

from cache_management.models.store.results import Claim, Refused
from tests.models.acting import Acting, shard_of


def test_first_claim_starts_the_job(acting: Acting) -> None:
    ring = acting.submit()
    acting.jobs.mark_dispatched(ring)

    claim = acting.claim(ring)

    job = acting.jobs.get(ring.job_id)
    assert (claim.fence, claim.cursor, claim.shard_kind) == (1, 0, "plan")
    assert (job.state, job.started_at) == ("running", acting.clock.now)


def test_a_job_that_was_never_marked_as_dispatched_can_be_claimed(acting: Acting) -> None:
    ring = acting.submit()

    acting.claim(ring)

    assert acting.jobs.get(ring.job_id).state == "running"


def test_second_message_with_the_same_fence_is_refused(acting: Acting) -> None:
    ring = acting.submit()
    acting.claim(ring)

    assert acting.try_claim(ring) == Refused("stale")


def test_unknown_jobs_and_shards_are_refused(acting: Acting) -> None:
    ring = acting.submit()

    unknown_job = acting.jobs.claim("no", 0, 0, owner="w", task_id="t", hard_limit_seconds=9)
    unknown_shard = acting.jobs.claim(ring.job_id, 9, 0, owner="w", task_id="t", hard_limit_seconds=9)

    assert unknown_job == Refused("no such job")
    assert unknown_shard == Refused("no such shard")


def test_a_run_starts_at_the_cursor_that_the_claim_returns(acting: Acting) -> None:
    (ring,) = acting.planned(3)
    acting.work(acting.claim(ring), 2, end="chunk")

    claim = acting.jobs.claim(ring.job_id, 1, 1, owner="w", task_id="t", hard_limit_seconds=9)

    assert isinstance(claim, Claim)
    assert claim.cursor == 2


def test_a_copy_cannot_claim_a_finished_shard(acting: Acting) -> None:
    first, _second = acting.planned(1, shards=2)
    acting.work(acting.claim(first), end="shard")

    copy = acting.jobs.claim(first.job_id, first.shard, 1, owner="w", task_id="t", hard_limit_seconds=9)

    assert copy == Refused("shard is done")


def test_a_shard_of_a_cancelled_or_paused_job_cannot_be_claimed(acting: Acting) -> None:
    cancelled, paused = acting.submit(), acting.submit()
    acting.jobs.request(cancelled.job_id, "cancel", by="user")
    acting.jobs.request(paused.job_id, "pause", by="user")

    assert acting.try_claim(cancelled) == Refused("job is cancelled")
    assert acting.try_claim(paused) == Refused("job is paused")


def test_an_expired_lease_can_be_claimed_with_the_current_fence(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    zombie = acting.claim(ring)
    acting.clock.advance(61)

    late = acting.jobs.claim(ring.job_id, 1, zombie.fence, owner="other", task_id="new", hard_limit_seconds=90)

    assert isinstance(late, Claim)
    assert late.fence == zombie.fence + 1
    assert acting.work(zombie) is None


def test_redelivered_message_waits_while_its_first_run_shows_a_heartbeat(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    acting.claim(ring, task_id="same")
    acting.clock.advance(9)

    assert acting.try_claim(ring, task_id="same") == Refused("own first run may still work", retry_in=10)


def test_redelivered_message_takes_over_when_its_first_run_is_silent(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    dead = acting.claim(ring, task_id="same")
    acting.clock.advance(11)

    claim = acting.claim(ring, task_id="same")

    assert claim.fence == dead.fence + 1
    assert acting.work(dead) is None


def test_another_task_does_not_take_over(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    acting.claim(ring, task_id="first")
    acting.clock.advance(11)

    assert acting.try_claim(ring, task_id="second") == Refused("stale")


def test_renewal_keeps_a_takeover_away(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    claim = acting.claim(ring, task_id="same")
    acting.clock.advance(9)

    assert acting.jobs.renew(claim)

    acting.clock.advance(9)
    assert isinstance(acting.try_claim(ring, task_id="same"), Refused)


def test_three_deliveries_are_the_end_also_for_a_takeover(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    for _ in range(3):
        acting.claim(ring, task_id="same")
        acting.clock.advance(11)

    assert acting.try_claim(ring, task_id="same") == Refused("deliveries used up")


def test_a_lease_is_renewed_up_to_the_hard_limit_and_no_further(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    claim = acting.claim(ring, hard_limit_seconds=20)
    acting.clock.advance(25)

    assert acting.jobs.renew(claim)

    assert shard_of(acting.jobs, ring.job_id, 1).lease_until == claim.claimed_at.replace(second=30)
    acting.clock.advance(5)
    assert not acting.jobs.renew(claim)


def test_a_lost_claim_cannot_be_renewed(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    claim = acting.claim(ring)
    acting.clock.advance(61)
    acting.jobs.reconcile()

    assert not acting.jobs.renew(claim)


def test_release_waits_and_gives_the_delivery_back(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    claim = acting.claim(ring)

    again = acting.jobs.release(claim, retry_in=120)

    assert again is not None
    shard = shard_of(acting.jobs, ring.job_id, 1)
    assert (shard.deliveries, shard.lease_owner) == (0, None)
    assert acting.try_claim(again) == Refused("too early")
    acting.clock.advance(119)
    assert acting.jobs.reconcile() == []
    acting.clock.advance(1)
    assert acting.claim(again).cursor == 0


def test_an_outage_of_ten_minutes_uses_up_no_delivery(acting: Acting) -> None:
    (ring,) = acting.planned(1)

    for _ in range(10):
        again = acting.jobs.release(acting.claim(ring), retry_in=60)
        assert again is not None
        ring = again
        acting.clock.advance(60)

    acting.work(acting.claim(ring), end="shard")
    assert acting.jobs.get(ring.job_id).state == "succeeded"


def test_a_release_whose_doorbell_was_lost_is_rung_again(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    again = acting.jobs.release(acting.claim(ring), retry_in=60)
    acting.clock.advance(60 + 31)

    assert acting.jobs.reconcile() == [again]


def test_a_lost_claim_cannot_be_released(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    claim = acting.claim(ring)
    acting.clock.advance(61)
    acting.jobs.reconcile()

    assert acting.jobs.release(claim, retry_in=5) is None


def test_release_of_a_cancelled_job_ends_it(acting: Acting) -> None:
    (ring,) = acting.planned(2)
    claim = acting.claim(ring)
    acting.jobs.request(ring.job_id, "cancel", by="user")

    assert acting.jobs.release(claim, retry_in=5) is None

    job = acting.jobs.get(ring.job_id)
    assert (job.state, job.cancelled) == ("cancelled", 2)


def test_a_claim_from_before_a_commit_can_be_released(acting: Acting) -> None:
    (ring,) = acting.planned(3)
    claim = acting.claim(ring)
    acting.work(claim, 1)

    again = acting.jobs.release(claim, retry_in=5)

    assert again is not None
    shard = shard_of(acting.jobs, ring.job_id, 1)
    assert (shard.lease_owner, shard.cursor, shard.done) == (None, 1, 1)
    acting.clock.advance(5)
    assert acting.claim(again).cursor == 1


def test_a_claim_from_before_a_commit_can_fail_its_shard(acting: Acting) -> None:
    (ring,) = acting.planned(3)
    claim = acting.claim(ring)
    acting.work(claim, 1)

    failed = acting.jobs.fail_shard(claim, "cannot go on")

    assert failed is not None
    job = acting.jobs.get(ring.job_id)
    assert (job.state, job.done, job.failed) == ("partial", 1, 2)
