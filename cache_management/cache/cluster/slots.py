"""Which nodes keep a key: 16,384 slots and the table that names each slot's voters. Pure.

The three strategies are three ways to make the table; everything else reads the table only. What they move when an
eleventh node joins ten, and when the sixth of ten leaves, in percent of all places, and in brackets what of that goes
from one old node to another without need:

    strategy          one voter: joins   leaves        three voters: joins   leaves
    CONSISTENT_HASH   9.1 (0)            10.0 (0)      9.1 (0)               10.0 (0)
    MOD_HASH          90.9 (81.8)        90.0 (80.0)   72.7 (63.7)           70.0 (60.0)
    RANGE             50.0 (40.9)        27.8 (17.8)   17.6 (8.5)            13.3 (3.3)

In general n / (n + 1) with MOD_HASH and one voter, a half with RANGE, 1 / (n + 1) with CONSISTENT_HASH; the least that
is possible is 1 / (n + 1). `test_table_of_moves_is_what_is_measured` measures it.

A slot's list is ordered: the first is asked first, the first `copies` keep the data, the rest only vote and keep
hand-offs. Another order among the copies moves no data.

A node is the first of 16,384 / n slots, a whole number of them: nodes differ by one, which stays below 3 % of the mean
up to 500 nodes. See `docs/capacity.md`.
"""

from __future__ import annotations

import heapq
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeVar

import msgspec
import xxhash
import zstandard

from cache_management.cache.config import ShardingStrategy
from cache_management.cache.errors import ConfigurationError, CorruptRecord

SLOTS = 16_384
MAX_NODES = 4_096  # beyond it a node would be the first of fewer than four slots
_NARROW = 255  # up to here an index is one byte
_SUM_BYTES = 8
_MAX_TABLE_BYTES = 16 * 2**20

Place = TypeVar("Place")
Row = list[int]  # the voters of one slot, as indexes into the nodes


class NodeLoad(NamedTuple):
    """How many slots a node is first for, keeps data of, and votes in."""

    first: int
    copies: int
    places: int


class Moves(NamedTuple):
    """What differs between two tables.

    `places`: (slot, node) where the node newly votes. `copies`: where it newly keeps data, which must be copied to it.
    `strays`: of both, those that an old node got although no removed node left that place to be refilled.
    """

    places: int
    copies: int
    strays: int


class Placement(msgspec.Struct, frozen=True, dict=True):
    """The table: for each slot its voters, in order.

    `nodes` are node ids in the table's own order. `lists` holds `voters` indexes into it a slot: a byte each, or two
    (little-endian) for more than 255 nodes. The first `copies` of a slot keep its data.
    """

    nodes: tuple[str, ...]
    lists: bytes
    voters: int
    copies: int
    strategy: ShardingStrategy

    @cached_property
    def _table(self) -> tuple[tuple[str, ...], ...]:
        shared: dict[tuple[int, ...], tuple[str, ...]] = {}
        return tuple(
            shared.get(row) or shared.setdefault(row, tuple(self.nodes[index] for index in row))
            for row in map(tuple, self.rows())
        )

    def voters_of(self, slot: int) -> tuple[str, ...]:
        """Return the voters of a slot, the one to ask first before the others, all different."""
        return self._table[slot]

    def copies_of(self, slot: int) -> tuple[str, ...]:
        """Return those voters that keep the slot's data."""
        return self._table[slot][: self.copies]

    def slots_of(self, node: str) -> list[int]:
        """Return the slots that a node votes in, ascending; none for a node that is not in the table."""
        return [slot for slot, voters in enumerate(self._table) if node in voters]

    def load(self) -> dict[str, NodeLoad]:
        """Count for each node what it is first for, keeps and votes in."""
        by_position = [[0] * self.voters for _ in self.nodes]
        for row in self.rows():
            for position, index in enumerate(row):
                by_position[index][position] += 1
        return {
            node: NodeLoad(counts[0], sum(counts[: self.copies]), sum(counts))
            for node, counts in zip(self.nodes, by_position, strict=True)
        }

    def rows(self) -> Iterator[Row]:
        """Yield the voters of each slot as indexes into `nodes`."""
        indexes = _from_bytes(self.lists, len(self.nodes))
        return (indexes[at : at + self.voters].tolist() for at in range(0, len(indexes), self.voters))

    def encode(self) -> bytes:
        """Pack the table: a sum of 8 bytes, then zstd of MessagePack."""
        body = zstandard.ZstdCompressor(level=3).compress(msgspec.msgpack.encode(self))
        return xxhash.xxh3_64_digest(body) + body

    @staticmethod
    def decode(data: bytes) -> Placement:
        """Read what `encode` made.

        Raises:
            CorruptRecord: It is no table, or not whole, or says what no table can say.
        """
        return _decoded(data)


