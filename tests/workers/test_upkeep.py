"""Pruning and the check of the audit log, as jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from cache_management.cache.transfer.exporting import owner_of
from cache_management.cache.transfer.stream_files import StreamWriter
from cache_management.workers import upkeep
from tests.workers.inline import Inline


def test_a_prune_job_says_what_went(inline: Inline) -> None:
    first = inline.run("prune")
    assert (first.state, first.done) == ("succeeded", 0)

    job = inline.run("prune", {"jobs_days": 0})

    assert (job.state, job.done, job.summary["jobs"]) == ("succeeded", 1, 1)
    assert [each.id for each in inline.stores.jobs.list()] == [job.id]


def test_a_whole_log_is_proven_page_by_page(inline: Inline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_ROWS_AT_ONCE", 3)
    for _ in range(10):
        inline.stores.audit.append(actor="me", action="tried")

    job = inline.run("audit-verify")

    assert job.state == "succeeded"
    assert job.done == job.summary["head_id"] >= 11


def test_a_changed_entry_fails_the_job_and_names_it(inline: Inline) -> None:
    for _ in range(4):
        inline.stores.audit.append(actor="me", action="tried")
    with inline.stores.database.write() as connection:
        connection.execute(text("DROP TRIGGER audit_log_no_update"))
        connection.execute(text("UPDATE audit_log SET actor = 'nobody' WHERE id = 2"))

    job = inline.run("audit-verify")

    assert job.state == "failed"
    assert "broken at entry 2" in (job.last_error or "")


def test_a_log_that_lost_its_end_since_the_last_check_is_broken(inline: Inline) -> None:
    for _ in range(5):
        inline.stores.audit.append(actor="me", action="tried")
    proven = inline.run("audit-verify").summary["head_id"]
    with inline.stores.database.write() as connection:
        connection.execute(text("DROP TRIGGER audit_log_no_delete"))
        connection.execute(text("DELETE FROM audit_log WHERE id > 2"))

    job = inline.run("audit-verify")

    assert job.state == "failed"
    # Whole in itself: what was appended since follows the entry that is last now.
    assert proven > 3
    assert "broken at entry" in (job.last_error or "")


def test_a_repair_of_a_store_with_one_copy_says_that_there_is_nothing_to_repair_from(inline: Inline) -> None:
    job = inline.run("repair")

    assert job.state == "failed"
    assert "keeps one copy" in (job.last_error or "")


def test_files_of_exports_that_will_not_be_finished_go_with_the_next_pruning(inline: Inline, tmp_path: Path) -> None:
    left, kept = (
        inline.client.submit("export", {"path": str(tmp_path / f"{name}.jsonl")}).job_id for name in ("left", "kept")
    )
    inline.rung.clear()
    files = {}
    for job_id, name in ((left, "left"), (kept, "kept")):
        writer = StreamWriter(tmp_path / f"{name}.jsonl", owner=owner_of(job_id))
        writer.unfinished.write_text("answers")
        files[name] = writer.unfinished
    inline.client.request(left, "cancel")
    inline.client.request(kept, "pause")

    job = inline.run("prune")

    assert job.summary["unfinished_files"] == 1
    assert (files["left"].exists(), files["kept"].exists()) == (False, True)
