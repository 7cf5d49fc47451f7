from __future__ import annotations

from redis import Redis

from tests.conftest import OwnRedisFactory


def test_server_answers_at_its_url_on_loopback_only(own_redis: OwnRedisFactory) -> None:
    node = own_redis()

    with Redis.from_url(node.url) as client:
        assert client.ping()
        settings = client.config_get("*")

    assert node.url == f"redis://127.0.0.1:{node.port}/0"
    assert settings["bind"] == "127.0.0.1"
    assert settings["protected-mode"] == "yes"
    assert settings["save"] == ""
    assert settings["appendonly"] == "no"
    assert settings["maxmemory-policy"] == "noeviction"


def test_options_and_extra_arguments_reach_the_server(own_redis: OwnRedisFactory) -> None:
    node = own_redis(appendonly=True, maxmemory_policy="allkeys-lru", extra=["--maxmemory", "50mb"])

    with Redis.from_url(node.url) as client:
        settings = client.config_get("*")

    assert (settings["appendonly"], settings["appendfsync"]) == ("yes", "everysec")
    assert settings["maxmemory-policy"] == "allkeys-lru"
    assert settings["maxmemory"] == str(50 * 1024 * 1024)


def test_server_with_a_password_counts_as_ready(own_redis: OwnRedisFactory) -> None:
    node = own_redis(extra=["--requirepass", "secret"])

    with Redis.from_url(node.url, password="secret") as client:
        assert client.ping()


def test_cluster_node_gets_a_port_with_room_for_its_bus(own_redis: OwnRedisFactory) -> None:
    node = own_redis(extra=["--cluster-enabled", "yes"])

    assert node.port + 10_000 <= 65_535
    assert node.is_running()
