"""What is told of jobs that went wrong, on a real database with real job code."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from cache_management.cache.warm_items import WarmItem
from cache_management.models.store.results import Claim
from cache_management.workers import doctor, reading
from cache_management.workers.doctor import Finding, JobFacts
from tests.workers.findings import levels
from tests.workers.harness import warm_items
from tests.workers.inline import Inline


def facts_of(inline: Inline) -> JobFacts:
    facts = reading.read_metadata(inline.settings).jobs
    assert facts is not None
    return facts


def told_by(inline: Inline, **changes: Any) -> dict[str, Finding]:
    facts = msgspec.structs.replace(facts_of(inline), **changes)
    return {each.check: each for each in (*doctor.check_jobs(facts), *doctor.check_audit(facts))}


def claimed(inline: Inline, *, hard_limit_seconds: float = 90) -> Claim:
    """Take the doorbell of a warm job as a worker would."""
    inline.client.submit_warm(warm_items(2))
    ring = inline.rung.pop()
    claim = inline.stores.jobs.claim(
        ring.job_id, ring.shard, ring.fence, owner="w", task_id="t", hard_limit_seconds=hard_limit_seconds
    )
    assert isinstance(claim, Claim)
    return claim


def test_jobs_that_went_well_are_well(inline: Inline) -> None:
    inline.finish(inline.client.submit_warm(warm_items(2)).job_id)
    inline.run("audit-verify")

    assert {check: each.level for check, each in told_by(inline).items()} == {"jobs": "ok", "audit log": "ok"}


def test_a_failed_job_is_named_until_it_was_retried(inline: Inline) -> None:
    job = inline.run("repair")

    found = told_by(inline)
    assert levels(found.values()) == {"failed jobs": "warn"}
    assert "keeps one copy" in found["failed jobs"].what
    assert f"cache-cli jobs retry {job.id}" in found["failed jobs"].way_out

    inline.client.submit("repair", {}, retry_of=job.id)
    assert "failed jobs" not in told_by(inline)
    assert levels(doctor.check_jobs(JobFacts(facts_of(inline).now + timedelta(days=2), facts_of(inline).ended))) == {}


def test_failed_items_are_counted_with_the_way_to_them(make_inline: Callable[..., Inline]) -> None:
    inline = make_inline(CACHE_MAX_ENTRY_BYTES="2000")
    items = [*warm_items(3), WarmItem(prompt="long", response="x" * 5000, token_count=1)]
    job = inline.finish(inline.client.submit_warm(items).job_id)

    found = told_by(inline)["failed items"]

    assert (job.state, found.what.startswith("1 items of 1 job (warm")) == ("partial", True)
    assert f"jobs items {job.id} --state failed" in found.way_out


def test_a_job_that_is_held_and_one_that_waits_say_why(inline: Inline) -> None:
    inline.stores.jobs.hold(claimed(inline), "the disk is full")
    inline.stores.jobs.release(claimed(inline), retry_in=600, reason="the provider cannot answer now: 429")

    found = told_by(inline)

    assert levels(found.values()) == {"held jobs": "warn", "waiting jobs": "warn"}
    assert "the disk is full" in found["held jobs"].what
    assert "jobs resume" in found["held jobs"].way_out
    assert "429" in found["waiting jobs"].what


def test_a_job_that_nobody_takes_is_told_after_a_while(inline: Inline) -> None:
    inline.client.submit_warm(warm_items(1))
    now = facts_of(inline).now

    assert "waiting jobs" not in told_by(inline)
    assert "cache-cli queues" in told_by(inline, now=now + timedelta(minutes=6))["waiting jobs"].way_out


def test_a_lease_that_is_over_is_told(inline: Inline) -> None:
    claimed(inline)
    with inline.stores.database.write() as connection:
        connection.execute(text("UPDATE job_shards SET lease_until = '2020-01-01 00:00:00.000000'"))

    found = told_by(inline)["expired leases"]

    assert "1 of warm" in found.what
    assert "cache-cli beat" in found.way_out


def test_a_changed_audit_log_is_a_failure_of_its_own(inline: Inline) -> None:
    for _ in range(3):
        inline.stores.audit.append(actor="me", action="tried")
    with inline.stores.database.write() as connection:
        connection.execute(text("DROP TRIGGER audit_log_no_update"))
        connection.execute(text("UPDATE audit_log SET actor = 'nobody' WHERE id = 2"))
    inline.run("audit-verify")

    found = told_by(inline)

    assert levels(found.values()) == {"audit log": "fail"}
    assert "broken at entry 2" in found["audit log"].what


def test_data_that_may_be_lost_is_told_for_a_day(inline: Inline) -> None:
    inline.stores.audit.append(actor="w", action=doctor.LOSS, outcome="node-1")

    assert told_by(inline)["lost data"].level == "warn"


@pytest.mark.parametrize("namespace", ["default", "other"])
def test_usage_is_that_of_the_namespace(inline: Inline, namespace: str) -> None:
    operations = inline.stores.operations
    operations.add_stats({"hits": 3, "misses": 5}, namespace="default", model="m", period_seconds=3600)
    moment = operations.now()
    operations.count_usage("s", ("", "1"), {(moment, "x", ""): {"hits": 1}}, {("default", "k"): (1, 4)})

    usage = reading.read_metadata(inline.settings.model_copy(update={"namespace": namespace})).usage

    assert usage is not None
    expected = (3, 5, 1, True) if namespace == "default" else (0, 0, 0, True)
    assert (usage.hits, usage.misses, len(usage.missed_most), usage.is_recorded) == expected
