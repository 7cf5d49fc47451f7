"""Submitting is an outbox: everything is written, then the doorbell rings."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from sqlalchemy import func, select

from cache_management.cache.errors import JobError, JobNotFound, MetadataUnavailable
from cache_management.models.job import Job
from cache_management.models.store import Stores
from cache_management.models.store.results import Claim, Counts, NewItem
from tests.models.acting import Acting, LossyDatabase


def count_jobs(database: LossyDatabase) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(Job)).scalar_one()


def test_a_submitted_job_is_complete_before_its_doorbell_rings(acting: Acting) -> None:
    ring = acting.submit(inputs=[(b"one", 300), (b"two", 7)], priority=3, namespace="shop", retry_of="older")

    job = acting.jobs.get(ring.job_id)

    assert (job.state, job.namespace, job.priority, job.retry_of) == ("queued", "shop", 3, "older")
    assert [(shard.shard, shard.kind, shard.state) for shard in job.shards] == [(0, "plan", "open")]
    assert acting.jobs.count_inputs(ring.job_id) == 2
    assert acting.jobs.load_input(ring.job_id, 1) == b"two"
    assert [event.event for event in acting.jobs.events(ring.job_id)] == ["queued"]
    assert [row.action for row in acting.stores.audit.tail()] == ["job.submit"]


def test_many_input_parts_are_read_as_they_are_written(acting: Acting) -> None:
    ring = acting.submit(inputs=((bytes([part]), 1) for part in range(45)))

    assert acting.jobs.count_inputs(ring.job_id) == 45
    assert acting.jobs.load_input(ring.job_id, 44) == bytes([44])


def test_input_that_breaks_off_leaves_no_job(acting: Acting, database: LossyDatabase) -> None:
    def broken() -> Iterator[tuple[bytes, int]]:
        yield b"one", 1
        raise OSError("the file is gone")

    with pytest.raises(OSError, match="the file is gone"):
        acting.submit(inputs=broken())

    assert count_jobs(database) == 0


def test_same_key_gives_the_live_job_and_writes_nothing(acting: Acting, database: LossyDatabase) -> None:
    ring = acting.submit(idem_key="nightly", inputs=[(b"one", 1)])

    again = acting.jobs.create(
        "warm", {}, namespace="tests", submitted_by="tester", idem_key="nightly", inputs=[(b"other", 1)]
    )

    assert (again.job_id, again.created, again.ring) == (ring.job_id, False, None)
    assert count_jobs(database) == 1
    assert acting.jobs.count_inputs(ring.job_id) == 1
    assert len(acting.stores.audit.tail()) == 1


def test_same_key_of_another_kind_is_another_job(acting: Acting) -> None:
    ring = acting.submit(idem_key="nightly")

    other = acting.jobs.create("evict", {}, namespace="tests", submitted_by="tester", idem_key="nightly")

    assert other.created
    assert other.job_id != ring.job_id


def test_same_key_in_another_namespace_is_another_job(acting: Acting) -> None:
    ring = acting.submit(idem_key="nightly", namespace="tenant-a")

    other = acting.jobs.create("warm", {}, namespace="tenant-b", submitted_by="tester", idem_key="nightly")

    assert other.created
    assert other.job_id != ring.job_id


def test_key_is_free_again_when_its_job_has_ended(acting: Acting) -> None:
    ring = acting.submit(idem_key="nightly")
    acting.jobs.request(ring.job_id, "cancel", by="tester")

    assert acting.submit(idem_key="nightly").job_id != ring.job_id


def test_submit_whose_reply_was_lost_can_be_repeated_with_its_key(acting: Acting, database: LossyDatabase) -> None:
    database.lose_reply = True
    with pytest.raises(MetadataUnavailable):
        acting.submit(idem_key="nightly")

    again = acting.jobs.create("warm", {}, namespace="tests", submitted_by="tester", idem_key="nightly")

    assert not again.created
    assert count_jobs(database) == 1


def test_a_submit_that_nobody_published_is_published_by_the_reconciler(acting: Acting) -> None:
    ring = acting.submit()

    assert acting.jobs.reconcile() == [ring]
    assert acting.jobs.reconcile() == []


def test_dispatched_does_not_overwrite_a_cancel(acting: Acting) -> None:
    ring = acting.submit()
    acting.jobs.request(ring.job_id, "cancel", by="user")

    acting.jobs.mark_dispatched(ring)

    assert acting.jobs.get(ring.job_id).state == "cancelled"


def test_dispatched_does_not_overwrite_running(acting: Acting) -> None:
    ring = acting.submit()
    acting.claim(ring)

    acting.jobs.mark_dispatched(ring)

    assert acting.jobs.get(ring.job_id).state == "running"


def test_a_key_in_two_commits_of_a_plan_keeps_its_place_and_takes_the_last_input(acting: Acting) -> None:
    claim = acting.claim(acting.submit())
    first = acting.jobs.commit(
        claim, to_cursor=1, new_items=[NewItem("a", 1, 0, 0, 1), NewItem("b", 2, 0, 1, 1), NewItem("a", 3, 0, 2, 1)]
    )
    assert first is not None
    assert first.claim is not None

    acting.jobs.commit(first.claim, to_cursor=2, new_items=[NewItem("b", 4, 1, 0, 1), NewItem("c", 5, 1, 1, 1)])

    items = acting.jobs.items(_of_shard(claim, 1), after=0, limit=10)
    assert [(item.item_key, item.position, item.part, item.part_index) for item in items] == [
        ("a", 1, 0, 2),
        ("b", 2, 1, 0),
        ("c", 5, 1, 1),
    ]
    assert acting.jobs.get(claim.job_id).summary == {"duplicates": 2}


def test_total_counts_what_is_left_after_duplicates(acting: Acting) -> None:
    claim = acting.claim(acting.submit())

    acting.jobs.commit(claim, to_cursor=1, end="shard", new_items=[NewItem("a", 1, 0, 0, 1), NewItem("a", 2, 0, 1, 1)])

    assert acting.jobs.get(claim.job_id).total == 1


def test_a_dry_run_ends_with_its_plan(acting: Acting) -> None:
    claim = acting.claim(acting.submit())

    committed = acting.jobs.commit(claim, to_cursor=1, end="shard", total=9, summary={"estimate": 4})

    assert committed is not None
    job = acting.jobs.get(claim.job_id)
    assert (committed.job_state, job.state, job.total) == ("succeeded", "succeeded", 9)
    assert job.summary == {"estimate": 4}


def test_a_job_is_found_by_the_beginning_of_its_id(acting: Acting) -> None:
    ring = acting.submit()

    assert acting.jobs.get(ring.job_id[:-4]).id == ring.job_id


def test_an_id_that_no_job_has_is_not_found(acting: Acting) -> None:
    acting.submit()

    for unknown in ("zzz", "", "%"):
        with pytest.raises(JobNotFound):
            acting.jobs.get(unknown)


def test_a_beginning_that_two_jobs_share_is_refused(acting: Acting) -> None:
    first, second = acting.submit().job_id, acting.submit().job_id
    shared = next(n for n in range(36) if first[n] != second[n])

    with pytest.raises(JobError, match="more than one"):
        acting.jobs.get(first[:shared])


def test_jobs_are_listed_newest_first_and_by_state_and_kind(acting: Acting, stores: Stores) -> None:
    old = acting.submit().job_id
    acting.clock.advance(1)
    new = acting.submit().job_id
    other = stores.jobs.create("evict", {}, namespace="tests", submitted_by="tester").job_id
    acting.jobs.request(new, "cancel", by="tester")

    assert [job.id for job in stores.jobs.list(kind="warm")] == [new, old]
    assert [job.id for job in stores.jobs.list(state="cancelled")] == [new]
    assert {job.id for job in stores.jobs.list()} == {old, new, other}
    assert len(stores.jobs.list(limit=1)) == 1


def test_a_job_without_items_counts_as_it_goes(acting: Acting) -> None:
    (ring,) = acting.planned(0)
    claim = acting.claim(ring)

    acting.jobs.commit(claim, to_cursor=77, counts=Counts(done=5, bytes=100), end="chunk")

    job = acting.jobs.get(ring.job_id)
    assert (job.total, job.done, job.bytes) == (None, 5, 100)


def _of_shard(claim: Claim, shard: int) -> Claim:
    return msgspec.structs.replace(claim, shard=shard)
