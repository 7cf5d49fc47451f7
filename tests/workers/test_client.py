"""What a submitter sees when the broker or the database is away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cache_management.cache.errors import InvalidInput, JobError, MetadataUnavailable
from cache_management.cache.events import Event, UnavailableEvent
from cache_management.models.job import PRIORITY
from cache_management.models.store.pruning import Keep
from cache_management.models.store.results import Claim, Counts, ItemOutcome, NewItem, NewShard, Ring
from cache_management.settings import load_settings
from cache_management.workers import messages
from cache_management.workers.client import JobClient, enqueue_warm
from cache_management.workers.inputs import unpack_inputs
from tests.conftest import OwnRedisFactory
from tests.workers.harness import warm_items


@pytest.fixture
def client(tmp_path: Path) -> Iterator[JobClient]:
    """A client whose broker is this process."""
    (tmp_path / "data").mkdir()
    env = {"CACHE_BROKER_URL": "memory://", "CACHE_DATA_DIR": str(tmp_path / "data")}
    made = JobClient(load_settings(env=env).settings)
    made.stores.upgrade()
    yield made
    made.close()


@pytest.fixture
def sent(client: JobClient, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of every message."""
    found: list[Any] = []
    monkeypatch.setattr(client.celery, "send_task", lambda _name, args, **_: found.append(tuple(args)))
    return found


def test_a_job_is_accepted_when_the_database_goes_away_behind_the_doorbell(
    client: JobClient, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_ring: Ring) -> None:
        raise MetadataUnavailable("gone")

    monkeypatch.setattr(client.stores.jobs, "mark_dispatched", away)

    submitted = client.submit_warm(warm_items(1))

    assert client.get(submitted.job_id).state == "queued"
    assert sent == [(submitted.job_id, 0, 0)]


def test_a_broker_that_is_away_holds_a_submit_up_only_shortly(tmp_path: Path) -> None:
    env = {"CACHE_BROKER_URL": "redis://127.0.0.1:1/0", "CACHE_DATA_DIR": str(tmp_path)}
    client = JobClient(load_settings(env=env).settings)
    client.stores.upgrade()

    started = time.monotonic()
    submitted = client.submit_warm(warm_items(1))
    took = time.monotonic() - started

    state = client.get(submitted.job_id).state
    client.close()
    assert state == "queued"
    assert took < 4  # about a tenth of a second, and six before


def test_a_kept_connection_survives_a_restart_of_the_broker(tmp_path: Path, own_redis: OwnRedisFactory) -> None:
    broker = own_redis(appendonly=True)
    env = {"CACHE_BROKER_URL": broker.url, "CACHE_DATA_DIR": str(tmp_path)}
    client = JobClient(load_settings(env=env).settings)
    client.stores.upgrade()
    ring = Ring("known", 0, 0, "warm", "plan")
    assert client.ring([ring])

    broker.kill()
    broker.restart()

    rang = client.ring([ring])
    client.close()
    assert rang


def test_a_ring_of_an_unknown_kind_is_skipped_and_the_others_ring(client: JobClient, sent: list[Any]) -> None:
    rings = [Ring("newer", 0, 0, "unheard of", "plan"), Ring("known", 0, 0, "warm", "plan")]

    assert client.ring(rings) is False

    assert sent == [("known", 0, 0)]


