from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cache_management.cache.config import CacheBackend, CacheConfig, SimilarityConfig
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.request_logs import LoggedRequest, read_logs
from cache_management.cache.requests import make_request
from cache_management.cache.simulation import Scenario, replay


def asked(prompt: str, *, at: float | None = None, group: str | None = None, **more: Any) -> LoggedRequest:
    return LoggedRequest(make_request(prompt, model="m"), f"answer to {prompt}", at=at, group=group, **more)


async def test_repeats_are_hits_and_save_what_they_cost() -> None:
    log = [
        asked("a", tokens=10, cost_micro=500),
        asked("b", tokens=7),
        asked("a", tokens=10, cost_micro=500),
        asked("b", tokens=7),
    ]

    found = await replay(log, Scenario(None), embedder=None, prices={"m": 100.0})

    assert (found.exact, found.semantic, found.hit_rate) == (2, 0, 0.5)
    assert (found.tokens_saved, found.saved_micro, found.unpriced) == (17, 500 + 700, 0)
    assert found.hits_by_part == [0.0, 0.0, 1.0, 1.0]


async def test_a_cost_that_nobody_knows_is_said() -> None:
    found = await replay([asked("a"), asked("a")], Scenario(None), embedder=None)

    assert (found.saved_micro, found.unpriced) == (0, 1)


async def test_lives_end_in_the_time_of_the_log() -> None:
    log = [asked("a", at=1_000.0), asked("a", at=1_050.0), asked("a", at=1_200.0)]

    short = await replay(log, Scenario(None, ttl_seconds=100), embedder=None)
    long = await replay(log, Scenario(None, ttl_seconds=None), embedder=None)

    assert (short.exact, long.exact) == (1, 2)


async def test_one_request_without_a_time_leaves_the_others_theirs() -> None:
    log = [asked("a", at=1_000.0), asked("b"), asked("a", at=100_000.0)]

    found = await replay(log, Scenario(None, ttl_seconds=10), embedder=None)

    assert found.exact == 0


@pytest.mark.parametrize("first", [0.0, 1.0])
async def test_a_log_may_begin_at_zero(first: float) -> None:
    log = [asked("a", at=first + 1_000.0 * at) for at in range(4)]

    found = await replay(log, Scenario(None, ttl_seconds=60), embedder=None)

    assert found.exact == 0


async def test_the_last_moment_that_a_log_may_tell_can_be_replayed(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"prompt": "a", "response": "b", "timestamp": "9000-12-31T23:59:59Z"}\n' * 2)

    found = await replay(read_logs([path]).requests, Scenario(None, ttl_seconds=3_000_000_000), embedder=None)

    assert found.exact == 1


@pytest.mark.parametrize(
    ("reason", "refused"),
    [("length", "truncated"), ("content_filter", "content_filter"), ("refusal", "refusal"), ("odd", "non_success")],
)
async def test_what_the_cache_would_not_keep_is_no_hit(reason: str, refused: str) -> None:
    found = await replay([asked("a", finish_reason=reason)] * 3, Scenario(None), embedder=None)

    assert (found.exact, found.not_kept) == (0, {refused: 3})


@pytest.mark.parametrize("reason", ["stop", "end_turn", None])
async def test_a_whole_answer_and_one_of_which_nobody_said_are_kept(reason: str | None) -> None:
    found = await replay([asked("a", finish_reason=reason)] * 3, Scenario(None), embedder=None)

    assert (found.exact, found.not_kept) == (2, {})


async def test_a_call_of_a_tool_is_an_answer() -> None:
    log = [asked("a", finish_reason="tool_calls", has_tool_calls=True)] * 2

    assert (await replay(log, Scenario(None), embedder=None)).exact == 1


async def test_the_policy_and_the_size_decide_what_is_still_there() -> None:
    log = [asked(name) for name in (*["often"] * 5, "a", "b", "c", "often")]

    lru = await replay(log, Scenario(None, policy="lru", max_size=2), embedder=None)
    lfu = await replay(log, Scenario(None, policy="lfu", max_size=2), embedder=None)

    assert (lru.exact, lfu.exact) == (4, 5)
    assert lru.evicted > 0
    assert 0 < lru.most_bytes < 5_000


async def test_the_bounds_of_the_configuration_hold() -> None:
    log = [asked(f"q{at % 5}", at=float(at)) for at in range(50)]
    tight = CacheConfig(backend=CacheBackend.MEMORY, memory_limit=1_000)
    small = CacheConfig(max_entry_bytes=8)

    free = await replay(log, Scenario(None), embedder=None)
    bounded = await replay(log, Scenario(None), embedder=None, config=tight)
    refused = await replay(log, Scenario(None), embedder=None, config=small)

    assert (free.exact, free.evicted) == (45, 0)
    assert bounded.exact < 45
    assert bounded.evicted > 0
    assert bounded.most_bytes <= 1_000
    assert (refused.exact, refused.not_kept) == (0, {"oversize": 50})


async def test_gates_that_the_configuration_leaves_off_refuse_nothing() -> None:
    log = [asked("what is the price of 2 apples"), asked("what is the price of 3 apples")]
    off = SimilarityConfig(gates_off=("number", "freshness", "edited"))

    gated = await replay(log, Scenario(0.5), embedder=HashingEmbedder())
    configured = await replay(log, Scenario(0.5), embedder=HashingEmbedder(), meaning=off)

    assert (gated.semantic, configured.semantic) == (0, 1)


async def test_hits_by_meaning_are_judged_by_their_labels() -> None:
    log = [
        asked("how do I reset my password", group="reset"),
        asked("my password, how do I reset", group="reset"),
        asked("how do I not reset my password", group="keep"),
    ]

    gated = await replay(log, Scenario(0.5), embedder=HashingEmbedder())
    bare = await replay(log, Scenario(0.5, gates=False), embedder=HashingEmbedder())

    assert (gated.semantic, gated.judged, gated.wrong) == (1, 1, 0)
    assert (bare.semantic, bare.judged, bare.wrong) == (2, 2, 1)
    assert gated.false_hits is not None
    assert gated.false_hits.share == 0.0


async def test_equal_requests_of_different_labels_are_conflicts() -> None:
    log = [asked("a", group="1"), asked("a", group="2"), asked("a", group="1"), asked("a"), asked("b", group="1")]

    found = await replay(log, Scenario(None), embedder=None)

    assert (found.exact, found.conflicts) == (3, 1)
    assert (found.judged, found.wrong, found.false_hits) == (0, 0, None)


async def test_progress_is_told_to_the_end() -> None:
    told: list[int] = []

    await replay([asked(str(at)) for at in range(120)], Scenario(None), embedder=None, on_progress=told.append)

    assert told == [50, 100, 120]


@pytest.mark.parametrize(
    ("scenario", "name"),
    [
        (Scenario(None), "exact only, lru, 10,000 entries, 3,600 s"),
        (Scenario(0.9, gates=False, ttl_seconds=None), "from 0.90, no gates, lru, 10,000 entries, no end"),
    ],
)
def test_a_scenario_says_what_it_is(scenario: Scenario, name: str) -> None:
    assert scenario.name == name
