"""jobs: submit, items, logs, retry, and what they refuse. Real workers: tests/journeys, tests/faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_management.models.store import Stores, open_stores
from cache_management.models.store.results import Claim, Counts, ItemOutcome, NewItem, NewShard
from cache_management.settings import load_settings
from tests.cli.conftest import Cli
from tests.workers.harness import warm_items


@pytest.fixture
def stores(cli: Cli) -> Iterator[Stores]:
    """The command line's own database, with a broker that is down: jobs are accepted and stay where they are."""
    opened = open_stores(load_settings().settings.metadata_url)
    assert cli("db", "upgrade").code == 0
    yield opened
    opened.close()


@pytest.fixture
def job_id(stores: Stores) -> str:
    """A job of three items that ended: one done, one failed, one skipped."""
    jobs = stores.jobs
    job_id = jobs.create("warm", {}, namespace="default", submitted_by="me").job_id
    claim = jobs.claim(job_id, 0, 0, owner="w", task_id="plan", hard_limit_seconds=90)
    assert isinstance(claim, Claim)
    items = [NewItem(f"item-{n}", n, 0, n - 1, 1) for n in (1, 2, 3)]
    jobs.commit(claim, to_cursor=1, new_items=items, new_shards=[NewShard(1)], end="shard")
    claim = jobs.claim(job_id, 1, 0, owner="w", task_id="data", hard_limit_seconds=90)
    assert isinstance(claim, Claim)
    outcomes = [ItemOutcome(1, "done"), ItemOutcome(2, "dead", "too large"), ItemOutcome(3, "skipped", "newer")]
    jobs.commit(claim, to_cursor=3, outcomes=outcomes, counts=Counts(done=1, failed=1, skipped=1), end="shard")
    return job_id


def test_items_are_listed_by_state(cli: Cli, job_id: str) -> None:
    everything = cli("jobs", "items", job_id, "-o", "jsonl")
    failed = cli("jobs", "items", job_id[:18], "--state", "failed", "--json")

    assert [json.loads(line)["state"] for line in everything.out.splitlines()] == ["done", "dead", "skipped"]
    assert [(item["item_key"], item["reason"]) for item in failed.data] == [("item-2", "too large")]


def test_a_long_list_says_that_it_is_cut(cli: Cli, job_id: str) -> None:
    found = cli("jobs", "items", job_id, "-n", 2)

    assert "item-2" in found.out
    assert "item-3" not in found.out
    assert "first 2" in found.err


