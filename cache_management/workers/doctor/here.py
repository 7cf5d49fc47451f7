"""This machine: its folder, its disk, what `cache-cli up` runs on it, and settings that do nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import BaseModel

from cache_management.cache.config import CacheBackend
from cache_management.cache.findings import Finding
from cache_management.settings import Settings

if TYPE_CHECKING:
    from cache_management.services.supervisor import State

_LITTLE_BYTES, _LITTLE_SHARE = 1_000_000_000, 0.05
_NOTHING_BYTES = 100_000_000


def check_folder(folder: str, *, exists: bool, is_writable: bool, mode: int | None) -> list[Finding]:
    """Check that the data folder can be used, by its owner alone."""
    if not is_writable:
        return [
            Finding(
                "data folder",
                "fail",
                f"{folder} cannot be written to" if exists else f"{folder} is not there and cannot be made",
                "entries on disk, the metadata of a first run and vectors are kept there",
                "give the account that runs this the right to, or set data_dir",
            )
        ]
    if mode is not None and mode & 0o077:
        return [
            Finding(
                "data folder",
                "warn",
                f"{folder} is open to other accounts (mode {mode & 0o777:o})",
                "what is stored there may hold prompts and answers",
                f"chmod 700 {folder}",
            )
        ]
    return [Finding("data folder", "ok", f"{folder} {'can be used' if exists else 'will be made at first use'}")]


def check_space(folder: str, *, free_bytes: int, total_bytes: int) -> Finding:
    """Check the disk under the data folder."""
    what = f"{free_bytes / 1e9:,.1f} GB of {total_bytes / 1e9:,.1f} GB are free under {folder}"
    if free_bytes >= _LITTLE_BYTES and free_bytes >= _LITTLE_SHARE * total_bytes:
        return Finding("disk space", "ok", what)
    return Finding(
        "disk space",
        "fail" if free_bytes < _NOTHING_BYTES else "warn",
        what,
        "a full disk refuses entries, jobs and exports",
        "make room, or lower disk_size_limit and run `cache-cli evict run`",
    )


def check_set(state: State | None, settings: Settings, *, answers: bool) -> list[Finding]:
    """Check what `cache-cli up` started on this machine, as far as it runs.

    Args:
        answers: Whether something listens on the port of the metrics.
    """
    if state is None:
        return []
    found = []
    for name, service in state.services.items():
        if service.status != "running" and state.ready:
            found.append(
                Finding(
                    f"service {name}",
                    "fail",
                    f"the {name} of the running set is {service.status}, after {service.restarts} restarts",
                    "what it does stands still; it is started again, later and later, and after ten attempts no more",
                    f"read its log{f' ({service.log})' if service.log else ''}; `cache-cli down`, then `cache-cli up`",
                )
            )
    if not settings.metrics.enabled:
        return found
    if "metrics" not in state.services or not answers:
        found.append(
            Finding(
                "metrics",
                "warn",
                f"the running set serves no metrics at 127.0.0.1:{settings.metrics.port}",
                "alerts stay silent whatever happens",
                "set metrics.port to one that is free (Prometheus itself has 9090), then `cache-cli down` and"
                " `cache-cli up`",
            )
        )
    return found


def check_unused(settings: Settings) -> list[Finding]:
    """Check for settings that somebody set and that have no effect beside the others."""
    found = [name for name, reason in _unused(settings)]
    if not found:
        return []
    reasons = "; ".join(f"{name} {reason}" for name, reason in _unused(settings))
    return [
        Finding(
            "unused settings",
            "warn",
            f"set and without effect: {', '.join(found)}",
            "somebody expects something of them that does not happen",
            f"{reasons}. `cache-cli config show` says where each was set",
        )
    ]


def _unused(settings: Settings) -> Iterable[tuple[str, str]]:
    is_disk, is_memory, is_redis = (
        settings.backend is backend and not settings.distributed.enabled
        for backend in (CacheBackend.DISK, CacheBackend.MEMORY, CacheBackend.REDIS)
    )
    semantic = settings.semantic
    rules = (
        ("memory_limit", is_memory, "is for backend: memory"),
        ("disk_size_limit", is_disk, "is for backend: disk"),
        ("redis_memory_limit", is_redis or settings.distributed.enabled, "is for backend: redis"),
        (
            "max_size",
            is_disk or is_memory,
            "counts entries in memory and on disk; on Redis the memory is what is bounded",
        ),
        ("near_memory_limit", settings.near_max_size > 0, "needs near_max_size above 0"),
        ("eviction_objective", settings.eviction_policy == "auto", "needs eviction_policy: auto"),
        ("eviction_cost_weight", settings.eviction_policy in ("gdsf", "auto"), "needs eviction_policy: gdsf or auto"),
        ("semantic.device", semantic.engine != "onnx", "is for torch, and semantic.engine is onnx"),
        ("semantic.recheck_rate", semantic.serves != "static", "needs semantic.max_error_rate or semantic.mode"),
        ("distributed.nodes", settings.distributed.enabled, "needs distributed.enabled"),
        ("logging.file", False, "is not in this version: logs go to standard error"),
    )
    for name, has_effect, reason in rules:
        if not has_effect and _is_changed(settings, name):
            yield name, reason


def _is_changed(settings: Settings, name: str) -> bool:
    """Tell whether a setting is not what it would be if nobody had named it."""
    part: BaseModel = settings
    *above, last = name.split(".")
    for each in above:
        part = getattr(part, each)
    return bool(getattr(part, last) != type(part).model_fields[last].get_default(call_default_factory=True))
