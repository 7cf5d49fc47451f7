"""The exporter answers whatever is down."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_management.metrics.endpoint import serve
from cache_management.metrics.families import as_data
from cache_management.models.store import open_stores
from cache_management.settings import Settings, load_settings
from cache_management.workers.client import JobClient
from cache_management.workers.exporter import Exporter
from tests.conftest import OwnRedis, OwnRedisFactory
from tests.scraping import scrape
from tests.workers.harness import warm_items


@pytest.fixture
def broker(own_redis: OwnRedisFactory) -> OwnRedis:
    return own_redis()


@pytest.fixture
def settings(tmp_path: Path, broker: OwnRedis) -> Settings:
    return load_settings(env={"CACHE_DATA_DIR": str(tmp_path), "CACHE_BROKER_URL": broker.url}).settings


@pytest.fixture
def exporter(settings: Settings) -> Iterator[Exporter]:
    stores = open_stores(settings.metadata_url)
    stores.upgrade()
    stores.close()
    made = Exporter(settings, answer_seconds=3)
    yield made
    made.close()


def ups(exporter: Exporter) -> tuple[float, float]:
    data = as_data(exporter.families())
    return data["cache_jobs_up"], data["cache_broker_up"]


def test_a_submitted_job_is_seen_in_both_places(exporter: Exporter, settings: Settings) -> None:
    client = JobClient(settings)
    client.submit_warm(warm_items(3))
    client.close()

    data = as_data(exporter.families())

    assert {"queue": "warm", "value": 1} in data["cache_queue_depth"]
    assert {"kind": "warm", "state": "dispatched", "value": 1} in data["cache_jobs"]


def test_a_broker_that_hangs_is_down_until_it_answers_again(exporter: Exporter, broker: OwnRedis) -> None:
    assert ups(exporter) == (1, 1)

    broker.pause()
    assert ups(exporter) == (1, 0)

    broker.resume()
    assert ups(exporter) == (1, 1)


def test_a_broker_that_restarts_is_asked_again(exporter: Exporter, broker: OwnRedis) -> None:
    assert ups(exporter) == (1, 1)

    broker.kill()
    assert ups(exporter) == (1, 0)

    broker.restart()
    assert ups(exporter) == (1, 1)


def test_a_database_that_accepts_and_never_answers_does_not_hold_up_a_scrape(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/cache"
        exporter = Exporter(settings.model_copy(update={"metadata_url": url}), answer_seconds=1)
        server = serve(exporter.families, host="127.0.0.1", port=0, path="/metrics")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            # The second one comes while the first question is still under way.
            for _ in range(2):
                told = scrape(f"http://127.0.0.1:{server.server_port}/metrics")
                assert "cache_jobs_up 0.0" in told
                assert "cache_broker_up 1.0" in told
        finally:
            server.shutdown()
            server.server_close()
            exporter.close()


def test_a_database_without_tables_is_down(settings: Settings) -> None:
    exporter = Exporter(settings)

    assert ups(exporter) == (0, 1)

    exporter.close()


def test_without_a_broker_jobs_are_told_of(settings: Settings, exporter: Exporter) -> None:
    alone = Exporter(settings.model_copy(update={"broker_url": None}))

    assert ups(alone) == (1, 0)

    alone.close()
