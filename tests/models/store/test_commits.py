"""What a commit does, and what a repeated or late one does not do."""

from __future__ import annotations

import pytest

from cache_management.cache.errors import MetadataUnavailable
from cache_management.models.store.results import Counts, ItemOutcome, NewItem, NewShard, Refused, Ring
from tests.models.acting import Acting, LossyDatabase, shard_of


def test_a_commit_moves_cursor_counters_and_items_together(acting: Acting) -> None:
    (ring,) = acting.planned(3)
    claim = acting.claim(ring)

    committed = acting.jobs.commit(
        claim,
        to_cursor=3,
        counts=Counts(done=1, skipped=1, failed=1, bytes=10, cost_micro=7),
        outcomes=[ItemOutcome(1, "done"), ItemOutcome(2, "skipped", "fresh"), ItemOutcome(3, "dead", "too long")],
    )

    assert committed is not None
    assert committed.claim is not None
    assert committed.claim.cursor == 3
    job = acting.jobs.get(ring.job_id)
    assert (job.total, job.done, job.skipped, job.failed, job.bytes, job.cost_micro) == (3, 1, 1, 1, 10, 7)
    assert [(item.position, item.reason) for item in acting.jobs.dead_items(ring.job_id)] == [(3, "too long")]


def test_a_repeated_commit_whose_reply_was_lost_counts_nothing(acting: Acting, database: LossyDatabase) -> None:
    (ring,) = acting.planned(3)
    claim = acting.claim(ring)
    database.lose_reply = True
    with pytest.raises(MetadataUnavailable):
        acting.work(claim, 2)

    repeated = acting.jobs.commit(
        claim, to_cursor=2, counts=Counts(done=2), outcomes=[ItemOutcome(1, "done"), ItemOutcome(2, "done")]
    )

    assert repeated is None
    assert acting.jobs.get(ring.job_id).done == 2


@pytest.mark.parametrize("end", ["chunk", "shard"])
def test_a_repeated_last_commit_counts_nothing(acting: Acting, database: LossyDatabase, end: str) -> None:
    (ring,) = acting.planned(0)
    claim = acting.claim(ring)
    database.lose_reply = True
    with pytest.raises(MetadataUnavailable):
        acting.jobs.commit(claim, to_cursor=0, counts=Counts(done=4), end=end)

    repeated = acting.jobs.commit(claim, to_cursor=0, counts=Counts(done=4), end=end)

    assert repeated is None
    assert acting.jobs.get(ring.job_id).done == 4


def test_after_a_lost_reply_the_job_goes_on_at_the_cursor(acting: Acting, database: LossyDatabase) -> None:
    (ring,) = acting.planned(4)
    database.lose_reply = True
    with pytest.raises(MetadataUnavailable):
        acting.work(acting.claim(ring), 2, end="chunk")

    acting.finish(ring.job_id)

    job = acting.jobs.get(ring.job_id)
    assert (job.state, job.done) == ("succeeded", 4)


def test_a_late_commit_of_a_zombie_changes_nothing(acting: Acting) -> None:
    (ring,) = acting.planned(2)
    zombie = acting.claim(ring)
    acting.clock.advance(61)
    (again,) = acting.jobs.reconcile()
    winner = acting.claim(again)

    assert acting.work(zombie, 2) is None
    assert acting.work(winner, 2, end="shard") is not None

    assert acting.jobs.get(ring.job_id).done == 2


def test_a_chunk_ends_with_a_ring_for_the_next_one(acting: Acting) -> None:
    (ring,) = acting.planned(2)

    committed = acting.work(acting.claim(ring), end="chunk")

    assert committed is not None
    assert committed.claim is None
    assert committed.rings == [Ring(ring.job_id, 1, 1, "warm", "data")]
    assert acting.claim(committed.rings[0]).cursor == 1
    shard = shard_of(acting.jobs, ring.job_id, 1)
    assert shard.dispatched_at == acting.clock.now


def test_commit_renews_the_lease(acting: Acting) -> None:
    (ring,) = acting.planned(2)
    claim = acting.claim(ring)
    acting.clock.advance(29)

    acting.work(claim)

    assert (shard_of(acting.jobs, ring.job_id, 1).lease_until - acting.clock.now).total_seconds() == 60


