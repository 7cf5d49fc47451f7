"""This machine: its folder, its disk, what `cache-cli up` runs on it, and settings that do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_management.cache.findings import Finding
from cache_management.settings import Settings
from cache_management.settings_use import changed_settings, unused_settings

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
    found = unused_settings(settings, changed_settings(settings))
    if not found:
        return []
    reasons = "; ".join(f"{each.key} ({each.why})" for each in found)
    return [
        Finding(
            "unused settings",
            "warn",
            f"set and without effect: {', '.join(each.key for each in found)}",
            "somebody expects something of them that does not happen",
            f"{reasons}. `cache-cli config show` says where each was set",
        )
    ]
