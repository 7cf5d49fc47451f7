"""What a submitter sees when the broker or the database is away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cache_management.cache.errors import MetadataUnavailable
from cache_management.models.store.results import Ring
from cache_management.settings import load_settings
from cache_management.workers.client import JobClient
from tests.conftest import OwnRedisFactory
from tests.workers.harness import warm_items


@pytest.fixture
def client(tmp_path: Path) -> Iterator[JobClient]:
    """A client whose broker is this process."""
    (tmp_path / "data").mkdir()
    env = {"CACHE_BROKER_URL": "memory://", "CACHE_DATA_DIR": str(tmp_path / "data")}
    made = JobClient(load_settings(env=env).settings)
    made.stores.upgrade()
    yield made
    made.close()


@pytest.fixture
def sent(client: JobClient, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of every message."""
    found: list[Any] = []
    monkeypatch.setattr(client.celery, "send_task", lambda _name, args, **_: found.append(tuple(args)))
    return found


def test_a_job_is_accepted_when_the_database_goes_away_behind_the_doorbell(
    client: JobClient, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_ring: Ring) -> None:
        raise MetadataUnavailable("gone")

    monkeypatch.setattr(client.stores.jobs, "mark_dispatched", away)

    submitted = client.submit_warm(warm_items(1))

    assert client.get(submitted.job_id).state == "queued"
    assert sent == [(submitted.job_id, 0, 0)]


def test_a_broker_that_is_away_holds_a_submit_up_only_shortly(tmp_path: Path) -> None:
    env = {"CACHE_BROKER_URL": "redis://127.0.0.1:1/0", "CACHE_DATA_DIR": str(tmp_path)}
    client = JobClient(load_settings(env=env).settings)
    client.stores.upgrade()

    started = time.monotonic()
    submitted = client.submit_warm(warm_items(1))
    took = time.monotonic() - started

    state = client.get(submitted.job_id).state
    client.close()
    assert state == "queued"
    assert took < 4  # about a tenth of a second, and six before


def test_a_kept_connection_survives_a_restart_of_the_broker(tmp_path: Path, own_redis: OwnRedisFactory) -> None:
    broker = own_redis(appendonly=True)
    env = {"CACHE_BROKER_URL": broker.url, "CACHE_DATA_DIR": str(tmp_path)}
    client = JobClient(load_settings(env=env).settings)
    client.stores.upgrade()
    ring = Ring("known", 0, 0, "warm", "plan")
    assert client.ring([ring])

    broker.kill()
    broker.restart()

    rang = client.ring([ring])
    client.close()
    assert rang


def test_a_ring_of_an_unknown_kind_is_skipped_and_the_others_ring(client: JobClient, sent: list[Any]) -> None:
    rings = [Ring("newer", 0, 0, "unheard of", "plan"), Ring("known", 0, 0, "warm", "plan")]

    assert client.ring(rings) is False

    assert sent == [("known", 0, 0)]
