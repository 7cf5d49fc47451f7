from __future__ import annotations

import base64
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from redis import Redis

from cache_management import CachedResponse, DistributedCache, ReplicationConfig, ShardingStrategy
from cache_management.cache.cluster.addresses import check_address
from cache_management.cache.cluster.values import decode_value, encode_value
from cache_management.cache.errors import (
    BackendUnavailable,
    ConfigurationError,
    CorruptRecord,
    InvalidEntry,
    InvalidInput,
    InvalidKey,
)
from cache_management.sync import DistributedCache as SyncDistributedCache
from tests.cache.cluster.conftest import PATIENT
from tests.conftest import OwnRedisFactory

LIMIT = 1_000_000
ANSWER = CachedResponse(prompt="p", response="r", model="m", timestamp=datetime.now(UTC), metadata={"a": [1, None]})
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


# Values.


@given(JSON | st.binary())
def test_a_value_comes_back_as_it_went_in(value: Any) -> None:
    again = decode_value(encode_value(value, limit_bytes=LIMIT), limit_bytes=LIMIT)

    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize("value", ["x" * 200_000, b"\0" * 200_000, ["y" * 200_000], ANSWER])
def test_large_values_and_entries_come_back(value: Any) -> None:
    assert decode_value(encode_value(value, limit_bytes=LIMIT), limit_bytes=LIMIT) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ((1, 2), "tuple"),
        ({"a": {1: "x"}}, "the key 1, which is not text"),
        ([math.nan], r"the value\[0\] is nan"),
        (object(), "of type object"),
        (2**70, "beyond 64 bits"),
        ("\ud800", "not valid Unicode"),
        ("x" * (LIMIT + 1), "the limit is 1,000,000"),
    ],
)
def test_what_would_not_come_back_is_refused(value: Any, words: str) -> None:
    with pytest.raises(InvalidEntry, match=words):
        encode_value(value, limit_bytes=LIMIT)


@given(st.binary(max_size=60))
def test_stored_bytes_of_anybody_crash_nothing(data: bytes) -> None:
    try:
        decode_value(data, limit_bytes=LIMIT)
    except CorruptRecord:
        return


def test_a_compressed_value_may_not_grow_beyond_the_limit() -> None:
    with pytest.raises(CorruptRecord, match="the limit is 100"):
        decode_value(encode_value("x" * 500_000, limit_bytes=LIMIT), limit_bytes=100)


# Bad input: nothing is written.


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([], "names no nodes"),
        ("a:1", "names no nodes"),
        (["a:1", "b", "c:1"], "'b' cannot be read"),
        (["a:1", "b:70000", "c:1"], "port 70000"),
        (["a:1", "b:0", "c:1"], "port 0"),
        (["a:1", "A:1", "c:1"], "a:1 stands twice"),
        (["a:1", 5, "c:1"], "no text"),
        (["a:1", "b:1"], "needs 3 nodes, and 2 are given"),
    ],
)
def test_a_node_list_that_cannot_be_used_is_refused(nodes: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        DistributedCache(nodes)


def test_a_strategy_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="consistent_hash, mod_hash, range"):
        DistributedCache(["a:1", "b:1", "c:1"], "ring")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["host:1", "h:65535/15", "[::1]:6379", "redis://h:1"])
def test_an_address_can_be_read(text: str) -> None:
    assert check_address(text).startswith(("host:1", "h:65535/15", "[::1]:6379", "h:1"))


async def test_two_names_of_one_server_are_refused(nodes: list[str]) -> None:
    twins = [*nodes[:2], nodes[1].replace("127.0.0.1", "localhost")]
    async with DistributedCache(twins, config=PATIENT) as cache:
        with pytest.raises(ConfigurationError, match="are one server"):
            await cache.set("k", "v")

    assert keys_on(nodes) == 0


@pytest.mark.keeps_keys
async def test_a_node_with_foreign_data_is_refused(nodes: list[str]) -> None:
    with Redis.from_url(f"redis://{nodes[1]}") as client:
        client.set("session:17", "x")
    async with DistributedCache(nodes, config=PATIENT) as cache:
        with pytest.raises(ConfigurationError, match=f"{nodes[1]} holds 1 keys that are not this cache's"):
            await cache.set("k", "v")

    assert keys_on(nodes) == 1


