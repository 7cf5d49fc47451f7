"""How much a store holds, what bounds it, and how near it is to that."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import msgspec

from cache_management.cache.findings import Finding
from cache_management.settings import Settings
from cache_management.workers.doctor.servers import ServerFacts, in_bytes

FULL = 0.98
"""From this share of a bound every new entry makes an old one go."""
_MACHINE_SHARE = 0.8
_COPIES_SHARE = 0.25
_LASTING_SHARE, _LASTING_MATTERS = 0.1, 1_000
_MORE_ROOM = "remove entries (`cache-cli evict plan --expired`, `cache-cli evict run`) or lower ttl_seconds"


class DiskFacts(msgspec.Struct, frozen=True):
    """What a store on disk holds: answers of the namespace, and the bytes of its file."""

    entries: int
    size_bytes: int


def limit_of(settings: Settings, server: ServerFacts) -> int | None:
    """Return the bytes that a server may use, by its own limit or ours; None without either."""
    limit = min(server.limit_bytes or sys.maxsize, settings.redis_memory_limit or sys.maxsize)
    return None if limit == sys.maxsize else limit


def is_full(settings: Settings, server: ServerFacts | None, disk: DiskFacts | None) -> bool:
    """Tell whether a store makes room for each new entry; what nobody knows is no."""
    if server is not None:
        limit = limit_of(settings, server)
        # Ours keeps it between two marks.
        return limit is not None and server.used_bytes >= settings.eviction_low_watermark * limit
    return disk is not None and _is_full_disk(settings, disk)


def check_server_room(settings: Settings, server: ServerFacts) -> list[Finding]:
    """Check a single Redis that keeps the entries."""
    limit = limit_of(settings, server)
    used = f"the cache store uses {in_bytes(server.used_bytes)}"
    found = []
    if limit is None:
        found.append(_without_limit(settings, server, used))
    elif server.used_bytes >= limit:
        found.append(
            Finding(
                "room of the store",
                "fail",
                f"{used}, and its limit is {in_bytes(limit)}",
                "it holds other things than entries, or more is written than eviction removes: writes are refused",
                f"raise redis_memory_limit or maxmemory, or give the cache a server of its own; {_MORE_ROOM}",
            )
        )
    elif server.used_bytes >= FULL * limit:
        found.append(
            Finding(
                "room of the store",
                "warn",
                f"{used} of {in_bytes(limit)}",
                "writes may have to wait for room, or are refused",
                f"raise redis_memory_limit or maxmemory, or lower eviction_high_watermark; {_MORE_ROOM}",
            )
        )
    else:
        found.append(Finding("room of the store", "ok", f"{used} of {in_bytes(limit)}"))
    is_bounded = settings.ttl_seconds not in (None, -1)
    if is_bounded and server.lasting > max(_LASTING_MATTERS, _LASTING_SHARE * server.keys):
        found.append(
            Finding(
                "lives",
                "warn",
                f"{server.lasting:,} of {server.keys:,} keys in database {settings.redis_db} never expire",
                "they were stored with a life of -1, or belong to another program: they only go by eviction",
                "`cache-cli evict plan --older-than 604800` counts old entries; give the cache a database of its own",
            )
        )
    return found


def _without_limit(settings: Settings, server: ServerFacts, used: str) -> Finding:
    if server.machine_bytes and server.used_bytes > _MACHINE_SHARE * server.machine_bytes:
        return Finding(
            "room of the store",
            "fail",
            f"{used} of the {in_bytes(server.machine_bytes)} of its machine, and has no limit",
            "the system ends it when memory is gone, and all entries with it",
            f"set redis_memory_limit, or maxmemory with noeviction; {_MORE_ROOM}",
        )
    if settings.ttl_seconds in (None, -1):
        return Finding(
            "room of the store",
            "warn",
            f"{used}; entries never expire (ttl_seconds), and nothing limits its memory",
            "it grows until its machine has no memory left",
            "set redis_memory_limit, or a ttl_seconds such as 86400",
        )
    return Finding("room of the store", "ok", f"{used}, without a limit; entries go by ttl_seconds")


def check_disk_room(settings: Settings, disk: DiskFacts) -> Finding:
    """Check a store on disk."""
    told = (
        f"{disk.entries:,} of {settings.max_size:,} entries,"
        f" {in_bytes(disk.size_bytes)} of {in_bytes(settings.disk_size_limit)} on disk"
    )
    if not _is_full_disk(settings, disk):
        return Finding("room of the store", "ok", told)
    name = "max_size" if disk.entries >= FULL * settings.max_size else "disk_size_limit"
    return Finding(
        "room of the store",
        "warn",
        f"the store is full: {told}",
        "each new entry makes another one go, which is a miss when it is asked for again",
        f"raise {name} if the hit rate matters more than the disk; {_MORE_ROOM}",
    )


def _is_full_disk(settings: Settings, disk: DiskFacts) -> bool:
    return disk.entries >= FULL * settings.max_size or disk.size_bytes >= FULL * settings.disk_size_limit


def check_copies(settings: Settings, machine_bytes: int) -> Iterable[Finding]:
    """Check what each process of an application keeps in its own memory."""
    if settings.near_max_size and settings.near_memory_limit > _COPIES_SHARE * machine_bytes:
        yield Finding(
            "copies in memory",
            "warn",
            f"each process may keep {in_bytes(settings.near_memory_limit)} of copies,"
            f" and this machine has {in_bytes(machine_bytes)}",
            "several processes of an application together need more than there is",
            "lower near_memory_limit or near_max_size",
        )
