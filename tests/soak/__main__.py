"""Bounded load of every kind of job, while workers, broker and database are hurt: `python -m tests.soak --minutes 10`.

It ends with an account: every job done, failed with a reason or cancelled, every item counted once, the audit log
whole. Exit code 1 when anything does not add up. The seed is printed; the same one gives the same acts, not the
same moments.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.conftest import PROJECT_ROOT, OwnPostgres, OwnRedis, temporary_folder
from tests.soak.accounts import findings, states
from tests.soak.load import MAX_ENTRY_BYTES, Load
from tests.soak.nemesis import Nemesis
from tests.workers.harness import JobWorld, job_world

WORKERS = 3
BEATS = 2
_PAUSE_SECONDS = (4.0, 12.0)


def soak(seconds: float, seed: int, *, settle_seconds: float = 240.0) -> list[str]:
    """Run a soak and return what does not add up."""
    rng = random.Random(seed)
    with _world() as (world, broker, node, database):
        nemesis = Nemesis(world, broker, node, database, random.Random(rng.random()))
        load = Load(world, random.Random(rng.random()))
        over = threading.Event()
        loader = threading.Thread(target=_submit_until, args=(load, over), name="soak-load")
        nemesis.supervise(workers=WORKERS)
        with _beats(world, BEATS):
            load.prepare()
            loader.start()
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(rng.uniform(*_PAUSE_SECONDS))
                print(f"{until - time.monotonic():6.0f} s left: {nemesis.strike()}", flush=True)
                nemesis.supervise(workers=WORKERS)
            over.set()
            loader.join()
            _settle(world, nemesis, settle_seconds)
            found = findings(world, load)
        print(json.dumps(_report(world, load, nemesis, seed), indent=2, sort_keys=True), flush=True)
        return found


def _submit_until(load: Load, over: threading.Event) -> None:
    while not over.wait(0.15):
        load.go_on()


def _settle(world: JobWorld, nemesis: Nemesis, seconds: float) -> None:
    """Let the workers finish what was accepted: what somebody paused goes on, nothing is hurt any more."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        nemesis.supervise(workers=WORKERS)
        live = [job for job in world.stores.jobs.list(limit=100_000) if not job.ended]
        if all(job.submitted_by == "scheduler" for job in live):
            return
        for job in live:
            if job.state in ("paused", "pausing"):
                with contextlib.suppress(Exception):  # it has ended meanwhile
                    world.client.request(job.id, "resume")
        time.sleep(1)


def _report(world: JobWorld, load: Load, nemesis: Nemesis, seed: int) -> dict[str, object]:
    return {
        "seed": seed,
        "jobs submitted": len(load.submitted),
        "submits refused while the database was away": load.refusals,
        "hurt": nemesis.counts,
        "jobs": dict(states(world.stores)),
        "audit entries": world.stores.audit.head()[0],
    }


@contextmanager
def _world() -> Iterator[tuple[JobWorld, OwnRedis, OwnRedis, OwnPostgres]]:
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        broker = OwnRedis(folder / "broker", appendonly=True)
        stack.callback(broker.stop)
        node = OwnRedis(folder / "node")
        stack.callback(node.stop)
        database = OwnPostgres(stack.enter_context(temporary_folder()))  # its account cannot enter ours
        stack.callback(database.stop)
        world = stack.enter_context(
            job_world(folder / "world", broker_url=broker.url, cache_url=node.url, metadata_url=database.url)
        )
        world.env |= {
            "PYTHONPATH": str(PROJECT_ROOT),
            "CACHE_PROVIDER__CALLABLE": "tests.soak.provider:answer",
            "CACHE_MAX_ENTRY_BYTES": str(MAX_ENTRY_BYTES),
            "CACHE_TTL_SECONDS": "86400",
        }
        yield world, broker, node, database


@contextmanager
def _beats(world: JobWorld, count: int) -> Iterator[None]:
    started = []
    try:
        for number in range(count):
            with (Path(world.folder) / f"worker-beat-{number}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "cache_management.cli", "beat"],
                        env=world.inherited_env() | world.env,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        yield
    finally:
        for beat in started:
            beat.kill()
            beat.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    found = soak(given.minutes * 60, given.seed)
    for line in found:
        print(f"WRONG: {line}")
    print(f"{len(found)} findings" if found else "every job and every item is accounted for")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
