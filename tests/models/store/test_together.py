"""Workers and reconcilers that really run at the same time."""

from __future__ import annotations

import queue
import threading
import time

import pytest

from cache_management.models.base import Database
from cache_management.models.store import Stores, open_stores, schema
from cache_management.models.store.results import Claim, NewItem, NewShard, Ring
from tests.models.acting import Acting, HandClock


def work_until_ended(url: str, job_id: str, bells: queue.Queue[Ring], errors: list[Exception]) -> None:
    """Answer doorbells as a worker process does, with connections of its own."""
    acting = Acting(Stores(Database(url)), HandClock())
    try:
        while not acting.jobs.get(job_id).ended:
            try:
                ring = bells.get(timeout=0.05)
            except queue.Empty:
                continue
            claim = acting.try_claim(ring)
            if isinstance(claim, Claim):
                committed = acting.step(claim)
                for following in committed.rings if committed is not None else []:
                    bells.put(following)
                    bells.put(following)  # Every doorbell rings twice: that must not matter.
                    acting.jobs.mark_dispatched(following)
    except Exception as exc:
        errors.append(exc)
    finally:
        acting.stores.close()


@pytest.mark.timeout(120)
def test_a_job_runs_to_its_end_by_doorbells_alone(url: str) -> None:
    """No reconciler here: a lost wake-up between a data shard and its follower would hang."""
    schema.upgrade(url)
    stores = open_stores(url)
    acting = Acting(stores, HandClock())
    plan = acting.claim(acting.submit())
    items = [NewItem(f"{shard}/{n}", n, 0, n, shard) for shard in (1, 2) for n in range(1, 21)]
    shards = [NewShard(1), NewShard(2), NewShard(101, "embed", 1), NewShard(102, "embed", 2)]
    committed = stores.jobs.commit(plan, to_cursor=1, end="shard", new_items=items, new_shards=shards)
    assert committed is not None
    bells: queue.Queue[Ring] = queue.Queue()
    errors: list[Exception] = []
    for ring in committed.rings:
        bells.put(ring)

    workers = [
        threading.Thread(target=work_until_ended, args=(url, plan.job_id, bells, errors), daemon=True) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + 60
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))

    job = stores.jobs.get(plan.job_id)
    chain = stores.audit.verify()
    stores.close()
    assert errors == []
    assert (job.state, job.done, job.embedded) == ("succeeded", 40, 40)
    assert chain is None


@pytest.mark.timeout(60)
def test_reconcilers_at_the_same_moment_ring_once(acting: Acting) -> None:
    rings = acting.planned(1, shards=8)
    acting.clock.advance(31)
    barrier, found = threading.Barrier(3), []

    def reconcile() -> None:
        barrier.wait()
        found.extend(acting.jobs.reconcile())

    threads = [threading.Thread(target=reconcile) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(found, key=lambda ring: ring.shard) == rings


@pytest.mark.timeout(60)
def test_one_of_many_claims_at_the_same_moment_wins(acting: Acting) -> None:
    (ring,) = acting.planned(1)
    barrier, found = threading.Barrier(4), []

    def claim() -> None:
        barrier.wait()
        found.append(acting.try_claim(ring))

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(isinstance(result, Claim) for result in found) == 1


@pytest.mark.timeout(60)
def test_submits_with_one_key_at_the_same_moment_make_one_job(acting: Acting) -> None:
    barrier, found = threading.Barrier(4), []

    def submit() -> None:
        barrier.wait()
        found.append(acting.jobs.create("warm", {}, namespace="tests", submitted_by="tester", idem_key="same"))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({submitted.job_id for submitted in found}) == 1
    assert sum(submitted.created for submitted in found) == 1
