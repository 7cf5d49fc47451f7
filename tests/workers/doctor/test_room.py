"""How near a store is to its bounds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cache_management.cache.cluster.standing import NodeStanding, Standing
from cache_management.settings import Settings, load_settings
from cache_management.workers import doctor
from tests.workers.findings import WELL, levels


def settings_with(**env: str) -> Settings:
    return load_settings(env={f"CACHE_{name.upper()}": value for name, value in env.items()}).settings


@pytest.mark.parametrize(
    ("env", "server", "expected"),
    [
        ({}, {}, {}),
        ({"ttl_seconds": "-1"}, {}, {"room of the store": "warn"}),
        ({"ttl_seconds": "-1", "redis_memory_limit": "1GB"}, {}, {}),
        ({}, {"limit_bytes": 1000, "used_bytes": 900}, {}),
        ({}, {"limit_bytes": 1000, "used_bytes": 985}, {"room of the store": "warn"}),
        ({}, {"limit_bytes": 1000, "used_bytes": 1000}, {"room of the store": "fail"}),
        ({"redis_memory_limit": "1kB"}, {"limit_bytes": 5000, "used_bytes": 1200}, {"room of the store": "fail"}),
        ({}, {"machine_bytes": 1000, "used_bytes": 850}, {"room of the store": "fail"}),
        ({}, {"machine_bytes": 1000, "used_bytes": 700}, {}),
        ({}, {"keys": 100_000, "lasting": 20_000}, {"lives": "warn"}),
        ({}, {"keys": 100_000, "lasting": 900}, {}),
        ({"ttl_seconds": "-1", "redis_memory_limit": "1GB"}, {"keys": 10_000, "lasting": 10_000}, {}),
    ],
)
def test_a_redis(env: dict[str, str], server: dict[str, Any], expected: dict[str, str]) -> None:
    settings = settings_with(url="redis://there:6379/0", **env)

    assert levels(doctor.check_server_room(settings, msgspec.structs.replace(WELL, **server))) == expected


@pytest.mark.parametrize(
    ("entries", "size_bytes", "way_out"), [(10, 10, ""), (99, 10, "max_size"), (10, 990, "disk_size_limit")]
)
def test_a_store_on_disk(entries: int, size_bytes: int, way_out: str) -> None:
    settings = settings_with(backend="disk", max_size="100", disk_size_limit="1kB")
    disk = doctor.DiskFacts(entries, size_bytes)
    found = doctor.check_disk_room(settings, disk)

    assert (found.level, doctor.is_full(settings, None, disk)) == (("warn", True) if way_out else ("ok", False))
    assert way_out in found.way_out


def test_copies_that_take_much_of_the_machine() -> None:
    settings = settings_with(url="redis://there:6379/0", near_max_size="100", near_memory_limit="1GB")

    assert levels(doctor.check_copies(settings, 8 * 10**9)) == {}
    assert levels(doctor.check_copies(settings, 2 * 10**9)) == {"copies in memory": "warn"}


def test_a_node_that_is_nearly_full() -> None:
    nodes = [NodeStanding(f"n{at}", "member", used_bytes=used, limit_bytes=100) for at, used in enumerate((97, 94, 5))]
    found = doctor.check_nodes(Standing(3, 0, 1, tuple(nodes)), differing=0, consistency="quorum", broker=None)

    assert levels(found) == {"room of n0": "warn"}