def test_last_commit_ends_the_job_without_a_reconciler(acting: Acting) -> None:
    (ring,) = acting.planned(1)

    committed = acting.work(acting.claim(ring), end="shard")

    assert committed is not None
    assert committed.job_state == "succeeded"
    job = acting.jobs.get(ring.job_id)
    assert (job.state, job.done, job.finished_at) == ("succeeded", 1, acting.clock.now)


def test_plan_opens_data_shards_and_rings_only_for_them(acting: Acting) -> None:
    rings = acting.planned(1, shards=2, embed=True)

    assert [(ring.shard, ring.fence, ring.shard_kind) for ring in rings] == [(1, 0, "data"), (2, 0, "data")]
    kinds = [(view.shard, view.kind, view.follows) for view in acting.jobs.get(rings[0].job_id).shards]
    assert kinds == [(0, "plan", None), (1, "data", None), (2, "data", None), (101, "embed", 1), (102, "embed", 2)]


def test_a_job_does_not_end_while_its_plan_is_open(acting: Acting) -> None:
    ring = acting.submit()
    acting.claim(ring)

    acting.jobs.reconcile()

    assert acting.jobs.get(ring.job_id).state == "running"


@pytest.mark.parametrize("end", ["continue", "chunk"])
def test_commit_under_a_cancel_stops_the_run_and_ends_the_job(acting: Acting, end: str) -> None:
    (ring,) = acting.planned(3)
    claim = acting.claim(ring)
    acting.jobs.request(ring.job_id, "cancel", by="user")

    committed = acting.work(claim, end=end)

    assert committed is not None
    assert (committed.job_state, committed.claim, committed.rings) == ("cancelled", None, [])
    job = acting.jobs.get(ring.job_id)
    assert (job.done, job.cancelled, job.total) == (1, 2, 3)


def test_commit_under_a_pause_frees_the_shard_and_rings_nothing(acting: Acting) -> None:
    (ring,) = acting.planned(3, embed=True)
    claim = acting.claim(ring)
    acting.jobs.request(ring.job_id, "pause", by="user")

    committed = acting.work(claim)

    assert committed is not None
    assert (committed.job_state, committed.claim, committed.rings) == ("paused", None, [])
    shard = shard_of(acting.jobs, ring.job_id, 1)
    assert (shard.cursor, shard.lease_owner, shard.dispatched_at) == (1, None, None)


def test_plan_that_ends_under_a_pause_keeps_its_shards_for_later(acting: Acting) -> None:
    plan = acting.claim(acting.submit())
    acting.jobs.request(plan.job_id, "pause", by="user")

    committed = acting.jobs.commit(
        plan, to_cursor=1, end="shard", new_items=[NewItem("a", 1, 0, 0, 1)], new_shards=[NewShard(1)]
    )

    assert committed is not None
    assert (committed.job_state, committed.rings) == ("paused", [])
    resumed = acting.jobs.request(plan.job_id, "resume", by="user")
    assert [ring.shard for ring in resumed.rings] == [1]


def test_plan_that_ends_under_a_cancel_leaves_no_item_behind(acting: Acting) -> None:
    plan = acting.claim(acting.submit())
    acting.jobs.request(plan.job_id, "cancel", by="user")

    committed = acting.jobs.commit(
        plan, to_cursor=1, end="shard", new_items=[NewItem("a", 1, 0, 0, 1)], new_shards=[NewShard(1)]
    )

    assert committed is not None
    assert committed.job_state == "cancelled"
    job = acting.jobs.get(plan.job_id)
    assert (job.total, job.cancelled) == (1, 1)


def test_a_plan_cancelled_between_its_commits_cancels_the_items_it_had_found(acting: Acting) -> None:
    plan = acting.claim(acting.submit())
    acting.jobs.commit(plan, to_cursor=1, new_items=[NewItem("a", 1, 0, 0, 1)], end="chunk")

    acting.jobs.request(plan.job_id, "cancel", by="user")

    job = acting.jobs.get(plan.job_id)
    assert (job.state, job.total, job.cancelled) == ("cancelled", 1, 1)


