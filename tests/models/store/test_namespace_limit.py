"""How many shards of one namespace are worked on at once."""

from __future__ import annotations

import threading

from cache_management.models.store import Stores, open_stores
from cache_management.models.store.claims import BUSY_AGAIN_SECONDS
from cache_management.models.store.results import Claim, Refused
from tests.models.acting import Acting, HandClock, shard_of


def test_a_namespace_at_its_limit_waits_and_others_do_not(acting: Acting) -> None:
    one, two = acting.submit(), acting.submit()
    other = acting.submit(namespace="other")
    acting.claim(one, namespace_limit=1)

    refused = acting.try_claim(two, namespace_limit=1)

    assert refused == Refused("namespace tests is busy", retry_in=BUSY_AGAIN_SECONDS)
    assert isinstance(acting.try_claim(other, namespace_limit=1), Claim)


def test_waiting_uses_up_no_delivery_and_rings_no_second_bell(acting: Acting) -> None:
    one, two = acting.submit(), acting.submit()
    acting.claim(one, namespace_limit=1)

    for _ in range(20):
        assert isinstance(acting.try_claim(two, namespace_limit=1), Refused)
        acting.clock.advance(BUSY_AGAIN_SECONDS)
        rings = [ring for ring in acting.jobs.reconcile() if ring.job_id == two.job_id]
        assert rings == []

    assert shard_of(acting.jobs, two.job_id, 0).deliveries == 0


def test_room_comes_back_with_the_end_of_a_chunk_and_with_a_dead_worker(acting: Acting) -> None:
    first, second, third = acting.submit(), acting.submit(), acting.submit()
    claim = acting.claim(first, namespace_limit=1)
    acting.jobs.commit(claim, to_cursor=1, end="shard")

    acting.claim(second, namespace_limit=1)
    assert isinstance(acting.try_claim(third, namespace_limit=1), Refused)
    acting.clock.advance(61)

    assert isinstance(acting.try_claim(third, namespace_limit=1), Claim)


def test_what_belongs_to_no_namespace_is_not_limited(acting: Acting) -> None:
    one, two = acting.submit(namespace=""), acting.submit(namespace="")
    acting.claim(one, namespace_limit=1)

    assert isinstance(acting.try_claim(two, namespace_limit=1), Claim)


def test_a_message_that_is_refused_for_good_is_not_sent_again_while_there_is_no_room(acting: Acting) -> None:
    one, stale, ended = acting.submit(), acting.submit(), acting.submit()
    acting.jobs.commit(acting.claim(stale), to_cursor=1, end="chunk")
    acting.jobs.request(ended.job_id, "cancel", by="me")
    acting.claim(one, namespace_limit=1)

    assert acting.try_claim(stale, namespace_limit=1) == Refused("stale")
    assert acting.try_claim(ended, namespace_limit=1) == Refused("job is cancelled")


def test_two_that_ask_at_once_do_not_both_find_room(url: str, acting: Acting, clock: HandClock) -> None:
    rings = [acting.submit() for _ in range(4)]
    opened = [open_stores(url, clock=clock) for _ in rings]
    together = threading.Barrier(len(rings))
    got: list[Claim | Refused] = []

    def run(mine: Stores, number: int) -> None:
        together.wait()
        got.append(Acting(mine, clock).try_claim(rings[number], namespace_limit=2))

    threads = [threading.Thread(target=run, args=(mine, number)) for number, mine in enumerate(opened)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine in opened:
        mine.close()

    assert sum(isinstance(each, Claim) for each in got) == 2
