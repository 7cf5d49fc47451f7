"""What another process does to a disk store: `python -m tests.cache.backends.disk_child ACTION FOLDER ...`.

Prints a line for each thing that is done and acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from pathlib import Path

from cache_management.cache.backends.disk import DiskBackend
from cache_management.cache.config import EvictionPolicy
from cache_management.cache.records import Record

PREFIX = "cm1:llm:disk:k"


def say(*words: object) -> None:
    print(*words, flush=True)


def opened(folder: str, *, max_size: int = 1_000_000, size_limit_bytes: int = 10**9) -> DiskBackend:
    return DiskBackend(Path(folder), max_size=max_size, size_limit_bytes=size_limit_bytes, timeout_seconds=30)


def await_the_start() -> None:
    """Let the test start several of us at the same moment."""
    say("ready")
    sys.stdin.readline()


def record(text: str, size: int = 0) -> Record:
    return Record(value=text.encode().ljust(size, b"."), expires_at=None, version=1)


async def write_many(folder: str, name: str, count: str) -> None:
    """Write keys of our own and overwrite one that all share."""
    backend = opened(folder)
    await_the_start()
    for at in range(int(count)):
        await backend.put(f"{PREFIX}{name}-{at}", record(f"{name}-{at}"))
        await backend.put(f"{PREFIX}shared", record(f"{name}-{at}"))
        await backend.append("notes", [f"{name}-{at}".encode()])
    await backend.aclose()


async def write_for_ever(folder: str) -> None:
    backend = opened(folder)
    at = 0
    while True:
        await backend.put(f"{PREFIX}{at}", record(str(at), 2000))
        say(at)
        at += 1


async def fill(folder: str, name: str, max_size: str, size_limit_bytes: str, policy: str = "lru") -> None:
    """Write more than fits, and look after each write whether everybody keeps to the bounds."""
    backend = DiskBackend(
        Path(folder),
        max_size=int(max_size),
        size_limit_bytes=int(size_limit_bytes),
        policy=EvictionPolicy(policy),
        timeout_seconds=30,
    )
    await backend.ping()
    looking = sqlite3.connect(backend.path, isolation_level=None)
    await_the_start()
    for at in range(150):
        await backend.put(f"{PREFIX}{name}-{at}", record(f"{name}-{at}", 700 + at % 7 * 100))
        await backend.put(f"{PREFIX}shared-{at % 5}", record(name, 1000 + at))
        await backend.get(f"{PREFIX}{name}-{at // 2}")
        entries, size = looking.execute("SELECT count(*), total(length(frame)) FROM records").fetchone()
        if entries > int(max_size) or size > int(size_limit_bytes):
            raise AssertionError(f"{entries} entries of {size} bytes in all")
    looking.close()
    await backend.aclose()


async def hold_write_lock(folder: str) -> None:
    """Hold the write lock until standard input ends."""
    db = sqlite3.connect(Path(folder) / "cache.sqlite", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    say("locked")
    sys.stdin.read()
    db.execute("ROLLBACK")


async def fork_and_use(folder: str) -> None:
    """Use a store on both sides of a fork, after the parent has needed its thread."""
    backend = opened(folder)
    await backend.put(PREFIX + "before", record("before"))
    blocker = sqlite3.connect(Path(folder) / "cache.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    waiting = asyncio.ensure_future(backend.put(PREFIX + "waited", record("waited")))
    await asyncio.sleep(0.01)
    blocker.execute("ROLLBACK")
    await waiting
    blocker.close()
    before = _sqlite_files(folder)

    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = asyncio.new_event_loop().run_until_complete(_in_child(backend, folder, before))
        finally:
            os._exit(code)
    await backend.put(PREFIX + "parent", record("parent"))
    _, status = os.waitpid(child, 0)
    say("child", os.waitstatus_to_exitcode(status))
    say("parent current", backend.is_current())
    found = await backend.get_many([PREFIX + name for name in ("before", "waited", "parent", "child", "contended")])
    say("found", *sorted(key.removeprefix(PREFIX) for key in found))
    await backend.aclose()


async def _in_child(backend: DiskBackend, folder: str, before: set[int]) -> int:
    asyncio.get_running_loop()
    told: list[object] = []
    backend.watch([PREFIX], told.append)
    if backend.is_current() or told != [None]:
        return 3  # the parent's connection was asked
    await backend.put(PREFIX + "child", record("child"))
    if not before < _sqlite_files(folder):
        return 2  # the parent's connection was used, or closed
    blocker = sqlite3.connect(Path(folder) / "cache.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    waiting = asyncio.ensure_future(backend.put(PREFIX + "contended", record("contended")))
    await asyncio.sleep(0.01)
    blocker.execute("ROLLBACK")
    await asyncio.wait_for(waiting, 20)
    blocker.close()
    await backend.aclose()
    return 0


def _sqlite_files(folder: str) -> set[int]:
    """Return the file descriptors of this process that stand on the store."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            if link.readlink().is_relative_to(Path(folder).resolve()):
                found.add(int(link.name))
        except OSError:
            continue
    return found


ACTIONS = {
    "write-many": write_many,
    "write-for-ever": write_for_ever,
    "fill": fill,
    "hold-write-lock": hold_write_lock,
    "fork-and-use": fork_and_use,
}

if __name__ == "__main__":
    asyncio.run(ACTIONS[sys.argv[1]](*sys.argv[2:]))
