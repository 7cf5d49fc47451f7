"""stats; config has a file of its own."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from cache_management import CacheConfig, CachedResponse, CacheManager, LLMCache
from cache_management.cache.identity import digest
from cache_management.cache.semantic.evidence import FalseHits
from cache_management.cache.usage import mark_as_read
from cache_management.cli.context import is_new_sqlite
from cache_management.models.store import open_stores
from cache_management.settings import load_settings
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


def test_usage_is_told_by_model_and_a_long_prompt_by_its_beginning(cli: Cli) -> None:
    prompt = "a line\nand another " + "x" * 5000

    async def use() -> None:
        async with LLMCache(load_settings().settings) as cache:
            await mark_as_read(cache.backend, cache.clock())
            await cache.set(prompt, CachedResponse(prompt=prompt, response="a", model="m", timestamp=datetime.now(UTC)))
            await cache.get(prompt)

    assert cli("db", "upgrade").code == 0
    asyncio.run(use())
    stores = open_stores(load_settings().settings.metadata_url)
    now = stores.now()
    amounts = {(now - timedelta(days=ago), "default", "m"): {"hits": 1} for ago in (0, 40, 200)}
    assert stores.operations.count_usage("s", ("", "1"), amounts, {("default", digest(prompt)): (1, 0)})
    stores.close()

    table = cli("stats").out

    assert "a line and another xxx" in " ".join(table.split())
    assert "x" * 200 not in table
    (known,) = cli("stats", "--json").data["usage"]["hot_keys"]
    assert known["key"] == prompt
    hits = [cli("stats", "--days", days, "--json").data["usage"]["by_model"][0]["hits"] for days in (1, 60, 365)]
    assert hits == [2, 3, 4], "with the one that no job has added up yet"


def test_usage_is_told_before_any_job_or_database_was_there(cli: Cli) -> None:
    async def use(url: str) -> None:
        async with LLMCache(CacheConfig(url=url)) as cache:
            await cache.set("q", CachedResponse(prompt="q", response="a", model="m", timestamp=datetime.now(UTC)))
            await cache.get("q")
            await cache.get("none")

    assert cli("stats", "--json").data["usage"] is None
    asyncio.run(use(f"disk://{load_settings().settings.disk_path}"))

    rows = cli("stats", "--json").data["usage"]["by_model"]

    assert [(row["model"], row["hits"], row["misses"]) for row in rows] == [("", 0, 1), ("m", 1, 0)]
    assert is_new_sqlite(load_settings().settings.metadata_url), "looking made no database"


def test_a_database_that_is_away_is_told_once(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_METADATA_URL", "postgresql://nobody@127.0.0.1:1/none")

    found = cli("stats")

    assert found.code == 0
    assert found.err.count("not shown") == 1
