"""The bench runs. How fast anything is, no test says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from cache_management.cache.codec import pack, unpack
from tests.bench import (
    backends,
    cluster,
    embedding,
    eviction,
    flight,
    growth,
    imports,
    jobs,
    overhead,
    peers,
    proxy,
    reasoning,
    search,
    semantic,
    transfer,
    warm,
)
from tests.bench.measure import Effort, Report, Side, as_table, compare, environment, percentile, spread

TINY = Effort(rounds=2, run_seconds=0.0, samples=2)
# aiocache calls what redis-py has deprecated.
old_calls = pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning")


async def test_each_call_of_memory_and_disk_stands_beside_its_reference():
    report = await backends.measure(TINY, kinds=("memory", "disk"), sizes=(1_000,), entries=20)

    assert {(row.what, row.reference) for row in report.rows} == {
        (f"{kind} {call}", reference)
        for kind, reference in (("memory", "dict"), ("disk", "sqlite3"))
        for call in (
            "backend.get",
            "backend.set",
            "LLMCache.get",
            "LLMCache.set",
            "backend.get_many 20",
            "backend.put_many 20",
            "LLMCache.get_many 20",
            "LLMCache.set_many 20",
        )
    }
    assert all(row.ours.median > 0 and row.theirs.median > 0 for row in report.rows)


@old_calls
async def test_each_call_stands_beside_each_cache_that_is_installed():
    report = await peers.measure(TINY, entries=20, at_once=5)

    found = {(row.what, row.reference) for row in report.rows}
    assert ("disk LLMCache.set", "sqlite3") in found
    assert ("redis LLMCache.get, 5 callers", "redis-py") in found
    for name, what in (
        ("cashews", "memory LLMCache.get"),
        ("cashews", "redis LLMCache.get_many 5"),
        ("aiocache", "memory backend.set"),
        ("aiocache", "redis LLMCache.set"),
        ("theine", "memory LLMCache.set"),
        ("diskcache", "disk backend.get"),
    ):
        missing = [note for note in report.notes if note.startswith(f"{name} is left out")]
        assert ((what, name) in found) is not bool(missing), name


async def test_a_computation_stands_beside_its_bare_steps():
    report = await flight.measure(TINY, entries=20)

    assert {
        ("get_or_compute hit", "LLMCache.get"),
        ("get_or_compute miss", "get, compute, set"),
        ("SingleFlight.run alone", "the bare coroutine"),
    } <= {(row.what, row.reference) for row in report.rows}


async def test_a_larger_store_stands_beside_a_small_one():
    report = await growth.measure(TINY, sizes=(10, 30))

    assert [row.what for row in report.rows] == [
        f"{kind} {call} at 30" for kind in ("memory", "disk") for call in ("get", "set")
    ]


@old_calls
async def test_bytes_are_counted_for_each_kind_of_store():
    report = await overhead.measure(entries=200)

    assert {row.what for row in report.rows} >= {"disk, each entry", "redis, each entry"}
    assert all(row.ours.median > 0 and row.unit == "bytes" for row in report.rows if row.what.startswith("redis"))


async def test_reasoning_stands_beside_whole_results_and_takes_less():
    report = await reasoning.measure(TINY, sizes=(10,), known=(200,))

    stored = {row.what: row for row in report.rows if row.unit == "bytes"}
    assert set(stored) == {f"{kind}: 300 chains, each step" for kind in ("memory", "disk", "redis")}
    goals = {"memory": 0.8, "disk": 0.6, "redis": 0.6}  # memory misses 0.6: a record of its own for each key
    assert all(stored[f"{kind}: 300 chains, each step"].ratio <= goal for kind, goal in goals.items())
    assert {"memory tree of 10: get", "redis: longest prefix among 200 steps"} <= {row.what for row in report.rows}


async def test_every_policy_is_replayed_and_timed():
    replayed = await eviction.measure(quick=True, requests=1_000)
    timed = await eviction.measure_speed(TINY)

    assert {row.what for row in replayed.rows} >= {"hits, 10% of keys, s3fifo", "money, 5% of bytes, gdsf a=1"}
    assert {row.what for row in timed.rows} >= {"lru hit", "ttl evict and insert"}


async def test_search_stands_beside_a_product_with_all_rows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(search, "_PAIRS", Path("absent"))  # vectors at random: no model is loaded

    report = await search.measure(sizes=(50, 300), queries=5, texts=400)

    assert [row.what for row in report.rows] == [
        f"{kind} among {size}" for size in (50, 300) for kind in ("paraphrase", "new")
    ]
    assert report.details["300"]["new_recall_10"] == 1.0


async def test_imports_are_timed_as_whole_processes():
    report = await imports.measure(rounds=1)

    assert {row.reference for row in report.rows} == {"python", "import pydantic"}


async def test_exports_and_imports_stand_beside_the_bare_store():
    report = await transfer.measure(sizes=(50,), kinds=("disk",), rounds=1)

    assert [(row.what, row.reference) for row in report.rows] == [
        ("disk export of 50", "bare walk"),
        ("disk merge of 50", "bare writes"),
        ("disk replace of 50", "bare writes"),
    ]
    assert all("peak" in note for note in report.notes[2:])


async def test_the_proxy_stands_beside_the_provider_and_litellm_where_it_is_installed():
    report = await proxy.measure(TINY, stores=("memory",), at_once=3, requests=10)

    asked = {"hit", "streamed hit", "miss", "streamed miss", "hit, 3 callers"}
    others = {"the provider"} if proxy.litellm_program() is None else {"the provider", "LiteLLM"}
    assert {(row.what, row.reference) for row in report.rows} == {
        (f"memory: {what}", other) for what in asked for other in others
    }
    assert all(row.ours.median > 0 and row.theirs.median > 0 for row in report.rows)


@pytest.mark.slow
async def test_a_warm_job_stands_beside_the_bare_model():
    report: Report = await warm.measure(quick=True, rounds=1, count=20)

    assert [row.what for row in report.rows] == ["warm job of 20"]


@pytest.mark.slow
async def test_embedding_engines_stand_beside_each_other(models_dir: Path):
    report = await embedding.measure(rounds=1, batch=5, singles=3, starts=0, models=models_dir)

    measured = {(row.what, row.reference) for row in report.rows}
    assert {("a question", "torch"), ("`fits` of a question", "torch")} <= measured
    assert all(row.ours.median > 0 and row.theirs.median > 0 for row in report.rows)


# What the others import and call is deprecated here and there.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning")
@pytest.mark.slow
async def test_a_whole_answer_by_meaning_stands_beside_other_semantic_caches():
    report = await semantic.measure(TINY, pairs=20)

    found = {(row.what, row.reference) for row in report.rows}
    missing = [note.split()[0] for note in report.notes if "left out" in note]
    if "nothing was measured" not in report.notes[-1]:
        assert {("memory lookup", "the embedding alone"), ("redis repeated lookup", "LLMCache.get")} <= found
        assert (("memory lookup", "GPTCache") in found) is ("gptcache" not in missing)
        assert (("redis lookup", "RedisVL") in found) is ("redisvl" not in missing)
    assert all(row.ours.median > 0 and row.theirs.median > 0 for row in report.rows)


async def test_a_report_can_be_shown_and_written():
    report = await backends.measure(TINY, kinds=("memory",), sizes=(100,), entries=10)
    console = Console(width=150)

    with console.capture() as shown:
        console.print(as_table(report))
    written = msgspec.json.decode(msgspec.json.encode({"environment": environment(), "tables": [report]}))

    assert "memory backend.get" in shown.get()
    assert written["tables"][0]["rows"][0]["what"] == "memory backend.set"
    assert written["environment"]["packages"]["msgspec"]


def test_an_entry_has_the_size_it_is_listed_under():
    for size in backends.SIZES:
        work = backends.make_workload(size, 2)

        values = [unpack(key, frame).value for key, frame in zip(work.storage_keys, work.frames, strict=True)]

        assert values == [record.value for record in work.records]
        assert all(len(pack(key, record)) == len(frame) for key, record, frame in _rows(work))
        if size < 100_000:  # larger ones are compressed
            assert {len(value) for value in values} <= {size, size + 1, size + 2}


async def test_the_ratio_compares_neighbouring_runs():
    calls: list[str] = []

    async def ours() -> None:
        calls.append("ours")

    def theirs() -> None:
        calls.append("theirs")

    found = await compare(Side(ours, [()]), Side(theirs, [()], awaited=False), TINY, what="a call", reference="another")

    # Warm-up, then A B, then B A, then single calls in turn.
    assert calls == ["ours", "theirs"] + ["ours", "theirs", "theirs", "ours"] + ["ours", "theirs"] * 2
    assert found.ratio_low <= found.ratio <= found.ratio_high


def test_percentiles_lie_between_neighbours():
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert percentile([7.0], 99) == 7.0
    assert spread([1.0, 2.0, 3.0]) == (2.0, 1.2, 2.8)


def _rows(work: backends.Workload):
    return zip(work.storage_keys, work.records, work.frames, strict=True)


async def test_a_job_stands_beside_a_bare_loop_and_a_bare_task():
    report = await jobs.measure(items=50, rounds=1, submits=1, kills=0)

    assert [(row.what, row.reference) for row in report.rows] == [
        ("a warm job, each item", "bare loop of the same batches"),
        ("from submit to start", "a Celery task of no job"),
    ]
    assert all(row.ours.median > 0 and row.theirs.median > 0 for row in report.rows)


async def test_the_replicated_cache_stands_beside_clients_that_promise_less():
    report = await cluster.measure(
        cluster.Sizes(
            rounds=1,
            run_seconds=0.001,
            kills=1,
            stops=1,
            hurt_seconds=0.2,
            cluster_kills=1,
            entries=200,
            missed=50,
            versioned=2_000,
        )
    )

    measured = {(row.what, row.reference) for row in report.rows}
    assert {
        ("quorum: get", "naive"),
        ("one: get, 50 at once", "redis-py"),
        ("quorum: set", "redis-py RedisCluster"),
        ("memory of a copy", "SET with PX"),
        ("gap of get after SIGKILL", "naive"),
        ("gap of set after SIGSTOP", "naive"),
        ("Redis Cluster: all slots writable after SIGKILL", "redis-py RedisCluster"),
        ("an empty node is read in", "bare copy"),
        ("repair, 50 missed", "bare walk"),
    } <= measured
    assert all(row.ours.median > 0 and row.theirs.median > 0 for row in report.rows)
    moved = next(row for row in report.rows if row.what == "copies moved when it comes")
    assert moved.ours.median > 0
