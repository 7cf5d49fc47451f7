"""What `cache-cli up` runs here, and settings that do nothing."""

from __future__ import annotations

from typing import Any

import pytest

from cache_management.services.supervisor import ServiceState, State, Status
from cache_management.settings import load_settings
from cache_management.workers import doctor
from tests.workers.findings import levels


def state(*, ready: bool = True, **services: Status) -> State:
    made = {name: ServiceState(status, 1, "", None, 3, f"/logs/{name}.log") for name, status in services.items()}
    return State(pid=1, started="", started_at=0.0, version="1", ready=ready, services=made)


@pytest.mark.parametrize(
    ("runs", "answers", "expected"),
    [
        (None, False, {}),
        (state(light="running", metrics="running"), True, {}),
        (state(light="running"), True, {"metrics": "warn"}),
        (state(light="running", metrics="running"), False, {"metrics": "warn"}),
        (state(light="failed", metrics="running"), True, {"service light": "fail"}),
        (state(light="starting", metrics="running", ready=False), True, {}),
    ],
)
def test_a_running_set(runs: State | None, answers: bool, expected: dict[str, str]) -> None:
    settings = load_settings(env={}).settings

    assert levels(doctor.check_set(runs, settings, answers=answers)) == expected


@pytest.mark.parametrize(
    ("env", "names"),
    [
        ({}, []),
        ({"url": "redis://there/0", "redis_memory_limit": "1GB", "near_max_size": "5", "near_memory_limit": "1MB"}, []),
        ({"url": "redis://there/0", "max_size": "5", "disk_size_limit": "1GB"}, ["max_size", "disk_size_limit"]),
        ({"memory_limit": "1GB"}, ["memory_limit"]),
        ({"backend": "memory", "memory_limit": "1GB", "redis_memory_limit": "1GB"}, ["redis_memory_limit"]),
        ({"near_memory_limit": "1GB"}, ["near_memory_limit"]),
        ({"eviction_objective": "money"}, ["eviction_objective"]),
        ({"eviction_objective": "money", "eviction_policy": "auto", "eviction_cost_weight": "0.5"}, []),
        ({"semantic__device": "cpu", "semantic__engine": "onnx"}, ["semantic.device"]),
        ({"semantic__recheck_rate": "0.2"}, ["semantic.recheck_rate"]),
        ({"semantic__recheck_rate": "0.2", "semantic__mode": "verified"}, []),
        ({"distributed__nodes": "a:1,b:1,c:1"}, ["distributed.nodes"]),
        ({"logging__file": "/var/log/cache"}, []),
        ({"max_size": "10000"}, []),
        ({"data_dir": "/elsewhere", "url": "redis://there:7/1"}, []),
    ],
)
def test_settings_without_effect(env: dict[str, Any], names: list[str]) -> None:
    found = doctor.check_unused(load_settings(env={f"CACHE_{name.upper()}": str(env[name]) for name in env}).settings)

    assert levels(found) == ({"unused settings": "warn"} if names else {})
    if names:
        assert found[0].what == f"set and without effect: {', '.join(names)}"
        assert all(f"{name} " in found[0].way_out for name in names)
