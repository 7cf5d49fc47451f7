"""What is wrong with something, why that matters, and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from cache_management.cache.errors import CacheError

Level = Literal["ok", "warn", "fail"]


class Finding(msgspec.Struct, frozen=True):
    """What one check found: what is so, why that matters, and the way out; the last two only where it is not well."""

    check: str
    level: Level
    what: str
    why: str = ""
    way_out: str = ""


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level among findings."""
    levels = {finding.level for finding in findings}
    return "fail" if "fail" in levels else "warn" if "warn" in levels else "ok"


def reason_of(error: BaseException) -> str:
    """Return the first line of an error; of one that is none of ours, or of the system's, with its class."""
    is_told = isinstance(error, CacheError | OSError | ImportError)
    text = str(error) if is_told else f"{type(error).__name__}: {error}"
    return (text.strip() or type(error).__name__).splitlines()[0]
