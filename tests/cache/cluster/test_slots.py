from __future__ import annotations

import os
import random
import subprocess
import sys

import msgspec
import pytest
import xxhash
import zstandard
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cache_management.cache.cluster.slots import (
    SLOTS,
    NodeLoad,
    Placement,
    changed_slots,
    first_placement,
    moved_places,
    next_placement,
    slot_of,
)
from cache_management.cache.config import ReplicationConfig, ShardingStrategy
from cache_management.cache.errors import ConfigurationError, CorruptRecord

CONSISTENT, MOD, RANGE = ShardingStrategy.CONSISTENT_HASH, ShardingStrategy.MOD_HASH, ShardingStrategy.RANGE
TEN = [f"node-{number}" for number in range(10)]


def imbalance(placement: Placement) -> float:
    """Return the largest load through the mean, the worst of first places, copies and all places."""
    return max(max(counts) * len(counts) / sum(counts) for counts in zip(*placement.load().values(), strict=True))


def shares(old: Placement, new: Placement) -> tuple[float, float]:
    """Return what moved, and what of it strayed, in percent of all places."""
    moves, whole = moved_places(old, new), SLOTS * new.voters / 100
    return round(moves.places / whole, 1), round(moves.strays / whole, 1)


def assert_sound(placement: Placement) -> None:
    for slot in range(SLOTS):
        voters = placement.voters_of(slot)
        assert len(set(voters)) == len(voters) == placement.voters
    assert imbalance(placement) <= 1.03
    if placement.strategy is CONSISTENT:
        firsts, *others = zip(*placement.load().values(), strict=True)
        assert max(firsts) <= max(1.01 * SLOTS / len(firsts), -(-SLOTS // len(firsts)))
        for counts in others:
            assert max(counts) - min(counts) <= 3  # slots


# keys


def test_slot_of_a_key_is_fixed_for_ever() -> None:
    assert [slot_of(key) for key in ("", "key", "ключ", "half \ud800 pair")] == [5314, 9699, 7902, 4007]


def test_keys_spread_over_all_slots() -> None:
    counts = [0] * SLOTS
    for number in range(20 * SLOTS):
        counts[slot_of(f"user:{number}")] += 1

    # Poisson(20): 7 standard deviations, and nowhere nothing.
    assert 0 < min(counts) <= max(counts) < 20 + 7 * 20**0.5


# the first table


@pytest.mark.parametrize("strategy", ShardingStrategy)
@pytest.mark.parametrize(("count", "voters", "copies"), [(1, 1, 1), (3, 3, 2), (3, 3, 3), (10, 3, 2), (300, 5, 5)])
def test_first_table_is_even(strategy: ShardingStrategy, count: int, voters: int, copies: int) -> None:
    placement = first_placement([f"n{at}" for at in range(count)], voters=voters, copies=copies, strategy=strategy)

    assert_sound(placement)


def test_first_table_is_the_same_in_another_process() -> None:
    code = (
        "import sys, xxhash; from cache_management.cache.cluster.slots import first_placement, next_placement\n"
        "first = first_placement(['a', 'b', 'c', 'd'], voters=3, copies=2)\n"
        "print(xxhash.xxh3_64_hexdigest(next_placement(first, ['b', 'e', 'f', 'd']).lists))"
    )
    here = next_placement(first_placement(["a", "b", "c", "d"], voters=3, copies=2), ["b", "e", "f", "d"])

    there = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }

    assert there == {xxhash.xxh3_64_hexdigest(here.lists)}


def test_nodes_share_slots_with_all_others_alike() -> None:
    # Else the load of a node that is gone falls on few, and copying to its successor comes from few.
    placement = first_placement(TEN, voters=3)

    together = dict.fromkeys(TEN[1:], 0)
    for slot in placement.slots_of(TEN[0]):
        for node in placement.voters_of(slot):
            if node != TEN[0]:
                together[node] += 1

    mean = sum(together.values()) / 9
    assert max(abs(count - mean) for count in together.values()) < 0.1 * mean


def test_ranges_are_contiguous_and_may_be_given() -> None:
    even = first_placement(["a", "b", "c"], voters=2, strategy=RANGE)
    given_ones = first_placement(["a", "b", "c"], voters=2, strategy=RANGE, splits=[0, 100, 16_000])

    assert [slot for slot in range(SLOTS) if even.voters_of(slot)[0] != even.voters_of(slot - 1)[0]] == [0, 5461, 10922]
    assert [given_ones.voters_of(slot) for slot in (99, 100, 16_000)] == [("a", "b"), ("b", "c"), ("c", "a")]
    assert next_placement(given_ones, ["a", "b", "c", "d"]).load()["d"].first == SLOTS // 4


def test_modulo_takes_the_nodes_in_turn() -> None:
    placement = first_placement(["a", "b", "c"], voters=2, strategy=MOD)

    assert [placement.voters_of(slot) for slot in range(3)] == [("a", "b"), ("b", "c"), ("c", "a")]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"nodes": ["a", "b"], "voters": 3}, "needs 3 different nodes and there are 2: add nodes, or take fewer"),
        ({"nodes": [], "voters": 1}, "there are 0"),
        ({"nodes": ["a", "b", "a"], "voters": 2}, "'a' is named twice"),
        ({"nodes": ["a"], "voters": 0}, "cannot have 0 voters"),
        ({"nodes": ["a", "b"], "voters": 2, "copies": 3}, "3 copies"),
        ({"nodes": ["a", "b"], "voters": 1, "splits": [0, 5]}, "for the strategy 'range'"),
        ({"nodes": ["a", "b"], "voters": 1, "strategy": RANGE, "splits": [0]}, "the 2 nodes"),
        ({"nodes": ["a", "b"], "voters": 1, "strategy": RANGE, "splits": [1, 5]}, "0 first"),
        ({"nodes": ["a", "b"], "voters": 1, "strategy": RANGE, "splits": [0, SLOTS]}, "below 16384"),
        ({"nodes": [str(number) for number in range(4097)], "voters": 1}, "take 4096"),
    ],
)
def test_impossible_tables_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        first_placement(**{"strategy": CONSISTENT, **wrong})  # type: ignore[arg-type]


