"""The fixtures themselves: everything else relies on them."""

from __future__ import annotations

import psycopg
import pytest
from redis import Redis

from tests.conftest import OwnRedisFactory


def test_redis_is_empty_at_first(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("a", "1", ex=60)


@pytest.mark.keeps_keys
def test_marked_test_may_keep_keys(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        client.set("a", "1")


@pytest.mark.parametrize("number", [1, 2])
def test_each_test_has_its_own_database(postgres_url: str, number: int) -> None:
    plain = postgres_url.replace("+psycopg", "")

    with psycopg.connect(plain) as connection:
        connection.execute("CREATE TABLE things (id int)")
        answer = connection.execute("SELECT count(*) FROM things").fetchone()

    assert answer == (0,)


def test_own_redis_keeps_its_port_and_its_data_over_a_crash(own_redis: OwnRedisFactory) -> None:
    node = own_redis(appendonly=True)
    port = node.port
    with Redis.from_url(node.url) as client:
        client.set("a", "1")
        client.waitaof(1, 0, 5000)

    node.kill()
    assert not node.is_running()
    node.restart()

    assert node.port == port
    with Redis.from_url(node.url) as client:
        assert client.get("a") == b"1"


def test_own_redis_can_come_back_empty(own_redis: OwnRedisFactory) -> None:
    node = own_redis(appendonly=True)
    with Redis.from_url(node.url) as client:
        client.set("a", "1")

    node.restart(empty=True)

    with Redis.from_url(node.url) as client:
        assert client.dbsize() == 0


def test_own_redis_can_be_frozen(own_redis: OwnRedisFactory) -> None:
    node = own_redis()

    node.pause()
    with (
        Redis.from_url(node.url, socket_timeout=0.2, retry=None) as client,
        pytest.raises(Exception, match=r"(?i)timeout"),
    ):
        client.ping()
    node.resume()

    with Redis.from_url(node.url) as client:
        assert client.ping()
