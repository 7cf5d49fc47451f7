"""Readiness of a set-up with real servers, up, down, frozen and misconfigured."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cache_management.cache.readiness import Health
from cache_management.models.store import open_stores, schema
from cache_management.settings import Settings, load_settings
from cache_management.wiring import open_platform
from cache_management.workers.health import Readiness, readiness, routes
from tests.conftest import OwnRedisFactory


def settings_for(folder: Path, **env: str) -> Settings:
    given = {f"CACHE_{name.upper()}": value for name, value in env.items()}
    return load_settings(env={"CACHE_DATA_DIR": str(folder), "CACHE_EMBEDDING_MODEL": "hashing"} | given).settings


def upgraded(settings: Settings) -> Settings:
    stores = open_stores(settings.metadata_url)
    stores.upgrade()
    stores.close()
    return settings


def levels(health: Health) -> dict[str, str]:
    for each in health.findings:
        assert each.level == "ok" or (each.what and each.why and each.way_out), each
    return {each.check: each.level for each in health.findings}


def test_all_parts_answer_and_it_is_ready(tmp_path: Path, own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    found = readiness(upgraded(settings_for(tmp_path, url=server.url, broker_url=server.url)))

    assert (found.ready, levels(found)) == (True, {"cache store": "ok", "metadata": "ok", "broker": "ok"})


def test_a_first_run_is_ready_and_nothing_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "data"

    found = readiness(settings_for(folder))

    assert (found.ready, set(levels(found).values())) == (True, {"ok"})
    assert not folder.exists()


def test_everything_is_down_and_no_password_is_told(tmp_path: Path) -> None:
    away = "redis://me:sesame@127.0.0.1:1/0"
    settings = settings_for(
        tmp_path, url=away, broker_url=away, metadata_url="postgresql://me:sesame@127.0.0.1:1/cache"
    )

    status, _, body = routes(settings)["/readyz"]()
    alive, _, _ = routes(settings)["/healthz"]()

    assert (status, alive) == (503, 200)
    assert {each["check"]: each["level"] for each in json.loads(body)["parts"]} == {
        "cache store": "fail",
        "metadata": "fail",
        "broker": "fail",
    }
    assert b"sesame" not in body


def test_silent_servers_hold_nobody_up_and_are_asked_once_by_many(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = settings_for(
            tmp_path,
            url=f"redis://{place}/0",
            broker_url=f"redis://{place}/0",
            metadata_url=f"postgresql://me@{place}/c",
        )
        asking = Readiness(settings, answer_seconds=1.0)
        started = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: asking.look(), range(8)))
        took = time.monotonic() - started

    assert {each.ready for each in found} == {False}
    assert set(levels(found[0]).values()) == {"fail"}
    assert took < 2.5  # three parts and eight callers in turn would take 24


def test_a_store_that_restarts_is_ready_again(tmp_path: Path, own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    settings = settings_for(tmp_path, url=server.url)

    server.kill()
    down = readiness(settings)
    server.restart()
    up = readiness(settings)

    assert (down.ready, up.ready) == (False, True)


def test_tables_of_an_older_version_are_not_ready(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    schema.upgrade(settings.metadata_url, "0001")

    found = readiness(settings)

    assert levels(found) == {"cache store": "ok", "metadata": "fail"}
    assert "cache-cli db upgrade" in found.findings[1].way_out


def test_workers_need_tables_that_a_first_command_would_make(tmp_path: Path, own_redis: OwnRedisFactory) -> None:
    found = readiness(settings_for(tmp_path, broker_url=own_redis().url))

    assert levels(found)["metadata"] == "fail"
    assert not (tmp_path / "metadata.sqlite").exists()


@pytest.mark.parametrize("lost", [1, 2])
def test_a_replicated_cache_is_ready_while_its_quorum_answers(
    tmp_path: Path, own_redis: OwnRedisFactory, lost: int
) -> None:
    servers = [own_redis() for _ in range(3)]
    places = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    settings = settings_for(tmp_path, distributed__enabled="true", distributed__nodes=places)

    async def use() -> None:
        platform = open_platform(settings.model_copy(update={"strict": True, "timeout_seconds": 5.0}))
        await platform.llm_cache.backend.ping()
        await platform.aclose()

    untouched = readiness(settings)
    empty = [server.command("DBSIZE") for server in servers]
    asyncio.run(use())
    for server in servers[:lost]:
        server.kill()
    found = readiness(settings)

    assert (untouched.ready, empty) == (True, [0, 0, 0])
    assert found.ready == (lost == 1)
    expected: dict[str, Any] = {f"node 127.0.0.1:{server.port}": "warn" for server in servers[:lost]}
    if lost == 2:
        expected = dict.fromkeys(["nodes", *expected], "fail")
    assert {check: level for check, level in levels(found).items() if level != "ok"} == expected