# changes


@given(data=st.data())
@settings(
    max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)  # shrinking takes minutes
def test_any_changes_keep_the_table_even_and_move_only_what_they_must(data: st.DataObject) -> None:
    replication = ReplicationConfig(replicas=data.draw(st.integers(0, 4)))
    nodes = [f"n{number}" for number in range(replication.voters + data.draw(st.integers(0, 6)))]
    table = first_placement(nodes, voters=replication.voters, copies=replication.copies)
    for step in range(data.draw(st.integers(1, 5))):
        gone = set(data.draw(st.lists(st.sampled_from(nodes), max_size=2)))
        missing = replication.voters - (len(nodes) - len(gone))
        joined = [f"s{step}-{number}" for number in range(max(missing, data.draw(st.integers(0, 2))))]
        nodes = [node for node in nodes if node not in gone] + joined

        before, table = table, next_placement(table, data.draw(st.permutations(nodes)))

        assert_sound(table)
        assert set(table.nodes) == set(nodes)
        moves, load, held = moved_places(before, table), table.load(), before.load()
        assert moves.strays == 0
        got = sum(load[node].places for node in joined)
        lost = sum(held[node].places for node in gone)
        if joined and gone:  # a mere voter's place is refilled by an old node where all new ones keep the slot's data
            assert max(got, lost) <= moves.places <= max(got, lost) + 0.01 * SLOTS
        else:
            assert moves.places == got + lost
        assert got <= 1.1 * len(joined) * SLOTS * table.voters / len(nodes)


@pytest.mark.parametrize("replicas", [1, 2])
def test_many_changes_of_several_nodes_do_not_wear_the_table_out(replicas: int) -> None:
    rng, nodes = random.Random(5), ["a", "b", "c"]
    table = first_placement(nodes, voters=3, copies=replicas + 1)

    for step in range(6):  # down to as few nodes as there are voters, where there is least choice
        nodes += [f"s{step}-{number}" for number in range(rng.randint(1, 4))]
        table = next_placement(table, nodes)
        nodes = rng.sample(nodes, 3)
        table = next_placement(table, nodes)

        assert_sound(table)


@pytest.mark.parametrize(
    ("strategy", "voters", "joins", "leaves"),
    [
        (CONSISTENT, 1, (9.1, 0), (10.0, 0)),
        (CONSISTENT, 3, (9.1, 0), (10.0, 0)),
        (MOD, 1, (90.9, 81.8), (90.0, 80.0)),
        (MOD, 3, (72.7, 63.7), (70.0, 60.0)),
        (RANGE, 1, (50.0, 40.9), (27.8, 17.8)),
        (RANGE, 3, (17.6, 8.5), (13.3, 3.3)),
    ],
)
def test_table_of_moves_is_what_is_measured(
    strategy: ShardingStrategy, voters: int, joins: tuple[float, float], leaves: tuple[float, float]
) -> None:
    before = first_placement(TEN, voters=voters, strategy=strategy)

    more = next_placement(before, [*TEN, "eleventh"])
    fewer = next_placement(before, [node for node in TEN if node != TEN[5]])

    assert (shares(before, more), shares(before, fewer)) == (joins, leaves)


def test_a_node_that_takes_anothers_place_takes_nothing_else() -> None:
    before = first_placement(TEN, voters=3)

    after = next_placement(before, [*TEN[1:], "instead"])

    assert moved_places(before, after) == (len(before.slots_of(TEN[0])),) * 2 + (0,)
    assert after.slots_of("instead") == before.slots_of(TEN[0])


