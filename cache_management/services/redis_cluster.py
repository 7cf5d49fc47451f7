"""Run a Redis Cluster on this machine, without its command line program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis, RedisError

from cache_management.cache.errors import ServerStartError
from cache_management.services.processes import wait_for
from cache_management.services.provider import Server
from cache_management.services.redis import start_redis

_SLOTS = 16384


def start_redis_cluster(
    data_dir: Path,
    *,
    primaries: int = 3,
    node_timeout_ms: int = 1500,
    extra: Sequence[str] = (),
    program: Path | None = None,
    timeout: float = 30.0,
) -> list[Server]:
    """Start primaries with one replica each; return the primaries in the order of their slots, then their replicas.

    Args:
        data_dir: Must hold no earlier cluster. Each node has a folder of its own below it.
        node_timeout_ms: Silence after which a node counts as failed; its replica takes over a moment later.
        extra: More arguments for every node.
        program: As for `start_redis`.
        timeout: Seconds until every node must see the whole cluster, and every replica must be level.

    Raises:
        ServerStartError: A node did not start, or they did not find together.
    """
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms)]
    # A primary waits for more replicas before it feeds the first, five seconds by default. Until then that one is
    # empty and will not be elected.
    options += ["--repl-diskless-sync-delay", "0", *extra]
    servers: list[Server] = []
    try:
        while len(servers) < 2 * primaries:
            servers.append(start_redis(data_dir / str(len(servers)), extra=options, program=program))
        _join(servers, primaries, timeout)
    except BaseException:
        for server in servers:
            server.stop()
        raise
    return servers


def _say(node: Redis, *words: object) -> Any:
    return node.execute_command(*words)  # type: ignore[no-untyped-call]


def _join(servers: Sequence[Server], primaries: int, timeout: float) -> None:
    with ExitStack() as stack:
        nodes = [stack.enter_context(Redis(port=server.port, socket_timeout=timeout)) for server in servers]
        for at, node in enumerate(nodes[:primaries]):
            _say(node, "CLUSTER ADDSLOTS", *range(_SLOTS * at // primaries, _SLOTS * (at + 1) // primaries))
            # Two primaries with one epoch would settle it between them, while tests already run.
            _say(node, "CLUSTER SET-CONFIG-EPOCH", at + 1)
        for server in servers[1:]:
            _say(nodes[0], "CLUSTER MEET", "127.0.0.1", server.port)
        ids = [_say(node, "CLUSTER MYID") for node in nodes]
        for replica, primary in zip(nodes[primaries:], ids[:primaries], strict=True):
            _wait(partial(_replicates, replica, primary), "find its primary", timeout)
        # `cluster_state:ok` comes sooner than a replica that could be elected.
        for node in nodes:
            _wait(partial(_is_complete, node, primaries), "see the whole cluster", timeout)
        for replica in nodes[primaries:]:
            _wait(partial(_is_level, replica), "be level with its primary", timeout)


def _replicates(replica: Redis, primary: object) -> bool:
    try:
        _say(replica, "CLUSTER REPLICATE", primary)
    except RedisError:  # it has not heard of that node yet
        return False
    return True


def _is_level(replica: Redis) -> bool:
    return replica.info("replication").get("master_link_status") == "up"


def _is_complete(node: Redis, primaries: int) -> bool:
    state = _say(node, "CLUSTER INFO")
    shards = _say(node, "CLUSTER SLOTS")
    return state["cluster_state"] == "ok" and len(shards) == primaries and all(len(each) == 4 for each in shards)


def _wait(condition: Callable[[], bool], what: str, timeout: float) -> None:
    if not wait_for(condition, timeout=timeout):
        raise ServerStartError(f"a node of the Redis Cluster did not {what} within {timeout:g} s")