async def test_a_node_of_another_cluster_is_refused(nodes: list[str], own_redis: OwnRedisFactory) -> None:
    others = [f"127.0.0.1:{own_redis().port}" for _ in range(2)]
    replication = ReplicationConfig(replicas=0)
    async with DistributedCache(others, replication_config=replication, config=PATIENT) as other:
        await other.set("k", "theirs")
    async with DistributedCache([*nodes[:2], others[0]], replication_config=replication, config=PATIENT) as cache:
        with pytest.raises(ConfigurationError):
            await cache.set("k", "v")
    async with DistributedCache(nodes, config=PATIENT) as cache:
        await cache.set("k", "ours")
        cache.add_node(others[0])
        with pytest.raises(ConfigurationError, match="belongs to another replicated cache"):
            await cache.rebalance()
        assert await cache.get("k") == "ours"

    async with DistributedCache(others, replication_config=replication, config=PATIENT) as other:
        assert await other.get("k") == "theirs"


async def test_strict_raises_where_others_see_a_miss(unused_tcp_port: int) -> None:
    nobody = [f"127.0.0.1:{unused_tcp_port}/{database}" for database in range(3)]
    async with DistributedCache(nobody) as cache, DistributedCache(nobody, strict=True) as strict:
        assert await cache.get("k") is None
        assert await cache.set("k", "v") is False
        with pytest.raises(BackendUnavailable):
            await strict.get("k")


async def test_the_first_start_needs_every_node(nodes: list[str], unused_tcp_port: int) -> None:
    async with DistributedCache([*nodes[:2], f"127.0.0.1:{unused_tcp_port}"], config=PATIENT) as cache:
        with pytest.raises(BackendUnavailable, match=f"needs every node, and 127.0.0.1:{unused_tcp_port}"):
            await cache.set("k", "v")

    assert keys_on(nodes) == 0


@pytest.mark.parametrize("ttl", [0, -2, math.nan, math.inf, 1e11, "a", True])
async def test_a_life_that_is_none_is_refused(cache: DistributedCache, ttl: Any) -> None:
    with pytest.raises(InvalidInput, match="ttl_seconds"):
        await cache.set("k", "v", ttl_seconds=ttl)


async def test_a_key_that_cannot_be_used_is_refused(cache: DistributedCache) -> None:
    with pytest.raises(InvalidKey):
        await cache.set("", "v")


def keys_on(nodes: list[str]) -> int:
    total = 0
    for node in nodes:
        with Redis.from_url(f"redis://{node}") as client:
            total += int(client.dbsize())
    return total


# Use.


async def test_many_values_at_once(cache: DistributedCache) -> None:
    values: dict[str, Any] = {f"k{at}": {"at": at} for at in range(1500)} | {"none": None}

    assert await cache.set_many(values)

    assert await cache.get_many([*values, "absent"]) == values
    assert await cache.exists("none")


async def test_long_keys_are_kept_apart_and_named_when_hot(cache: DistributedCache) -> None:
    one, two = "a" * 5000 + "1", "a" * 5000 + "2"
    await cache.set(one, 1)
    await cache.set(two, 2)

    for _ in range(30):
        await cache.get(one)

    assert await cache.get(two) == 2
    assert cache.get_hot_spots(threshold=30) == [(one, 30)]


@pytest.mark.parametrize("strategy", list(ShardingStrategy))
async def test_nodes_come_and_go_with_every_strategy(
    nodes: list[str], own_redis: OwnRedisFactory, strategy: ShardingStrategy
) -> None:
    async with DistributedCache(nodes, strategy, ReplicationConfig(replicas=1), config=PATIENT) as cache:
        await cache.set_many({f"k{at}": at for at in range(200)})
        fourth = f"127.0.0.1:{own_redis().port}"

        cache.add_node(fourth)
        assert fourth in cache.get_available_nodes()
        await cache.rebalance()
        cache.remove_node(nodes[0])
        assert nodes[0] not in cache.get_available_nodes()
        await cache.rebalance()
        await cache.repair()

        assert await cache.get_many([f"k{at}" for at in range(200)]) == {f"k{at}": at for at in range(200)}
        assert keys_on(nodes[:1]) == 0, "a node that was let go is empty"
        statuses = {status.address: status for status in await cache.statuses()}
        assert set(statuses) == {fourth, *nodes[1:]}
        assert all(status.slots_first > 16_384 / 3 * 0.97 for status in statuses.values())
        # Who still names the nodes of the beginning finds the others, and does not take the old one for the new one.
        async with DistributedCache(nodes, replication_config=ReplicationConfig(replicas=1), config=PATIENT) as old:
            assert await old.get("k7") == 7
            assert sorted(old.get_available_nodes()) == sorted([fourth, *nodes[1:]])


