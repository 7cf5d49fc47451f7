from __future__ import annotations

import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.clock import VersionClock, run_version, system_clock, version_at, version_time


def test_system_clock_is_unix_time() -> None:
    assert abs(system_clock() - time.time()) < 60


@given(st.lists(st.floats(0, 4e9), min_size=1, max_size=50))
def test_versions_grow_however_the_clock_jumps(moments: list[float]) -> None:
    readings = iter(moments)
    clock = VersionClock(lambda: next(readings))

    versions = [clock.next() for _ in moments]

    assert versions == sorted(set(versions))


def test_versions_of_threads_are_all_different() -> None:
    clock = VersionClock(lambda: 1.0)
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.extend(clock.next() for _ in range(500))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(seen)) == 2000


def test_observed_version_is_passed() -> None:
    clock = VersionClock(lambda: 1.0)

    clock.observe(version_at(500.0))

    assert clock.next() > version_at(500.0)


def test_observing_the_past_changes_nothing() -> None:
    clock = VersionClock(lambda: 1000.0)
    before = clock.next()

    clock.observe(5)

    assert clock.next() == before + 1


@given(st.integers(0, 4_000_000_000_000))
def test_version_tells_its_moment_to_the_millisecond(milliseconds: int) -> None:
    assert abs(version_time(version_at(milliseconds / 1000)) - milliseconds / 1000) <= 0.001


def test_runs_of_one_millisecond_have_versions_of_their_own() -> None:
    versions = {run_version(lambda: 1000.0) for _ in range(100)}

    assert len(versions) > 95
    assert {version_time(version) for version in versions} == {1000.0}