# To look at every slot takes tens of ms, in which an event loop stands still, and a client reads few tables but often.
@lru_cache(maxsize=8)
def _decoded(data: bytes) -> Placement:
    body = data[_SUM_BYTES:]
    if len(data) < _SUM_BYTES or xxhash.xxh3_64_digest(body) != data[:_SUM_BYTES]:
        raise CorruptRecord("the bytes are no slot table, or not all of one: their sum differs")
    try:
        if not 0 <= zstandard.frame_content_size(body) <= _MAX_TABLE_BYTES:
            raise CorruptRecord("the bytes are no slot table: they say no size, or one beyond every table")
        found = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(body), type=Placement)
    except (zstandard.ZstdError, msgspec.DecodeError) as exc:
        raise CorruptRecord(f"the bytes are no slot table: {exc}") from exc
    problem = _problem_of(found)
    if problem is not None:
        raise CorruptRecord(f"the slot table cannot be used: {problem}")
    return found


def slot_of(key: str) -> int:
    """Return the slot of a key, the same in every process and on every machine."""
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass")) % SLOTS


def first_placement(
    nodes: Sequence[str],
    *,
    voters: int,
    strategy: ShardingStrategy = ShardingStrategy.CONSISTENT_HASH,
    copies: int | None = None,
    splits: Sequence[int] | None = None,
) -> Placement:
    """Make the first table of a cluster: the same list gives the same table, everywhere.

    `copies` of the `voters` keep data, all unless said. `splits`, for RANGE only, are the slots where the nodes' ranges
    begin, 0 and then ascending, one a node; without them the ranges are equal.

    Raises:
        ConfigurationError: A node is named twice, there are fewer nodes than voters, or numbers that make no table.
    """
    copies = voters if copies is None else copies
    _check_nodes(nodes, voters)
    if not 1 <= copies <= voters:
        raise ConfigurationError(f"{copies} copies of a slot cannot be kept by {voters} voters; take 1 to {voters}")
    if splits is not None:
        _check_splits(splits, nodes, strategy)
    if strategy is ShardingStrategy.CONSISTENT_HASH:
        rows = [[_HOLE] * voters for _ in range(SLOTS)]
        _settle(rows, list(nodes), old=0, copies=copies)
    else:
        rows = _successors(_firsts(len(nodes), strategy, splits), len(nodes), voters)
    return _placement(tuple(nodes), rows, copies, strategy)


def next_placement(previous: Placement, nodes: Sequence[str]) -> Placement:
    """Make the table that follows when the nodes are these: any number joined, any number left.

    Survivors keep their order, new nodes follow in the order given. With CONSISTENT_HASH a new node takes its share
    from those that have most, a removed node's places go each to a survivor or a new node, and all else stays where it
    is; within a slot's copies another may become the first, where that keeps the first places even. RANGE cuts anew,
    evenly.

    Raises:
        ConfigurationError: A node is named twice, or there are fewer nodes than voters.
    """
    _check_nodes(nodes, previous.voters)
    wanted, known = set(nodes), set(previous.nodes)
    survivors = [node for node in previous.nodes if node in wanted]
    now = (*survivors, *(node for node in nodes if node not in known))
    if now == previous.nodes:
        return previous
    if previous.strategy is ShardingStrategy.CONSISTENT_HASH:
        place = {node: index for index, node in enumerate(survivors)}
        renamed = [place.get(node, _HOLE) for node in previous.nodes]
        rows = [[renamed[index] for index in row] for row in previous.rows()]
        _settle(rows, list(now), old=len(survivors), copies=previous.copies)
    else:
        rows = _successors(_firsts(len(now), previous.strategy, None), len(now), previous.voters)
    return _placement(now, rows, previous.copies, previous.strategy)


