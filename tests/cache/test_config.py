from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.config import (
    CacheBackend,
    CacheConfig,
    EmbeddingModel,
    EvictionPolicy,
    ReplicationConfig,
    SimilarityConfig,
    default_data_dir,
    parse_size,
)
from cache_management.cache.errors import ConfigurationError


def test_defaults_need_no_server() -> None:
    config = CacheConfig()

    assert config.backend is CacheBackend.DISK
    assert config.disk_path == default_data_dir() / "cache"
    assert (config.ttl_seconds, config.max_size, config.eviction_policy) == (3600, 10_000, EvictionPolicy.LRU)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10GB", 10 * 10**9),
        ("10GiB", 10 * 2**30),
        ("10 gib", 10 * 2**30),
        ("500MB", 500 * 10**6),
        ("1.5k", 1500),
        ("2T", 2 * 10**12),
        ("7", 7),
        (" 64 KiB ", 65_536),
        (12_345, 12_345),
        ("5b", 5),
    ],
)
def test_sizes_are_read_in_decimal_and_binary_units(text: object, size: int) -> None:
    assert CacheConfig(disk_size_limit=text).disk_size_limit == size


@given(st.integers(1, 10**6), st.sampled_from(["", "K", "MB", "gib", "Ti", "kB"]))
def test_every_unit_is_a_whole_number_of_bytes(number: int, unit: str) -> None:
    size = parse_size(f"{number}{unit}")

    assert isinstance(size, int)
    assert size % number == 0


URLS: list[tuple[str, dict[str, Any]]] = [
    ("memory://", {"backend": CacheBackend.MEMORY}),
    ("disk:///var/llm%20cache", {"backend": CacheBackend.DISK, "disk_path": Path("/var/llm cache")}),
    ("redis://", {"backend": CacheBackend.REDIS, "redis_host": "localhost", "redis_port": 6379, "redis_db": 0}),
    ("redis://cache.test:7000/3", {"redis_host": "cache.test", "redis_port": 7000, "redis_db": 3}),
    ("redis://[::1]:7000", {"redis_host": "::1", "redis_port": 7000}),
    ("rediss://cache.test", {"redis_ssl": True}),
    ("redis://bob@cache.test/", {"redis_username": "bob", "redis_password": None}),
    ("unix:///run/redis.sock?db=2", {"backend": CacheBackend.REDIS}),
    (
        "redis+cluster://bob:p%40ss@one.test:7000,[::1]:7001,three.test",
        {
            "backend": CacheBackend.REDIS,
            "is_cluster": True,
            "cluster_nodes": [("one.test", 7000), ("::1", 7001), ("three.test", 6379)],
            "redis_username": "bob",
            "redis_ssl": False,
        },
    ),
    ("rediss+cluster://one.test:7000/0", {"is_cluster": True, "redis_ssl": True, "redis_db": 0}),
    (
        "rediss+sentinel://bob:secret@one.test:7000,two.test/mymaster/3",
        {
            "backend": CacheBackend.REDIS,
            "is_cluster": False,
            "sentinels": [("one.test", 7000), ("two.test", 26379)],
            "redis_username": "bob",
            "redis_db": 3,
            "redis_ssl": True,
        },
    ),
    ("redis://one.test", {"sentinels": [], "is_cluster": False, "cluster_nodes": []}),
]


@pytest.mark.parametrize(("url", "expected"), URLS)
def test_url_says_what_the_separate_fields_say(url: str, expected: dict[str, Any]) -> None:
    config = CacheConfig.from_url(url, namespace="n")

    assert {name: getattr(config, name) for name in expected} == expected
    assert config.namespace == "n"


def test_url_wins_over_the_separate_fields() -> None:
    config = CacheConfig(backend=CacheBackend.MEMORY, redis_host="other", url="redis://cache.test")

    assert (config.backend, config.redis_host) == (CacheBackend.REDIS, "cache.test")


