"""The nodes of a replicated cache."""

from __future__ import annotations

from collections.abc import Iterable

from cache_management.cache.cluster.standing import NodeStanding, Standing
from cache_management.cache.findings import Finding
from cache_management.workers.doctor.servers import ServerFacts, in_bytes

_NODES_APART_SECONDS = 1.0
_NEARLY_FULL = 0.95


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
            "unreachable": ("does not answer", "start it, or let it go: `cache-cli nodes remove NODE`"),
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
            "set `maxmemory-policy noeviction` on it; entries are evicted by eviction_policy and `cache-cli evict run`",
        )
    if node.limit_bytes and node.used_bytes is not None and node.used_bytes >= _NEARLY_FULL * node.limit_bytes:
        yield Finding(
            f"room of {node.address}",
            "warn",
            f"{node.address} uses {in_bytes(node.used_bytes)} of {in_bytes(node.limit_bytes)}",
            "when it is full it refuses writes, and counts for none of them; entries are evicted from 90 % on",
            "raise its maxmemory, add a node (`cache-cli nodes add NODE`), lower ttl_seconds, see what else is on it",
        )
    if broker is not None and node.run_id and node.run_id == broker.run_id:
        yield Finding(
            "broker apart from the cache",
            "fail",
            f"the broker and {node.address} are one server",
            "a cache that fills it, evicts or is flushed takes the queues along",
            "give the broker a server of its own: set broker_url",
        )