def test_a_priority_travels_with_the_doorbell_the_other_way_round(
    client: JobClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    monkeypatch.setattr(client.celery, "send_task", lambda *_, priority, **__: found.append(priority))

    for priority in (9, 5, 0):
        client.submit("prune", {}, priority=priority)

    assert found == [0, 4, 9]


@pytest.mark.parametrize(
    ("kind", "params", "options", "said"),
    [
        ("prun", {}, {}, "no job of kind 'prun'; the kinds are audit-verify"),
        ("prune", {"job_days": 3}, {}, "job_days"),
        ("prune", {"jobs_days": -1}, {}, "jobs_days"),
        ("prune", {}, {"priority": 10}, "priority 10"),
        ("prune", {}, {"deadline_seconds": 0}, "deadline of 0"),
        ("prune", {}, {"deadline_seconds": float("inf")}, "is never"),
        ("prune", {"jobs_days": 1e9}, {}, "jobs_days"),
    ],
)
def test_a_job_that_cannot_be_is_refused_and_nothing_is_queued(
    client: JobClient, sent: list[Any], kind: str, params: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        client.submit(kind, params, **options)

    assert client.stores.jobs.list() == []
    assert sent == []


def work_through(client: JobClient, job_id: str, dead: set[str], *, cancelled: bool = False) -> None:
    """Plan a warm job of one part and settle its items; what cannot be done is named by its prompt."""
    jobs = client.stores.jobs
    claim = jobs.claim(job_id, 0, 0, owner="w", task_id="plan", hard_limit_seconds=90)
    assert isinstance(claim, Claim)
    items = unpack_inputs(jobs.load_input(job_id, 0))
    planned = [NewItem(item.prompt, at + 1, 0, at, 1) for at, item in enumerate(items)]
    jobs.commit(claim, to_cursor=1, new_items=planned, new_shards=[NewShard(1)], end="shard")
    if cancelled:
        jobs.request(job_id, "cancel", by="me")
        return
    claim = jobs.claim(job_id, 1, 0, owner="w", task_id="data", hard_limit_seconds=90)
    assert isinstance(claim, Claim)
    outcomes = [ItemOutcome(n.position, "dead" if n.item_key in dead else "done", "bad") for n in planned]
    counts = Counts(done=len(items) - len(dead), failed=len(dead))
    jobs.commit(claim, to_cursor=len(items), outcomes=outcomes, counts=counts, end="shard")


def prompts_of(client: JobClient, job_id: str) -> list[str]:
    jobs = client.stores.jobs
    parts = (unpack_inputs(jobs.load_input(job_id, part)) for part in range(jobs.count_inputs(job_id)))
    return [item.prompt for part in parts for item in part]


def test_only_what_failed_is_tried_again(client: JobClient, sent: list[Any]) -> None:
    items = warm_items(4)
    first = client.submit_warm(items).job_id
    work_through(client, first, {items[1].prompt, items[3].prompt})

    again = client.retry(first, failed_only=True)

    assert again.created
    assert prompts_of(client, again.job_id) == [items[1].prompt, items[3].prompt]
    job = client.get(again.job_id)
    assert (job.retry_of, job.kind, job.params["batch_size"]) == (first, "warm", 50)
    assert job.params["version"] > client.get(first).params["version"]
    assert client.retry(first, failed_only=True).job_id == again.job_id, "asked twice, done once"


def test_what_was_cancelled_is_tried_again_unless_only_failures_are_meant(client: JobClient, sent: list[Any]) -> None:
    first = client.submit_warm(warm_items(3)).job_id
    work_through(client, first, set(), cancelled=True)

    with pytest.raises(JobError, match="left nothing undone"):
        client.retry(first, failed_only=True)

    assert len(prompts_of(client, client.retry(first).job_id)) == 3


def test_a_job_whose_plan_did_not_end_is_tried_again_whole(client: JobClient, sent: list[Any]) -> None:
    first = client.submit_warm(warm_items(3)).job_id
    client.request(first, "cancel")

    assert len(prompts_of(client, client.retry(first).job_id)) == 3


def test_what_lives_or_has_no_inputs_left_is_not_tried_again(client: JobClient, sent: list[Any]) -> None:
    living = client.submit_warm(warm_items(1)).job_id
    with pytest.raises(JobError, match="only one that has ended"):
        client.retry(living)
    client.request(living, "cancel")
    client.stores.pruning.prune(Keep(inputs_days=0))

    with pytest.raises(JobError, match=r"left nothing undone|no longer kept"):
        client.retry(living)


def test_a_job_without_items_begins_anew_with_its_parameters(client: JobClient, sent: list[Any]) -> None:
    first = client.submit("prune", {"jobs_days": 3}).job_id
    client.request(first, "cancel")

    job = client.get(client.retry(first).job_id)

    assert (job.kind, job.params["jobs_days"], job.retry_of) == ("prune", 3, first)


def test_what_looks_after_all_namespaces_waits_for_none_of_them(client: JobClient, sent: list[Any]) -> None:
    kinds = {kind: client.get(client.submit(kind, {}).job_id).namespace for kind in ("stats", "prune", "audit-verify")}

    assert set(kinds.values()) == {""}


def test_a_submitter_and_the_database_mean_the_same_priority() -> None:
    # Written twice, because a submitter loads no SQLAlchemy.
    assert messages.PRIORITY == PRIORITY


def test_an_application_chooses_what_becomes_of_a_job_that_nobody_can_take() -> None:
    away = load_settings(env={"CACHE_METADATA_URL": "postgresql://nobody@127.0.0.1:1/none"}).settings
    told: list[Event] = []

    with pytest.raises(MetadataUnavailable):
        enqueue_warm(warm_items(1), settings=away)
    assert enqueue_warm(warm_items(1), settings=away, when_down="drop", listener=told.append) is None

    (event,) = told
    assert isinstance(event, UnavailableEvent)
    assert (event.backend, event.operation) == ("metadata", "enqueue_warm")
    with pytest.raises(InvalidInput, match="when_down"):
        enqueue_warm(warm_items(1), settings=away, when_down="ignore")  # type: ignore[call-overload]


def test_a_job_that_succeeded_is_not_tried_again(client: JobClient, sent: list[Any]) -> None:
    done = client.submit("prune", {}).job_id
    claim = client.stores.jobs.claim(done, 0, 0, owner="w", task_id="t", hard_limit_seconds=90)
    assert isinstance(claim, Claim)
    client.stores.jobs.commit(claim, to_cursor=1, end="shard")

    with pytest.raises(JobError, match="it succeeded"):
        client.retry(done)
