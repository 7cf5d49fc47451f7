"""Clusters larger than any machine here: the real slot table, sampled keys, failures and repairs, beside formulae.

    python -m tests.bench.cluster_simulation [--nodes 1000] [--keys 1e9] [--replicas 2] [--seed 6] [--json]
    python -m tests.bench.cluster_simulation --write      # puts the tables into docs/capacity.md

Each row is computed twice: by a formula of docs/capacity.md, and by drawing keys, failures or writes and looking at the
table that `cluster/slots.py` makes. No server takes part, but for `--memory`: it measures what an entry takes in one.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from itertools import combinations
from math import comb
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache_management.cache.cluster.envelope import HEAD_BYTES, STUB, grave
from cache_management.cache.cluster.moves import STEPS as MOVE_STEPS
from cache_management.cache.cluster.slots import (
    SLOTS,
    Placement,
    changed_slots,
    first_placement,
    next_placement,
    slot_of,
)
from cache_management.cache.config import ReplicationConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "capacity.md"
HOURS_A_YEAR = 8766
ENTRY_BYTES = 2_000
OVERHEAD_BYTES = 160  # measured, see `--memory`: of a key of 60 bytes, its name, the head, and what the server adds
STUB_BYTES = 134  # likewise, all of a record without a value
NAME_BYTES = 70  # a key on the wire: its name, of 62 bytes, and the protocol
SUM_BYTES = 33  # the sum of a slot on the wire: its number of 5 digits, the sum of 15, and the protocol
COMPARED_BYTES = NAME_BYTES + HEAD_BYTES + 6  # a key whose head a node is asked for

BANDWIDTH = 60e6  # bytes a second that copying may take of a node: half of a gigabit


class Row(NamedTuple):
    """One quantity; `tolerance` is how far chance and approximation may bring the two apart, as a share."""

    what: str
    formula: float
    simulated: float
    unit: str = ""
    tolerance: float = 0.01


class Cluster(NamedTuple):
    """What is simulated."""

    nodes: int = 1000
    keys: float = 1e9
    replicas: int = 2
    seed: int = 6

    @property
    def replication(self) -> ReplicationConfig:
        return ReplicationConfig(replicas=self.replicas)

    def names(self) -> list[str]:
        return [f"node-{number}" for number in range(self.nodes)]

    def table(self) -> Placement:
        return first_placement(self.names(), voters=self.replication.voters, copies=self.replication.copies)

    def rng(self, what: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *what.encode()])

    def keys_of_slots(self) -> NDArray[np.int64]:
        return self.rng("keys").multinomial(int(self.keys), [1 / SLOTS] * SLOTS)


def as_array(table: Placement) -> NDArray[np.int64]:
    """Return a table as indexes, shape (16384, voters)."""
    return np.array(list(table.rows()))


def most_of(places: int, nodes: int) -> float:
    """Return the largest load through the mean when whole places are dealt evenly."""
    return math.ceil(places / nodes) * nodes / places


def even_up_to(places: int, limit: float = 1.03) -> int:
    """Return the number of nodes up to which the largest load is within the limit, for any number below it."""
    return next(nodes for nodes in range(1, places) if most_of(places, nodes) > limit) - 1


def partners_of(nodes: int, voters: int) -> float:
    """Return with how many others a node shares a slot."""
    return (nodes - 1) * (1 - (1 - (voters - 1) / max(nodes - 1, 1)) ** (SLOTS * voters / nodes)) if nodes > 1 else 0.0


# What is simulated


def balance(cluster: Cluster) -> list[Row]:
    """How even places, keys and reads are."""
    nodes, rng = cluster.nodes, cluster.rng("balance")
    rows, loads = as_array(cluster.table()), cluster.keys_of_slots()
    places = np.bincount(rows.ravel(), minlength=nodes)
    firsts = np.bincount(rows[:, 0], minlength=nodes)
    keys = np.bincount(rows[:, : cluster.replication.copies].ravel(), _each(rows, loads, cluster), minlength=nodes)
    sample = 20 * SLOTS
    hashed = np.bincount([slot_of(f"user:{number}:answer") for number in range(sample)], minlength=SLOTS)
    kept = cluster.keys * cluster.replication.copies / nodes
    fullest = SLOTS * cluster.replication.copies % nodes or nodes
    zipf = _zipf(int(min(cluster.keys, 1e6)), cluster.keys)
    spots = rng.integers(SLOTS, size=len(zipf))
    return [
        Row("variance through mean of hashed keys a slot", 1, hashed.var() / hashed.mean(), "", 0.06),
        Row("first places, most / mean", most_of(SLOTS, nodes), firsts.max() * nodes / SLOTS, "", 0.005),
        Row("all places, most / mean", most_of(rows.size, nodes), places.max() * nodes / rows.size, "", 0.005),
        Row(
            "entries kept, most / mean",
            most_of(SLOTS * cluster.replication.copies, nodes) * (1 + math.sqrt(2 * math.log(max(fullest, 2)) / kept)),
            keys.max() / keys.mean(),
            "",
            0.01,
        ),
        Row(
            "reads by Zipf's law, hottest node / mean",
            1 + zipf[0] * nodes,
            _hottest(zipf, spots, rows[:, 0], nodes, skip=0),
            "",
            0.25,
        ),
        Row(
            "the same with the 1,000 hottest keys kept in processes",
            1 + math.sqrt(2 * math.log(nodes) * nodes * float((zipf[1000:] ** 2).sum())) / (1 - zipf[:1000].sum()),
            _hottest(zipf, spots, rows[:, 0], nodes, skip=1000),
            "",
            0.15,
        ),
    ]


def _each(rows: NDArray[np.int64], of_slots: NDArray[np.int64], cluster: Cluster) -> NDArray[np.int64]:
    return np.repeat(of_slots, min(cluster.replication.copies, rows.shape[1]))


def _zipf(top: int, keys: float) -> NDArray[np.float64]:
    """Return the share of reads of the `top` most popular of `keys`, the n-th 1 / n as popular as the first."""
    return 1 / np.arange(1, top + 1) / (math.log(keys) + np.euler_gamma)


def _hottest(
    shares: NDArray[np.float64], spots: NDArray[np.int64], firsts: NDArray[np.int64], nodes: int, *, skip: int
) -> float:
    top = np.bincount(firsts[spots[skip:]], shares[skip:], minlength=nodes)
    rest = (1 - shares.sum()) * np.bincount(firsts, minlength=nodes) / SLOTS
    return float((top + rest).max() * nodes / (top + rest).sum())


def failures(cluster: Cluster, *, mtbf_hours: float, repair_hours: float, drawn: int = 100_000) -> list[Row]:
    """How often slots lose their quorum and all their copies, when nodes fail by themselves and come back empty.

    `repair_hours` is the mean time until a node is a member again: restarted and synced. Both times are exponential.
    """
    voters, copies, quorum = (getattr(cluster.replication, name) for name in ("voters", "copies", "quorum"))
    away, rate = repair_hours / (mtbf_hours + repair_hours), HOURS_A_YEAR / mtbf_hours
    least = voters - quorum + 1  # so many away, and there is no quorum
    found = _draw_failures(cluster, least, mtbf_hours, repair_hours, drawn)

    def exactly(number: int, of: int) -> float:
        return comb(of, number) * away**number * (1 - away) ** (of - number)

    without = sum(exactly(number, voters) for number in range(least, voters + 1))
    lost = exactly(least - 1, voters) * (voters - least + 1) * rate * SLOTS
    gone = exactly(copies - 1, copies) * rate * SLOTS
    rows = [
        Row("share of time a slot lacks its quorum", without, found.without, "", _chance(found.incidents, 2)),
        Row("slots that lose their quorum", lost, found.losses / found.years, "a year", _chance(found.incidents, 2)),
        Row(
            "slots that lose all copies",
            gone,
            found.all_copies / found.years if found.wipes > 20 else math.nan,
            "a year",
            _chance(found.wipes, 2),
        ),
    ]
    if least == 2:
        pairs = comb(cluster.nodes, 2)
        sharing = pairs * (1 - (1 - 1 / pairs) ** (SLOTS * comb(voters, 2)))
        count = len({pair for row in as_array(cluster.table()).tolist() for pair in combinations(sorted(row), 2)})
        partners = 2 * sharing / cluster.nodes
        incidents = cluster.nodes * rate * (1 - away) * (1 - (1 - away) ** partners)
        rows += [
            Row("pairs of nodes that share a slot", sharing, count, "", 0.03),
            Row(
                "failures that cost slots their quorum",
                incidents,
                found.incidents / found.years,
                "a year",
                0.03 + _chance(found.incidents),
            ),
        ]
    return rows


def _chance(events: float, together: float = 1) -> float:
    """Return four standard deviations of a count as a share; of what comes `together`, each event is less of a draw."""
    return 4 / math.sqrt(max(events / together, 1))


class _Found(NamedTuple):
    years: float
    without: float
    losses: int
    all_copies: int
    incidents: int  # failures by which slots lost their quorum
    wipes: int  # and all copies


def _draw_failures(cluster: Cluster, least: int, mtbf: float, repair: float, drawn: int) -> _Found:
    rng, rows, copies = cluster.rng("failures"), as_array(cluster.table()), cluster.replication.copies
    voting = [np.flatnonzero((rows == node).any(axis=1)) for node in range(cluster.nodes)]
    keeping = [np.flatnonzero((rows[:, :copies] == node).any(axis=1)) for node in range(cluster.nodes)]
    votes_away, copies_away = np.zeros(SLOTS, np.int64), np.zeros(SLOTS, np.int64)
    since = np.zeros(SLOTS)
    without, losses, all_copies, incidents, wipes, now = 0.0, 0, 0, 0, 0, 0.0
    # The state at the start is the long-run one, else short runs would see too few nodes away.
    is_away = rng.random(cluster.nodes) < repair / (mtbf + repair)
    for node in np.flatnonzero(is_away):
        votes_away[voting[node]] += 1
        copies_away[keeping[node]] += 1
    events = [(rng.exponential(repair if is_away[node] else mtbf), node) for node in range(cluster.nodes)]
    heapq.heapify(events)
    while drawn:
        now, node = events[0]
        slots = voting[node]
        if is_away[node]:
            back = slots[votes_away[slots] == least]
            without += float((now - since[back]).sum())
            votes_away[slots] -= 1
            copies_away[keeping[node]] -= 1
        else:
            drawn -= 1
            votes_away[slots] += 1
            copies_away[keeping[node]] += 1
            lost = slots[votes_away[slots] == least]
            since[lost] = now
            losses += len(lost)
            incidents += bool(len(lost))
            wiped = np.count_nonzero(copies_away[keeping[node]] == copies)
            all_copies += wiped
            wipes += bool(wiped)
        is_away[node] = not is_away[node]
        heapq.heapreplace(events, (now + rng.exponential(repair if is_away[node] else mtbf), node))
    without += float((now - since[votes_away >= least]).sum())
    return _Found(now / HOURS_A_YEAR, without / now / SLOTS, losses, all_copies, incidents, wipes)


def resharding(cluster: Cluster) -> list[Row]:
    """What joins and departures copy, and how long that takes."""
    copies, voters, nodes = cluster.replication.copies, cluster.replication.voters, cluster.nodes
    before, loads = cluster.table(), cluster.keys_of_slots()
    joined = next_placement(before, [*before.nodes, "joined"])
    left = next_placement(before, before.nodes[1:])
    size = ENTRY_BYTES + OVERHEAD_BYTES
    more = _received(before, joined, loads)
    fewer = _received(before, left, loads)
    slot = cluster.keys / SLOTS
    deepest = math.ceil(SLOTS * copies / nodes / (nodes - 1))
    return [
        Row("entries copied to a node that joins", cluster.keys * copies / (nodes + 1), more["joined"], "", 0.02),
        Row("bytes of it", cluster.keys * copies / (nodes + 1) * size, more["joined"] * size, "B", 0.02),
        Row(
            "time of it, at what the one that joins takes",
            cluster.keys * copies / (nodes + 1) * size / BANDWIDTH,
            more["joined"] * size / BANDWIDTH,
            "s",
            0.02,
        ),
        Row(
            "names read to find them",
            _scans(cluster, SLOTS * voters / (nodes + 1)) * cluster.keys * copies / nodes * NAME_BYTES,
            _names_read(before, joined, loads) * NAME_BYTES,
            "B",
            0.1,
        ),
        Row("entries copied between old nodes", 0, sum(more.values()) - more["joined"]),
        Row("entries copied when a node leaves", cluster.keys * copies / nodes, sum(fewer.values()), "", 0.03),
        Row(
            "names read to find them",
            _scans(cluster, SLOTS * voters / nodes, shared=1) * cluster.keys * copies / nodes * NAME_BYTES,
            _names_read(before, left, loads) * NAME_BYTES,
            "B",
            0.1,
        ),
        Row(
            "time of it, at what the busiest survivor takes",
            deepest * slot * size / BANDWIDTH,
            max(fewer.values()) * size / BANDWIDTH,
            "s",
            0.25,
        ),
    ]


def _received(before: Placement, after: Placement, loads: NDArray[np.int64]) -> dict[str, int]:
    got: dict[str, int] = {}
    for slot in range(SLOTS):
        for node in set(after.copies_of(slot)) - set(before.copies_of(slot)):
            got[node] = got.get(node, 0) + int(loads[slot])
    return got


def _scans(cluster: Cluster, slots: float, *, shared: int = 0) -> float:
    """Return how many nodes are read through, one or more times each, to move so many slots in steps.

    `shared` nodes are voters of all these slots.
    """
    steps = -(-slots // -(-slots // MOVE_STEPS))
    nodes, voters = cluster.nodes - shared, cluster.replication.voters - shared
    return steps * (shared + nodes * (1 - (1 - voters / nodes) ** (slots / steps)))


def _names_read(before: Placement, after: Placement, loads: NDArray[np.int64]) -> float:
    rows = as_array(before)
    held = np.bincount(rows[:, : before.copies].ravel(), np.repeat(loads, before.copies), minlength=len(before.nodes))
    slots = changed_slots(before, after)
    size = -(-len(slots) // MOVE_STEPS)
    return float(sum(held[np.unique(rows[slots[at : at + size]])].sum() for at in range(0, len(slots), size)))


def repair(cluster: Cluster, *, outage_minutes: float, writes_a_second: float) -> list[Row]:
    """What passes send, without differences and after a node was away, and what it takes to read an empty node in."""
    rng, voters, copies = cluster.rng("repair"), cluster.replication.voters, cluster.replication.copies
    rows, loads = as_array(cluster.table()), cluster.keys_of_slots()
    slots = np.flatnonzero((rows == 0).any(axis=1))
    each = np.bincount(rows[:, :copies].ravel(), _each(rows, loads, cluster), minlength=cluster.nodes)
    partners = np.setdiff1d(np.unique(rows[slots]), [0])
    mine, a_slot, kept = SLOTS * voters / cluster.nodes, cluster.keys / SLOTS, cluster.keys * copies / cluster.nodes
    writes = writes_a_second * outage_minutes * 60
    missed = writes * voters / cluster.nodes
    drawn = rng.multinomial(rng.poisson(writes), [1 / SLOTS] * SLOTS)[slots]
    touched = mine * (1 - math.exp(-missed / mine))
    others = partners_of(cluster.nodes, voters)
    size = ENTRY_BYTES + OVERHEAD_BYTES
    few = 0.03 + _chance(min(touched, missed))
    seen = loads[slots] * (copies - (rows[slots, :copies] == 0).sum(axis=1))  # at each of the others that keeps it
    return [
        Row("sums of all slots, read once", SLOTS * voters * SUM_BYTES, rows.size * SUM_BYTES, "B"),
        Row("entries that the node missed", missed, drawn.sum(), "", few),
        Row("slots that differ", touched, np.count_nonzero(drawn), "", few),
        Row("names of all keys, read by a pass", cluster.keys * copies * NAME_BYTES, each.sum() * NAME_BYTES, "B"),
        Row(
            "heads compared by it in slots that differ",
            touched * a_slot * copies * voters * COMPARED_BYTES,
            float(loads[slots][drawn > 0].sum()) * copies * voters * COMPARED_BYTES,
            "B",
            few,
        ),
        Row("entries copied by it", missed * size, float(drawn.sum()) * size, "B", few),
        Row("nodes that share slots with an empty node", others, len(partners), "", 0.06),
        Row("names read from them", others * kept * NAME_BYTES, each[partners].sum() * NAME_BYTES, "B", 0.06),
        Row(
            "heads compared to read it in",
            kept * (voters - 1) * voters * COMPARED_BYTES,
            float(seen.sum()) * voters * COMPARED_BYTES,
            "B",
            0.03,
        ),
        Row("entries copied to it", kept * size, each[0] * size, "B", 0.03),
    ]


def stubs(cluster: Cluster, *, gone_a_second: float, kept_hours: float) -> list[Row]:
    """How much memory what is deleted or expired takes until every node knows it."""
    rng, copies = cluster.rng("stubs"), cluster.replication.copies
    waiting = gone_a_second * kept_hours * 3600
    drawn = rng.poisson(waiting)
    spread = rng.multinomial(drawn, [1 / SLOTS] * SLOTS)
    rows = as_array(cluster.table())[:, :copies]
    most = np.bincount(rows.ravel(), np.repeat(spread, copies), minlength=cluster.nodes).max()
    mean = waiting * copies / cluster.nodes
    return [
        Row("stubs in the cluster", waiting * copies, drawn * copies, "", _chance(waiting)),
        Row(
            "memory of them, all nodes",
            waiting * copies * STUB_BYTES,
            drawn * copies * STUB_BYTES,
            "B",
            _chance(waiting),
        ),
        Row(
            "memory of them, fullest node",
            mean * most_of(SLOTS * copies, cluster.nodes) * STUB_BYTES,
            most * STUB_BYTES,
            "B",
            0.02 + _chance(mean),
        ),
    ]


def measure_memory(entries: int = 20_000) -> dict[str, float]:
    """Return the bytes that a server takes for an entry beyond its value, and for a stub."""
    import redis

    from cache_management.services import start_redis

    head = grave(b"f" * 24, STUB, 0)
    found = {}
    with tempfile.TemporaryDirectory(prefix="cm-bench-") as folder, start_redis(Path(folder)) as server:
        client = redis.Redis.from_url(server.url)
        # Of many lengths: a server rounds each up, so that 2,040 and 2,060 bytes may differ by a quarter.
        lengths = {"entry": range(ENTRY_BYTES * 3 // 4, ENTRY_BYTES * 5 // 4), "stub": range(1)}
        for what, among in lengths.items():
            client.execute_command("FLUSHALL", "SYNC")
            empty, stored = client.info("memory")["used_memory"], 0
            pipe = client.pipeline(transaction=False)
            for number in range(entries):
                value = os.urandom(among[number % len(among)])
                stored += len(value)
                pipe.set(f"e:{number:060}", head + value)
            pipe.execute()
            found[what] = (client.info("memory")["used_memory"] - empty - stored) / entries
        client.close()
    return found


class Sizing(NamedTuple):
    """How large a cluster is for so many entries."""

    entries: float
    replicas: int
    nodes: int
    node_bytes: float
    rebuild_seconds: float
    write_bytes: float


def sizing(
    entries: float, *, replicas: int, node_bytes: float = 64e9, fill: float = 0.6, writes_a_second: float = 1000
) -> Sizing:
    """Return how many nodes of a memory are needed, at least as many as vote.

    A node is filled by `fill`: the rest is for a lost node's share, stubs, buffers and fragments.
    """
    replication = ReplicationConfig(replicas=replicas)
    copies, size = replication.copies, ENTRY_BYTES + OVERHEAD_BYTES
    nodes = max(replication.voters, math.ceil(entries * copies * size / (node_bytes * fill)))
    each = entries * copies / nodes * most_of(SLOTS * copies, nodes)
    names = partners_of(nodes, replication.voters) * NAME_BYTES
    heads = (replication.voters - 1) * replication.voters * COMPARED_BYTES
    again = each * (names + heads + size) / BANDWIDTH if copies > 1 else math.nan
    return Sizing(entries, replicas, nodes, each * size, again, writes_a_second * copies * size)


# What is shown


def report(cluster: Cluster, *, drawn: int = 100_000) -> dict[str, list[Row]]:
    """Run every simulation."""
    return {
        f"Balance, {cluster.nodes:,} nodes, {cluster.keys:,.0f} entries": balance(cluster),
        "Failures: each node once in 30 days, a member again after 10 minutes": failures(
            cluster, mtbf_hours=720, repair_hours=1 / 6, drawn=drawn
        ),
        "Failures: each node once in 3 days, a member again after an hour": failures(
            cluster, mtbf_hours=72, repair_hours=1, drawn=drawn
        ),
        "Joining and leaving": resharding(cluster),
        "Repair after a node was 10 minutes away, with 100,000 writes a second in the cluster": repair(
            cluster, outage_minutes=10, writes_a_second=100_000
        ),
        "Stubs: 10,000 entries a second deleted or expired, kept for 2 hours": stubs(
            cluster, gone_a_second=10_000, kept_hours=2
        ),
    }


def as_markdown(found: dict[str, list[Row]]) -> str:
    """Return the tables of a report, those of tables and sizes with it."""
    lines = []
    for title, rows in found.items():
        lines += [f"**{title}**", "", "| | formula | simulated |", "|---|---|---|"]
        lines += [
            f"| {row.what} | {_shown(row.formula, row.unit)} | {_shown(row.simulated, row.unit)} |" for row in rows
        ]
        lines.append("")
    lines += [
        "**How even the table is, most / mean**",
        "",
        "| nodes | first places | all places, 3 voters |",
        "|---|---|---|",
    ]
    for nodes in (3, 10, 50, 100, 250, 500, 1000, 2000):
        load = list(first_placement([f"n{at}" for at in range(nodes)], voters=3).load().values())
        first, places = (
            max(counts) * nodes / sum(counts) for counts in zip(*((x.first, x.places) for x in load), strict=True)
        )
        lines.append(f"| {nodes:,} | {first:.4f} | {places:.4f} |")
    lines += [
        "",
        f"Within 3 % for any number of nodes up to {even_up_to(SLOTS):,} for first places, and up to "
        f"{even_up_to(3 * SLOTS):,} for all places of three voters.",
        "",
        "**Sizes: entries of 2 kB, nodes of 64 GB filled by 60 %, 1,000 writes a second**",
        "",
        "| entries | replicas | nodes | memory a node | an empty node is filled again in | writes, all nodes |",
        "|---|---|---|---|---|---|",
    ]
    for entries in (1e6, 1e8, 1e9):
        for replicas in (0, 1, 2):
            size = sizing(entries, replicas=replicas)
            lines.append(
                f"| {entries:,.0f} | {replicas} | {size.nodes} | {_shown(size.node_bytes, 'B')} | "
                f"{_shown(size.rebuild_seconds, 's')} | {_shown(size.write_bytes, 'B')}/s |"
            )
    return "\n".join(lines)


def _shown(value: float, unit: str = "") -> str:
    if math.isnan(value):
        return "lost" if unit == "s" else "too rare to draw"
    if unit == "B":
        for name in ("B", "kB", "MB", "GB", "TB"):
            if value < 1000 or name == "TB":
                return f"{value:.3g} {name}"
            value /= 1000
    if unit == "s" and value >= 120:
        return f"{value / 60:.3g} min" if value < 7200 else f"{value / 3600:.3g} h"
    text = f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    return f"{text} {unit}".rstrip()


def written(page: str, tables: str) -> str:
    """Return the page with the tables put between its marks."""
    begin, end = "<!-- tables -->\n", "<!-- end -->"
    head, rest = page.split(begin)
    return f"{head}{begin}{tables}\n{end}{rest.split(end)[1]}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print or write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--keys", type=float, default=1e9)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--failures", type=int, default=100_000, help="how many are drawn for each table")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--memory", action="store_true", help="measure what entries and stubs take in a server")
    given = parser.parse_args(arguments)
    if given.memory:
        sys.stdout.write(json.dumps(measure_memory()) + "\n")
        return
    found = report(Cluster(given.nodes, given.keys, given.replicas, given.seed), drawn=given.failures)
    if given.json:
        sys.stdout.write(
            json.dumps({title: [row._asdict() for row in rows] for title, rows in found.items()}, default=float)
        )
    elif given.write:
        PAGE.write_text(written(PAGE.read_text(), as_markdown(found)))
    else:
        sys.stdout.write(as_markdown(found) + "\n")


if __name__ == "__main__":
    main()