def test_failed_shard_makes_dead_letters_of_what_it_leaves(acting: Acting) -> None:
    first, second = acting.planned(3, shards=2)
    claim = acting.claim(first)
    advanced = acting.work(claim)
    assert advanced is not None
    assert advanced.claim is not None

    failed = acting.jobs.fail_shard(advanced.claim, "the file is gone")

    assert failed is not None
    acting.run([second])
    job = acting.jobs.get(first.job_id)
    assert (job.state, job.done, job.failed, job.last_error) == ("partial", 4, 2, "the file is gone")
    assert {item.reason for item in acting.jobs.dead_items(first.job_id)} == {"the file is gone"}
    assert shard_of(acting.jobs, first.job_id, 1).fence == claim.fence + 1
    assert acting.jobs.fail_shard(advanced.claim, "again") is None


def test_failed_plan_fails_the_job(acting: Acting) -> None:
    plan = acting.claim(acting.submit())

    failed = acting.jobs.fail_shard(plan, "no such file")

    assert failed is not None
    assert failed.job_state == "failed"


@pytest.mark.parametrize(
    ("states", "expected"),
    [("dd", "succeeded"), ("ds", "succeeded"), ("dx", "partial"), ("sx", "partial"), ("xx", "failed")],
)
def test_a_job_ends_as_its_items_did(acting: Acting, states: str, expected: str) -> None:
    (ring,) = acting.planned(2)
    names = {"d": "done", "s": "skipped", "x": "dead"}

    acting.jobs.commit(
        acting.claim(ring),
        to_cursor=2,
        counts=Counts(done=states.count("d"), skipped=states.count("s"), failed=states.count("x")),
        outcomes=[ItemOutcome(position, names[state]) for position, state in enumerate(states, 1)],
        end="shard",
    )

    assert acting.jobs.get(ring.job_id).state == expected


def test_an_empty_job_succeeds(acting: Acting) -> None:
    (ring,) = acting.planned(0)

    acting.work(acting.claim(ring), end="shard")

    assert acting.jobs.get(ring.job_id).state == "succeeded"


def test_single_step_ends_with_progress(acting: Acting) -> None:
    (ring,) = acting.planned(3)
    for _ in range(3):
        acting.claim(ring, task_id="same")
        acting.clock.advance(11)
    acting.clock.advance(61)
    (ring,) = acting.jobs.reconcile()
    claim = acting.claim(ring)
    assert claim.single

    acting.work(claim, end="chunk")

    shard = shard_of(acting.jobs, ring.job_id, 1)
    assert (shard.single, shard.deliveries) == (False, 0)


class TestContradictions:
    def test_a_commit_that_goes_on_must_move_the_cursor(self, acting: Acting) -> None:
        (ring,) = acting.planned(1)

        with pytest.raises(ValueError, match="must move the cursor"):
            acting.jobs.commit(acting.claim(ring), to_cursor=0, counts=Counts(done=1))

    def test_outcomes_and_counts_must_agree(self, acting: Acting) -> None:
        (ring,) = acting.planned(1)

        with pytest.raises(ValueError, match="counts say"):
            acting.jobs.commit(acting.claim(ring), to_cursor=1, outcomes=[ItemOutcome(1, "done")])

    def test_an_item_is_settled_once(self, acting: Acting) -> None:
        (ring,) = acting.planned(2)
        first = acting.work(acting.claim(ring))
        assert first is not None
        assert first.claim is not None

        with pytest.raises(ValueError, match="were pending"):
            acting.jobs.commit(first.claim, to_cursor=2, counts=Counts(done=1), outcomes=[ItemOutcome(1, "done")])

        assert acting.jobs.get(ring.job_id).done == 1

    def test_a_shard_with_pending_items_is_not_done(self, acting: Acting) -> None:
        (ring,) = acting.planned(2)

        with pytest.raises(ValueError, match="1 of its items are pending"):
            acting.work(acting.claim(ring), end="shard")

    def test_only_a_plan_plans(self, acting: Acting) -> None:
        (ring,) = acting.planned(1)

        with pytest.raises(ValueError, match="plans nothing"):
            acting.jobs.commit(acting.claim(ring), to_cursor=1, new_shards=[NewShard(5)], end="shard")

    def test_shards_open_with_the_last_commit_of_a_plan(self, acting: Acting) -> None:
        with pytest.raises(ValueError, match="last commit"):
            acting.jobs.commit(acting.claim(acting.submit()), to_cursor=1, new_shards=[NewShard(1)])

    def test_an_embed_shard_settles_no_items(self, acting: Acting) -> None:
        (ring,) = acting.planned(1, embed=True)
        committed = acting.work(acting.claim(ring), end="shard")
        assert committed is not None

        with pytest.raises(ValueError, match="settles no items"):
            acting.jobs.commit(
                acting.claim(committed.rings[0]),
                to_cursor=1,
                counts=Counts(done=1),
                outcomes=[ItemOutcome(1, "done")],
                end="shard",
            )