def test_few_slots_get_another_first_although_the_old_one_keeps_its_copy() -> None:
    before = first_placement(TEN, voters=3)

    for after in (next_placement(before, [*TEN, "new"]), next_placement(before, TEN[1:])):
        reordered = sum(
            before.voters_of(slot)[0] != after.voters_of(slot)[0] and set(before.voters_of(slot)) == set(lists)
            for slot, lists in ((slot, after.voters_of(slot)) for slot in range(SLOTS))
        )
        assert reordered < 10  # slots


def test_promoting_a_mere_voter_counts_as_a_copy() -> None:
    nodes = ("a", "b", "h")
    before = Placement(nodes, bytes([0, 1, 2]) * SLOTS, voters=3, copies=2, strategy=CONSISTENT)
    swapped = Placement(nodes, bytes([1, 0, 2]) * SLOTS, voters=3, copies=2, strategy=CONSISTENT)
    promoted = Placement(nodes, bytes([2, 1, 0]) + bytes([0, 1, 2]) * (SLOTS - 1), 3, 2, CONSISTENT)

    assert moved_places(before, swapped) == (0, 0, 0)
    assert len(changed_slots(before, swapped)) == SLOTS
    assert moved_places(before, promoted) == (0, 1, 1)
    assert changed_slots(before, promoted) == [0]


def test_same_nodes_in_another_order_change_nothing() -> None:
    before = first_placement(TEN, voters=3)

    assert next_placement(before, TEN[::-1]) is before


def test_more_nodes_than_a_byte_can_name() -> None:
    nodes = [f"n{number}" for number in range(254)]
    table = first_placement(nodes, voters=3)

    for number in range(3):
        nodes = [*nodes, f"more{number}"]
        before, table = table, next_placement(table, nodes)
        assert moved_places(before, table).strays == 0
        assert Placement.decode(table.encode()) == table

    assert len(table.lists) == 2 * 3 * SLOTS
    assert_sound(table)
    assert table.load()["more2"].places == 3 * SLOTS // 257
    assert len(next_placement(table, nodes[:10]).lists) == 3 * SLOTS


# what the table says, and its bytes


def test_slots_of_a_node_are_those_it_votes_in() -> None:
    placement = first_placement(TEN, voters=3, copies=2)

    assert placement.slots_of("stranger") == []
    for node, load in placement.load().items():
        slots = placement.slots_of(node)
        assert slots == sorted(slots)
        kept = [slot for slot in slots if node in placement.copies_of(slot)]
        first = [slot for slot in slots if placement.voters_of(slot)[0] == node]
        assert load == NodeLoad(len(first), len(kept), len(slots))


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=50, deadline=None)
def test_a_flipped_bit_is_noticed(at: int, bit: int) -> None:
    data = bytearray(first_placement(["a", "b", "c"], voters=3, strategy=MOD).encode())
    data[at % len(data)] ^= 1 << bit

    with pytest.raises(CorruptRecord):
        Placement.decode(bytes(data))


@given(data=st.binary(max_size=64))
def test_garbage_is_no_table_even_with_the_right_sum(data: bytes) -> None:
    for body in (data, zstandard.compress(data)):
        with pytest.raises(CorruptRecord):
            Placement.decode(body)
        with pytest.raises(CorruptRecord):
            Placement.decode(xxhash.xxh3_64_digest(body) + body)


def sealed(table: Placement) -> bytes:
    body = zstandard.compress(msgspec.msgpack.encode(table))
    return xxhash.xxh3_64_digest(body) + body


@pytest.mark.parametrize(
    "wrong",
    [
        Placement(("a", "b"), bytes([0, 1]) * SLOTS, 3, 3, MOD),
        Placement(("a", "a"), bytes([0, 1]) * SLOTS, 2, 2, MOD),
        Placement(("a", "b"), bytes([0, 1]) * SLOTS, 2, 3, MOD),
        Placement(("a", "b"), bytes([0, 1]) * SLOTS, 2, 0, MOD),
        Placement(("a", "b"), bytes([0, 2]) * SLOTS, 2, 2, MOD),
        Placement(("a", "b"), bytes([0, 1]) * (SLOTS - 1) + bytes([1, 1]), 2, 2, MOD),
        Placement(("a", "b"), bytes([0, 1]) * SLOTS + b"\0", 2, 2, MOD),
        Placement((), b"", 0, 0, MOD),
    ],
)
def test_tables_that_cannot_be_are_refused(wrong: Placement) -> None:
    with pytest.raises(CorruptRecord, match="cannot be used"):
        Placement.decode(sealed(wrong))


def test_a_bomb_is_not_unpacked() -> None:
    body = zstandard.compress(bytes(2**28))

    with pytest.raises(CorruptRecord, match="beyond every table"):
        Placement.decode(xxhash.xxh3_64_digest(body) + body)
