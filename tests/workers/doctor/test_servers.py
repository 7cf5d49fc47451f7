"""What a server says of its disk, its clients, its memory and how far it is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cache_management.workers import doctor
from tests.workers.findings import WELL, levels


def server(**changes: Any) -> doctor.ServerFacts:
    return msgspec.structs.replace(WELL, **changes)


@pytest.mark.parametrize(
    ("changes", "check", "level"),
    [
        ({"is_loading": True}, "{} reads its data", "fail"),
        ({"snapshot_is_well": False}, "disk of the {}", "fail"),
        ({"clients": 96, "clients_limit": 100}, "clients of the {}", "warn"),
        ({"clients": 4, "clients_limit": 100, "turned_away": 3}, "clients of the {}", "warn"),
        ({"resident_bytes": 4 * 10**9, "used_bytes": 10**9}, "memory of the {}", "warn"),
        ({"doubt_seconds": 0.09}, "distance to the {}", "warn"),
        ({"clients": 90, "clients_limit": 100, "resident_bytes": 10**8, "doubt_seconds": 0.01}, "", ""),
    ],
)
def test_what_troubles_any_server(changes: dict[str, Any], check: str, level: str) -> None:
    for name, found in (
        ("broker", doctor.check_broker(server(**changes))),
        ("cache store", doctor.check_cache_server(server(**changes), None)),
    ):
        assert levels(found) == ({check.format(name): level} if check else {})


def test_a_full_broker_takes_no_messages() -> None:
    assert levels(doctor.check_broker(server(limit_bytes=100, used_bytes=90))) == {}
    assert levels(doctor.check_broker(server(limit_bytes=100, used_bytes=96))) == {"room of the broker": "fail"}


def test_evictions_of_the_server_are_told() -> None:
    found = doctor.check_cache_server(server(policy="allkeys-lru", evicted=1234), None)

    assert levels(found) == {"cache policy": "warn", "evictions": "warn"}
    assert "evicted 1,234 keys" in found[-1].what


@pytest.mark.parametrize("told", ["keys=10,expires=7,avg_ttl=5", {"keys": 10, "expires": 7, "avg_ttl": 5}])
def test_keys_are_those_of_the_database_that_is_used(told: object) -> None:
    found = doctor.server_facts("there", {"db3": told}, skew_seconds=0, doubt_seconds=0, database=3)
    other = doctor.server_facts("there", {"db3": told}, skew_seconds=0, doubt_seconds=0)

    assert (found.keys, found.lasting, other.keys) == (10, 3, 0)
