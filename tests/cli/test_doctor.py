"""doctor on real set-ups, whole and broken."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.semantic.matcher import SimilarityMatcher
from cache_management.models.store import open_stores, schema
from cache_management.settings import load_settings
from cache_management.wiring import open_platform
from cache_management.workers import examination
from cache_management.workers.client import JobClient
from tests.cli.conftest import Cli, Result
from tests.conftest import OwnRedisCluster, OwnRedisFactory
from tests.waiting import wait_until
from tests.workers.harness import job_world


def not_well(found: Result) -> dict[str, tuple[str, str]]:
    """Return level and text of what is not well, by check."""
    return {each["check"]: (each["level"], each["what"]) for each in found.data["findings"] if each["level"] != "ok"}


def upgraded() -> str:
    url = load_settings().settings.metadata_url
    stores = open_stores(url)
    stores.upgrade()
    stores.close()
    return url


def test_a_first_run_is_well_without_servers_and_nothing_is_made(cli: Cli, data_dir: Path) -> None:
    found = cli("doctor", "--json")
    shown = cli("doctor")

    assert (found.code, found.data["level"]) == (0, "warn")
    assert set(not_well(found)) == {"broker"}
    assert not data_dir.exists()
    assert "do   set broker_url" in shown.out


def test_a_broker_that_evicts_and_forgets_and_is_the_cache_too(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, own_redis: OwnRedisFactory
) -> None:
    server = own_redis(maxmemory_policy="allkeys-lru")
    monkeypatch.setenv("CACHE_BROKER_URL", server.url)
    monkeypatch.setenv("CACHE_URL", server.url)
    upgraded()

    found = cli("doctor", "--json")

    assert found.code == 1
    levels = {check: level for check, (level, _) in not_well(found).items()}
    assert levels == {
        "broker policy": "fail",
        "broker persistence": "warn",
        "broker apart from the cache": "fail",
        "cache policy": "warn",
        "workers": "warn",
        "unconsumed queues": "warn",
        "scheduler": "fail",
        "usage": "warn",
    }


def test_broker_database_and_store_are_down_and_each_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_BROKER_URL", "redis://:secret@127.0.0.1:1/0")
    monkeypatch.setenv("CACHE_URL", "redis://:secret@127.0.0.1:1/0")
    monkeypatch.setenv("CACHE_METADATA_URL", "postgresql://u:secret@127.0.0.1:1/db")

    found = cli("doctor", "--json")

    bad = not_well(found)
    assert found.code == 1
    assert {check for check, (level, _) in bad.items() if level == "fail"} == {"broker", "metadata", "cache store"}
    assert bad["vectors"][0] == "warn"
    assert "data folder" in {each["check"] for each in found.data["findings"]}
    assert "secret" not in found.out + found.err


def test_a_redis_cluster_is_looked_at_as_a_whole(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, redis_cluster: OwnRedisCluster
) -> None:
    monkeypatch.setenv("CACHE_URL", redis_cluster.url.replace("redis+cluster://", "redis+cluster://default:secret@"))

    found = cli("doctor", "--json")

    assert set(not_well(found)) == {"broker"}
    (store,) = (each for each in found.data["findings"] if each["check"] == "cache store")
    assert store["what"].startswith("redis+cluster://default:********@127.0.0.1:")
    assert "secret" not in found.out + found.err


def test_a_frozen_broker_holds_nothing_up_for_long(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, own_redis: OwnRedisFactory
) -> None:
    server = own_redis()
    monkeypatch.setenv("CACHE_BROKER_URL", server.url)
    monkeypatch.setattr(examination, "SECONDS", 1.0)
    server.pause()

    found = cli("doctor", "--json")

    assert not_well(found)["broker"] == ("fail", "no answer within 1 s")
    assert {each["check"] for each in found.data["findings"]} >= {"metadata", "cache store", "disk space"}


def test_a_store_and_a_broker_that_are_full_say_so_with_the_way_out(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, own_redis: OwnRedisFactory
) -> None:
    store, broker = own_redis(), own_redis(appendonly=True)
    monkeypatch.setenv("CACHE_URL", store.url)
    monkeypatch.setenv("CACHE_BROKER_URL", broker.url)
    for server in (store, broker):
        server.command("SET", "ballast", "x" * 1_000_000, "EX", 600)
        server.command("CONFIG", "SET", "maxmemory", 1_000_000)

    found = cli("doctor", "--no-model", "--json")

    bad = not_well(found)
    assert found.code == 1
    assert {check for check, (level, _) in bad.items() if level == "fail"} == {
        "room of the store",
        "room of the broker",
        "broker at work",
    }
    (at_work,) = (each for each in found.data["findings"] if each["check"] == "broker at work")
    assert at_work["way_out"].startswith("it is full")


def test_a_full_store_on_disk_says_which_bound_it_is_at(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(3):
        cli("set-cache", f"q {at}", "an answer")
    monkeypatch.setenv("CACHE_MAX_SIZE", "3")

    found = cli("doctor", "--no-model", "--json")

    (room,) = (each for each in found.data["findings"] if each["check"] == "room of the store")
    assert (found.code, room["level"], room["way_out"].startswith("raise max_size")) == (0, "warn", True)


def test_with_everything_silent_it_ends_in_time(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "SECONDS", 1.0)
    monkeypatch.setattr(examination, "MODEL_SECONDS", 1.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("CACHE_URL", f"redis://{place}/0")
        monkeypatch.setenv("CACHE_BROKER_URL", f"redis://{place}/0")
        monkeypatch.setenv("CACHE_METADATA_URL", f"postgresql://me@{place}/cache")
        started = time.monotonic()

        found = cli("doctor", "--json")

        took = time.monotonic() - started
    levels = {check: level for check, (level, _) in not_well(found).items()}
    assert levels == {"broker": "fail", "metadata": "fail", "cache store": "fail", "vectors": "warn"}
    # The parts are asked at the same time, so their limits do not add up. Unpatched these are 10 s and 14 s.
    assert took < 4


def test_tables_of_an_older_version_are_named_with_the_way_out(cli: Cli) -> None:
    schema.upgrade(load_settings().settings.metadata_url, "0001")

    found = cli("doctor", "--json")

    (finding,) = [each for each in found.data["findings"] if each["check"] == "metadata"]
    assert (found.code, finding["level"]) == (1, "fail")
    assert "0001" in finding["what"]
    assert "cache-cli db upgrade" in finding["way_out"]


def test_vectors_of_another_model_only_are_a_failure_and_a_change_under_way_is_not(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def plant() -> None:
        platform = open_platform(load_settings().settings)
        matcher = SimilarityMatcher(
            platform.settings.similarity(), backend=platform.llm_cache.backend, embedder=HashingEmbedder(32)
        )
        await matcher.index_entry("question", "answer")
        await matcher.aclose()
        await platform.aclose()

    asyncio.run(plant())

    wrong = not_well(cli("doctor", "--json"))["vectors"]
    monkeypatch.setenv("CACHE_SEMANTIC__PREVIOUS_MODEL", "the-former-one")
    under_way = not_well(cli("doctor", "--json"))["vectors"]
    without = cli("doctor", "--no-model", "--json")

    assert (wrong[0], "1 of hashing-32" in wrong[1]) == ("fail", True)
    assert (under_way[0], without.code) == ("warn", 0)
    assert "vectors" not in not_well(without)


@pytest.mark.timeout(120)
def test_a_set_that_works_is_well_and_what_differs_of_its_worker_is_found(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_redis: OwnRedisFactory
) -> None:
    broker = own_redis(appendonly=True)
    with job_world(tmp_path / "world", broker_url=broker.url, cache_url=own_redis().url) as world:
        for name, value in world.env.items():
            monkeypatch.setenv(name, value)
        world.folder.chmod(0o700)
        world.start_worker(queues=("control", "warm", "embed"), concurrency=1, options=["--pool=solo"])
        # What beat sends, a moment after it began.
        beat = (
            "from celery import signals; from cache_management.workers.app import app;"
            " signals.beat_init.send(sender=None); app.send_task('control.reconcile', queue='control')"
        )
        subprocess.run([sys.executable, "-c", beat], check=True, env={**os.environ})
        wait_until(lambda: any(mark.queue == "beat" for mark in world.stores.operations.marks()))

        well = cli("doctor", "--json")
        monkeypatch.setenv("CACHE_EMBEDDING_MODEL", "all-mpnet-base-v2")
        monkeypatch.setenv("CACHE_NEAR_MAX_SIZE", "10")
        other = cli("doctor", "--no-model", "--json")

    assert well.code == 0, well.out
    assert {check: level for check, (level, _) in not_well(well).items()} == {
        "pool of w0@" + os.uname().nodename: "warn",
        "unconsumed queues": "warn",
    }
    assert "evict, repair, transfer" in not_well(well)["unconsumed queues"][1]
    (scheduler,) = [each["what"] for each in well.data["findings"] if each["check"] == "scheduler"]
    assert scheduler.startswith("1 scheduler: ")
    assert other.code == 1
    level, what = not_well(other)["settings of w0@" + os.uname().nodename]
    assert (level, "embeds with hashing" in what) == ("fail", True)


def test_messages_that_nobody_takes_and_queues_of_others_are_found(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, own_redis: OwnRedisFactory
) -> None:
    monkeypatch.setenv("CACHE_BROKER_URL", own_redis(appendonly=True).url)
    upgraded()
    client = JobClient(load_settings().settings)
    long_ago = {"sent_at": (datetime.now(UTC) - timedelta(seconds=300)).isoformat()}
    client.celery.send_task("warm.plan", queue="warm", headers=long_ago)
    client.celery.send_task("some.task", queue="of-another-version", headers=long_ago)
    client.close()

    found = not_well(cli("doctor", "--json"))

    assert found["queue warm"][0] == "fail"
    assert found["queue of-another-version"] == (
        "warn",
        "1 messages wait in of-another-version, which no worker of this version consumes",
    )