def changed_slots(old: Placement, new: Placement) -> list[int]:
    """Return the slots whose list of voters differs, be it in the order alone."""
    return [slot for slot in range(SLOTS) if old.voters_of(slot) != new.voters_of(slot)]


def moved_places(old: Placement, new: Placement) -> Moves:
    """Count what a change moves."""
    before, after = set(old.nodes), set(new.nodes)
    places = copies = strays = 0
    for slot in changed_slots(old, new):
        voted, votes = set(old.voters_of(slot)), set(new.voters_of(slot))
        kept, keeps = set(old.copies_of(slot)), set(new.copies_of(slot))
        places += len(votes - voted)
        copies += len(keeps - kept)
        strays += max(
            len((votes - voted) & before) - len(voted - after),
            len((keeps - kept) & before) - len(kept - after),
            0,
        )
    return Moves(places, copies, strays)


# What all tables have in common


def _check_nodes(nodes: Sequence[str], voters: int) -> None:
    if _has_twins(nodes):
        twice = next(node for node in nodes if nodes.count(node) > 1)
        raise ConfigurationError(f"the node {twice!r} is named twice; name each node once")
    if voters < 1:
        raise ConfigurationError(f"a slot cannot have {voters} voters; take 1 or more")
    if len(nodes) < voters:
        raise ConfigurationError(
            f"each slot needs {voters} different nodes and there are {len(nodes)}: add nodes, or take fewer replicas "
            "(0 need one node, 1 or 2 need three)"
        )
    if len(nodes) > MAX_NODES:
        raise ConfigurationError(f"{len(nodes)} nodes are more than {SLOTS} slots can serve evenly; take {MAX_NODES}")


def _has_twins(nodes: Sequence[str]) -> bool:
    return len(set(nodes)) < len(nodes)


def _placement(nodes: tuple[str, ...], rows: Sequence[Row], copies: int, strategy: ShardingStrategy) -> Placement:
    flat = [index for row in rows for index in row]
    return Placement(nodes, _to_bytes(flat, len(nodes)), len(rows[0]), copies, strategy)


def _to_bytes(indexes: Iterable[int], nodes: int) -> bytes:
    if nodes <= _NARROW:
        return bytes(indexes)
    wide = array("H", indexes)
    if sys.byteorder == "big":
        wide.byteswap()
    return wide.tobytes()


def _from_bytes(lists: bytes, nodes: int) -> array[int]:
    if nodes <= _NARROW:
        return array("B", lists)
    wide = array("H")
    wide.frombytes(lists)
    if sys.byteorder == "big":
        wide.byteswap()
    return wide


def _problem_of(table: Placement) -> str | None:
    nodes, voters = len(table.nodes), table.voters
    if not 1 <= voters <= nodes <= MAX_NODES or not 1 <= table.copies <= voters or _has_twins(table.nodes):
        return f"{nodes} nodes, {voters} voters and {table.copies} copies make none, or a node is in it twice"
    if len(table.lists) != SLOTS * voters * (1 if nodes <= _NARROW else 2):
        return f"it holds {len(table.lists)} bytes of lists, which is not {SLOTS} slots"
    for slot, row in enumerate(table.rows()):
        if max(row) >= nodes or len(set(row)) != voters:
            return f"slot {slot} names a node that there is not, or one twice"
    return None


# Modulo and ranges