class TestEmbedShards:
    def test_first_data_commit_rings_for_the_follower_and_the_second_does_not(self, acting: Acting) -> None:
        (ring,) = acting.planned(3, embed=True)

        first = acting.work(acting.claim(ring))
        assert first is not None
        assert first.claim is not None
        second = acting.work(first.claim)

        assert second is not None
        assert [ring.shard for ring in first.rings] == [101]
        assert second.rings == []

    def test_a_follower_that_caught_up_sleeps_until_the_next_data_commit(self, acting: Acting) -> None:
        (ring,) = acting.planned(2, embed=True)
        data = acting.work(acting.claim(ring))
        assert data is not None
        assert data.claim is not None

        slept = acting.embed(acting.claim(data.rings[0]))
        assert slept is not None
        assert slept.rings == []
        acting.clock.advance(40)
        assert acting.jobs.reconcile() == []
        woken = acting.work(data.claim, end="shard")

        assert woken is not None
        assert [ring.shard for ring in woken.rings] == [101]

    def test_a_follower_overtaken_while_it_ran_rings_for_itself(self, acting: Acting) -> None:
        (ring,) = acting.planned(3, embed=True)
        data = acting.work(acting.claim(ring))
        assert data is not None
        assert data.claim is not None
        embed = acting.claim(data.rings[0])
        overtaking = acting.work(data.claim)
        assert overtaking is not None
        assert overtaking.rings == []

        again = acting.jobs.commit(embed, to_cursor=1, counts=Counts(done=1), end="chunk")

        assert again is not None
        assert [ring.shard for ring in again.rings] == [101]

    def test_a_follower_that_missed_the_end_rings_for_itself(self, acting: Acting) -> None:
        (ring,) = acting.planned(2, embed=True)
        data = acting.work(acting.claim(ring))
        assert data is not None
        assert data.claim is not None
        embed = acting.claim(data.rings[0])
        acting.work(data.claim, end="shard")

        again = acting.jobs.commit(embed, to_cursor=1, counts=Counts(done=1), end="chunk")

        assert again is not None
        assert [ring.shard for ring in again.rings] == [101]

    def test_a_follower_cannot_end_before_its_data_shard(self, acting: Acting) -> None:
        (ring,) = acting.planned(2, embed=True)
        data = acting.work(acting.claim(ring))
        assert data is not None

        early = acting.jobs.commit(acting.claim(data.rings[0]), to_cursor=1, counts=Counts(done=1), end="shard")

        assert early is not None
        assert (early.job_state, early.rings) == ("running", [])
        assert shard_of(acting.jobs, ring.job_id, 101).state == "open"

    def test_idle_runs_do_not_look_like_lost_ones(self, acting: Acting) -> None:
        (ring,) = acting.planned(2, embed=True)
        data = acting.work(acting.claim(ring))
        assert data is not None
        fence = 0

        for _ in range(5):
            claim = acting.claim(Ring(ring.job_id, 101, fence, "warm", "embed"))
            acting.embed(claim)
            fence = claim.fence

        assert shard_of(acting.jobs, ring.job_id, 101).deliveries == 0

    def test_vectors_do_not_mix_with_items(self, acting: Acting) -> None:
        rings = acting.planned(3, shards=2, embed=True)

        acting.run(rings)

        job = acting.jobs.get(rings[0].job_id)
        assert (job.state, job.total, job.done) == ("succeeded", 6, 6)
        assert (job.embedded, job.embed_skipped, job.embed_failed, job.embed_total) == (6, 0, 0, 6)

    def test_a_failed_data_shard_still_lets_its_follower_end(self, acting: Acting) -> None:
        (ring,) = acting.planned(3, embed=True)
        data = acting.work(acting.claim(ring))
        assert data is not None
        assert data.claim is not None
        acting.run(data.rings)

        failed = acting.jobs.fail_shard(data.claim, "broken")

        assert failed is not None
        acting.run(failed.rings)
        job = acting.jobs.get(ring.job_id)
        assert (job.state, job.done, job.failed, job.embedded) == ("partial", 1, 2, 1)

    def test_vectors_that_failed_make_a_job_partial(self, acting: Acting) -> None:
        (ring,) = acting.planned(1, embed=True)
        data = acting.work(acting.claim(ring), end="shard")
        assert data is not None

        acting.jobs.commit(acting.claim(data.rings[0]), to_cursor=1, counts=Counts(failed=1), end="shard")

        job = acting.jobs.get(ring.job_id)
        assert (job.state, job.done, job.failed, job.embed_failed) == ("partial", 1, 0, 1)


