"""What makes a search by meaning slow, poor or wrong."""

from __future__ import annotations

from typing import Any

import pytest

from cache_management.cache.semantic.evidence import Estimate, FalseHits
from cache_management.settings import load_settings
from cache_management.workers import doctor
from cache_management.workers.doctor import MeaningFacts
from tests.workers.findings import levels

GB = 10**9


def known(rate: float, low: float, audited: int = 100) -> FalseHits:
    return FalseHits(Estimate(rate, low, rate + 0.1, audited), 0, 0, 0, 0, None, budget=0.02)


@pytest.mark.parametrize(
    ("facts", "env", "expected"),
    [
        ({}, {}, {}),
        ({"engine": "onnx"}, {}, {}),
        ({"engine": "torch"}, {}, {"engine": "warn"}),
        ({"engine": "torch", "has_onnx": False}, {"semantic__device": "cpu"}, {"engine": "warn"}),
        ({"engine": "torch"}, {"semantic__device": "cuda"}, {}),
        ({"embed_seconds": 0.3}, {}, {"embedding": "warn"}),
        ({"embed_seconds": 0.3}, {"semantic__embed_timeout_seconds": "2"}, {}),
        ({}, {"cache_embeddings": "false"}, {"kept vectors": "warn"}),
        ({"entries": 100, "vectors": 79}, {}, {"entries with vectors": "warn"}),
        ({"entries": 100, "vectors": 80}, {}, {}),
        ({"entries": 100, "vectors": 0}, {}, {}),
        ({"entries": 19, "vectors": 1}, {}, {}),
        ({"entries": 10**6, "vectors": 10**6, "dims": 768}, {}, {"index": "warn"}),
        ({"entries": 10**6, "vectors": 10**6, "dims": 768}, {"semantic__index_url": "postgresql://there/x"}, {}),
        ({"false_hits": known(0.01, 0.0)}, {}, {}),
        ({"false_hits": known(0.0, 0.0, audited=0)}, {}, {}),
        ({"false_hits": known(0.03, 0.01)}, {}, {"false hits": "warn"}),
        ({"false_hits": known(0.1, 0.05)}, {}, {"false hits": "fail"}),
    ],
)
def test_meaning(facts: dict[str, Any], env: dict[str, str], expected: dict[str, str]) -> None:
    settings = load_settings(env={f"CACHE_{name.upper()}": value for name, value in env.items()}).settings

    assert levels(doctor.check_meaning(MeaningFacts(**facts), settings, machine_bytes=8 * GB)) == expected
