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
_NEARLY_FULL = 0.95
_MUCH_LOST_BYTES = 500_000_000
_FAR_SECONDS = 0.1


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
    snapshot_is_well: bool = True
    is_loading: bool = False
    resident_bytes: int = 0
    machine_bytes: int = 0
    evicted: int = 0
    clients: int = 0
    clients_limit: int = 0
    turned_away: int = 0
    keys: int = 0
    lasting: int = 0

    @property
    def trip_seconds(self) -> float:
        """Return how long a question to it and back took."""
        return 2 * self.doubt_seconds


def server_facts(
    where: str, info: Mapping[str, Any], *, skew_seconds: float, doubt_seconds: float, database: int = 0
) -> ServerFacts:
    """Return what matters of a server's INFO; values may be text or numbers."""
    keys, lasting = _keys(info.get(f"db{database}"))
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
        snapshot_is_well=str(info.get("rdb_last_bgsave_status", "ok")) == "ok",
        is_loading=int(info.get("loading", 0)) == 1,
        resident_bytes=int(info.get("used_memory_rss", 0)),
        machine_bytes=int(info.get("total_system_memory", 0)),
        evicted=int(info.get("evicted_keys", 0)),
        clients=int(info.get("connected_clients", 0)),
        clients_limit=int(info.get("maxclients", 0)),
        turned_away=int(info.get("rejected_connections", 0)),
        keys=keys,
        lasting=lasting,
    )


def _keys(told: object) -> tuple[int, int]:
    """Return how many keys a database has, and how many of them never expire."""
    if isinstance(told, str):
        told = dict(part.partition("=")[::2] for part in told.split(","))
    if not isinstance(told, Mapping):
        return 0, 0
    keys = int(told.get("keys", 0))
    return keys, keys - int(told.get("expires", 0))


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
    if broker.limit_bytes:
        found.append(_room_of_broker(broker))
    return [*found, *check_server("broker", shown, broker)]


def _room_of_broker(broker: ServerFacts) -> Finding:
    told = f"the broker uses {in_bytes(broker.used_bytes)} of {in_bytes(broker.limit_bytes)}"
    if broker.used_bytes < _NEARLY_FULL * broker.limit_bytes:
        return Finding("room of the broker", "ok", told)
    return Finding(
        "room of the broker",
        "fail",
        told,
        "when it is full it takes no messages: jobs wait, and workers that read cannot acknowledge",
        "raise its maxmemory; `cache-cli queues` shows what waits",
    )


def check_server(name: str, shown: str, server: ServerFacts) -> list[Finding]:
    """Check what is the same for every server: its disk, its clients, its memory beyond the data, its distance."""
    found = []
    if server.is_loading:
        found.append(
            Finding(
                f"{name} reads its data",
                "fail",
                f"{shown} has just started and is still reading its file",
                "it answers no question meanwhile",
                "wait; how far it is stands in INFO persistence (loading_eta_seconds)",
            )
        )
    if not server.snapshot_is_well:
        found.append(
            Finding(
                f"disk of the {name}",
                "fail",
                f"{shown} could not write its last snapshot",
                "with stop-writes-on-bgsave-error, its default, it refuses all writes (MISCONF)",
                "look into its log: mostly its disk is full; or switch snapshots off (`save ''`) where AOF is kept",
            )
        )
    if server.clients_limit and server.clients > _NEARLY_FULL * server.clients_limit:
        found.append(
            Finding(
                f"clients of the {name}",
                "warn",
                f"{server.clients:,} of {server.clients_limit:,} clients are connected to {shown}",
                "the next ones are turned away",
                "raise maxclients, and the limit of open files of its service; CLIENT LIST shows who they are",
            )
        )
    elif server.turned_away:
        found.append(
            Finding(
                f"clients of the {name}",
                "warn",
                f"{shown} turned {server.turned_away:,} clients away since it started",
                "for these it was down",
                "raise maxclients, and the limit of open files of its service",
            )
        )
    if server.resident_bytes - server.used_bytes > _MUCH_LOST_BYTES and server.resident_bytes > 1.5 * server.used_bytes:
        found.append(
            Finding(
                f"memory of the {name}",
                "warn",
                f"{shown} holds {in_bytes(server.resident_bytes)} of memory for {in_bytes(server.used_bytes)} of data",
                "what was freed is in pieces, and the machine may run out of memory before the limit is reached",
                "set `activedefrag yes` on it, or restart it at a quiet time",
            )
        )
    if server.trip_seconds > _FAR_SECONDS:
        found.append(
            Finding(
                f"distance to the {name}",
                "warn",
                f"a question to {shown} takes {server.trip_seconds * 1000:,.0f} ms there and back",
                "every lookup waits as long, and what takes longer than timeout_seconds is a miss",
                "look for load on its machine (`redis-cli --latency`, SLOWLOG GET); bring it near, set near_max_size",
            )
        )
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
    if cache.evicted:
        found.append(
            Finding(
                "evictions",
                "warn",
                f"{shown} evicted {cache.evicted:,} keys by itself since it started",
                "what is asked for again after that is a miss, and computed anew",
                "give it more maxmemory, lower ttl_seconds, or let eviction_policy choose: see the cache policy",
            )
        )
    return [*found, *check_server("cache store", shown, cache)]


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


def in_bytes(count: float) -> str:
    """Write a number of bytes for people."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} bytes"
