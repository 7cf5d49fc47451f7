"""What stands still is found and rung for again, once."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from cache_management.cache.errors import MetadataUnavailable
from cache_management.models.store import reconcile
from cache_management.models.store.results import Counts, Ring
from tests.models.acting import Acting, LossyDatabase, shard_of


def lose_workers(acting: Acting, ring: Ring, times: int = 3) -> Ring:
    """Let a shard's workers die until its deliveries are used up; give what the reconciler rings then."""
    for _ in range(times):
        acting.claim(ring)
        acting.clock.advance(61)
        (ring,) = acting.jobs.reconcile()
    return ring


def ring_of(acting: Acting, ring: Ring) -> Ring:
    """Give the doorbell that a shard answers to now."""
    return msgspec.structs.replace(ring, fence=shard_of(acting.jobs, ring.job_id, ring.shard).fence)


def test_a_lost_doorbell_rings_again_after_half_a_minute(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    acting.clock.advance(30)
    assert acting.jobs.reconcile() == []

    acting.clock.advance(1)

    assert acting.jobs.reconcile() == [ring]
    assert acting.jobs.reconcile() == []


def test_behind_a_backlog_a_doorbell_is_not_taken_for_lost(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    sent = acting.clock.now
    acting.clock.advance(600)

    assert acting.jobs.reconcile(oldest_sent_at={"warm": sent}) == []
    assert acting.jobs.reconcile(oldest_sent_at={"embed": sent}) == [ring]


def test_a_doorbell_older_than_the_backlog_is_lost(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    sent = acting.clock.now + timedelta(seconds=31)
    acting.clock.advance(600)

    assert acting.jobs.reconcile(oldest_sent_at={"warm": sent}) == [ring]


def test_queues_are_named_by_kind() -> None:
    assert reconcile.queue_of("transfer.export", "data") == "transfer"
    assert reconcile.queue_of("warm", "plan") == "warm"
    assert reconcile.queue_of("warm", "embed") == "embed"


def test_an_expired_lease_is_rung_once_under_a_new_fence(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    claim = acting.claim(ring)
    acting.clock.advance(61)

    rings = acting.jobs.reconcile()

    assert [(ring.shard, ring.fence) for ring in rings] == [(1, claim.fence + 1)]
    assert acting.jobs.reconcile() == []


def test_a_live_lease_is_left_alone(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    acting.claim(ring)
    acting.clock.advance(59)

    assert acting.jobs.reconcile() == []


def test_a_poison_chunk_costs_one_item_and_the_rest_goes_on(acting: Acting) -> None:
    (ring,) = acting.planned(3)

    ring = lose_workers(acting, ring)
    assert shard_of(acting.jobs, ring.job_id, 1).single
    ring = lose_workers(acting, ring)

    assert [(item.position, item.reason) for item in acting.jobs.dead_items(ring.job_id)] == [(1, "worker lost")]
    acting.run([ring])
    job = acting.jobs.get(ring.job_id)
    assert (job.state, job.done, job.failed) == ("partial", 2, 1)


def test_an_item_whose_runs_failed_names_the_error_and_not_a_lost_worker(acting: Acting) -> None:
    (ring,) = acting.planned(2)
    for _ in range(2):
        for _ in range(3):
            acting.jobs.release(acting.claim(ring), retry_in=0, blame=True, reason="KeyError")
            ring = ring_of(acting, ring)
        (ring,) = acting.jobs.reconcile()

    (dead,) = acting.jobs.dead_items(ring.job_id)
    assert dead.reason == "KeyError in the last of 3 tries"
    acting.run([ring])
    job = acting.jobs.get(ring.job_id)
    assert (job.state, job.done, job.last_error) == ("partial", 1, dead.reason)


def test_a_lost_worker_is_not_taken_for_an_error_before(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    ring = lose_workers(acting, ring)
    for _ in range(2):
        acting.jobs.release(acting.claim(ring), retry_in=0, blame=True, reason="KeyError")
        ring = ring_of(acting, ring)
    acting.claim(ring)
    acting.clock.advance(61)
    acting.jobs.reconcile()

    assert [item.reason for item in acting.jobs.dead_items(ring.job_id)] == ["worker lost"]


def test_poison_in_one_shard_does_not_touch_another(acting: Acting) -> None:
    poisoned, other = acting.planned(1, shards=2)
    acting.work(acting.claim(other), end="shard")

    lose_workers(acting, lose_workers(acting, poisoned))

    acting.finish(poisoned.job_id)
    job = acting.jobs.get(poisoned.job_id)
    assert (job.state, job.done, job.failed) == ("partial", 1, 1)


def test_poison_in_a_shard_without_items_fails_it(acting: Acting) -> None:
    (ring,) = acting.planned(0)
    advanced = acting.jobs.commit(acting.claim(ring), to_cursor=5, counts=Counts(done=2), end="chunk")
    assert advanced is not None
    ring = lose_workers(acting, advanced.rings[0])

    for _ in range(2):
        acting.claim(ring)
        acting.clock.advance(61)
        (ring,) = acting.jobs.reconcile()
    acting.claim(ring)
    acting.clock.advance(61)
    assert acting.jobs.reconcile() == []

    job = acting.jobs.get(ring.job_id)
    assert (job.state, job.done, job.last_error) == ("partial", 2, "worker lost")


def test_poison_in_a_plan_fails_the_job_at_last(acting: Acting) -> None:
    ring = acting.submit()

    for _ in range(6):
        acting.claim(ring)
        acting.clock.advance(61)
        ring = next(iter(acting.jobs.reconcile()), ring)

    assert acting.jobs.get(ring.job_id).state == "failed"


def test_poison_vector_is_passed_over_and_its_item_stays_done(acting: Acting) -> None:
    (ring,) = acting.planned(2, embed=True)
    committed = acting.work(acting.claim(ring), 2, end="shard")
    assert committed is not None

    ring = lose_workers(acting, lose_workers(acting, committed.rings[0]))

    acting.run([ring])
    job = acting.jobs.get(ring.job_id)
    assert (job.state, job.done, job.failed, job.embedded, job.embed_failed) == ("partial", 2, 0, 1, 1)


def test_a_passed_deadline_fails_the_job_and_cancels_what_is_left(acting: Acting) -> None:
    (ring,) = acting.planned(3, deadline_seconds=100)
    acting.work(acting.claim(ring), end="chunk")
    acting.clock.advance(101)

    assert acting.jobs.reconcile() == []

    job = acting.jobs.get(ring.job_id)
    assert (job.state, job.last_error, job.cancel_reason) == ("failed", "deadline passed", "deadline")
    assert (job.done, job.cancelled, job.total) == (1, 2, 3)


def test_a_passed_deadline_waits_for_a_live_run(acting: Acting) -> None:
    (ring,) = acting.planned(3, deadline_seconds=100)
    acting.clock.advance(99)
    claim = acting.claim(ring)
    acting.clock.advance(2)

    acting.jobs.reconcile()
    assert acting.jobs.get(ring.job_id).state == "cancelling"
    committed = acting.work(claim)

    assert committed is not None
    assert committed.job_state == "failed"


def test_a_deadline_ends_a_paused_job_too(acting: Acting) -> None:
    ring = acting.submit(deadline_seconds=100)
    acting.jobs.request(ring.job_id, "pause", by="user")
    acting.clock.advance(101)

    acting.jobs.reconcile()

    assert acting.jobs.get(ring.job_id).state == "failed"


def test_a_cancel_with_a_dead_run_takes_hold_when_its_lease_is_over(acting: Acting) -> None:
    (ring,) = acting.planned(2)
    zombie = acting.claim(ring)
    acting.jobs.request(ring.job_id, "cancel", by="user")
    assert acting.jobs.get(ring.job_id).state == "cancelling"
    acting.clock.advance(61)

    acting.jobs.reconcile()

    job = acting.jobs.get(ring.job_id)
    assert (job.state, job.cancelled) == ("cancelled", 2)
    assert acting.work(zombie) is None


def test_a_pause_with_a_dead_run_takes_hold_when_its_lease_is_over(acting: Acting) -> None:
    (ring,) = acting.planned(2)
    zombie = acting.claim(ring)
    acting.jobs.request(ring.job_id, "pause", by="user")
    acting.clock.advance(61)

    acting.jobs.reconcile()

    assert acting.jobs.get(ring.job_id).state == "paused"
    assert acting.work(zombie) is None


def test_all_work_done_before_a_cancel_took_hold_is_not_cancelled(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    claim = acting.claim(ring)
    acting.jobs.request(ring.job_id, "cancel", by="user")

    committed = acting.work(claim, end="shard")

    assert committed is not None
    assert committed.job_state == "succeeded"


def test_state_changes_are_on_the_timeline_and_in_the_audit_log(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    acting.work(acting.claim(ring), end="shard")

    events = acting.jobs.events(ring.job_id)

    assert [event.event for event in events] == ["queued", "running", "shard done", "shard done", "succeeded"]
    assert acting.jobs.events(ring.job_id, after=events[-2].id) == events[-1:]
    assert [row.action for row in acting.stores.audit.tail()] == ["job.submit", "job.succeeded"]


def test_two_reconcilers_ring_once(acting: Acting, monkeypatch: pytest.MonkeyPatch) -> None:
    (ring,) = acting.planned(1)
    acting.clock.advance(31)
    original = reconcile._open_shards
    stale = None

    def as_read_before(connection: object, job: object) -> object:
        # The second reconciler decides on rows that it read before the first one wrote.
        nonlocal stale
        rows = original(connection, job)
        stale = stale or rows
        return stale

    monkeypatch.setattr(reconcile, "_open_shards", as_read_before)

    rung = acting.jobs.reconcile() + acting.jobs.reconcile()

    assert rung == [ring]


def test_rings_already_written_are_given_back_when_the_database_goes_away(
    acting: Acting, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = acting.submit(priority=9)
    acting.submit()
    original = reconcile.reconcile_job

    def fail_for_the_second(connection: object, job: object, *args: object, **kwargs: object) -> object:
        if job.id != first.job_id:
            raise MetadataUnavailable("gone")
        return original(connection, job, *args, **kwargs)

    monkeypatch.setattr("cache_management.models.store.jobs.reconcile_job", fail_for_the_second)

    assert acting.jobs.reconcile() == [first]
    with pytest.raises(MetadataUnavailable):
        acting.jobs.reconcile()


def test_a_pass_that_is_cut_off_has_published_what_it_wrote(acting: Acting) -> None:
    first, second = acting.submit(priority=9), acting.submit()
    published = []

    def publish(rings: list[Ring]) -> None:
        published.extend(rings)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        acting.jobs.reconcile(publish=publish)

    assert published == [first]
    assert acting.jobs.reconcile(publish=published.extend) == [second]
    assert published == [first, second]


def test_finish_if_done_says_the_state(acting: Acting, database: LossyDatabase) -> None:
    (ring,) = acting.planned(1)

    assert acting.jobs.finish_if_done(ring.job_id) == "running"
