"""The rules of a walk over a cluster and what nodes say of slots, without a server."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.backends.redis_slots import (
    SLOTS,
    Walk,
    read_own_slots,
    read_redirect,
    read_table,
    read_walk,
    slot_of_command,
    slots_in,
    slots_text,
)
from cache_management.cache.errors import InvalidInput

HERE = ("here.test", 7000)


def test_table_takes_unnamed_hosts_for_the_one_that_was_asked() -> None:
    rows = [
        [0, 99, [b"", 7000, b"a"], [b"10.0.0.2", 7001, b"b"]],
        [100, 100, [b"?", 7002, b"c"]],
        [200, SLOTS - 1, [None, 7000, b"a"]],
    ]

    table = read_table(rows, HERE)

    assert (table.owners[99], table.owners[100], table.owners[150]) == (HERE, ("here.test", 7002), None)
    assert table.find("c") == ("here.test", 7002)
    assert table.find("b") is None, "a replica holds no slots"
    assert ("10.0.0.2", 7001) in table.nodes
    assert table.slots_of(HERE) == slots_in("0-99,200-16383")


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("MOVED 3999 127.0.0.1:6381", ("127.0.0.1", 6381)),
        ("ASK 3999 fd00::1:6381", ("fd00::1", 6381)),
        ("MOVED 3999 :6381", ("here.test", 6381)),
    ],
)
def test_redirects_are_read(words: str, place: tuple[str, int]) -> None:
    assert read_redirect(words, HERE) == place


def test_own_slots_are_those_of_the_own_line() -> None:
    lines = (
        "aa 127.0.0.1:1@10001 master - 0 1 1 connected 0-5 [7->-cc]\n"
        "bb 127.0.0.1:2@10002,two.test myself,master - 0 1 2 connected 10-12 20 [11->-aa] [30-<-cc]\n"
        "cc 127.0.0.1:3@10003 slave aa 0 1 1 connected\n"
    )

    assert read_own_slots(lines) == ("bb", frozenset({10, 11, 12, 20}), {11: "aa"})


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "k{a}"), "a"),
        (("EVALSHA", "sha", 2, "n", "other"), "n"),
        (("XINFO", "STREAM", "s"), "s"),
        (("GET", "{}x"), "{}x"),
    ],
)
def test_the_slot_is_that_of_the_key(command: tuple[str, ...], key: str) -> None:
    assert slot_of_command(command) == slot_of_command(("GET", key))


@given(st.sets(st.integers(0, SLOTS - 1)))
def test_slots_come_back_from_their_text(slots: set[int]) -> None:
    assert slots_in(slots_text(slots)) == slots


@pytest.mark.parametrize("bookmark", ["12", "cm1:llm:x", "a@b@c@d@e", "0@@@@@", "1@id@0-5@20000@"])
def test_bookmark_of_another_store_is_refused(bookmark: str) -> None:
    with pytest.raises(InvalidInput, match="begin again"):
        read_walk(bookmark)


class Cluster:
    """Nodes with slots that move, each once, while they are read: SCAN gives what lies on a node at some moment."""

    def __init__(self, luck: random.Random) -> None:
        self.luck = luck
        self.nodes = ["n0", "n1", "n2"]
        self.owner = {slot: luck.choice(self.nodes) for slot in range(6)}
        self.moving: dict[int, str] = {}
        self.moved: set[int] = set()
        self.place = {f"{slot}:{at}": self.owner[slot] for slot in range(6) for at in range(3)}

    def held(self, node: str) -> frozenset[int]:
        empty = range(6, SLOTS) if node == self.nodes[0] else ()
        return frozenset([*empty, *(slot for slot, owner in self.owner.items() if owner == node)])

    def happen(self) -> None:
        slot = self.luck.randrange(6)
        match self.luck.randrange(5):
            case 0 if slot not in self.moved:
                self.moved.add(slot)
                self.moving[slot] = self.luck.choice([each for each in self.nodes if each != self.owner[slot]])
            case 1 | 2 if slot in self.moving:
                self.place[f"{slot}:{self.luck.randrange(3)}"] = self.moving[slot]
            case 3 if slot in self.moving and all(self.place[f"{slot}:{at}"] == self.moving[slot] for at in range(3)):
                self.owner[slot] = self.moving.pop(slot)
            case 4 if self.luck.random() < 0.2:  # a replica takes over, under an id of its own
                gone, new = self.luck.choice(self.nodes), f"n{self.luck.randrange(10**6)}"
                if gone in {*self.moving.values(), *(self.owner[each] for each in self.moving)}:
                    return  # a move that is undone brings keys back: a walk may miss those
                self.nodes[self.nodes.index(gone)] = new
                self.owner = {at: new if each == gone else each for at, each in self.owner.items()}
                self.place = {key: new if each == gone else each for key, each in self.place.items()}


@given(st.integers(0, 2**32), st.floats(0, 0.9))
def test_a_walk_sees_every_key_whatever_moves(seed: int, unrest: float) -> None:
    luck = random.Random(seed)
    cluster = Cluster(luck)
    seen: set[str] = set()
    walk = Walk()
    steps = 0

    def pass_time() -> None:
        while luck.random() < unrest and steps < 500:
            cluster.happen()

    while not walk.is_over():
        steps += 1
        assert steps < 2_000, "the walk never ends"
        pass_time()
        if not walk.node_id:
            node = cluster.owner.get(min(walk.left), cluster.nodes[0]) if walk.left else walk.again[0]
            walk = walk.begin(node, cluster.held(node)) if node in cluster.nodes else walk.lose(node)
            continue
        if walk.node_id not in cluster.nodes:
            walk = walk.lose(walk.node_id)
            continue
        for key in sorted(cluster.place, key=lambda _: luck.random()):
            pass_time()
            if cluster.place[key] == walk.node_id:
                seen.add(key)
        if walk.node_id in cluster.nodes:
            held = cluster.held(walk.node_id)
            walk = read_walk_again(walk.end(held, {at: to for at, to in cluster.moving.items() if at in held}))

    assert seen == set(cluster.place)


def read_walk_again(walk: Walk) -> Walk:
    assert read_walk(walk.text()) == walk
    return walk
