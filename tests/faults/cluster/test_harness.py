"""The harness itself: it finds what is wrong, does not find what is right, and its faults are what they are called."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.faults.cluster.arena import Arena
from tests.faults.cluster.history import Operation, Recorder, read_history
from tests.faults.cluster.nemesis import Nemesis
from tests.faults.cluster.rounds import judge, run_round

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


def test_a_naive_client_is_seen_to_lose_values() -> None:
    with Arena(seed=1, target="naive", clients=2, offsets_seconds=(0.0,), keys=200) as arena:
        nemesis = Nemesis(arena, random.Random(1))
        arena.work()
        for at in (0, 1, 2):
            nemesis.forget("kill empty", at)
            with nemesis.fault("freeze", (at + 1) % 3):
                time.sleep(0.6)
            time.sleep(0.4)
        arena.rest()
        verdict = judge(arena, nemesis)

    counts = verdict.counts()
    assert not verdict.oddities
    assert sum(counts.values()) >= 80, verdict.told()
    assert counts["lost"] >= 50, verdict.told()


def test_one_node_that_forgets_nothing_is_seen_to_keep_all(tmp_path: Path) -> None:
    """No false alarms: a lone server is right whatever happens to its answers, and to a client of it."""
    with Arena(seed=2, nodes=1, target="naive", offsets_seconds=(0.0,)) as arena:
        first = run_round(arena, seconds=3, seed=2, kind="network", keep_in=tmp_path)
        arena.work()
        arena.replace_client(1)
        arena.rest()
        second = run_round(arena, seconds=3, seed=3, kind="stalling", keep_in=tmp_path)

    assert first.is_good, first.told()
    assert second.is_good, second.told()
    assert first.unsure > 0
    assert second.operations > 500


@pytest.mark.parametrize(
    ("fault", "kept"),
    [
        ("flush", {}),
        ("kill empty", {}),
        ("kill with data", {"old", "new"}),
        ("kill with an old copy", {"old"}),
    ],
)
def test_a_node_forgets_what_the_fault_says(fault: str, kept: set[str]) -> None:
    with Arena(seed=0, nodes=1, clients=0, target="naive") as arena:
        (node,) = arena.nodes
        node.command("SET", "old", 1)
        node.remember()
        node.command("SET", "new", 1)
        if fault == "kill with data":
            node.command("SAVE")

        Nemesis(arena, random.Random(0)).forget(fault, 0)

        assert {key.decode() for key in node.command("KEYS", "*")} == set(kept)


def test_a_killed_process_leaves_an_operation_of_unknown_outcome(tmp_path: Path) -> None:
    path = tmp_path / "history-5.jsonl"
    recorder = Recorder(path, 5)
    recorder.end(recorder.begin("set", ["k"], ["a"], None), "ok")
    recorder.end(recorder.begin("set", ["k"], ["b"], None), "fail")
    recorder.end(recorder.begin("get", ["k", "j"], [None, None], None), "ok", ["a", None])
    recorder.end(recorder.begin("get", ["k"], [None], None), "info")
    recorder.begin("delete", ["k"], [None], None)
    recorder.begin("get", ["k"], [None], None)
    recorder.close()
    with path.open("ab") as file:
        file.write(b'{"at":1,"type":"inv')

    operations = read_history([path])

    def told(each: Operation) -> tuple[str, str, str | None, bool, bool]:
        return each.kind, each.key, each.value, each.returned is not None, each.is_refused

    assert [told(each) for each in operations] == [
        ("set", "k", "a", True, False),
        ("set", "k", "b", True, True),
        ("get", "k", "a", True, False),
        ("get", "j", None, True, False),
        ("delete", "k", None, False, False),
    ]
    assert all(each.process == 5 for each in operations)