def test_password_in_a_url_is_decoded_and_not_shown() -> None:
    config = CacheConfig(url="redis://bob:p%40ss%2Fword@cache.test")

    assert config.redis_password is not None
    assert config.redis_password.get_secret_value() == "p@ss/word"
    assert "p@ss/word" not in repr(config.redis_password)


WRONG: list[tuple[dict[str, Any], str, str, str]] = [
    ({"backend": "mongo"}, "backend", "'mongo'", "'memory', 'disk' or 'redis'"),
    ({"namespace": "a b"}, "namespace", "'a b'", "pattern"),
    ({"namespace": "a\n"}, "namespace", "'a\\n'", "pattern"),
    ({"namespace": ""}, "namespace", "''", "pattern"),
    ({"redis_port": 0}, "redis_port", "0", "greater than or equal to 1"),
    ({"redis_port": 70_000}, "redis_port", "70000", "less than or equal to 65535"),
    ({"redis_db": -1}, "redis_db", "-1", "greater than or equal to 0"),
    ({"ttl_seconds": 0}, "ttl_seconds", "0", "positive seconds up to a hundred years, -1 (never expires) or null"),
    ({"ttl_seconds": -2}, "ttl_seconds", "-2", "positive seconds"),
    ({"ttl_seconds": "soon"}, "ttl_seconds", "'soon'", "valid integer"),
    ({"ttl_seconds": 10**12}, "ttl_seconds", "1000000000000", "up to a hundred years"),
    ({"max_size": 0}, "max_size", "0", "greater than 0"),
    ({"max_entry_bytes": "lots"}, "max_entry_bytes", "'lots'", "as in 500MB or 10GiB"),
    ({"disk_size_limit": "10 GBB"}, "disk_size_limit", "'10 GBB'", "as in 500MB or 10GiB"),
    ({"disk_size_limit": "-5MB"}, "disk_size_limit", "'-5MB'", "as in 500MB or 10GiB"),
    ({"disk_size_limit": 0}, "disk_size_limit", "0", "greater than 0"),
    ({"eviction_policy": "random"}, "eviction_policy", "'random'", "'lru', 'lfu' or 'ttl'"),
    ({"timeout_seconds": 0}, "timeout_seconds", "0", "greater than 0"),
    ({"strict": "perhaps"}, "strict", "'perhaps'", "valid boolean"),
    ({"ttl_second": 5}, "ttl_second", "5", "not permitted"),
    ({"url": "http://x"}, "url", "'http'", "redis+cluster://, redis+sentinel://"),
    ({"url": "cache"}, "url", "''", "use memory://"),
    ({"url": "disk://"}, "url", "", "as in disk:///var/cache/llm_cache"),
    ({"url": "redis://host/x"}, "url", "", "as in redis://host:6379/0"),
    ({"url": "redis://host:99999"}, "url", "", "a number up to 65535"),
    ({"url": "redis://host:port"}, "url", "", "a number up to 65535"),
    ({"url": "redis+cluster://"}, "url", "", "as redis+cluster://host:port,host:port"),
    ({"url": "redis+cluster://one:1,,two:2"}, "url", "", "as redis+cluster://host:port,host:port"),
    ({"url": "redis+cluster://one:0"}, "url", "", "as redis+cluster://host:port,host:port"),
    ({"url": "redis+cluster://one:1,two:x"}, "url", "", "a number up to 65535"),
    ({"url": "redis+cluster://one:1,two:99999"}, "url", "", "a number up to 65535"),
    ({"url": "redis+cluster://one:1,two:2,one:1"}, "url", "server 3", "name each server once"),
    ({"url": "redis+sentinel://one:1,two:2"}, "url", "", "as in redis+sentinel://host:26379,host:26379/mymaster/0"),
    ({"url": "redis+sentinel://one:1/name/x"}, "url", "", "the name that the Sentinels watch"),
    ({"url": "redis+sentinel://one:1,one:1/name"}, "url", "server 2", "name each server once"),
    ({"url": "redis+cluster://one:1/3"}, "url", "", "database 0 only"),
    ({"url": "redis+cluster://one:1?db=3"}, "url", "", "takes no parameters"),
    ({"url": "redis+cluster://one:1", "redis_db": 2}, "", "redis_db is 2", "leave it out"),
    ({"url": "redis+cluster://one:1", "redis_memory_limit": "1GB"}, "", "redis_memory_limit", "maxmemory-policy"),
]


