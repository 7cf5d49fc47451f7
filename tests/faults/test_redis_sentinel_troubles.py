"""A server that Sentinels watch is lost, and another takes its place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from redis import Redis

from cache_management.cache.backends.redis import RedisBackend
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.records import Record
from cache_management.services import Server, start_redis
from cache_management.services.provider import run_server
from tests.conftest import start_or_skip, temporary_folder
from tests.waiting import eventually, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]
KEY = "cm1:llm:n:k"


def start_sentinel(folder: Path, program: str, primary: Server) -> Server:
    """Start one Sentinel that decides alone."""
    folder.mkdir()

    def argv(port: int) -> list[str]:
        (folder / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 5000\n"
        )
        return [program, str(folder / "sentinel.conf"), "--sentinel", "--set-proc-title", "no"]

    def answers(pid: int, port: int) -> bool:
        with suppress(OSError, Exception), Redis(port=port) as client:
            return int(client.info("server")["process_id"]) == pid
        return False

    return run_server(
        "sentinel",
        folder,
        port=None,
        argv=argv,
        url=lambda port: f"redis+sentinel://127.0.0.1:{port}/main",
        ready=answers,
        timeout=20,
        die_with_parent=True,
    )


@pytest.fixture
def watched() -> Iterator[tuple[Server, Server, Server]]:
    """A primary, its replica, and the Sentinel that knows both."""
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        servers: list[Server] = []
        for name in ("primary", "replica"):
            follow = ("--replicaof", "127.0.0.1", str(servers[0].port)) if servers else ()
            extra = ("--repl-diskless-sync-delay", "0", *follow)
            server = start_or_skip(lambda name=name, extra=extra: start_redis(folder / name, extra=extra))  # type: ignore[misc]
            stack.callback(server.kill)
            servers.append(server)
        assert servers[0].process is not None
        sentinel = start_sentinel(folder / "sentinel", str(servers[0].process.args[0]), servers[0])  # type: ignore[index]
        stack.callback(sentinel.kill)
        with Redis(port=sentinel.port) as client:
            wait_until(lambda: len(client.execute_command("SENTINEL", "REPLICAS", "main")) == 1, timeout=30)
        yield servers[0], servers[1], sentinel


def record() -> Record:
    return Record(b"value", time.time() + 3600, 1)


async def test_the_same_backend_finds_the_server_that_took_over(watched: tuple[Server, Server, Server]) -> None:
    primary, replica, sentinel = watched
    url = sentinel.url.replace("//127", "//127.0.0.1:1,127")  # one of two Sentinels is down
    backend = RedisBackend(CacheConfig(url=url, timeout_seconds=2.0))
    await backend.put(KEY, record())

    primary.kill()

    async def writes() -> bool:
        with suppress(BackendUnavailable):
            await backend.put(KEY, record())
            return True
        return False

    await eventually(writes, timeout=60)
    assert await backend.get(KEY) is not None
    with Redis(port=replica.port) as client:
        assert client.exists(KEY), "it was written to the server that took over"
    await backend.aclose()


async def test_what_cannot_be_found_is_named(watched: tuple[Server, Server, Server]) -> None:
    primary, _, sentinel = watched
    for url, why in (
        (sentinel.url.replace("/main", "/other"), "watches nothing by the name 'other'"),
        (f"redis+sentinel://127.0.0.1:{primary.port}/main", "it refused"),
        (f"redis://127.0.0.1:{sentinel.port}", r"redis\+sentinel://host:port/name"),
    ):
        backend = RedisBackend(CacheConfig(url=url, timeout_seconds=5.0))
        with pytest.raises(BackendUnavailable, match=why):
            await backend.get(KEY)
        await backend.aclose()


async def test_a_server_that_is_no_primary_any_more_is_not_used(watched: tuple[Server, Server, Server]) -> None:
    """What the Sentinel does not know yet, as one that is cut off would not."""
    primary, replica, sentinel = watched
    with Redis(port=primary.port) as client:
        client.replicaof("127.0.0.1", replica.port)
    backend = RedisBackend(CacheConfig(url=sentinel.url, timeout_seconds=5.0))

    with pytest.raises(BackendUnavailable, match="no primary"):
        await backend.get(KEY)
    await backend.aclose()
