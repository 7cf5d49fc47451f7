from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from cache_management.adapters.langchain_identity import ask_of
from cache_management.cache.errors import BackendUnavailable, InvalidInput
from cache_management.migration_sources.found import Found
from cache_management.migration_sources.langchain_calls import UNKNOWN_MODEL
from cache_management.migration_sources.redisvl import RedisVLStore
from tests.migration_sources.stores import MESSAGES, found_in, generation

pytestmark = pytest.mark.keeps_keys  # RedisVL's keys have no TTL unless it is asked for


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def entry(prompt: str = "What is Python?", **more: Any) -> dict[str, Any]:
    fields = {"entry_id": "1", "prompt": prompt, "response": "A language.", "prompt_vector": b"\xff\xfe\0\0"}
    return {**fields, "inserted_at": 1.5e9, "updated_at": 1.6e9, **more}


def test_entries_come_with_time_life_and_metadata(redis: Redis, redis_url: str) -> None:
    redis.hset("llmcache:1", mapping=entry(metadata=json.dumps({"page": 5})))
    redis.expire("llmcache:1", 60)
    redis.hset("llmcache:2", mapping=entry("What is a loan?"))
    redis.hset("llmcache_other:1", mapping=entry("not ours"))

    found, left = found_in(RedisVLStore(redis_url).rows())

    by_prompt = {row.asked["prompt"]: row for row in found}
    assert sorted(by_prompt) == ["What is Python?", "What is a loan?"]
    python = by_prompt["What is Python?"]
    assert (python.response, python.timestamp.timestamp(), python.metadata) == ("A language.", 1.6e9, {"page": 5})
    assert isinstance(python.expires_at, float)
    assert 0 < python.expires_at - time.time() <= 60
    assert by_prompt["What is a loan?"].expires_at is None
    assert left == []


def test_an_entry_without_a_time_says_so(redis: Redis, redis_url: str) -> None:
    redis.hset("llmcache:1", mapping={"prompt": "q", "response": "a"})
    redis.hset("llmcache:2", mapping={"prompt": "q", "response": "a", "updated_at": "x", "inserted_at": 1.5e9})

    found, _ = found_in(RedisVLStore(redis_url).rows())

    assert {row.where: row.has_time for row in found} == {"llmcache:1": False, "llmcache:2": True}


def test_what_cannot_come_along_says_why(redis: Redis, redis_url: str) -> None:
    redis.hset("mine:filters", mapping=entry(user="ann", country="no"))
    redis.hset("mine:prompt", mapping={"response": "a"})
    redis.hset("mine:answer", mapping={"prompt": "q"})
    redis.hset("mine:bytes", mapping=entry(response=b"\xff"))
    redis.set("mine:text", "a")
    redis.hset("mine:ok", mapping=entry(metadata="no json"))

    found, left = found_in(RedisVLStore(redis_url, prefix="mine:").rows())

    assert [row.where for row in found] == ["mine:ok"]
    assert {row.where: row.reason for row in left} == {
        "mine:filters": "filters (country, user): only the app knows which context they stand for",
        "mine:prompt": "no prompt that is a text",
        "mine:answer": "no answer",
        "mine:bytes": "a value that is no text",
        "mine:text": "a string, which is no entry",
    }


@pytest.mark.parametrize("name", ["langchain", "litellm", "dspy_completion", "dspy_record", "gateway"])
def test_what_would_be_served_in_the_place_of_the_text_stays_behind(redis: Redis, redis_url: str, name: str) -> None:
    redis.hset("llmcache:1", mapping=entry(metadata=json.dumps({name: "{}", "page": 5})))

    ((row,), _) = found_in(RedisVLStore(redis_url).rows())

    assert row.metadata == {"page": 5}


@pytest.mark.parametrize("prompt", ["What is Python?", MESSAGES])
def test_what_langchain_stored_is_filed_as_its_call(redis: Redis, redis_url: str, prompt: str) -> None:
    answer = json.dumps([generation("A language."), generation("A snake.")])
    redis.hset("llmcache:1", mapping=entry(prompt, response=answer, metadata=json.dumps({"llm_string": "llm"})))

    ((row,), left) = found_in(RedisVLStore(redis_url).rows())

    assert left == []
    assert (row.response, row.asked, row.says_all) == ("A language.", ask_of(prompt, "llm").arguments(), True)
    assert [each["kwargs"]["text"] for each in json.loads(row.metadata.pop("langchain"))] == ["A language.", "A snake."]
    assert (row.metadata, row.timestamp.timestamp(), row.expires_at) == ({}, 1.6e9, None)


def test_what_langchain_stored_of_an_unknown_model_stays_behind(redis: Redis, redis_url: str) -> None:
    old = json.dumps([{"text": "A language.", "generation_info": None}])
    redis.hset("llmcache:1", mapping=entry(response=json.dumps([generation("A language.")])))
    redis.hset("llmcache:2", mapping=entry(response=old))
    redis.hset("llmcache:3", mapping=entry(MESSAGES))
    redis.hset("llmcache:4", mapping=entry(response='["A list of", "the model\'s own"]'))

    found, left = found_in(RedisVLStore(redis_url).rows())

    assert [row.where for row in found] == ["llmcache:4"]
    assert {(row.reason, row.prompt, row.is_fault) for row in left} == {(UNKNOWN_MODEL, "What is Python?", True)}
    assert len(left) == 3


