"""What servers of every kind say instead of an answer, and the way out that it is turned into."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cache_management.settings import load_settings
from cache_management.workers import examination, reading
from cache_management.workers.doctor import unreached
from tests.conftest import OwnRedisCluster, OwnRedisFactory


@contextmanager
def web_server() -> Iterator[str]:
    """Something that is no Redis and says so to everybody."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            try:
                while True:
                    client, _ = server.accept()
                    with client:
                        client.recv(1000)
                        client.sendall(b"<html>HTTP/1.1 400 Bad Request</html>\r\n\r\n")
            except OSError:  # the server was closed
                return

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def said_by(folder: Path, url: str, *, only: str | None = None) -> list[str]:
    """Return the ways out for a store and a broker at this place."""
    env = {"CACHE_DATA_DIR": str(folder), "CACHE_URL": url, "CACHE_BROKER_URL": url.replace("redis+cluster", "redis")}
    settings = load_settings(env=env).settings
    parts: dict[str, tuple[Callable[[], object], float]] = {
        "cache store": (lambda: asyncio.run(reading.read_store(settings)), 10),
        "broker": (lambda: reading.read_broker(settings), 10),
    }
    read = examination.read_all({name: part for name, part in parts.items() if only in (None, name)})
    return [
        unreached(name, each.failed).way_out  # type: ignore[arg-type]
        for name, each in read.items()
        if each.failed is not None
    ]


def test_a_wrong_password_and_none_at_all(tmp_path: Path, own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    server.command("CONFIG", "SET", "requirepass", "sesame")

    for place in (server.url, server.url.replace("redis://", "redis://:open@")):
        said = said_by(tmp_path, place)

        assert len(said) == 2
        assert all(each.startswith("correct user and password in ") for each in said), said


def test_nobody_there_no_such_name_and_something_else(tmp_path: Path) -> None:
    nobody = said_by(tmp_path, "redis://127.0.0.1:1/0")
    no_name = said_by(tmp_path, "redis://no-such-host.invalid:6379/0")
    with web_server() as place:
        other = said_by(tmp_path, place)

    assert [each.startswith("nothing listens there: start it") for each in nobody] == [True, True]
    assert ["its name means nothing here" in each for each in no_name] == [True, True]
    assert ["something else than Redis" in each for each in other] == [True, True]


def test_a_cluster_under_the_url_of_a_server_and_the_other_way_round(
    tmp_path: Path, own_redis: OwnRedisFactory, redis_cluster: OwnRedisCluster
) -> None:
    node = redis_cluster.servers[0]

    for place in (f"redis+cluster://127.0.0.1:{own_redis().port}", f"redis://127.0.0.1:{node.port}/0"):
        assert said_by(tmp_path, place, only="cache store") == ["set url as it says"], place


@pytest.mark.parametrize(
    ("reason", "begins"),
    [
        ("no answer within 10 s", "it is frozen, overloaded or behind a firewall"),
        ("it refused: LOADING Redis is loading the dataset in memory", "wait"),
        ("it refused: MISCONF Errors writing to the AOF file: No space left", "make room on its disk"),
        ("it refused: OOM command not allowed when used memory > 'maxmemory'", "it is full"),
        ("it refused: NOPERM User x has no permissions to run 'ping'", "give its user the rights"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "use rediss://"),
        ('connection failed: FATAL:  password authentication failed for user "me"', "correct user and password"),
        ("database is locked", "another process holds the file"),
        ("whatever else", "start it, or correct url"),
    ],
)
def test_the_way_out_is_that_of_the_reason(reason: str, begins: str) -> None:
    found = unreached("cache store", reason)

    assert (found.level, found.what) == ("fail", reason)
    assert found.way_out.startswith(begins)


def test_of_nodes_it_is_their_own_settings() -> None:
    assert "distributed.nodes" in unreached("cache store", "Connection refused", on_nodes=True).way_out
