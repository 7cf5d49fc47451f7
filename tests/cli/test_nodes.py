"""nodes and repair: a replicated cache is shown, compared, made level, and its nodes come and go."""

from __future__ import annotations

import asyncio
import io
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from cache_management.cache.cluster.keeper import Keeper
from tests.cache.cluster.copies import are_level, copies_on
from tests.cli.conftest import Cli
from tests.conftest import OwnRedisFactory

COUNT = 60


@pytest.fixture
def on_nodes(cli: Cli, nodes: list[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line, set to three nodes that were never used."""
    monkeypatch.setenv("CACHE_DISTRIBUTED__ENABLED", "true")
    monkeypatch.setenv("CACHE_DISTRIBUTED__NODES", ",".join(nodes))
    return cli


def fill(cli: Cli) -> None:
    path = Path("queries.jsonl")
    path.write_text("\n".join(json.dumps({"prompt": f"q {at}", "response": "r", "model": "m"}) for at in range(COUNT)))
    assert cli("warm", path, "--local", "--no-embed").code == 0


def forget(node: str) -> None:
    with Redis.from_url(f"redis://{node}") as client:
        client.flushall()


def states(cli: Cli) -> dict[str, str]:
    return {node["address"]: node["state"] for node in cli("nodes", "status", "--json").data["nodes"]}


@pytest.fixture
def new_node(own_redis: OwnRedisFactory) -> Callable[[], str]:
    return lambda: f"127.0.0.1:{own_redis().port}"


def test_looking_at_nodes_that_were_never_used_makes_nothing_on_them(on_nodes: Cli, nodes: list[str]) -> None:
    shown = states(on_nodes)
    checked = on_nodes("repair", "check")
    examined = on_nodes("doctor", "--no-model", "--json")

    assert shown == dict.fromkeys(nodes, "unused")
    assert (checked.code, "nothing was ever stored" in checked.out) == (0, True)
    assert "3 nodes are configured" in examined.out
    for node in nodes:
        with Redis.from_url(f"redis://{node}") as client:
            assert client.dbsize() == 0


def test_the_doctor_counts_the_vectors_that_lie_on_the_nodes(on_nodes: Cli) -> None:
    Path("queries.jsonl").write_text('{"prompt": "what is it", "response": "r", "model": "m"}')
    assert on_nodes("warm", "queries.jsonl", "--local").code == 0

    examined = on_nodes("doctor", "--json")

    told = {each["check"]: each["what"] for each in examined.data["findings"]}
    assert told["entries with vectors"] == "1 of 1 entries have a vector"


def test_a_node_that_forgot_is_told_and_a_repair_makes_it_level(on_nodes: Cli, nodes: list[str]) -> None:
    fill(on_nodes)
    well = on_nodes("repair", "check")
    forget(nodes[0])
    status = on_nodes("nodes", "status").out
    checked = on_nodes("repair", "check", "--json")
    shown = on_nodes("repair", "check")
    examined = on_nodes("doctor", "--no-model", "--json")
    repaired = on_nodes("repair", "run", "--full", "--json")

    assert (well.code, well.out) == (0, "The copies on 3 nodes are level.\n")
    assert "out" in status
    assert (checked.code, checked.data["level"]) == (1, False)
    assert [(each["node"], each["state"]) for each in checked.data["away"]] == [(nodes[0], "out")]
    assert (shown.code, nodes[0] in shown.out, "repair run" in shown.err) == (1, True, True)
    finding = next(each for each in examined.data["findings"] if each["check"] == f"node {nodes[0]}")
    assert (finding["level"], "does not count" in finding["what"]) == ("warn", True)
    assert (repaired.code, repaired.data["summary"]["brought"] >= COUNT) == (0, True)
    assert "No broker is configured" in repaired.err
    assert (on_nodes("repair", "check").code, are_level(nodes)) == (0, True)
    assert "cache.repair" in on_nodes("audit", "tail").out


def test_nodes_come_and_go_and_a_configuration_of_before_still_finds_them(
    on_nodes: Cli, nodes: list[str], own_redis: OwnRedisFactory
) -> None:
    fill(on_nodes)
    server = own_redis()
    fourth = f"127.0.0.1:{server.port}"

    added = on_nodes("nodes", "add", fourth)
    of_four = states(on_nodes)
    gone = on_nodes("nodes", "drain", nodes[1], "--json")
    of_three = states(on_nodes)
    would_remove = on_nodes("invalidate", "--all", "--dry-run", "--json").data["would_remove"]
    level = are_level([nodes[0], nodes[2], fourth])
    server.kill()
    repaired = on_nodes("repair", "run", "--json").data["summary"]

    assert (added.code, f"{fourth} takes part" in added.out, "distributed.nodes" in added.err) == (0, True, True)
    assert of_four == dict.fromkeys([*nodes, fourth], "member")
    assert (gone.code, gone.data["done"]) == (0, True)
    assert of_three == dict.fromkeys([nodes[0], nodes[2], fourth], "member")
    assert (level, would_remove) == (True, COUNT)
    # Empty, and named in the configuration: it must not be taken for the one that came and is away.
    assert repaired["passed_over"] == [fourth]
    assert copies_on(nodes[1]) == {}
    log = on_nodes("audit", "tail").out
    assert ("cluster.add" in log, "cluster.drain" in log) == (True, True)


def test_without_waiting_whoever_comes_next_moves_the_slots(
    on_nodes: Cli, nodes: list[str], new_node: Callable[[], str]
) -> None:
    fill(on_nodes)
    fourth = new_node()

    begun = on_nodes("nodes", "add", fourth, "--no-wait", "--json").data
    too_soon = on_nodes("nodes", "remove", nodes[0], "--no-wait")
    moving = on_nodes("nodes", "status", "--json").data["slots_moving"]
    repaired = on_nodes("repair", "run", "--local", "--json").data["summary"]
    left = on_nodes("nodes", "status", "--json").data["slots_moving"]

    assert (begun["done"], begun["slots"], moving > 0) == (False, moving, True)
    assert (too_soon.code, "still move" in too_soon.err) == (1, True)
    assert (repaired["nodes"], left) == (4, 0)


@pytest.mark.parametrize("what", ["add", "remove"])
def test_a_change_that_is_broken_off_goes_on_by_the_same_command(
    on_nodes: Cli, nodes: list[str], new_node: Callable[[], str], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    fill(on_nodes)
    fourth = new_node()
    address = fourth
    if what == "remove":
        on_nodes("nodes", "add", fourth)
        address = nodes[1]

    async def interrupted(self: Keeper, *, seconds: float) -> bool:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(10)
        raise AssertionError("nobody heard Ctrl-C")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Keeper, "mend", interrupted)
            broken_off = on_nodes("nodes", what, address)
    finally:
        signal.signal(signal.SIGINT, before)
    again = on_nodes("nodes", what, address)

    assert (broken_off.code, "goes on with it" in broken_off.err) == (130, True)
    assert again.code == 0
    assert set(states(on_nodes).values()) == {"member"}
    assert (address in states(on_nodes)) == (what == "add")


def test_what_cannot_be_is_refused_in_one_line(
    on_nodes: Cli, nodes: list[str], new_node: Callable[[], str], unused_tcp_port: int
) -> None:
    fill(on_nodes)
    used = new_node()
    with Redis.from_url(f"redis://{used}") as client:
        client.set("foreign", "data", ex=60)
    forget(nodes[2])

    for words, code, says in (
        (("add", nodes[0]), 2, "one of the nodes already"),
        (("add", used), 2, "keys that are not this cache's"),
        (("add", f"127.0.0.1:{unused_tcp_port}"), 7, "must answer before it can be added"),
        (("add", "nowhere"), 2, "write host:port"),
        (("remove", used), 2, "is not one of the nodes"),
        (("remove", nodes[0]), 2, "each slot needs 3 different nodes"),
        (("drain", nodes[2]), 1, "nodes remove"),
    ):
        found = on_nodes("nodes", *words)
        (error,) = [line for line in found.err.splitlines() if line.startswith("Error")]
        assert (found.code, says in error) == (code, True), found.err


@pytest.mark.parametrize(
    ("url", "says"),
    [("memory://", "set distributed.enabled"), ("redis+cluster://127.0.0.1:1", "redis-cli --cluster")],
)
@pytest.mark.parametrize(
    "words",
    [
        ("nodes", "status"),
        ("nodes", "add", "127.0.0.1:1"),
        ("nodes", "accept-loss"),
        ("repair", "check"),
        ("repair", "run"),
    ],
)
def test_one_store_and_a_redis_cluster_are_no_replicated_cache(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], url: str, says: str
) -> None:
    monkeypatch.setenv("CACHE_URL", url)

    found = cli(*words)

    assert (found.code, says in found.err, len(found.err.splitlines())) == (2, True, 1), found.err


def test_a_loss_is_accepted_only_when_somebody_says_so(
    on_nodes: Cli, nodes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_DISTRIBUTED__ON_MAJORITY_LOSS", "wait")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    fill(on_nodes)
    without_a_loss = on_nodes("nodes", "accept-loss", "--yes")
    forget(nodes[0])
    forget(nodes[1])

    refused = on_nodes("nodes", "accept-loss")
    accepted = on_nodes("nodes", "accept-loss", "--yes", "--json")

    assert without_a_loss.code == 1
    assert (refused.code, "give --yes" in refused.err) == (2, True)
    assert (accepted.code, sorted(accepted.data["back"])) == (0, sorted(nodes[:2]))
    assert set(states(on_nodes).values()) == {"member"}
    assert "cluster.data_loss_possible" in on_nodes("audit", "tail").out


@pytest.mark.faults
@pytest.mark.timeout(120)
def test_a_node_that_died_is_replaced(cli: Cli, monkeypatch: pytest.MonkeyPatch, own_redis: OwnRedisFactory) -> None:
    servers = [own_redis() for _ in range(4)]
    nodes = [f"127.0.0.1:{server.port}" for server in servers]
    monkeypatch.setenv("CACHE_DISTRIBUTED__ENABLED", "true")
    monkeypatch.setenv("CACHE_DISTRIBUTED__NODES", ",".join(nodes[:3]))
    fill(cli)
    servers[0].kill()

    told = states(cli)[nodes[0]]
    added = cli("nodes", "add", nodes[3])
    removed = cli("nodes", "remove", nodes[0])

    assert told == "unreachable"
    assert (added.code, removed.code) == (0, 0), (added, removed)
    assert states(cli) == dict.fromkeys(nodes[1:], "member")
    assert are_level(nodes[1:])
    assert len(copies_on(nodes[3])) >= COUNT
    assert "cluster.removed" in cli("audit", "tail").out
