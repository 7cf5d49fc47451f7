"""The wires do what the nemesis believes that they do."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cache_management.services import Server
from tests.faults.cluster.proxy import Board, Mode, Wire
from tests.waiting import wait_until


@pytest.fixture
def wire(redis_url: str, redis_server: Server) -> Iterator[Wire]:
    board = Board()
    yield board.wire(redis_server.port)
    board.close()


@pytest.fixture
def through(wire: Wire) -> Iterator[redis.Redis]:
    with redis.Redis(port=wire.port, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)) as client:
        client.set("a", "before", ex=60)
        yield client


@pytest.fixture
def direct(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.mark.parametrize("deliver", [True, False])
@pytest.mark.parametrize("mode", [Mode.BLACKHOLE, Mode.HOLD_REQUESTS])
def test_what_is_held_arrives_late_or_never(
    through: redis.Redis, direct: redis.Redis, wire: Wire, mode: Mode, deliver: bool
) -> None:
    wire.set(mode)
    with pytest.raises(redis.TimeoutError):
        through.set("a", "held", ex=60)
    assert direct.get("a") == b"before"

    wire.heal(deliver=deliver)

    if deliver:
        wait_until(lambda: direct.get("a") == b"held", timeout=5)
    assert through.get("a") == (b"held" if deliver else b"before")


def test_with_replies_held_the_node_has_done_it(through: redis.Redis, direct: redis.Redis, wire: Wire) -> None:
    wire.set(Mode.HOLD_REPLIES)

    with pytest.raises(redis.TimeoutError):
        through.set("a", "done", ex=60)

    assert direct.get("a") == b"done"


def test_reset_refuses_until_it_is_healed(through: redis.Redis, wire: Wire) -> None:
    wire.set(Mode.RESET)
    with pytest.raises(redis.ConnectionError):
        through.get("a")

    wire.heal(deliver=False)

    assert through.get("a") == b"before"


def test_a_cut_ends_connections_once(through: redis.Redis, wire: Wire) -> None:
    opened = wire.opened

    wire.cut()

    assert through.get("a") == b"before"
    assert wire.opened == opened + 1


@pytest.mark.parametrize("mode", [Mode.DELAY, Mode.DRIP])
def test_a_slow_wire_loses_nothing(through: redis.Redis, wire: Wire, mode: Mode) -> None:
    wire.set(mode, delay_seconds=0.06, jitter_seconds=0.02)
    begin = time.monotonic()

    through.set("a", "x" * 200, ex=60)

    assert time.monotonic() - begin > 0.05
    wire.heal(deliver=True)
    assert through.get("a") == b"x" * 200


def test_a_trap_springs_at_the_request_that_it_waits_for(through: redis.Redis, direct: redis.Redis, wire: Wire) -> None:
    wire.trap(b"SET", Mode.BLACKHOLE, after=1)
    through.set("a", "first", ex=60)
    through.get("a")
    assert not wire.trapped.is_set()

    with pytest.raises(redis.TimeoutError):
        through.set("a", "second", ex=60)

    assert wire.trapped.is_set()
    assert direct.get("a") == b"first"