async def test_too_few_nodes_may_not_be_left(cache: DistributedCache, nodes: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="needs 3 nodes"):
        cache.remove_node(nodes[0])
    with pytest.raises(ConfigurationError, match="is none of the nodes"):
        cache.remove_node("elsewhere:1")
    with pytest.raises(ConfigurationError, match="is one of the nodes already"):
        cache.add_node(nodes[0])


async def test_a_lock_is_held_by_one_and_ends_with_its_lease(nodes: list[str]) -> None:
    async with DistributedCache(nodes, config=PATIENT) as one, DistributedCache(nodes, config=PATIENT) as two:
        assert await one.acquire_lock("r", timeout=1)
        assert not await two.acquire_lock("r", timeout=0)
        assert not await two.release_lock("r")
        first = one.fencing_token("r")

        assert await one.release_lock("r")
        assert not await one.release_lock("r")

        assert await two.acquire_lock("r", timeout=0, lease_seconds=0.3)
        second = two.fencing_token("r")
        assert first is not None
        assert second is not None
        assert second > first
        # Renewed while its holder lives.
        assert not await one.acquire_lock("r", timeout=0.8)
        two._held["r"].stop()
        assert await one.acquire_lock("r", timeout=5)


async def test_two_nodes_do_when_asked_to(nodes: list[str]) -> None:
    replication = ReplicationConfig(replicas=2, degrade="one")
    async with DistributedCache(nodes[:2], replication_config=replication, config=PATIENT) as cache:
        await cache.set("k", "v")

        assert await cache.get("k") == "v"
        assert cache.replication.consistency_level == "one"


@pytest.mark.parametrize("level", ["one", "all"])
async def test_the_other_levels_serve(nodes: list[str], level: Any) -> None:
    replication = ReplicationConfig(replicas=2, consistency_level=level)
    async with DistributedCache(nodes, replication_config=replication, config=PATIENT) as cache:
        await cache.set("k", "v")
        await cache.delete("other")

        assert await cache.get("k") == "v"
        assert await cache.delete("k") is True
        assert await cache.get("k") is None


async def test_values_are_sealed_when_there_are_keys(nodes: list[str]) -> None:
    key = base64.b64encode(bytes(32)).decode()
    sealed = PATIENT.model_copy(update={"encryption_keys": SecretStr(f"one: {key}")})
    async with DistributedCache(nodes, config=sealed) as cache:
        await cache.set("k", "a secret")

        assert await cache.get("k") == "a secret"
        assert await cache.get_many(["k"]) == {"k": "a secret"}
    with Redis.from_url(f"redis://{nodes[0]}") as client:
        assert b"a secret" not in (client.get("e:cm1:dst:default:kk") or b"")
    async with DistributedCache(nodes, config=PATIENT) as cache:
        assert await cache.get("k") is None


def test_without_asyncio(nodes: list[str]) -> None:
    with SyncDistributedCache(nodes, config=PATIENT) as cache:
        assert cache.set("k", {"a": 1})
        assert cache.get("k") == {"a": 1}
        assert cache.get_node_for_key("k") in nodes
        assert cache.acquire_lock("r", timeout=1)
        assert cache.release_lock("r")
        assert cache.delete("k")


async def test_arguments_of_the_wrong_kind_are_refused(cache: DistributedCache) -> None:
    for wrong in (-1, "x", 2**96, 2**96 - 1):
        with pytest.raises(InvalidInput, match="fencing_token"):
            await cache.set("k", "v", fencing_token=wrong)  # type: ignore[arg-type]
    for timeout, lease in (("5", 30), (-1, 30), (math.nan, 30), (1, "5"), (1, 0), (1, math.inf)):
        with pytest.raises(InvalidInput, match="timeout"):
            await cache.acquire_lock("r", timeout=timeout, lease_seconds=lease)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="threshold"):
        cache.get_hot_spots("a")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="several keys"):
        await cache.get_many("ab")
    with pytest.raises(ConfigurationError, match="ReplicationConfig"):
        DistributedCache(["a:1", "b:1", "c:1"], replication_config={"replicas": 2})  # type: ignore[arg-type]