@pytest.mark.parametrize(("state", "kept"), [("succeeded", 0), ("cancelled", 1), ("failed", 1)])
def test_what_was_submitted_is_deleted_when_the_job_ends_but_for_a_retry(acting: Acting, state: str, kept: int) -> None:
    other = acting.submit(inputs=[(b"theirs", 1)])
    (ring,) = acting.planned(1, inputs=[(b"one", 1), (b"two", 1)])
    assert acting.jobs.count_inputs(ring.job_id) == 2

    if state == "succeeded":
        acting.work(acting.claim(ring), end="shard")
    elif state == "cancelled":
        acting.jobs.request(ring.job_id, "cancel", by="user")
    else:
        acting.jobs.fail_shard(acting.claim(ring), "cannot go on")

    assert acting.jobs.get(ring.job_id).state == state
    # Its one item came from part 0.
    assert acting.jobs.count_inputs(ring.job_id) == kept
    assert acting.jobs.count_inputs(other.job_id) == 1
    assert acting.try_claim(ring) == Refused(f"job is {state}")


def test_a_paused_job_keeps_what_was_submitted(acting: Acting) -> None:
    ring = acting.submit(inputs=[(b"one", 1)])

    acting.jobs.request(ring.job_id, "pause", by="user")

    assert acting.jobs.count_inputs(ring.job_id) == 1


def test_a_bookmark_moves_with_the_cursor_and_the_next_run_finds_it(acting: Acting) -> None:
    (ring,) = acting.planned(0)
    claim = acting.claim(ring)
    assert claim.bookmark is None

    first = acting.jobs.commit(claim, to_cursor=1, bookmark="page two")
    assert first is not None
    assert first.claim is not None
    second = acting.jobs.commit(first.claim, to_cursor=2, end="chunk")
    assert second is not None

    assert first.claim.bookmark == "page two"
    again = acting.claim(second.rings[0])
    assert (again.cursor, again.bookmark) == (2, "page two")


def test_a_repeated_commit_leaves_the_bookmark_of_a_later_one(acting: Acting) -> None:
    (ring,) = acting.planned(0)
    claim = acting.claim(ring)
    first = acting.jobs.commit(claim, to_cursor=1, bookmark="two")
    assert first is not None
    assert first.claim is not None
    assert acting.jobs.commit(first.claim, to_cursor=2, bookmark="three", end="chunk") is not None

    assert acting.jobs.commit(claim, to_cursor=1, bookmark="two") is None

    assert acting.claim(Ring(ring.job_id, ring.shard, claim.fence, "warm", "data")).bookmark == "three"


def test_a_commit_that_moves_the_bookmark_alone_is_refused(acting: Acting) -> None:
    (ring,) = acting.planned(0)

    with pytest.raises(ValueError, match="must move the cursor"):
        acting.jobs.commit(acting.claim(ring), to_cursor=0, bookmark="elsewhere")


def test_a_job_whose_items_failed_says_why_most_of_them_did(acting: Acting) -> None:
    (ring,) = acting.planned(3)
    reasons = ["too large", "odd", "too large"]
    outcomes = [ItemOutcome(at + 1, "dead", reason) for at, reason in enumerate(reasons)]

    acting.jobs.commit(acting.claim(ring), to_cursor=3, outcomes=outcomes, counts=Counts(failed=3), end="shard")

    job = acting.jobs.get(ring.job_id)
    assert (job.state, job.last_error) == ("failed", "3 items failed, 2 of them: too large")
