"""docs/operating.md tells of what there is: every queue with its limits."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from cache_management.workers import messages
from cache_management.workers.messages import QUEUES, TASK_LIMITS

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "operating.md").read_text()
QUEUE_OF = {route.task: route.queue for route in messages.ROUTES.values()}


def rows(first: str) -> dict[str, list[str]]:
    """Return the rows of the table whose first column has this name, by their first cell."""
    table = re.search(rf"^\| {first} \|.*\n\|[-| ]+\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    assert table, first
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.group(1).splitlines()]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_every_queue_stands_there_with_the_limits_of_its_tasks() -> None:
    limits: defaultdict[str, set[int]] = defaultdict(set)
    for task, limit in TASK_LIMITS.items():
        limits[QUEUE_OF.get(task, "control")].add(limit.hard_seconds)

    told = {queue: {int(number) for number in re.findall(r"(\d+) s", row[1])} for queue, row in rows("queue").items()}

    assert set(told) == set(QUEUES)
    assert {queue: told[queue] for queue in limits} == limits
