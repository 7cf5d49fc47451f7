"""What the gates alone do to pairs whose authors had not seen them; the numbers may only get better."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cache_management.cache.semantic import gates

DATA = Path(__file__).resolve().parents[3] / "data"


@pytest.mark.parametrize(
    ("name", "most_wrong_passed", "most_right_refused"), [("pairs_read", 195, 16), ("pairs_unread", 65, 4)]
)
def test_traps_are_refused_and_paraphrases_pass(name: str, most_wrong_passed: int, most_right_refused: int) -> None:
    rows = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
    refused = [bool(gates.vetoes(row["text_b"], row["text_a"], age_seconds=0)) for row in rows]

    wrong_passed = sum(not no for row, no in zip(rows, refused, strict=True) if not row["label"])
    right_refused = sum(no for row, no in zip(rows, refused, strict=True) if row["label"])

    assert wrong_passed <= most_wrong_passed
    assert right_refused <= most_right_refused
