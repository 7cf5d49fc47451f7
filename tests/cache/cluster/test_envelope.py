from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.cluster.envelope import (
    DELETED,
    HEAD_BYTES,
    STUB,
    VALUE,
    VERSION_BYTES,
    Versions,
    grave,
    moment_of,
    read_head,
    read_value,
    readable,
    token_of,
    value_copy,
    version_of,
)
from cache_management.cache.errors import CorruptRecord
from cache_management.cache.records import Record
from tests.contracts.clock import ManualClock

MOMENTS = st.none() | st.floats(min_value=0.001, max_value=4e9)


@given(st.binary(max_size=200), MOMENTS, st.integers(0, 2**62))
def test_a_copy_comes_back_as_it_was_written(value: bytes, expires_at: float | None, number: int) -> None:
    version = b"%024x" % number
    record = Record(value, expires_at, number)

    copy = value_copy(version, "key", record)

    head = read_head(copy[:HEAD_BYTES])
    assert (head.version, head.kind) == (version, VALUE)
    assert (head.moment_ms == 0) == (expires_at is None)
    assert expires_at is None or 0 <= head.moment_ms - expires_at * 1000 < 2
    assert read_value("key", copy) == record


@given(st.binary(max_size=80))
def test_bytes_of_anybody_crash_nothing(stored: bytes) -> None:
    try:
        read_head(stored)
    except CorruptRecord:
        return
    with pytest.raises(CorruptRecord):
        read_value("key", stored)


@pytest.mark.parametrize("kind", [DELETED, STUB])
def test_what_is_gone_is_never_live(kind: bytes) -> None:
    stored = grave(b"0" * VERSION_BYTES, kind, 1_000)

    assert len(stored) == HEAD_BYTES
    assert not read_head(stored).is_live(0)
    assert read_head(stored).moment_ms == 1_000


def test_a_value_is_live_until_its_moment() -> None:
    head = read_head(value_copy(b"0" * VERSION_BYTES, "key", Record(b"", 10.0, 0)))

    assert head.is_live(9_999)
    assert not head.is_live(10_000)


@given(st.lists(st.integers(-10_000, 10_000), min_size=2, max_size=30))
def test_versions_grow_whatever_the_clock_does(steps: list[int]) -> None:
    clock = ManualClock()
    versions = Versions(clock)
    given_ = []
    for step in steps:
        clock.now += step
        given_.append(versions.next())

    assert given_ == sorted(set(given_))
    assert all(len(version) == VERSION_BYTES for version in given_)


def test_a_version_is_larger_than_what_was_observed() -> None:
    clock = ManualClock()
    ahead = ManualClock()
    ahead.now += 3600
    behind, other = Versions(clock), Versions(ahead)
    seen = other.next()

    behind.observe(seen)

    assert behind.next() > seen


def test_versions_of_two_clients_differ() -> None:
    clock = ManualClock()

    assert Versions(clock).next() != Versions(clock).next()


def test_a_forked_child_gives_versions_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = Versions(ManualClock())
    client = versions.next()[16:]
    monkeypatch.setattr(os, "getpid", lambda: -1)

    assert versions.next()[16:] != client


def test_a_version_just_above_another_lies_below_what_comes_next() -> None:
    clock = ManualClock()
    versions = Versions(clock)
    seen = versions.next()

    above = versions.above(seen)

    assert seen < above < versions.next()


@pytest.mark.parametrize(
    "damaged", [b"", b"f" * 24, b"6" + b"0" * 23, b"1" * 23, b"1" * 25, b"z" * 24, b"1" * 23 + b"G"]
)
def test_what_cannot_have_been_given_teaches_nothing(damaged: bytes) -> None:
    clock = ManualClock()
    versions = Versions(clock)

    versions.observe(damaged)

    assert moment_of(versions.next()) == round(clock.now * 1000)
    assert readable(damaged + b"v" + b"0" * 14) == b""


@given(st.integers(0, 6 * 16**23 - 1))
def test_a_token_stands_for_its_version(token: int) -> None:
    assert token_of(version_of(token)) == token


def test_a_version_tells_its_moment() -> None:
    clock = ManualClock()

    assert moment_of(Versions(clock).next()) == round(clock.now * 1000)
