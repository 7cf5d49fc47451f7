"""stats; config has a file of its own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cache_management import CacheManager
from cache_management.cache.semantic.evidence import FalseHits
from tests.cli.conftest import Cli


def test_stats_tell_of_wrong_answers_where_there_is_a_budget(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "false_hits" not in cli("stats", "--json").data
    monkeypatch.setenv("CACHE_SEMANTIC__MAX_ERROR_RATE", "0.05")

    data = cli("stats", "--json").data["false_hits"]

    assert (data["budget"], data["threshold"], data["served"]["audited"]) == (0.05, None, 0)
    assert "not yet verified" in cli("stats").out


def test_stats_tell_the_mode(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("stats", "--json").data["semantic_mode"] == "static"
    assert "semantic_mode │ static" in " ".join(cli("stats").out.split())
    monkeypatch.setenv("CACHE_SEMANTIC__MODE", "shadow")

    found = cli("stats")

    assert "shadow: nothing is served by meaning" in found.out
    assert cli("stats", "--json").data["semantic_mode"] == "shadow"


@pytest.mark.parametrize(
    ("mode", "known", "says"),
    [
        ("verified", 0.0, "│ served from a score of │ 0.85"),
        ("verified", 0.93, "│ served from a score of │ 0.93"),
        ("verified", None, "│ served from a score of │ none yet"),
        ("shadow", 0.0, "│ would be served from a score of │ 0.85"),
    ],
)
def test_nothing_is_said_to_be_served_below_the_threshold(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, mode: str, known: float | None, says: str
) -> None:
    of = CacheManager.false_hits

    async def false_hits(self: CacheManager, *args: Any) -> FalseHits:
        return msgspec.structs.replace(await of(self, *args), threshold=known)

    monkeypatch.setattr(CacheManager, "false_hits", false_hits)
    monkeypatch.setenv("CACHE_SEMANTIC__MODE", mode)
    monkeypatch.setenv("CACHE_SIMILARITY_THRESHOLD", "0.85")

    assert says in " ".join(cli("stats").out.split())
