"""Pruning and the check of the audit log, as jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text

from cache_management.models.store.results import JobView, Ring
from cache_management.settings import load_settings
from cache_management.workers import runtime, upkeep
from cache_management.workers.chunk import Step, run_chunk
from cache_management.workers.client import JobClient
from cache_management.workers.messages import route_of

STEPS: dict[str, Step] = {"control.prune": upkeep.prune, "control.audit_verify": upkeep.audit_verify}


class Here:
    """Submits jobs and answers their doorbells in this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir(exist_ok=True)
        settings = load_settings(env={"CACHE_URL": "memory://", "CACHE_DATA_DIR": str(folder)}).settings
        self.runtime = runtime.Runtime(settings)
        self.stores = self.runtime.platform.stores
        self.stores.upgrade()
        self.rung: list[Ring] = []
        monkeypatch.setattr(runtime, "current", lambda: self.runtime)
        monkeypatch.setattr(JobClient, "ring", lambda _, rings, **__: self.rung.extend(rings) or True)
        self.client = JobClient(settings, stores=self.stores)

    def run(self, kind: str, params: dict[str, Any] | None = None) -> JobView:
        job_id = self.client.submit(kind, params or {}).job_id
        while self.rung:
            ring = self.rung.pop(0)
            name = route_of(ring.job_kind, ring.shard_kind).task
            task: Any = SimpleNamespace(name=name, request=SimpleNamespace(id=f"task-{ring.fence}", headers={}))
            run_chunk(task, ring.job_id, ring.shard, ring.fence, STEPS[name])
        return self.client.get(job_id)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    made = Here(tmp_path / "data", monkeypatch)
    yield made
    made.runtime.close()


def test_a_prune_job_says_what_went(here: Here) -> None:
    first = here.run("prune")
    assert (first.state, first.done) == ("succeeded", 0)

    job = here.run("prune", {"jobs_days": 0})

    assert (job.state, job.done, job.summary["jobs"]) == ("succeeded", 1, 1)
    assert [each.id for each in here.stores.jobs.list()] == [job.id]


def test_a_whole_log_is_proven_page_by_page(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_ROWS_AT_ONCE", 3)
    for _ in range(10):
        here.stores.audit.append(actor="me", action="tried")

    job = here.run("audit-verify")

    assert job.state == "succeeded"
    assert job.done == job.summary["head_id"] >= 11


def test_a_changed_entry_fails_the_job_and_names_it(here: Here) -> None:
    for _ in range(4):
        here.stores.audit.append(actor="me", action="tried")
    with here.stores.database.write() as connection:
        connection.execute(text("DROP TRIGGER audit_log_no_update"))
        connection.execute(text("UPDATE audit_log SET actor = 'nobody' WHERE id = 2"))

    job = here.run("audit-verify")

    assert job.state == "failed"
    assert "broken at entry 2" in (job.last_error or "")


def test_a_log_that_lost_its_end_since_the_last_check_is_broken(here: Here) -> None:
    for _ in range(5):
        here.stores.audit.append(actor="me", action="tried")
    proven = here.run("audit-verify").summary["head_id"]
    with here.stores.database.write() as connection:
        connection.execute(text("DROP TRIGGER audit_log_no_delete"))
        connection.execute(text("DELETE FROM audit_log WHERE id > 2"))

    job = here.run("audit-verify")

    assert job.state == "failed"
    # Whole in itself: what was appended since follows the entry that is last now.
    assert proven > 3
    assert "broken at entry" in (job.last_error or "")
