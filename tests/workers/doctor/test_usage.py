"""What a day's hits and misses say, and the remedy that applies."""

from __future__ import annotations

from typing import Any

import pytest

from cache_management.models.usage import HotKeyView
from cache_management.settings import load_settings
from cache_management.workers import doctor
from tests.workers.findings import levels

CAME_AND_WENT = [HotKeyView(f"k{at}", hits=1, misses=9) for at in range(20)]
NEVER_THERE = [HotKeyView(f"k{at}", hits=0, misses=9) for at in range(20)]
ONCE = [HotKeyView(f"k{at}", hits=0, misses=1) for at in range(180)]
POOR: dict[str, Any] = {"hits": 20, "semantic_hits": 20, "misses": 960, "meaning_works": True}


def check(facts: dict[str, Any], **env: str) -> list[doctor.Finding]:
    given = {"CACHE_BROKER_URL": "redis://there/0"} | {f"CACHE_{name.upper()}": value for name, value in env.items()}
    return doctor.check_usage(doctor.UsageFacts(**facts), load_settings(env=given).settings)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"hits": 250, "misses": 750}, {}),
        ({"hits": 240, "misses": 760}, {"hit rate": "warn"}),
        ({"hits": 100, "semantic_hits": 160, "misses": 740}, {}),
        ({"misses": 199}, {}),
        ({"is_recorded": False}, {}),
        ({"is_recorded": False, "is_added_up": False}, {"usage": "warn"}),
    ],
)
def test_a_hit_rate(facts: dict[str, Any], expected: dict[str, str]) -> None:
    assert levels(check(facts)) == expected


def test_nobody_counts() -> None:
    assert levels(check({}, usage_interval_seconds="0")) == {"usage": "warn"}


@pytest.mark.parametrize(
    ("facts", "advice"),
    [
        ({"missed_most": CAME_AND_WENT}, "180 misses since yesterday were of keys that were there before: raise ttl"),
        ({"missed_most": CAME_AND_WENT, "store_is_full": True}, "the store is full: raise max_size"),
        ({"missed_most": NEVER_THERE}, "160 misses since yesterday were of keys asked for again and never found"),
        ({"missed_most": ONCE}, "few keys missed twice: warm what is asked first"),
        ({"semantic_hits": 0}, "at similarity_threshold 0.85"),
        ({"meaning_works": False}, "no entry has a vector"),
    ],
)
def test_each_remedy_has_its_reason(facts: dict[str, Any], advice: str) -> None:
    (found,) = check(POOR | facts)

    assert advice in found.way_out


def test_what_does_not_apply_is_not_advised() -> None:
    (found,) = check(POOR | {"missed_most": CAME_AND_WENT})

    for other in ("store is full", "never found", "threshold", "vector", "warm"):
        assert other not in found.way_out