def test_the_timeline_is_printed_line_by_line(cli: Cli, job_id: str) -> None:
    text = cli("jobs", "logs", job_id, "--follow")
    data = cli("jobs", "logs", job_id, "--json")

    events = [json.loads(line)["event"] for line in data.out.splitlines()]
    assert events[0] == "queued"
    assert events[-1] == "partial"
    assert len(text.out.splitlines()) == len(events)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("submit", "prunes", "--dry-run"), 2, "no job of kind 'prunes'"),
        (("submit", "prune", "--dry-run", "-p", "jobs_days"), 2, "NAME=VALUE"),
        (("submit", "prune", "--dry-run", "-p", "jobs_days=soon"), 2, "jobs_days"),
        (("submit", "warm", "--dry-run"), 2, "needs --source"),
        (("submit", "prune", "--source", "x"), 2, "reads no --source"),
        (("submit", "warm", "--source", "absent.json", "--dry-run"), 2, "no such file"),
        (
            ("submit", "warm", "--source", "x", "-p", "batch_size=many"),
            2,
            "batch_size: Input should be a valid integer",
        ),
        (("submit", "warm", "--source", "x", "-p", "idem_key=x"), 2, "no parameter 'idem_key'"),
        (("submit", "warm", "--source", "x", "-p", "top=3"), 2, "no parameter 'top'"),
        (("submit", "prune", "--dry-run", "-p", "jobs_days=Infinity"), 2, "jobs_days"),
        (("submit", "prune", "--priority", "10"), 2, "priority"),
        (("submit", "prune"), 4, "no broker"),
        (("retry", "nothing"), 4, "no broker"),
        (("items", "nothing"), 1, "no job"),
        (("logs", "nothing"), 1, "no job"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_queued(
    cli: Cli, stores: Stores, arguments: tuple[str, ...], code: int, said: str
) -> None:
    found = cli("jobs", *arguments)

    assert found.code == code
    assert said in found.err
    assert stores.jobs.list() == []


def test_a_dry_run_checks_and_queues_nothing(cli: Cli, stores: Stores) -> None:
    Path("items.jsonl").write_text("\n".join(item.model_dump_json(exclude_defaults=True) for item in warm_items(3)))

    warm = cli("jobs", "submit", "warm", "--source", "items.jsonl", "--dry-run", "--json")
    prune = cli("jobs", "submit", "prune", "-p", "jobs_days=7", "--dry-run", "--json")

    assert warm.data["items"] == 3
    assert prune.data["params"]["jobs_days"] == 7
    assert stores.jobs.list() == []


def test_scheduled_jobs_that_went_well_do_not_fill_the_list(cli: Cli, stores: Stores, job_id: str) -> None:
    def scheduled(name: str, **options: float) -> str:
        made = stores.jobs.create_scheduled(
            name, "stats", {}, every_seconds=60, namespace="", submitted_by="scheduler", **options
        )
        assert made is not None
        claim = stores.jobs.claim(made.job_id, 0, 0, owner="w", task_id="t", hard_limit_seconds=90)
        assert isinstance(claim, Claim)
        if name == "well":
            stores.jobs.commit(claim, to_cursor=1, end="shard")
        else:
            stores.jobs.fail_shard(claim, "broken")
        return made.job_id

    well, ill = scheduled("well"), scheduled("ill")

    assert [job["id"] for job in cli("jobs", "list", "--json").data] == [ill, job_id]
    assert [job["id"] for job in cli("jobs", "list", "--all", "--json").data] == [ill, well, job_id]
    assert [job["id"] for job in cli("jobs", "list", "--kind", "stats", "--json").data] == [ill, well]


def test_a_job_that_failed_very_often_shows_some_of_it(cli: Cli, job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_management.cli.jobs._DEAD_SHOWN", 0)

    found = cli("jobs", "show", job_id)

    assert "item-2" not in found.out
    assert "jobs items" in found.err
    assert len(cli("jobs", "show", job_id, "--json").data["failed_items"]) == 1


def test_what_a_job_cost_is_shown_beside_its_ceiling(cli: Cli, stores: Stores) -> None:
    jobs = stores.jobs
    spent = jobs.create("warm", {"max_cost_usd": 0.5}, namespace="default", submitted_by="me").job_id
    claim = jobs.claim(spent, 0, 0, owner="w", task_id="plan", hard_limit_seconds=90)
    assert isinstance(claim, Claim)
    items = [NewItem(f"item-{n}", n, 0, n - 1, 1) for n in (1, 2)]
    jobs.commit(claim, to_cursor=1, new_items=items, new_shards=[NewShard(1)], end="shard")
    claim = jobs.claim(spent, 1, 0, owner="w", task_id="data", hard_limit_seconds=90)
    assert isinstance(claim, Claim)
    counts = Counts(done=1, skipped=1, cost_micro=500_000)
    outcomes = [ItemOutcome(1, "done"), ItemOutcome(2, "skipped", "the ceiling")]
    jobs.commit(claim, to_cursor=2, outcomes=outcomes, counts=counts, end="shard")

    found = cli("jobs", "show", spent)

    assert "0.5000 USD of at most 0.5" in found.out
    assert "the ceiling is reached" in found.out


def test_why_a_job_waits_is_shown(cli: Cli, stores: Stores) -> None:
    job_id = stores.jobs.create("prune", {}, namespace="", submitted_by="me").job_id
    claim = stores.jobs.claim(job_id, 0, 0, owner="w", task_id="t", hard_limit_seconds=90)
    assert isinstance(claim, Claim)
    stores.jobs.release(claim, retry_in=60, reason="RateLimitError (429)")

    assert "RateLimitError (429)" in cli("jobs", "show", job_id).out


def test_a_job_with_a_broker_that_is_down_is_not_submitted(
    cli: Cli, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_BROKER_URL", "redis://127.0.0.1:1/0")

    found = cli("jobs", "submit", "prune")

    assert found.code == 4
    assert "does not answer" in found.err
    assert stores.jobs.list() == []
