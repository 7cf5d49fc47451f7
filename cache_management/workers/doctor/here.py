"""This machine."""

from __future__ import annotations

from cache_management.cache.findings import Finding

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