def _check_splits(splits: Sequence[int], nodes: Sequence[str], strategy: ShardingStrategy) -> None:
    if strategy is not ShardingStrategy.RANGE:
        raise ConfigurationError(f"splits are for the strategy 'range', not {strategy.value!r}; leave them out")
    ascending = all(low < high for low, high in zip(splits, [*splits[1:], SLOTS], strict=True))
    if len(splits) != len(nodes) or splits[0] != 0 or not ascending:
        raise ConfigurationError(
            f"splits are the first slots of the {len(nodes)} nodes: as many, 0 first, ascending, below {SLOTS} "
            f"(got {list(splits)[:8]})"
        )


def _firsts(nodes: int, strategy: ShardingStrategy, splits: Sequence[int] | None) -> list[int]:
    if strategy is ShardingStrategy.MOD_HASH:
        return [slot % nodes for slot in range(SLOTS)]
    begins = [SLOTS * index // nodes for index in range(nodes)] if splits is None else list(splits)
    ends = [*begins[1:], SLOTS]
    return [index for index, (begin, end) in enumerate(zip(begins, ends, strict=True)) for _ in range(begin, end)]


def _successors(firsts: Sequence[int], nodes: int, voters: int) -> list[Row]:
    return [[(first + step) % nodes for step in range(voters)] for first in firsts]


# Minimal moves. Rows are changed in place; a hole is a place whose node has left.

_HOLE = -1


def _settle(rows: list[Row], names: Sequence[str], *, old: int, copies: int) -> None:
    """Fill all holes, and give the nodes from index `old` on their share.

    Those that keep data and those that only vote are evened out apart, since they bear different loads.
    """
    if not old:
        _fill(rows, range(1), len(names))  # in a new table the first places are even by themselves
    _share(rows, range(copies), names, old=old)
    if copies < len(rows[0]):
        for row in rows:
            for position in range(copies, len(row)):
                if row[position] in row[:copies]:  # it was promoted in the place of a node that left
                    row[position] = _HOLE
        _share(rows, range(copies, len(rows[0])), names, old=old)
    if copies > 1:
        _even_firsts(rows, len(names), copies)


def _share(rows: list[Row], positions: range, names: Sequence[str], *, old: int) -> None:
    filled = _fill(rows, positions, len(names))
    _even_filled(rows, positions, filled, len(names))
    load = _count(rows, positions, len(names))
    for newcomer in range(old, len(names)):
        _take(rows, positions, newcomer, load, names[newcomer])


def _count(rows: Iterable[Row], positions: range, nodes: int) -> list[int]:
    load = [0] * nodes
    for row in rows:
        for index in row[positions.start : positions.stop]:
            if index != _HOLE:
                load[index] += 1
    return load


def _shuffled(salt: str) -> list[int]:
    """Return the slots in an order that looks random: whom a node shares slots with must not follow a pattern."""
    seed = xxhash.xxh3_64_intdigest(salt.encode("utf-8", "surrogatepass"))
    return sorted(range(SLOTS), key=lambda slot: xxhash.xxh3_64_intdigest(slot.to_bytes(2, "little"), seed))


def _fill(rows: list[Row], positions: range, nodes: int) -> list[tuple[int, int]]:
    """Give each hole to the node with the least load that the slot does not have; return the holes, now filled."""
    order = _shuffled("holes")
    holes = [(slot, position) for position in positions for slot in order if rows[slot][position] == _HOLE]
    if not holes:
        return []
    load = _count(rows, positions, nodes)

    def entry(index: int) -> tuple[int, int, int]:
        # Among equals a hash decides, else neighbours in the list would share more slots than others.
        return load[index], xxhash.xxh3_64_intdigest(load[index].to_bytes(4, "little"), index), index

    heap = [entry(index) for index in range(nodes)]
    heapq.heapify(heap)
    for slot, position in holes:
        passed = []
        while heap[0][2] in rows[slot]:
            passed.append(heapq.heappop(heap))
        index = heap[0][2]
        rows[slot][position] = index
        load[index] += 1
        heapq.heapreplace(heap, entry(index))
        for other in passed:
            heapq.heappush(heap, other)
    return holes


def _even_filled(rows: list[Row], positions: range, filled: Sequence[tuple[int, int]], nodes: int) -> None:
    """Even out the loads by giving filled places to others; only these may be given, they move in any case."""
    held: list[dict[tuple[int, int], None]] = [{} for _ in range(nodes)]
    for slot, position in filled:
        held[rows[slot][position]][slot, position] = None

    def options(place: tuple[int, int]) -> Iterator[int]:
        row = rows[place[0]]
        taken = row if positions.start else row[positions.start : positions.stop]  # a mere voter may be promoted
        return (index for index in range(nodes) if index not in taken)

    def give(place: tuple[int, int], index: int) -> None:
        rows[place[0]][place[1]] = index

    _even_out(_count(rows, positions, nodes), held, options, give)


def _even_firsts(rows: list[Row], nodes: int, copies: int) -> None:
    """Give none more than 1 %, or one slot, above its share of first places, by swaps within the copies of a slot."""
    held: list[dict[int, None]] = [{} for _ in range(nodes)]
    for slot in _shuffled("firsts"):
        held[rows[slot][0]][slot] = None

    def swap(slot: int, index: int) -> None:
        row = rows[slot]
        at = row.index(index)
        row[0], row[at] = row[at], row[0]

    # Each swap is a slot that changes, so what is even enough stays.
    even_enough = max(-(-SLOTS // nodes), SLOTS * 101 // (100 * nodes))
    _even_out(_count(rows, range(1), nodes), held, lambda slot: rows[slot][1:copies], swap, down_to=even_enough)


def _take(rows: list[Row], positions: range, newcomer: int, load: list[int], name: str) -> None:
    """Give a newcomer its share of places, from nodes that have more than theirs; `load` follows."""
    least, rest = divmod(SLOTS * len(positions), len(load))
    if load[newcomer] >= least:
        return
    order = _shuffled(name)
    # First what others have too much of; then, where all are within one of each other, down to the whole share.
    for kept, wanted in ((least + bool(rest), least + bool(rest)), (least, least)):
        for slot in order:
            if load[newcomer] >= wanted:
                break
            row = rows[slot]
            if newcomer in row:
                continue
            # Among equals any position, else newcomers would be the first of too many slots.
            position = max(positions, key=lambda at: (load[row[at]], (at + slot) % len(positions)))
            if load[row[position]] > kept:
                load[row[position]] -= 1
                row[position] = newcomer
                load[newcomer] += 1


def _even_out(
    load: list[int],
    held: list[dict[Place, None]],
    options: Callable[[Place], Iterable[int]],
    give: Callable[[Place, int], None],
    *,
    down_to: int = 0,
) -> None:
    """Pass places on, along chains where need be, until no chain leads from a node to one with two less.

    Nodes with `down_to` places or fewer give none.
    """
    level = max(load)
    while level >= max(min(load) + 2, down_to + 1):
        chain = _chain(load, held, options, level)
        if chain is None:
            level -= 1
            continue
        for giver, place, taker in chain:
            del held[giver][place]
            held[taker][place] = None
            load[giver] -= 1
            load[taker] += 1
            give(place, taker)


def _chain(
    load: Sequence[int], held: Sequence[Iterable[Place]], options: Callable[[Place], Iterable[int]], level: int
) -> list[tuple[int, Place, int]] | None:
    """Return the shortest chain of gifts from a node with load `level` to one with two less, if there is one."""
    front = [index for index, count in enumerate(load) if count == level]
    came: dict[int, tuple[int, Place] | None] = dict.fromkeys(front)
    for giver in front:  # grows while it is walked: breadth first
        for place in held[giver]:
            if len(came) == len(load):
                break
            for taker in options(place):
                if taker in came:
                    continue
                came[taker] = (giver, place)
                if load[taker] <= level - 2:
                    return _way_to(taker, came)
                front.append(taker)
    return None


def _way_to(taker: int, came: Mapping[int, tuple[int, Place] | None]) -> list[tuple[int, Place, int]]:
    chain = []
    while (step := came[taker]) is not None:
        chain.append((*step, taker))
        taker = step[0]
    return chain