@pytest.mark.parametrize(("settings", "key", "value", "fix"), WRONG)
def test_message_names_the_key_the_bad_value_and_the_rule(
    settings: dict[str, Any], key: str, value: str, fix: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        CacheConfig(**settings)

    message = str(raised.value)
    assert message.startswith("CacheConfig is not valid:")
    assert key in message.replace("CacheConfig", "")
    assert value in message
    assert fix in message


def test_all_wrong_settings_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as raised:
        CacheConfig(max_size=0, redis_port=0)

    assert {"max_size", "redis_port"} <= set(str(raised.value).replace(":", " ").split())


@pytest.mark.parametrize(
    "settings",
    [
        {"redis_password": ["top-secret"]},
        {"url": "redis://bob:top-secret@host/x"},
        {"url": "redis://bob:top-secret/unescaped@host"},
        {"url": "http://bob:top-secret@host"},
        {"url": "redis+cluster://bob:top-secret@host:1,host:1"},
        {"url": "redis+cluster://bob:,top-secret,top-secret/unescaped@host"},
        {"url": "redis://bob:top-secret@host", "max_size": 0},
        {"redis_password": "top-secret", "max_size": 0},
    ],
)
def test_message_about_a_secret_does_not_show_it(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        CacheConfig(**settings)

    assert "top-secret" not in str(raised.value)


def test_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ConfigurationError) as raised:
        CacheConfig(namespace="x" * 10_000)

    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("ttl", [1, -1, None, 10**9])
def test_ttls_that_mean_something_are_taken(ttl: int | None) -> None:
    assert CacheConfig(ttl_seconds=ttl).ttl_seconds == ttl


def test_configuration_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        CacheConfig().max_size = 5  # type: ignore[misc]


@pytest.mark.parametrize("threshold", [-1, 0, 0.85, 1])
def test_threshold_is_a_cosine_similarity(threshold: float) -> None:
    assert SimilarityConfig(threshold=threshold).threshold == threshold


@pytest.mark.parametrize("threshold", [-1.01, 1.01, float("nan"), "high"])
def test_threshold_outside_cosine_similarity_is_refused(threshold: object) -> None:
    with pytest.raises(ConfigurationError, match="threshold"):
        SimilarityConfig(threshold=threshold)


def test_model_is_one_of_the_known_or_any_name_or_folder() -> None:
    assert SimilarityConfig().model is EmbeddingModel.MINILM
    assert SimilarityConfig(model="all-mpnet-base-v2").model is EmbeddingModel.MPNET
    assert SimilarityConfig(model="/models/ours").model == "/models/ours"


# replication


@pytest.mark.parametrize(
    ("replicas", "copies", "voters", "quorum"), [(0, 1, 1, 1), (1, 2, 3, 2), (2, 3, 3, 2), (3, 4, 4, 3), (4, 5, 5, 3)]
)
def test_a_quorum_is_a_majority_of_the_voters(replicas: int, copies: int, voters: int, quorum: int) -> None:
    config = ReplicationConfig(replicas=replicas)

    assert (config.copies, config.voters, config.quorum) == (copies, voters, quorum)


@pytest.mark.parametrize(
    "wrong",
    [{"replicas": 5}, {"replicas": -1}, {"consistency_level": "most"}, {"max_outage_seconds": 0}, {"replica": 2}],
)
def test_replication_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        ReplicationConfig(**wrong)
