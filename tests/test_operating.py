"""docs/operating.md tells of what there is: every queue with its limits, every metric, and alerts on no other."""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

from cache_management.models.store.census import Census
from cache_management.models.store.results import Mark
from cache_management.workers import messages
from cache_management.workers.messages import QUEUES, TASK_LIMITS
from cache_management.workers.metrics import job_families, queue_families
from cache_management.workers.queues import Waiting

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "operating.md").read_text()
QUEUE_OF = {route.task: route.queue for route in messages.ROUTES.values()}


def rows(first: str) -> dict[str, list[str]]:
    """Return the rows of the table whose first column has this name, by their first cell."""
    table = re.search(rf"^\| {first} \|.*\n\|[-| ]+\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    assert table, first
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.group(1).splitlines()]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_every_metric_stands_there_with_its_labels() -> None:
    marks = [Mark("warm", "w@here", datetime.now(UTC), 1.0)]
    families = [
        *job_families(Census(kept=[], pruned=[], running={}, expired={}, oldest={})),
        *queue_families({"warm": Waiting()}, marks),
    ]

    assert {name: row[0] for name, row in rows("metric").items()} == {
        family.name: ", ".join(family.labels) for family in families
    }


def test_alerts_and_advice_name_metrics_that_there_are() -> None:
    assert set(re.findall(r"\bcache_(?:jobs?|queue|broker)_\w+|\bcache_jobs\b", PAGE)) == set(rows("metric"))


def test_every_queue_stands_there_with_the_limits_of_its_tasks() -> None:
    limits: defaultdict[str, set[int]] = defaultdict(set)
    for task, limit in TASK_LIMITS.items():
        limits[QUEUE_OF.get(task, "control")].add(limit.hard_seconds)

    told = {queue: {int(number) for number in re.findall(r"(\d+) s", row[1])} for queue, row in rows("queue").items()}

    assert set(told) == set(QUEUES)
    assert {queue: told[queue] for queue in limits} == limits
