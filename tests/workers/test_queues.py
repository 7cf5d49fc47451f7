"""What waits in a real broker, and which queue is called stuck."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from celery import Celery
from kombu import Exchange, Queue

from cache_management.cache.errors import BrokerUnavailable
from cache_management.models.store.results import Mark
from cache_management.settings import load_settings
from cache_management.workers.client import JobClient
from cache_management.workers.queues import Waiting, oldest_waiting, read_queues, view_queues
from tests.conftest import OwnRedis, OwnRedisFactory

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def broker(own_redis: OwnRedisFactory) -> OwnRedis:
    return own_redis()


@pytest.fixture
def client(broker: OwnRedis, tmp_path: Path) -> Iterator[JobClient]:
    env = {"CACHE_BROKER_URL": broker.url, "CACHE_DATA_DIR": str(tmp_path)}
    made = JobClient(load_settings(env=env).settings)
    yield made
    made.close()


def send(app: Celery, queue: str, sent_at: datetime | None, **options: int) -> None:
    if sent_at is None:
        # As a program of somebody else does: whoever loaded our workers notes when it sends.
        with app.connection_for_write() as connection, connection.Producer() as producer:
            producer.publish(
                {"not": "ours"},
                exchange=queue,
                routing_key=queue,
                declare=[Queue(queue, Exchange(queue), routing_key=queue)],
                **options,
            )
        return
    app.send_task("some.task", args=["a prompt?"], queue=queue, headers={"sent_at": sent_at.isoformat()}, **options)


def test_messages_of_every_priority_are_counted_and_the_oldest_is_found(client: JobClient) -> None:
    send(client.celery, "warm", NOW)
    send(client.celery, "warm", NOW - timedelta(seconds=30), priority=9)
    send(client.celery, "warm", NOW - timedelta(seconds=20), priority=9)
    send(client.celery, "evict", NOW)

    found = read_queues(client.celery, queues=("control", "warm", "evict"))

    assert found == {
        "control": Waiting(),
        "warm": Waiting(depth=3, oldest_sent_at=NOW - timedelta(seconds=30)),
        "evict": Waiting(depth=1, oldest_sent_at=NOW),
    }
    assert oldest_waiting(client.celery, queues=("control", "evict")) == {"evict": NOW}


def test_messages_of_others_do_not_hide_how_long_ours_wait(client: JobClient) -> None:
    for _ in range(3):
        send(client.celery, "control", None)
    send(client.celery, "control", NOW)

    found = read_queues(client.celery)["control"]

    assert (found.depth, found.oldest_sent_at) == (4, NOW)


def test_what_was_delivered_and_not_acknowledged_is_counted_by_queue(client: JobClient) -> None:
    for _ in range(3):
        send(client.celery, "warm", NOW)
    with client.celery.connection_for_read() as connection, connection.SimpleQueue("warm") as inbox:
        message = inbox.get(timeout=5)

        held = read_queues(client.celery)
        message.ack()
        done = read_queues(client.celery)

    # One is held by the reader, and what was prefetched for it is delivered too.
    assert held["warm"].unacked + held["warm"].depth == 3
    assert held["warm"].unacked >= 1
    assert done["warm"].unacked + done["warm"].depth == 2
    assert held["control"] == Waiting()


def test_a_broker_that_is_down_is_named_without_its_password(tmp_path: Path) -> None:
    env = {"CACHE_BROKER_URL": "redis://:secret@127.0.0.1:1/0", "CACHE_DATA_DIR": str(tmp_path)}
    client = JobClient(load_settings(env=env).settings)

    with pytest.raises(BrokerUnavailable, match="does not answer") as caught:
        read_queues(client.celery)

    assert "secret" not in str(caught.value)
    client.close()


def test_what_beat_sends_says_when_it_was_sent(broker: OwnRedis, client: JobClient) -> None:
    code = "from cache_management.workers.app import app; app.send_task('control.reconcile', queue='control')"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "CACHE_BROKER_URL": broker.url})

    sent = oldest_waiting(client.celery)["control"]

    assert abs((datetime.now(UTC) - sent).total_seconds()) < 60


def test_a_broker_that_is_no_redis_tells_how_much_waits(tmp_path: Path) -> None:
    env = {"CACHE_BROKER_URL": "memory://", "CACHE_DATA_DIR": str(tmp_path)}
    client = JobClient(load_settings(env=env).settings)
    send(client.celery, "warm", NOW)

    found = read_queues(client.celery, queues=("warm", "never-used"))

    assert found == {"warm": Waiting(depth=1), "never-used": Waiting()}
    client.close()


def mark(queue: str, age_seconds: float, worker: str = "w") -> Mark:
    return Mark(queue, worker, NOW - timedelta(seconds=age_seconds), age_seconds)


@pytest.mark.parametrize(
    ("depth", "oldest", "mark_age", "stuck"),
    [
        (0, None, None, False),  # nobody consumes it, and nothing waits
        (0, None, 4000, False),
        (5, 5, 70, False),  # it came a moment ago
        (5, 3600, 10, False),  # a backlog that is worked on
        (5, 3600, 61, True),
        (5, 61, None, True),
        (5, None, None, True),  # nobody knows since when
        (5, None, 61, True),
    ],
)
def test_a_queue_is_stuck_when_something_waits_and_nobody_takes_it(
    depth: int, oldest: float | None, mark_age: float | None, stuck: bool
) -> None:
    sent = None if oldest is None else NOW - timedelta(seconds=oldest)
    marks = [mark("other", 1)] + ([] if mark_age is None else [mark("warm", mark_age)])

    (view,) = view_queues({"warm": Waiting(depth=depth, oldest_sent_at=sent)}, marks, now=NOW)

    assert view.stuck is stuck
    assert (view.oldest_seconds, view.mark_age_seconds) == (oldest, mark_age)


def test_workers_of_the_last_minutes_are_counted_and_the_freshest_tells_the_age() -> None:
    marks = [mark("warm", 3, "a"), mark("warm", 200, "b"), mark("warm", 4000, "gone"), mark("evict", 1)]

    (view,) = view_queues({"warm": Waiting(unacked=2)}, marks, now=NOW)

    assert (view.workers, view.mark_age_seconds, view.unacked) == (2, 3, 2)


def test_a_sender_whose_clock_is_ahead_sent_nothing_in_the_future() -> None:
    ahead = Waiting(depth=1, oldest_sent_at=NOW + timedelta(seconds=5))

    assert view_queues({"warm": ahead}, [], now=NOW)[0].oldest_seconds == 0.0
