"""queues: what a person sees of the broker."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cache_management.models.store import open_stores
from cache_management.settings import load_settings
from cache_management.workers.client import JobClient
from tests.cli.conftest import Cli
from tests.conftest import OwnRedisFactory


@pytest.fixture
def client(cli: Cli, own_redis: OwnRedisFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobClient]:
    """A way to the broker that the command reads too."""
    monkeypatch.setenv("CACHE_BROKER_URL", own_redis().url)
    made = JobClient(load_settings().settings)
    made.stores.upgrade()
    yield made
    made.close()


def send(client: JobClient, queue: str, *, seconds_ago: float) -> None:
    sent_at = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    client.celery.send_task("some.task", queue=queue, headers={"sent_at": sent_at.isoformat()})


def test_a_queue_that_nobody_takes_from_is_stuck_and_one_that_is_worked_on_is_not(cli: Cli, client: JobClient) -> None:
    for queue in ("warm", "warm", "embed"):
        send(client, queue, seconds_ago=300)
    client.stores.operations.touch_mark("embed", "embed@here")

    found = {row["queue"]: row for row in cli("queues", "--json").data}
    table = [" ".join(line.split()) for line in cli("queues").out.splitlines()]

    assert (found["warm"]["depth"], found["warm"]["stuck"], found["warm"]["workers"]) == (2, True, 0)
    assert 290 < found["warm"]["oldest_seconds"] < 400
    assert (found["embed"]["depth"], found["embed"]["stuck"], found["embed"]["workers"]) == (1, False, 1)
    assert found["control"]["depth"] == 0
    assert any("warm" in line and "2 │ 5 min ago" in line and "stuck" in line for line in table)
    assert any("embed" in line and "ok" in line for line in table)
    assert any("control" in line and "no workers" in line for line in table)


def test_without_the_database_the_broker_is_shown_and_nothing_is_called_stuck(cli: Cli, client: JobClient) -> None:
    send(client, "warm", seconds_ago=300)
    file = Path(open_stores(client.settings.metadata_url).database.file or "")
    file.write_bytes(b"no database at all")

    found = cli("queues", "--json")

    assert found.code == 5
    assert [(row["depth"], row["stuck"]) for row in found.data if row["queue"] == "warm"] == [(1, False)]
    assert "metadata" in found.err


def test_an_unreachable_broker_is_exit_code_4(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_BROKER_URL", "redis://:secret@127.0.0.1:1/0")

    found = cli("queues")

    assert (found.code, "does not answer" in found.err, "secret" in found.err) == (4, True, False)


def test_without_a_broker_there_is_a_way_out(cli: Cli) -> None:
    found = cli("queues")

    assert (found.code, "cache-cli up" in found.err) == (4, True)
