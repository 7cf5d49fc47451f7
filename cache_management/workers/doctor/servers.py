"""What a Redis or Valkey says of itself, as broker and as cache store, and the clocks of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from cache_management.cache.findings import Finding

OLDEST_BROKER = (6, 2)
_SKEW_WARNS_SECONDS = 2.0
_SKEW_FAILS_SECONDS = 60.0
_VISIBILITY_FACTOR = 5


class ServerFacts(msgspec.Struct, frozen=True):
    """What a Redis or Valkey says of itself. `skew_seconds` is its clock against this host's, `doubt` half the trip."""

    where: str
    version: str
    run_id: str
    policy: str
    limit_bytes: int
    used_bytes: int
    keeps_log: bool
    log_is_well: bool
    is_replica: bool
    is_cluster: bool
    skew_seconds: float
    doubt_seconds: float


def server_facts(where: str, info: Mapping[str, Any], *, skew_seconds: float, doubt_seconds: float) -> ServerFacts:
    """Return what matters of a server's INFO; values may be text or numbers."""
    return ServerFacts(
        where=where,
        version=str(info.get("redis_version", "")),
        run_id=str(info.get("run_id", "")),
        policy=str(info.get("maxmemory_policy", "")),
        limit_bytes=int(info.get("maxmemory", 0)),
        used_bytes=int(info.get("used_memory", 0)),
        keeps_log=int(info.get("aof_enabled", 0)) == 1,
        log_is_well=str(info.get("aof_last_write_status", "ok")) == "ok",
        is_replica=str(info.get("role", "master")) != "master",
        is_cluster=int(info.get("cluster_enabled", 0)) == 1,
        skew_seconds=skew_seconds,
        doubt_seconds=doubt_seconds,
    )


def check_broker(broker: ServerFacts) -> list[Finding]:
    """Check the server that holds the queues."""
    shown = f"the broker at {broker.where}"
    found = [Finding("broker", "ok", f"{shown} answers (version {broker.version})")]
    if _version(broker.version) < OLDEST_BROKER:
        found.append(
            Finding(
                "broker version",
                "fail",
                f"{shown} has version {broker.version}",
                "messages of a lost worker are put back with commands of 6.2 and later",
                "use Redis 6.2 or later, or Valkey",
            )
        )
    if broker.is_cluster or broker.is_replica:
        found.append(
            Finding(
                "broker kind",
                "fail",
                f"{shown} is {'a node of a cluster' if broker.is_cluster else 'a replica'}",
                "queues need one server that takes writes",
                "set broker_url to a standalone server; the cache may be a cluster",
            )
        )
    found.append(
        Finding("broker policy", "ok", "the broker evicts nothing (noeviction)")
        if broker.policy == "noeviction"
        else Finding(
            "broker policy",
            "fail",
            f"{shown} evicts by {broker.policy}",
            "a full broker would drop waiting messages, or whole queues",
            "set `maxmemory-policy noeviction` in its configuration",
        )
    )
    if not broker.keeps_log:
        found.append(
            Finding(
                "broker persistence",
                "warn",
                f"{shown} keeps no append-only file",
                "a restart loses the messages that wait; the reconciler sends them again after half a minute",
                "set `appendonly yes` in its configuration",
            )
        )
    elif not broker.log_is_well:
        found.append(
            Finding(
                "broker persistence",
                "fail",
                f"{shown} could not write its append-only file",
                "it refuses messages until it can",
                "look into its log; mostly its disk is full",
            )
        )
    else:
        found.append(Finding("broker persistence", "ok", "the broker keeps an append-only file"))
    return found


def check_cache_server(cache: ServerFacts, broker: ServerFacts | None) -> list[Finding]:
    """Check the server that holds the entries, also against the broker."""
    shown = f"the cache store at {cache.where}"
    found = [Finding("cache store", "ok", f"{shown} answers (version {cache.version})")]
    if broker is not None and cache.run_id and cache.run_id == broker.run_id:
        found.append(
            Finding(
                "broker apart from the cache",
                "fail",
                "the broker and the cache store are one server",
                "a cache that fills it, evicts or is flushed takes the queues along",
                "give the broker a server of its own: set broker_url",
            )
        )
    if cache.is_replica:
        found.append(
            Finding(
                "cache kind", "fail", f"{shown} is a replica", "it takes no writes", "set url to the server it follows"
            )
        )
    if cache.policy not in ("", "noeviction"):
        found.append(
            Finding(
                "cache policy",
                "warn",
                f"{shown} evicts by {cache.policy}",
                "it knows neither the cost of an answer nor eviction_policy, and drops tags, journals and leases too",
                "set `maxmemory-policy noeviction` and redis_memory_limit",
            )
        )
    return found


def check_skew(name: str, where: str, skew_seconds: float, doubt_seconds: float) -> Finding:
    """Check the clock of another machine against this one's."""
    off = max(0.0, abs(skew_seconds) - doubt_seconds)
    check = f"clock of the {name}"
    if off <= _SKEW_WARNS_SECONDS:
        return Finding(check, "ok", f"this host's clock and that of {where} agree")
    return Finding(
        check,
        "fail" if off > _SKEW_FAILS_SECONDS else "warn",
        f"the clock of {where} is {off:,.0f} s {'ahead of' if skew_seconds > 0 else 'behind'} this host's",
        "entries expire too soon or too late, delayed messages come at the wrong time; leases are not affected",
        "let all machines keep time by NTP",
    )


def check_visibility(visibility_seconds: float, longest_seconds: float) -> Finding:
    """Check when the broker takes a message for lost against how long a task may run."""
    what = f"a message counts as lost after {visibility_seconds:,.0f} s, a task may take {longest_seconds:,.0f} s"
    if visibility_seconds >= _VISIBILITY_FACTOR * longest_seconds:
        return Finding("visibility timeout", "ok", what)
    return Finding(
        "visibility timeout",
        "fail" if visibility_seconds <= longest_seconds else "warn",
        what,
        "messages of tasks that still run are given to a second worker, which is turned away",
        f"set visibility_timeout in broker_transport_options to {_VISIBILITY_FACTOR * longest_seconds:,.0f} or more",
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
