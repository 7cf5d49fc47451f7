"""What is wrong with a set-up, and the way out: pure checks over what `workers/examination.py` has read.

Each check says one thing about one part. "fail" is what loses work or answers, "warn" what may.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, assert_never

import msgspec

from cache_management import __version__
from cache_management.cache.cluster.standing import NodeStanding, Standing
from cache_management.cache.config import CacheBackend
from cache_management.cache.redact import hide_password
from cache_management.models.store.results import Mark
from cache_management.settings import Settings
from cache_management.workers.messages import QUEUES
from cache_management.workers.queues import SILENT_SECONDS, QueueView

Level = Literal["ok", "warn", "fail"]

BEAT = "beat"
"""The queue under which schedulers are marked; no message ever waits in it."""

OLDEST_BROKER = (6, 2)
_SKEW_WARNS_SECONDS = 2.0
_SKEW_FAILS_SECONDS = 60.0
_NODES_APART_SECONDS = 1.0
_SILENT_WORKER_SECONDS = 300.0
_VISIBILITY_FACTOR = 5
_LITTLE_BYTES, _LITTLE_SHARE = 1_000_000_000, 0.05
_NOTHING_BYTES = 100_000_000
_UP = "start one: `cache-cli up`, or `cache-cli beat` under your supervisor"


class Finding(msgspec.Struct, frozen=True):
    """What one check found: what is so, why that matters, and the way out; the last two only where it is not well."""

    check: str
    level: Level
    what: str
    why: str = ""
    way_out: str = ""


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


class About(msgspec.Struct, frozen=True):
    """What a worker, or this command, was configured with; addresses without their passwords."""

    version: str
    model: str
    store: str
    metadata: str


class WorkerFacts(msgspec.Struct, frozen=True):
    """What one worker answered; `about` is None for one of a version that does not say it."""

    name: str
    pool: str
    queues: tuple[str, ...]
    about: About | None


def about(settings: Settings) -> About:
    """Return what settings say, without passwords."""
    return About(
        version=__version__,
        model=str(settings.embedding_model),
        store=_store(settings),
        metadata=hide_password(settings.metadata_url),
    )


def _store(settings: Settings) -> str:
    if settings.distributed.enabled:
        return f"replicated://{','.join(sorted(settings.distributed.nodes))}"
    match settings.backend:
        case CacheBackend.REDIS:
            if settings.url and (settings.is_cluster or settings.sentinels or settings.url.startswith("unix:")):
                return hide_password(settings.url)
            return f"redis://{settings.redis_host}:{settings.redis_port}/{settings.redis_db}"
        case CacheBackend.DISK:
            return f"disk://{settings.disk_path.absolute()}"
        case CacheBackend.MEMORY:
            return "memory://"
        case _:
            assert_never(settings.backend)


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


def check_nodes(standing: Standing, *, differing: int, consistency: str, broker: ServerFacts | None) -> list[Finding]:
    """Check the nodes of a replicated cache.

    Args:
        differing: How many slots differ among the nodes that hold them.
        consistency: What reads and writes wait for: "one", "quorum" or "all".
    """
    nodes = standing.nodes
    missing = [node.address for node in nodes if node.state == "unreachable"]
    if not standing.epoch and missing:
        found = [
            Finding(
                "nodes",
                "fail",
                f"the first start needs every node, and {', '.join(missing)} cannot be reached",
                "every lookup is a miss, and nothing is stored",
                "start it, or correct distributed.nodes",
            )
        ]
    elif not standing.epoch:
        found = [Finding("nodes", "ok", f"{len(nodes)} nodes are configured; the first use makes them one cache")]
    else:
        count = len(nodes) - len(standing.away)
        moving = f", {standing.slots_moving} slots move" if standing.slots_moving else ""
        told = f"{count} of {len(nodes)} nodes count (epoch {standing.epoch}{moving})"
        found = [Finding("nodes", "ok", told)]
        if len(standing.away) > standing.tolerated:
            found = [
                Finding(
                    "nodes",
                    "fail",
                    f"{told}; {standing.tolerated} may be away",
                    "slots are refused whose nodes cannot agree",
                    "start those that do not answer; if they are lost, `cache-cli nodes accept-loss`",
                )
            ]
    for node in nodes:
        found += _check_node(node, len(standing.away), standing.tolerated, consistency, broker)
    if differing:
        found.append(
            Finding(
                "copies",
                "warn",
                f"{differing} slots differ among their nodes",
                "what one of them lacks is lost when the others go",
                "run `cache-cli repair run`, or let beat: it does so every five minutes",
            )
        )
    clocks = [node.clock_seconds for node in nodes if node.clock_seconds is not None]
    if clocks and max(clocks) - min(clocks) > _NODES_APART_SECONDS:
        found.append(
            Finding(
                "clocks of the nodes",
                "warn",
                f"the clocks of the nodes are {max(clocks) - min(clocks):,.1f} s apart",
                "entries expire by the time of the nodes, too soon or too late",
                "let all machines keep time by NTP",
            )
        )
    forgetful = [node.address for node in nodes if node.keeps_log is False]
    if forgetful:
        told = f"{len(forgetful)} nodes keep no append-only file: restarted, they are read in whole from the others"
        found.append(Finding("persistence of the nodes", "ok", f"{told}, and what all voters lose at once is lost"))
    return found


def _check_node(
    node: NodeStanding, away: int, tolerated: int, consistency: str, broker: ServerFacts | None
) -> Iterable[Finding]:
    check = f"node {node.address}"
    if node.state not in ("member", "unused"):
        words = {
            "unreachable": ("does not answer", "start it, or let it go: `cache-cli nodes remove`"),
            "syncing": ("is being read in", "wait: `cache-cli nodes status` shows when it counts"),
            "out": ("answers and does not count", "run `cache-cli repair run`; applications bring it up, too"),
        }
        what, way_out = words[node.state]
        yield Finding(
            check,
            "fail" if away > tolerated else "warn",
            f"{node.address} {what}{f': {node.why}' if node.why else ''}",
            f"{away} nodes do not count, and {tolerated} may be away: "
            + ("slots may be refused" if away > tolerated else "another one that goes may stop slots"),
            way_out,
        )
    if node.policy not in (None, "noeviction"):
        yield Finding(
            f"policy of {node.address}",
            "warn" if consistency == "one" else "fail",
            f"{node.address} evicts by {node.policy}",
            "a copy that one node drops by itself uncovers an older one elsewhere, and acknowledged entries are lost",
            "set `maxmemory-policy noeviction` on it; entries are evicted by eviction_policy and `cache-cli evict`",
        )
    if broker is not None and node.run_id and node.run_id == broker.run_id:
        yield Finding(
            "broker apart from the cache",
            "fail",
            f"the broker and {node.address} are one server",
            "a cache that fills it, evicts or is flushed takes the queues along",
            "give the broker a server of its own: set broker_url",
        )


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


def check_beats(marks: Sequence[Mark]) -> Finding:
    """Check that a scheduler is heard: one at least, and two do no harm."""
    ages = {mark.worker: mark.age_seconds for mark in marks if mark.queue == BEAT}
    alive = sorted(name for name, age in ages.items() if age <= SILENT_SECONDS)
    if alive:
        more = "; each period runs once all the same" if len(alive) > 1 else ""
        return Finding("scheduler", "ok", f"{len(alive)} scheduler{'s' * (len(alive) > 1)}: {', '.join(alive)}{more}")
    heard = f"the last was heard {min(ages.values()):,.0f} s ago" if ages else "none was ever heard"
    return Finding(
        "scheduler",
        "fail",
        f"no scheduler is heard; {heard}",
        "lost messages are not sent again, and no maintenance runs",
        f"{_UP}; it is heard only while a worker consumes the queue control",
    )


def check_queues(views: Sequence[QueueView], unknown: Mapping[str, int]) -> list[Finding]:
    """Check that every queue is consumed, and that nothing waits in queues of nobody.

    Args:
        unknown: How much waits in queues that no worker of this version consumes.
    """
    found = []
    idle = []
    for view in views:
        if view.stuck:
            since = "" if view.oldest_seconds is None else f", the oldest for {view.oldest_seconds:,.0f} s"
            found.append(
                Finding(
                    f"queue {view.queue}",
                    "fail",
                    f"{view.depth} messages wait in {view.queue}{since}, and nobody takes them",
                    "these jobs do not go on",
                    f"start a worker: `cache-cli worker --queues {view.queue}`",
                )
            )
        elif not view.workers:
            idle.append(view.queue)
    if idle:
        found.append(
            Finding(
                "unconsumed queues",
                "warn",
                f"no worker consumes {', '.join(idle)}",
                "jobs of these kinds would wait",
                f"start a worker: `cache-cli worker --queues {','.join(idle)}`",
            )
        )
    for queue, depth in unknown.items():
        found.append(
            Finding(
                f"queue {queue}",
                "warn",
                f"{depth} messages wait in {queue}, which no worker of this version consumes",
                "they were sent by another version, or by other settings",
                "let a worker of that version finish them",
            )
        )
    return found or [Finding("queues", "ok", f"every queue is consumed: {', '.join(view.queue for view in views)}")]


def check_marks(marks: Sequence[Mark]) -> list[Finding]:
    """Check for workers that consumed of late and do so no more."""
    latest: dict[str, float] = {}
    for mark in marks:
        if mark.queue in QUEUES:
            latest[mark.worker] = min(mark.age_seconds, latest.get(mark.worker, mark.age_seconds))
    silent = {name: age for name, age in latest.items() if age > _SILENT_WORKER_SECONDS}
    return [
        Finding(
            "silent workers",
            "warn",
            f"{name} took nothing for {age / 60:,.0f} min",
            "it was stopped, or hangs",
            "stop it and start it anew; after a day it is forgotten",
        )
        for name, age in sorted(silent.items())
    ]


def check_workers(workers: Sequence[WorkerFacts], own: About) -> list[Finding]:
    """Check the workers that answer: their pools, and whether they were configured as this command is."""
    if not workers:
        return [
            Finding(
                "workers",
                "warn",
                "no worker answers",
                "jobs wait; a worker whose only process is at work answers late",
                "start one: `cache-cli up`, or `cache-cli worker`",
            )
        ]
    names = ", ".join(f"{worker.name} ({worker.pool})" for worker in workers)
    found = [Finding("workers", "ok", f"{len(workers)} answer: {names}")]
    for worker in workers:
        # One that looks after the jobs only has short work: nothing there needs to be ended by force.
        if worker.pool in ("solo", "threads", "thread") and set(worker.queues) != {"control"}:
            found.append(
                Finding(
                    f"pool of {worker.name}",
                    "warn",
                    f"{worker.name} runs its tasks in a pool of kind {worker.pool}",
                    "time limits and `revoke --terminate` do nothing there: a task that hangs holds the worker",
                    "start it with `--pool prefork`; cancelling a job works on every pool, at its next batch",
                )
            )
        found += _differences(worker, own)
    return found


def _differences(worker: WorkerFacts, own: About) -> Iterable[Finding]:
    about = worker.about
    if about is None:
        return
    check = f"settings of {worker.name}"
    if about.model != own.model:
        yield Finding(
            check,
            "fail",
            f"{worker.name} embeds with {about.model}, this command is set to {own.model}",
            "vectors of two models cannot be compared: what it stores is not found",
            "give both one embedding_model and restart the worker",
        )
    for what, theirs, ours, why in (
        ("keeps entries in", about.store, own.store, "what it stores is not what is read here"),
        ("keeps its jobs in", about.metadata, own.metadata, "it does not see the jobs that are submitted here"),
        ("has version", about.version, own.version, "kinds of jobs, and what is stored, may differ"),
    ):
        if theirs != ours:
            yield Finding(
                check,
                "warn",
                f"{worker.name} {what} {theirs}, this command {ours}",
                f"if these are not two names of one thing, {why}",
                "compare `cache-cli config show` of both machines",
            )


def check_embedder(
    own: str, spaces: Mapping[str, int], *, previous_model: str | None, looked_at_all: bool = True
) -> Finding:
    """Check of which models there are vectors.

    Args:
        own: The space of the configured model.
        spaces: Vectors by space, of as many as were looked at.
    """
    others = {space: count for space, count in spaces.items() if space != own}
    some = "" if looked_at_all else " of those looked at"
    if not others:
        return Finding("vectors", "ok", f"all vectors{some} are of {own}: {spaces.get(own, 0):,}")
    told = ", ".join(f"{count:,} of {space}" for space, count in sorted(others.items()))
    if previous_model is not None:
        return Finding(
            "vectors",
            "warn",
            f"a change of the model is under way: {told}{some}, {spaces.get(own, 0):,} of {own}",
            "until it is done both models are asked",
            "finish it: `cache-cli embed --drop-old`, then take semantic.previous_model out",
        )
    return Finding(
        "vectors",
        "warn" if spaces.get(own) else "fail",
        f"there are vectors of other models than {own}: {told}{some}, {spaces.get(own, 0):,} of it",
        "entries whose vector is of another model are not found by meaning",
        "`cache-cli embed --plan` counts them, `cache-cli embed` embeds them; or set embedding_model back",
    )


def check_jobs_models(models: Iterable[str], own: str) -> list[Finding]:
    """Check live embed jobs against the configured model."""
    others = sorted(set(models) - {own})
    return [
        Finding(
            "embed jobs",
            "warn",
            f"a job embeds with {', '.join(others)}, this command is set to {own}",
            "its vectors will not be found with this model",
            "cancel it (`cache-cli jobs list --kind embed`), or set embedding_model back",
        )
    ][: len(others[:1])]


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


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level among findings."""
    levels = {finding.level for finding in findings}
    return "fail" if "fail" in levels else "warn" if "warn" in levels else "ok"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
