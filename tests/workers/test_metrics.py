"""What is told of queues and jobs, and how it is written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prometheus_client.parser import text_string_to_metric_families

from cache_management.metrics.families import Family, as_data, as_text
from cache_management.models.store.census import Census, JobTally
from cache_management.models.store.results import Mark
from cache_management.workers.messages import PARAMS, QUEUES
from cache_management.workers.metrics import OTHER, job_families, queue_families
from cache_management.workers.queues import Waiting

EMPTY = Census(kept=[], pruned=[], running={}, expired={}, oldest={})


def named(families: list[Family]) -> dict[str, dict[tuple[str, ...], float]]:
    return {family.name: dict(family.samples) for family in families}


def test_totals_hold_what_was_pruned_and_gauges_do_not() -> None:
    census = Census(
        kept=[
            JobTally("warm", "running", jobs=1, done=5),
            JobTally("warm", "partial", jobs=2, done=10, failed=3, cost_micro=1_500_000),
        ],
        pruned=[JobTally("warm", "partial", jobs=7, done=100, failed=4, cost_micro=500_000)],
        running={"warm": 2},
        expired={"embed": 1},
        oldest={"warm": 12.5},
    )

    told = named(job_families(census))

    assert told["cache_jobs_up"] == {(): 1}
    assert (told["cache_jobs"]["warm", "running"], told["cache_jobs"]["warm", "queued"]) == (1, 0)
    assert told["cache_jobs_ended_total"]["warm", "partial"] == 9
    items = told["cache_job_items_total"]
    assert (items["warm", "done"], items["warm", "failed"], items["embed", "done"]) == (115, 7, 0)
    assert told["cache_job_cost_dollars_total"]["warm",] == 2
    assert told["cache_job_dead_items"]["warm",] == 3
    assert told["cache_job_shards_running"]["warm",] == 2
    assert told["cache_job_shards_lease_expired"]["embed",] == 1
    assert told["cache_job_oldest_age_seconds"]["warm",] == 12.5


def test_kinds_of_a_newer_version_share_one_label() -> None:
    kept = [JobTally(f"kind {at}", "running", jobs=1, done=at) for at in range(100)]

    told = named(job_families(Census(kept=kept, pruned=[], running={"kind 3": 2}, expired={}, oldest={"a": 9, "b": 4})))

    assert {kind for kind, _ in told["cache_jobs"]} == {*PARAMS, OTHER}
    assert told["cache_job_items_total"][OTHER, "done"] == sum(range(100))
    assert told["cache_job_oldest_age_seconds"][OTHER,] == 9


def test_a_database_that_is_away_is_said_and_nothing_made_up() -> None:
    assert named(job_families(None)) == {"cache_jobs_up": {(): 0}}
    told = named(queue_families({"warm": Waiting(depth=3)}, None))
    assert told["cache_queue_depth"] == {("warm",): 3}
    assert "cache_queue_stuck" not in told, "who consumes is not known without the database"


def test_a_broker_that_is_away_is_said_and_nothing_made_up() -> None:
    assert named(queue_families(None, [])) == {"cache_broker_up": {(): 0}}


def test_a_queue_has_its_depth_its_age_and_when_something_was_taken() -> None:
    now = datetime.now(UTC)
    waiting = {
        "warm": Waiting(depth=4, oldest_sent_at=now - timedelta(seconds=300), unacked=2),
        "embed": Waiting(),
    }
    marks = [Mark("warm", "a@here", now, age_seconds=90.0), Mark("warm", "b@here", now, age_seconds=120.0)]

    told = named(queue_families(waiting, marks))

    assert told["cache_queue_depth"] == {("warm",): 4, ("embed",): 0}
    assert 300 <= told["cache_queue_oldest_age_seconds"]["warm",] < 400
    assert told["cache_queue_oldest_age_seconds"]["embed",] == 0
    assert told["cache_queue_unacked"]["warm",] == 2
    assert told["cache_queue_last_taken_age_seconds"] == {("warm",): 90.0}
    assert told["cache_queue_workers"] == {("warm",): 2, ("embed",): 0}
    assert told["cache_queue_stuck"] == {("warm",): 1, ("embed",): 0}


def test_the_text_is_what_prometheus_reads_and_names_keep_its_rules() -> None:
    families = [*job_families(EMPTY), *queue_families(dict.fromkeys(QUEUES, Waiting()), [])]

    read = {each.name: each for each in text_string_to_metric_families(as_text(lambda: families))}

    for family in families:
        found = read[family.name.removesuffix("_total")]
        assert (found.type, found.documentation) == (family.type, family.help)
        assert family.name.startswith("cache_")
        assert family.name.endswith("_total") == (family.type == "counter")
        assert not family.name.endswith(("_ms", "_minutes", "_kb", "_count"))
        assert {tuple(sample.labels.values()) for sample in found.samples} <= {labels for labels, _ in family.samples}
        assert len(family.samples) < 100
        assert set(family.labels) <= {"kind", "state", "outcome", "queue"}, "labels are few and bounded: no ids"


def test_the_same_numbers_are_data_for_scripts() -> None:
    data = as_data([*job_families(EMPTY), *queue_families({"warm": Waiting(depth=4)}, [])])

    assert data["cache_jobs_up"] == 1
    assert data["cache_queue_depth"] == [{"queue": "warm", "value": 4}]
