"""How fast a replicated cache is whole again: an empty node read in, a node added, copies compared and repaired."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

from redis import Redis

from cache_management import DistributedCache, ReplicationConfig
from cache_management.cache.events import Event, NodeEvent
from cache_management.services import Server, start_redis
from tests.bench.cluster_speed import PATIENT, VALUE, addresses, distributed, running, single
from tests.bench.measure import Report

_PAGE = 500
_LONGEST_SECONDS = 60.0
_QUICK_TO_GIVE_UP = PATIENT.model_copy(update={"timeout_seconds": 0.5})
_THREE_COPIES = ReplicationConfig(replicas=2)


class _Heard:
    """Notes when nodes changed their standing."""

    def __init__(self) -> None:
        self.events: list[tuple[float, NodeEvent]] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, NodeEvent):
            self.events.append((perf_counter(), event))

    def last(self, what: str) -> float:
        return max((at for at, event in self.events if event.what == what), default=0.0)


async def measure(report: Report, folder: Path, entries: int, missed: int) -> None:
    """Measure on three nodes with three copies each; each thing once."""
    keys = [f"question-{number:06}" for number in range(entries)]
    heard = _Heard()
    with ExitStack() as stack:
        servers = [stack.enter_context(running(folder / str(number))) for number in range(4)]
        copied, walked = _bare(folder, keys)
        async with distributed(servers[:3], _THREE_COPIES, listener=heard) as cache:
            await cache.set("first", VALUE)
            began = perf_counter()
            for page in _pages(keys):
                await cache.set_many(dict.fromkeys(page, VALUE))
            written = entries / (perf_counter() - began)
            level = await _timed(cache.repair)
            await _write_behind(servers, keys[:missed])
            behind = await _timed(cache.repair)
            assert behind[1].copied >= missed * 0.9, behind[1]

            # A node comes back empty.
            servers[1].kill()
            servers[1] = start_redis(servers[1].data_dir, port=servers[1].port)
            stack.callback(lambda: servers[1].kill())
            restarted = perf_counter()
            await _until_back(cache, heard, restarted)
            read_in = heard.last("member") - heard.last("syncing")
            waited = heard.last("member") - restarted
            assert _count(servers[1]) >= entries

            # A fourth one comes.
            before = [_count(server) for server in servers]
            began = perf_counter()
            cache.add_node(addresses(servers)[3])
            await cache.rebalance()
            moved_in = perf_counter() - began
            gained = [max(0, _count(server) - held) for server, held in zip(servers, before, strict=True)]
            assert await cache.get(keys[0]) == await cache.get(keys[-1]) == VALUE
    share = entries * 3 / 4
    report.rows += [
        single("an empty node is read in", "bare copy", "entries/s", entries / read_in, copied),
        single("a fourth node is filled", "bare copy", "entries/s", gained[3] / moved_in, copied),
        single("copies moved when it comes", "its share", "copies", sum(gained), share, "<= 1.1 x"),
        single("repair, copies alike", "bare walk", "entries/s", entries / level[0], walked),
        single(f"repair, {missed:,} missed", "bare walk", "entries/s", entries / behind[0], walked),
    ]
    report.notes += [
        f"recovery: {entries:,} entries of 3 copies, each thing once; bare copy and bare walk: redis-py, SCAN, MGET and"
        f" pipelines of SET from one node to another, {_PAGE} at a time; written by set_many of {_PAGE}:"
        f" {written:,.0f} entries/s",
        f"an empty node counts {waited:.2f} s after its start, {read_in:.2f} s of that for reading in; a fourth node"
        f" takes {moved_in:.2f} s, {sum(gained[:3]):,} copies moved between the old ones",
        f"repair of {entries:,} entries: {level[0]:.2f} s when alike, {behind[0]:.2f} s with {behind[1].copied:,}"
        " copies made",
    ]


async def _timed(do):  # type: ignore[no-untyped-def]
    began = perf_counter()
    found = await do()
    return perf_counter() - began, found


async def _write_behind(servers: Sequence[Server], keys: Sequence[str]) -> None:
    """Write on two of three nodes by a client that is gone before the third is back and could be told."""
    os.kill(servers[2].pid, signal.SIGSTOP)
    try:
        async with distributed(servers[:3], _THREE_COPIES, config=_QUICK_TO_GIVE_UP) as other:
            for page in _pages(keys):
                await other.set_many(dict.fromkeys(page, VALUE))
    finally:
        os.kill(servers[2].pid, signal.SIGCONT)


def _bare(folder: Path, keys: Sequence[str]) -> tuple[float, float]:
    """Return how many entries a second are copied from one server to another, and read, by redis-py alone."""
    with ExitStack() as stack:
        source, target = (stack.enter_context(running(folder / name)) for name in ("from", "to"))
        with Redis(port=source.port) as reader, Redis(port=target.port) as writer:
            for page in _pages(keys):
                reader.mset(dict.fromkeys(page, VALUE))
            began = perf_counter()
            for names in _walk(reader):
                with writer.pipeline(transaction=False) as pipeline:
                    for name, value in zip(names, reader.mget(names), strict=True):
                        pipeline.set(name, value, px=3_600_000)
                    pipeline.execute()
            copied = len(keys) / (perf_counter() - began)
            assert writer.dbsize() == len(keys)
            began = perf_counter()
            for names in _walk(reader):
                reader.mget(names)
            return copied, len(keys) / (perf_counter() - began)


def _walk(client: Redis):  # type: ignore[no-untyped-def]
    cursor = None
    while cursor != 0:
        cursor, names = client.scan(cursor or 0, count=_PAGE)
        if names:
            yield names


def _count(server: Server) -> int:
    with Redis(port=server.port) as client:
        return sum(1 for _ in client.scan_iter("e:*", count=1000))


def _pages(keys: Sequence[str]) -> list[Sequence[str]]:
    return [keys[start : start + _PAGE] for start in range(0, len(keys), _PAGE)]


async def _until_back(cache: DistributedCache, heard: _Heard, restarted: float) -> None:
    deadline = perf_counter() + _LONGEST_SECONDS
    while not restarted < heard.last("syncing") < heard.last("member"):
        if perf_counter() > deadline:
            raise RuntimeError(f"an empty node did not count again within {_LONGEST_SECONDS:g} s")
        await cache.set("first", VALUE)  # who asks nothing does not hear that a node was restarted
        await asyncio.sleep(0.05)
