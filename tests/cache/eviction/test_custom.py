"""Policies of an application's own: they are used, and a broken one harms nobody."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest

from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.config import CacheBackend, CacheConfig, EvictionPolicy
from cache_management.cache.errors import ConfigurationError
from cache_management.cache.events import Event, RemoveEvent
from cache_management.cache.eviction import evictor_factory, make_evictor
from cache_management.cache.records import Record, Weight
from tests.cache.eviction import own_policies
from tests.cache.eviction.own_policies import Breaking, Naming, NewestFirst

HERE = "tests.cache.eviction.own_policies"


async def keys_after(backend: MemoryBackend, count: int, *, group: str = "cm1:llm:n:k") -> str:
    """Put one key after the other, read the first each time, and return those that are left."""
    for at in range(count):
        await backend.put(f"{group}{at}", Record(b"x", None, at))
        await backend.get(f"{group}0")
    return "".join(sorted([key.removeprefix(group) async for key in backend.scan(group)]))


@pytest.mark.parametrize(
    "policy", [NewestFirst, NewestFirst(), lambda: NewestFirst(), f"{HERE}:NewestFirst", f"{HERE}:prototype"]
)
async def test_a_class_a_factory_an_object_and_a_path_are_used(policy: Any) -> None:
    backend = MemoryBackend(max_size=3, policy=policy)

    assert await keys_after(backend, 6) == "015"
    assert await keys_after(backend, 6, group="cm1:vec:n:k") == "015"


def test_each_group_has_a_copy_of_an_object(caplog: pytest.LogCaptureFixture) -> None:
    make = evictor_factory(NewestFirst())
    one, other = make(), make()
    one.on_insert("x", Weight(size_bytes=1))
    other.on_insert("y", Weight(size_bytes=1))

    assert (one.victim(), other.victim()) == ("x", "y")
    assert not caplog.records


async def test_an_object_is_a_pattern_that_stays_as_it_is() -> None:
    pattern = NewestFirst()

    await keys_after(MemoryBackend(max_size=3, policy=pattern), 6)

    assert pattern.keys == []


@pytest.mark.parametrize(
    "policy",
    [
        *(partial(Breaking, where) for where in ("on_insert", "on_hit", "on_remove", "victim")),
        *(partial(Naming, named) for named in (None, "cm1:llm:n:kunknown", 7, ["unhashable"])),
        own_policies.unmakeable,
        f"{HERE}:unmakeable",
    ],
)
async def test_lru_takes_over_from_a_broken_policy_with_one_warning(
    policy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Event] = []
    backend = MemoryBackend(max_size=3, policy=policy, listener=heard.append)

    with caplog.at_level(logging.WARNING):
        await keys_after(backend, 20)
        await keys_after(backend, 20, group="cm1:vec:n:k")

    for group in ("cm1:llm:n:k", "cm1:vec:n:k"):
        assert {key async for key in backend.scan(group)} == {f"{group}{at}" for at in (0, 18, 19)}
    answers = RemoveEvent(reason="evicted", namespace="n", count=1)
    vectors = RemoveEvent(reason="evicted", namespace="n", count=1, of_entries=False)
    assert heard == [answers] * 17 + [vectors] * 17
    assert len(caplog.records) == 1
    assert "LRU goes on in its place" in caplog.text


def test_the_order_of_use_is_known_when_lru_takes_over() -> None:
    evictor = make_evictor(partial(Breaking, "victim"))
    backend_keys = "abcdef"
    for key in backend_keys:
        evictor.on_insert(key, Weight(size_bytes=1))
    evictor.on_hit("a")

    went = []
    for _ in backend_keys:
        victim = evictor.victim()
        assert victim is not None
        evictor.on_remove(victim)
        went.append(victim)

    assert "".join(went) == "fe" + "bcda"


@pytest.mark.parametrize("policy", ["nowhere.at.all:Policy", f"{HERE}:Missing", f"{HERE}:a_number"])
def test_a_path_that_leads_nowhere_is_a_configuration_error(policy: str) -> None:
    with pytest.raises(ConfigurationError, match=policy):
        make_evictor(policy)


def test_an_object_that_cannot_be_copied_is_a_configuration_error() -> None:
    policy = NewestFirst()
    policy.keys = (key for key in "ab")  # type: ignore[assignment]

    with pytest.raises(ConfigurationError, match="give its class instead"):
        make_evictor(policy)


@pytest.mark.parametrize("policy", ["my.module:Policy", NewestFirst, own_policies.prototype])
def test_configuration_takes_a_policy_of_ones_own(policy: Any) -> None:
    config = CacheConfig(backend=CacheBackend.MEMORY, eviction_policy=policy)

    assert config.eviction_policy is policy
    assert isinstance(config.model_dump(mode="json")["eviction_policy"], str)


@pytest.mark.parametrize("policy", [7, None, "", "my.module", "my.module:", ":Policy", "my module:Policy", "LRU"])
def test_configuration_refuses_what_is_no_policy(policy: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"package\.module:Name"):
        CacheConfig(backend=CacheBackend.MEMORY, eviction_policy=policy)


@pytest.mark.parametrize("policy", ["my.module:Policy", NewestFirst])
def test_the_disk_backend_says_which_policies_it_knows(policy: Any) -> None:
    with pytest.raises(ConfigurationError, match="lru, lfu, ttl, s3fifo, gdsf and auto"):
        CacheConfig(backend=CacheBackend.DISK, eviction_policy=policy)


def test_policy_names_become_members() -> None:
    config = CacheConfig(backend=CacheBackend.MEMORY, eviction_policy="s3fifo")

    assert config.eviction_policy is EvictionPolicy.S3FIFO
    assert config.model_dump(mode="json")["eviction_policy"] == "s3fifo"
