"""Export and import jobs: what the steps do, what they refuse, and what a submitter gets."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.errors import BackendRefused, InvalidInput
from cache_management.cache.invalidation import Selection
from cache_management.cache.transfer import exporting
from cache_management.cache.transfer.lines import encode_line
from cache_management.models.store.results import JobView
from tests.cache.reasoning.results import chain
from tests.cache.transfer.shelves import answer, contents, line, write_stream
from tests.cache.transfer.test_stream_files import at_most
from tests.workers.inline import Inline

MakeInline = Callable[..., Inline]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "PART_ENTRIES", 20)


def fill(inline: Inline, count: int, *, namespace: str = "default", start: int = 0) -> None:
    cache = inline.platform.in_namespace(namespace).llm_cache
    keys = [f"question {at}" for at in range(start, start + count)]
    inline.do(cache.set_many({key: answer(f"answer to {key}", prompt=key) for key in keys}))


def held(inline: Inline, namespace: str = "default") -> dict[str, Any]:
    return inline.do(contents(inline.platform.in_namespace(namespace).llm_cache))


def counts(job: JobView) -> tuple[int | None, int, int, int]:
    return job.total, job.done, job.skipped, job.failed


def test_entries_travel_from_store_to_store_by_two_jobs(inline: Inline, tmp_path: Path) -> None:
    fill(inline, 205)
    before = held(inline)
    file = tmp_path / "all.jsonl.zst"

    exported = inline.run("export", {"path": str(file)})
    inline.do(inline.platform.llm_cache.delete_many(list(before)[:100]))
    imported = inline.run("import", {"path": str(file), "embed": False})

    assert (exported.state, counts(exported)) == ("succeeded", (205, 205, 0, 0))
    assert exported.summary["bytes"] == exported.bytes == file.stat().st_size
    assert (imported.state, counts(imported)) == ("succeeded", (205, 100, 105, 0))
    assert imported.summary["added"] == 100
    assert held(inline) == before
    assert [each.name for each in tmp_path.glob(".*.part")] == []


def test_reasoning_travels_by_jobs_of_its_own(inline: Inline, tmp_path: Path) -> None:
    cache = inline.platform.reasoning
    for at in range(50):
        inline.do(cache.set(f"key {at}", chain("a", f"b{at}", problem=f"problem {at % 25}")))
    fill(inline, 5)
    file = tmp_path / "reasoning.jsonl.zst"

    exported = inline.run("export", {"path": str(file), "reasoning": True})
    inline.do(cache.invalidate(Selection(everything=True)))
    imported = inline.run("import", {"path": str(file)})
    replaced = inline.run("import", {"path": str(file), "replace": True})

    assert (exported.state, counts(exported)) == ("succeeded", (25, 25, 0, 0))
    assert (imported.state, counts(imported)) == ("succeeded", (25, 25, 0, 0))
    assert "embed_job" not in imported.summary
    assert len(inline.do(cache.list_keys())) == 50
    assert inline.do(cache.get("key 7")) == chain("a", "b7", problem="problem 7")
    assert len(held(inline)) == 5
    assert (replaced.state, "cannot replace" in (replaced.last_error or "")) == ("failed", True)


def test_a_job_replaces_a_namespace_and_only_that(inline: Inline, tmp_path: Path) -> None:
    fill(inline, 10)
    fill(inline, 30, namespace="other")
    inline.run("export", {"path": str(tmp_path / "x.jsonl")})
    before = held(inline)
    fill(inline, 50, start=5)

    job = inline.run("import", {"path": str(tmp_path / "x.jsonl"), "replace": True, "embed": False})

    assert (job.state, job.summary["removed"], job.summary["step"]) == ("succeeded", 45, "done")
    assert counts(job) == (10, 5, 5, 0), "half of them were there as they are"
    assert held(inline) == before
    assert len(held(inline, "other")) == 30


def test_what_was_imported_is_embedded_by_a_job_that_follows(inline: Inline, tmp_path: Path) -> None:
    fill(inline, 5)
    inline.run("export", {"path": str(tmp_path / "x.jsonl")})
    inline.do(inline.platform.llm_cache.delete_many([f"question {at}" for at in range(5)]))

    job = inline.run("import", {"path": str(tmp_path / "x.jsonl")})
    again = inline.run("import", {"path": str(tmp_path / "x.jsonl")})

    embed = inline.client.get(job.summary["embed_job"])
    assert (embed.kind, embed.state, embed.done, embed.namespace) == ("embed", "succeeded", 5, "default")
    assert inline.do(inline.platform.manager.find_similar("question 3", 0.99))[0].key == "question 3"
    assert "embed_job" not in again.summary, "nothing was written"


def test_only_what_matches_is_exported_and_the_rest_is_counted(inline: Inline, tmp_path: Path) -> None:
    fill(inline, 30)

    job = inline.run("export", {"path": str(tmp_path / "x.jsonl"), "pattern": "question 1*"})

    assert counts(job) == (30, 11, 19, 0)


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_that_cannot_be_imported_fails_the_job_and_changes_nothing(
    inline: Inline, tmp_path: Path, replace: bool
) -> None:
    fill(inline, 3)
    before = held(inline)
    bad = encode_line(line("a secret prompt")).replace(b"secret", b"s\\ud800t")
    write_stream(tmp_path / "x.jsonl", *[[line(f"q{at}")] for at in range(20)], [bad])

    job = inline.run("import", {"path": str(tmp_path / "x.jsonl"), "replace": replace})

    assert (job.state, job.done) == ("failed", 0)
    assert "nothing was imported" in (job.last_error or "")
    assert "line 42" in (job.last_error or "")
    assert "prompt" not in (job.last_error or "")
    assert held(inline) == before
    assert inline.platform.llm_cache.backend._pieces == {}  # type: ignore[attr-defined]


def test_another_namespace_is_refused_unless_it_is_named(inline: Inline, tmp_path: Path) -> None:
    fill(inline, 3, namespace="other")
    inline.run("export", {"path": str(tmp_path / "x.jsonl")}, namespace="other")

    refused = inline.run("import", {"path": str(tmp_path / "x.jsonl"), "embed": False})
    named = inline.run("import", {"path": str(tmp_path / "x.jsonl"), "embed": False, "from_namespace": "other"})

    assert (refused.state, "--from-namespace other" in (refused.last_error or "")) == ("failed", True)
    assert (named.state, named.done) == ("succeeded", 3)


def test_a_worker_that_does_not_see_the_file_says_which_machine_it_is_on(inline: Inline, tmp_path: Path) -> None:
    imported = inline.run("import", {"path": str(tmp_path / "absent.jsonl")})
    exported = inline.run("export", {"path": str(tmp_path / "absent" / "x.jsonl")})
    (tmp_path / "there.jsonl").write_text("somebody's")
    there = inline.run("export", {"path": str(tmp_path / "there.jsonl")})

    for job, says in ((imported, "no such file"), (exported, "no folder"), (there, "is there already")):
        assert job.state == "failed"
        assert says in (job.last_error or "")
        assert os.uname().nodename in (job.last_error or "")
    assert (tmp_path / "there.jsonl").read_text() == "somebody's"


@pytest.mark.parametrize("path", ["x.jsonl", "/tmp/x.json", "/tmp/x"])
def test_a_path_that_no_worker_can_use_is_refused_at_submit(inline: Inline, path: str) -> None:
    for kind in ("export", "import"):
        with pytest.raises(InvalidInput, match="path"):
            inline.client.submit(kind, {"path": path})


def test_a_full_disk_pauses_the_export_which_goes_on_when_there_is_room(inline: Inline, tmp_path: Path) -> None:
    fill(inline, 1_000)
    file = tmp_path / "x.jsonl"
    # More than the metadata database has, less than the export will.
    room = max(each.stat().st_size for each in (tmp_path / "data").iterdir()) + 150_000
    fill(inline, 2_000, start=1_000)

    with at_most(room):
        paused = inline.run("export", {"path": str(file)})
    inline.client.request(paused.id, "resume")
    resumed = inline.client.get(paused.id)
    job = inline.finish(paused.id)

    assert (paused.state, file.stat().st_size > room) == ("paused", True)
    assert "there is no room" in (paused.last_error or "")
    assert f"jobs resume {paused.id}" in (paused.last_error or "")
    assert 0 < paused.done < 3_000
    assert resumed.last_error is None
    assert (job.state, counts(job)) == ("succeeded", (3_000, 3_000, 0, 0))
    assert inline.run("import", {"path": str(file), "embed": False}).summary["present"] == 3_000


def test_a_store_without_room_for_the_stage_pauses_the_import(
    inline: Inline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(inline, 3)
    inline.run("export", {"path": str(tmp_path / "x.jsonl")})
    stash = MemoryBackend.stash

    async def refuse(self: object, *args: object, **options: object) -> None:
        raise BackendRefused("redis", "OOM command not allowed")

    monkeypatch.setattr(MemoryBackend, "stash", refuse)
    paused = inline.run("import", {"path": str(tmp_path / "x.jsonl"), "replace": True, "embed": False})
    monkeypatch.setattr(MemoryBackend, "stash", stash)
    inline.client.request(paused.id, "resume")

    assert (paused.state, "make room" in (paused.last_error or "")) == ("paused", True)
    assert inline.finish(paused.id).state == "succeeded"


def test_an_import_waits_while_another_is_at_work(inline: Inline, tmp_path: Path) -> None:
    fill(inline, 3)
    inline.run("export", {"path": str(tmp_path / "x.jsonl")})
    backend: Any = inline.platform.llm_cache.backend
    inline.do(backend.acquire("cm1:lease:import:default", owner="another", ttl_seconds=60))
    job_id = inline.client.submit("import", {"path": str(tmp_path / "x.jsonl"), "replace": True, "embed": False}).job_id
    inline.answer(inline.rung.pop(0))
    inline.answer(inline.rung.pop(0))

    waiting = inline.client.get(job_id)
    inline.do(backend.release("cm1:lease:import:default", owner="another"))
    inline.pass_time(5)

    assert (waiting.state, waiting.shards[1].deliveries) == ("running", 0)
    assert inline.delays[-1] > 0
    assert inline.finish(job_id).state == "succeeded"


def test_a_file_that_changes_behind_the_verification_is_not_merged(
    inline: Inline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_stream(tmp_path / "x.jsonl", [line("q")])
    job_id = inline.client.submit("import", {"path": str(file), "embed": False}).job_id
    inline.answer(inline.rung.pop(0))
    write_stream(file, [line("another")])

    job = inline.finish(job_id)

    assert (job.state, "no longer the one that was verified" in (job.last_error or "")) == ("failed", True)
    assert held(inline) == {}


def test_a_lost_stage_ends_the_job_with_its_reason(
    inline: Inline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(inline, 3)
    file = write_stream(tmp_path / "x.jsonl", [line("one")], [line("two")])
    job_id = inline.client.submit("import", {"path": str(file), "replace": True, "embed": False}).job_id
    inline.answer(inline.rung.pop(0))
    backend: Any = inline.platform.llm_cache.backend
    inline.do(backend.drop_stashed([f"cm1:stash:default:{job_id}:2"]))

    job = inline.finish(job_id)

    assert (job.state, "import once more" in (job.last_error or "").lower()) == ("partial", True)
    assert len(held(inline)) >= 3, "nothing was removed"


def test_a_bounded_rate_is_kept_by_resting(inline: Inline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(inline, 40)
    rests: list[float] = []

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr("cache_management.workers.transfer.sleep", rest)
    job = inline.run("export", {"path": str(tmp_path / "x.jsonl"), "entries_per_second": 2_000})

    assert job.state == "succeeded"
    assert 0.5 < rests[0] <= 1.0, "two parts of a thousand may be written in a second"
