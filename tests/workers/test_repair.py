"""Repair jobs on three real nodes: what is compared, brought, copied and forgotten, and what is told of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis

from cache_management.cache.cluster.coordination import Coordination
from cache_management.cache.cluster.distributed import DistributedCache
from cache_management.cache.cluster.repair import Differences, Repair
from cache_management.cache.values import CachedResponse
from cache_management.models.store.results import JobView
from cache_management.workers import control, defaults
from tests.cache.cluster.copies import are_level, copies_on, lose_copies
from tests.conftest import OwnRedisFactory
from tests.waiting import wait_until
from tests.workers.inline import Inline

COUNT = 300


@pytest.fixture
def on_nodes(make_inline: Callable[..., Inline], nodes: list[str]) -> Inline:
    """Jobs answered in this process, over three nodes with some entries."""
    return open_on(make_inline, nodes)


def open_on(make_inline: Callable[..., Inline], nodes: list[str], **env: str) -> Inline:
    given = {"CACHE_DISTRIBUTED__ENABLED": "true", "CACHE_DISTRIBUTED__NODES": ",".join(nodes)}
    inline = make_inline(**given, **env)
    answer = CachedResponse(prompt="p", response="r", model="m", timestamp=datetime.now(UTC))
    inline.do(inline.platform.llm_cache.set_many({f"secret key {at}": answer for at in range(COUNT)}))
    # What a write begins in the background would do the job's work.
    inline.do(still(inline.platform.replicated))
    return inline


async def still(cache: DistributedCache) -> None:
    await cache.backend.keeper.aclose()


def lose(inline: Inline, node: str, count: int) -> None:
    inline.do(lose_copies(inline.platform.replicated.backend.membership, node, count))


def repaired(inline: Inline, **params: Any) -> JobView:
    return inline.run("repair", {"keys_per_second": 0, **params})


def test_only_slots_that_differ_are_looked_at_and_what_a_node_lacks_is_copied(
    on_nodes: Inline, nodes: list[str]
) -> None:
    lose(on_nodes, nodes[1], 40)
    was_level = are_level(nodes)

    job = repaired(on_nodes)

    assert not was_level
    assert are_level(nodes)
    assert (job.state, job.namespace, job.summary["copied"], job.summary["passed_over"]) == ("succeeded", "", 40, [])
    assert 1 <= job.summary["slots_differing"] <= 40
    assert job.done == job.total == job.summary["looked_at"] < COUNT
    assert job.bytes == job.summary["copied_bytes"] > 40 * 39
    assert (repaired(on_nodes).done, repaired(on_nodes, full=True).done) == (0, COUNT)


def test_a_node_that_forgot_everything_is_brought_up_first_and_nothing_told_holds_a_key(
    on_nodes: Inline, nodes: list[str]
) -> None:
    with Redis.from_url(f"redis://{nodes[2]}") as client:
        client.flushall()

    job = repaired(on_nodes)

    statuses = on_nodes.do(on_nodes.platform.replicated.statuses())
    assert [status.state for status in statuses] == ["member"] * 3
    assert (job.state, job.summary["brought"] >= COUNT, job.summary["copied"]) == ("succeeded", True, 0)
    assert are_level(nodes)
    rows = on_nodes.stores.audit.tail(100, job_id=job.id)
    assert {row.action for row in rows} >= {"job.submit", "job.succeeded"}, rows
    told = f"{rows}{job}{on_nodes.stores.jobs.events(job.id)}"
    assert "secret" not in told


def test_what_a_server_dropped_by_itself_is_brought_back_and_counted_once(on_nodes: Inline, nodes: list[str]) -> None:
    with Redis.from_url(f"redis://{nodes[1]}") as client:
        dropped = client.delete(*[key for key in client.keys("e:*") if key[-1] in b"13579"])

    job = repaired(on_nodes, full=True)

    assert (job.state, job.summary["copied"]) == ("succeeded", dropped)
    assert dropped > COUNT // 4
    assert are_level(nodes)
    membership = on_nodes.platform.replicated.backend.membership
    differences = on_nodes.do(Repair(membership, listener=lambda _: None).differences())
    assert differences == Differences(frozenset(), ())


def test_who_finds_another_at_a_node_waits_and_takes_over_when_that_one_dies(
    on_nodes: Inline, nodes: list[str]
) -> None:
    membership = on_nodes.platform.replicated.backend.membership
    with Redis.from_url(f"redis://{nodes[0]}") as client:
        client.flushall()
    (node,) = [each for each in membership.nodes() if each.address == nodes[0]]
    lease = f"cluster:sync:{node.id}"
    on_nodes.do(Coordination(membership).acquire(lease, owner="dead", ttl_seconds=1.2))

    job = repaired(on_nodes)

    # Parts that only waited are parts too: so a pause takes hold.
    assert job.shards[0].cursor >= 3
    assert (job.state, job.summary["brought"] >= COUNT) == ("succeeded", True)
    assert are_level(nodes)


def test_a_full_pass_forgets_deletions_that_are_old_and_no_others(
    make_inline: Callable[..., Inline], nodes: list[str]
) -> None:
    inline = open_on(make_inline, nodes, CACHE_DISTRIBUTED__MAX_OUTAGE_SECONDS="1", CACHE_TTL_SECONDS="600")
    cache = inline.platform.llm_cache
    for at in range(10):
        inline.do(cache.delete(f"secret key {at}"))
    inline.do(still(inline.platform.replicated))
    cleared = []

    def has_forgotten() -> bool:
        cleared.append(repaired(inline, full=True).summary["cleared"])
        return sum(cleared) == 10

    wait_until(has_forgotten, timeout=20, pause=0.3)

    assert cleared[0] == 0, "what was deleted just now is remembered"
    assert [len(copies_on(node)) for node in nodes] == [COUNT - 10] * 3


def test_a_move_that_somebody_began_is_finished_and_the_audit_log_says_who_went(
    make_inline: Callable[..., Inline], nodes: list[str], own_redis: OwnRedisFactory
) -> None:
    fourth = f"127.0.0.1:{own_redis().port}"
    inline = open_on(make_inline, [*nodes, fourth])
    inline.do(inline.platform.replicated.backend.keeper.moves.remove(nodes[0]))

    job = repaired(inline)

    statuses = inline.do(inline.platform.replicated.statuses())
    assert sorted(status.address for status in statuses) == sorted([*nodes[1:], fourth])
    assert (job.state, job.summary["brought"] > 0, job.summary["nodes"]) == ("succeeded", True, 3)
    assert copies_on(nodes[0]) == {}
    wait_until(lambda: any(row.action == "cluster.removed" for row in inline.stores.audit.tail(50)))
    assert inline.stores.audit.verify() is None


def test_the_budget_of_keys_a_second_is_kept(on_nodes: Inline, monkeypatch: pytest.MonkeyPatch) -> None:
    from cache_management.workers import repair

    paused: list[float] = []

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    made = repair.Mending
    monkeypatch.setattr(repair, "Mending", lambda *args, **options: made(*args, sleep=sleep, **options))

    job = repaired(on_nodes, full=True, keys_per_second=100)

    assert job.done == COUNT
    assert sum(paused) == pytest.approx(3, abs=1)
    assert max(paused) <= 1


def test_schedules_ask_for_repairs_only_where_there_are_nodes(
    inline: Inline, make_inline: Callable[..., Inline], nodes: list[str]
) -> None:
    def asked_for(here: Inline) -> list[dict[str, Any]]:
        for name in ("repair", "repair-full"):
            control.schedule.run.__func__(SimpleNamespace(), *defaults.beat_schedule[name]["args"])
        return [job.params for job in here.stores.jobs.list(kind="repair")]

    alone = asked_for(inline)
    together = asked_for(open_on(make_inline, nodes))

    assert alone == []
    assert sorted(params["full"] for params in together) == [False, True]


def test_a_job_needs_no_node_that_is_away(make_inline: Callable[..., Inline], own_redis: OwnRedisFactory) -> None:
    servers = [own_redis() for _ in range(3)]
    nodes = [f"127.0.0.1:{server.port}" for server in servers]
    inline = open_on(make_inline, nodes)
    lose(inline, nodes[1], 20)
    membership = inline.platform.replicated.backend.membership
    (node,) = [each for each in membership.nodes() if each.address == nodes[0]]
    servers[0].kill()
    # Another process that tries to bring it up, in vain, is not waited for.
    inline.do(Coordination(membership).acquire(f"cluster:sync:{node.id}", owner="another", ttl_seconds=60))

    job = repaired(inline, full=True)

    assert (job.state, job.summary["passed_over"], job.summary["copied"]) == ("succeeded", [nodes[0]], 20)
    assert are_level(nodes[1:])


def test_an_evict_job_makes_room_on_all_nodes_alike(make_inline: Callable[..., Inline], nodes: list[str]) -> None:
    inline = open_on(make_inline, nodes)
    for at in range(400):
        # By chance: what repeats itself would be compressed.
        big = CachedResponse(prompt="p", response=secrets.token_hex(10_000), model="m", timestamp=datetime.now(UTC))
        inline.do(inline.platform.llm_cache.set(f"big {at}", big))
    used = [int(status.used_bytes or 0) for status in inline.do(inline.platform.replicated.statuses())]
    limited = open_limited(make_inline, nodes, int(max(used) / 0.95))

    job = limited.run("evict", {"policy": True, "keys_per_second": 0})
    again = limited.run("evict", {"policy": True, "keys_per_second": 0})

    left = [sum(head.endswith(b"v") for head in copies_on(address).values()) for address in nodes]
    assert (job.state, job.summary["policy"]) == ("succeeded", job.done)
    assert left == [COUNT + 400 - job.done] * 3
    assert again.done == 0
    assert 20 < job.done <= 400, "what goes from one node goes from all: it is not asked for three times"
    assert are_level(nodes)
    assert repaired(limited, full=True).summary["copied"] == 0


def open_limited(make_inline: Callable[..., Inline], nodes: list[str], limit_bytes: int) -> Inline:
    return make_inline(
        CACHE_DISTRIBUTED__ENABLED="true",
        CACHE_DISTRIBUTED__NODES=",".join(nodes),
        CACHE_REDIS_MEMORY_LIMIT=str(limit_bytes),
    )
