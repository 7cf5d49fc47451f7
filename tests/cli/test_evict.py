"""evict: shown first, then removed, in this process and as a job."""

from __future__ import annotations

import asyncio
import io
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cache_management.cache.llm import LLMCache
from cache_management.cache.values import CachedResponse
from cache_management.settings import load_settings
from tests.cli.conftest import Cli
from tests.conftest import OwnRedisFactory
from tests.workers.harness import job_world, warm_items


@pytest.fixture
def filled(cli: Cli) -> Cli:
    """A store with a dozen entries, of two models."""
    path = Path("queries.jsonl")
    lines = [
        {"prompt": f"q {at}", "response": f"a {at}", "model": "even" if at % 2 == 0 else "odd"} for at in range(12)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    assert cli("warm", path, "--local", "--no-embed").code == 0
    return cli


def keys(cli: Cli) -> int:
    return int(cli("invalidate", "--all", "--dry-run", "--json").data["would_remove"])


def test_a_plan_shows_how_much_how_old_and_some_of_the_keys_and_removes_nothing(filled: Cli) -> None:
    found = filled("evict", "plan", "--model", "even", "--json").data
    table = " ".join(filled("evict", "plan", "--model", "even").out.split())

    chosen = found["reasons"]["chosen"]
    assert (found["entries"], chosen["entries"], found["looked_at"]) == (6, 6, 12)
    assert found["bytes"] == chosen["bytes"] > 6 * 28
    assert 0 <= chosen["newest_age_seconds"] <= chosen["oldest_age_seconds"] < 600
    assert len(chosen["sample"]) == 5
    assert set(chosen["sample"]) <= {f"q {at}" for at in range(0, 12, 2)}
    assert "│ 6 │" in table
    assert "q 0" in table
    assert keys(filled) == 12


def test_without_a_choice_a_store_is_brought_below_its_bounds(filled: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = filled("evict", "plan").out
    monkeypatch.setenv("CACHE_MAX_SIZE", "10")

    planned = filled("evict", "plan", "--json").data["reasons"]["policy"]
    done = filled("evict", "run", "--json")

    assert calm == "Nothing would be removed.\n"
    assert (planned["entries"], len(planned["sample"])) == (4, 5)
    assert (done.code, done.data["summary"]["policy"]) == (0, 4)
    assert "No broker is configured" in done.err
    assert keys(filled) == 8


def test_a_choice_is_asked_about_and_removed_here_without_a_broker(
    filled: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    refused = filled("evict", "run", "--pattern", "q 1*")
    removed = filled("evict", "run", "--pattern", "q 1*", "--no-confirm")

    assert (refused.code, "give --yes" in refused.err) == (2, True)
    assert removed.code == 0
    assert "removed: chosen" in removed.out
    assert keys(filled) == 9


def test_a_regular_expression_and_an_age_choose_together(filled: Cli) -> None:
    assert filled("evict", "run", "-p", r"^q \d$", "--regex", "-o", "3600", "--yes").code == 0
    assert keys(filled) == 12
    assert (
        filled("evict", "run", "-p", r"^q \d$", "--regex", "-o", "0", "--yes", "--json").data["summary"]["chosen"] == 10
    )


def test_expired_entries_and_leftovers_go_with_one_word(filled: Cli) -> None:
    settings = load_settings().settings
    response = CachedResponse(prompt="p", response="r", model="m", timestamp=datetime.now(UTC))

    async def store() -> None:
        async with LLMCache(settings, clock=lambda: time.time() - 7_200) as an_hour_ago:
            await an_hour_ago.set("past its life", response, 3_600, tags=["t"])
        async with LLMCache(settings) as now:
            await now.set("lasting", response, -1, tags=["t"])
            await now.delete("lasting")

    asyncio.run(store())

    planned = filled("evict", "plan", "--expired", "--json").data
    done = filled("evict", "run", "--expired", "--json").data["summary"]

    assert (planned["reasons"]["expired"]["entries"], planned["names"]) == (1, 1)
    assert (done["expired"], done["names"]) == (1, 1)
    assert filled("evict", "plan", "--expired").out == "Nothing would be removed.\n"
    assert keys(filled) == 12


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--regex",), "--regex says how to read --pattern"),
        (("--all", "--tag", "t"), "not both or neither"),
        (("--local", "--all", "--no-wait"), "leave out --no-wait"),
        (("--pattern", "(", "--regex"), "no regular expression"),
        (("--older-than", "-1"), "is not in the range x>=0"),
    ],
)
def test_what_contradicts_itself_is_refused(filled: Cli, flags: tuple[str, ...], says: str) -> None:
    found = filled("evict", "run", *flags)

    assert (found.code, says in found.err) == (2, True), found.err
    assert keys(filled) == 12


@pytest.mark.timeout(120)
def test_a_real_worker_removes_and_the_command_shows_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_redis: OwnRedisFactory
) -> None:
    with job_world(tmp_path / "world", broker_url=own_redis().url, cache_url=own_redis().url) as world:
        for name, value in world.env.items():
            monkeypatch.setenv(name, value)
        path = tmp_path / "queries.jsonl"
        path.write_text("\n".join(item.model_dump_json() for item in warm_items(30)))
        assert cli("warm", path, "--local", "--no-embed").code == 0

        first = cli("evict", "run", "--pattern", "*1*", "--yes", "--no-wait", "--json").data
        again = cli("evict", "run", "--pattern", "*1*", "--yes", "--timeout", "0.1", "--json")
        world.start_worker(queues=("control", "evict"), concurrency=1)
        done = cli("jobs", "watch", first["id"], "--json")
        shown = cli("jobs", "show", first["id"]).out
        left = keys(cli)

    assert (again.code, again.data["id"]) == (6, first["id"]), "the same choice is the same job"
    assert (done.code, done.data["state"], done.data["total"], done.data["done"]) == (0, "succeeded", 12, 12)
    assert "pattern=*1*" in shown
    assert left == 18