def test_a_life_that_is_left_ends_by_the_clock_that_is_given(redis: Redis, redis_url: str) -> None:
    redis.hset("llmcache:1", mapping=entry())
    redis.pexpire("llmcache:1", 60_000)

    ((row,), _) = found_in(RedisVLStore(redis_url, clock=lambda: 1e9).rows())

    assert isinstance(row.expires_at, float)
    assert 1e9 < row.expires_at <= 1e9 + 60


def test_a_prefix_is_no_pattern(redis: Redis, redis_url: str) -> None:
    redis.hset("a*:1", mapping=entry("ours"))
    redis.hset("abc:1", mapping=entry("theirs"))

    found, _ = found_in(RedisVLStore(redis_url, prefix="a*").rows())

    assert [row.asked["prompt"] for row in found] == ["ours"]


def test_keys_of_a_longer_prefix_are_of_another_cache(redis: Redis, redis_url: str) -> None:
    redis.hset("llmcache:1", mapping=entry("ours"))
    redis.hset("llmcache:tenantB:1", mapping=entry("theirs"))
    redis.hset("llmcache:tenantB:2", mapping=entry("theirs, too"))

    found, left = found_in(RedisVLStore(redis_url).rows())
    tenant, _ = found_in(RedisVLStore(redis_url, prefix="llmcache:tenantB").rows())

    assert [row.asked["prompt"] for row in found] == ["ours"]
    reason = "of another cache: --prefix llmcache:tenantB brings it along"
    assert [(row.reason, row.prompt, row.is_fault) for row in left] == [(reason, "", True)] * 2
    assert {row.asked["prompt"] for row in tenant} == {"theirs", "theirs, too"}


def test_of_very_many_longer_prefixes_some_are_named(redis: Redis, redis_url: str) -> None:
    for number in range(30):
        redis.hset(f"llmcache:t:{number}:1", mapping=entry())

    _, left = found_in(RedisVLStore(redis_url).rows())

    reasons = Counter(row.reason for row in left)
    assert reasons.pop("of other caches, whose prefixes begin with this one") == 10
    assert set(reasons.values()) == {1}


def test_a_prefix_of_no_key_is_refused_with_the_ones_that_are_near(redis: Redis, redis_url: str) -> None:
    with pytest.raises(InvalidInput, match="no key begins with 'llmcache:', nor has any key a prefix"):
        RedisVLStore(redis_url).count()
    redis.hset("support_cache:1", mapping=entry())
    redis.hset("jobs:1", mapping=entry())

    with pytest.raises(InvalidInput, match="'suport_cache:', there are support_cache: name one with --prefix"):
        next(RedisVLStore(redis_url, prefix="suport_cache").rows())
    with pytest.raises(InvalidInput, match=r"there are (support_cache, jobs|jobs, support_cache): name one"):
        next(RedisVLStore(redis_url, prefix="x").rows())


def test_an_index_without_entries_is_an_empty_cache(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RedisVLStore(redis_url)
    monkeypatch.setattr(
        store._client, "execute_command", lambda *words: [b"llmcache"] if words[0] == "FT._LIST" else [0, []]
    )

    assert (store.count(), list(store.rows())) == (0, [])


class Documents:
    """Answers for a key that is a document, which this server does not keep."""

    def __init__(self, document: str) -> None:
        self._document = document

    def execute_command(self, *words: Any) -> str:
        assert words[0] == "JSON.GET"
        return self._document


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (json.dumps({"prompt": "q", "response": "a", "metadata": {"page": 5}, "prompt_vector": [0.5]}), {"page": 5}),
        ("[5]", "a document that is no entry"),
        ("{", "a document that cannot be read"),
    ],
)
def test_documents_are_read_like_hashes(redis_url: str, document: str, expected: Any) -> None:
    store = RedisVLStore(redis_url)
    store.close()
    store._client = Documents(document)

    row = store._row(b"llmcache:1", b"ReJSON-RL", -1)

    assert (row.metadata if isinstance(row, Found) else row.reason) == expected


def test_an_entry_that_redisvl_wrote_itself(redis: Redis, redis_url: str) -> None:
    schema = pytest.importorskip("redisvl.extensions.cache.llm.schema")
    made = schema.CacheEntry(
        prompt="What is Python?", response="A language.", prompt_vector=[0.0, 1.0], metadata={"page": 5}
    )
    redis.hset("llmcache:1", mapping=made.to_dict("float32"))

    found, left = found_in(RedisVLStore(redis_url).rows())

    assert left == []
    assert [(row.response, row.metadata) for row in found] == [("A language.", {"page": 5})]
    assert found[0].timestamp.timestamp() == pytest.approx(made.updated_at)


def test_an_address_where_nobody_answers_is_told() -> None:
    with pytest.raises(BackendUnavailable, match="the Redis that is read"):
        RedisVLStore("redis://127.0.0.1:1")
    with pytest.raises(InvalidInput, match=r"\*\*\*\*"):
        RedisVLStore("http://ann:secret@127.0.0.1:1")
