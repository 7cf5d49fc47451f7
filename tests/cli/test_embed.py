"""embed: in this process, as a job, and as a plan."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.semantic import re_embedding
from cache_management.cache.semantic.matcher import SimilarityMatcher
from cache_management.settings import load_settings
from cache_management.wiring import open_platform
from tests.cli.conftest import Cli
from tests.conftest import OwnRedisFactory
from tests.workers.harness import job_world, warm_items

COUNT = 12


@pytest.fixture
def filled(cli: Cli) -> Cli:
    """A store with a dozen entries that have no vector."""
    path = Path("queries.jsonl")
    path.write_text("\n".join(json.dumps({"prompt": f"q {at}", "response": f"a {at}"}) for at in range(COUNT)))
    assert cli("warm", path, "--local", "--no-embed").code == 0
    return cli


def plant_of_another_model() -> None:
    """Give the entries vectors of another model, as its processes did."""

    async def plant() -> None:
        platform = open_platform(load_settings().settings)
        matcher = SimilarityMatcher(
            platform.settings.similarity(), backend=platform.llm_cache.backend, embedder=HashingEmbedder(32)
        )
        for at in range(COUNT):
            await matcher.index_entry(f"alone {at}", "r")
        await matcher.aclose()
        await platform.aclose()

    asyncio.run(plant())


def test_without_a_broker_this_process_embeds_and_says_so(filled: Cli) -> None:
    found = filled("embed", "--json")

    assert found.code == 0
    assert "No broker is configured" in found.err
    assert found.data["state"] == "succeeded"
    assert (found.data["summary"]["entries"], found.data["summary"]["embedded"]) == (COUNT, COUNT)


def test_a_second_run_finds_everything_there(filled: Cli) -> None:
    filled("embed", "--local")

    found = filled("embed", "--local", "--check", "--json").data["summary"]

    assert (found["embedded"], found["present"], found["checked"], found["wrong"]) == (0, COUNT, COUNT, 0)
    table = filled("embed", "--local", "--all").out
    assert "already there" not in table
    assert f"embedded │ {COUNT}" in " ".join(table.split())


def test_a_plan_counts_and_changes_nothing(filled: Cli) -> None:
    plant_of_another_model()

    plans = [filled("embed", "--plan", "--json").data for _ in range(2)]

    assert plans[0] == plans[1]
    assert (plans[0]["entries"], plans[0]["missing"]) == (COUNT, COUNT)
    assert plans[0]["vectors"] == {"hashing-32": COUNT}
    assert "vectors of hashing-64 (this model)" in filled("embed", "--plan").out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--plan", "--check", "--all"), "--plan only counts: leave out --check, --all"),
        (("--plan", "--drop-old", "--no-wait"), "leave out --drop-old, --no-wait"),
        (("--plan", "--timeout", 1), "leave out --timeout"),
        (("--local", "--no-wait"), "--local waits for the work it does itself: leave out --no-wait"),
        (("--local", "--timeout", 1), "leave out --timeout"),
        (("--no-wait", "--timeout", 1), "--no-wait waits for nothing: leave out --timeout"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(filled: Cli, flags: tuple[object, ...], says: str) -> None:
    found = filled("embed", *flags)

    assert found.code == 2
    assert says in found.err
    assert filled("embed", "--plan", "--local", "--json").data["missing"] == COUNT


@pytest.mark.parametrize("command", ["embed", "warm queries.jsonl", "jobs watch 1"])
def test_a_time_that_is_no_number_is_refused(filled: Cli, command: str) -> None:
    done = filled(*command.split(), "--timeout", "nan")

    assert (done.code, "nan is no number" in done.err) == (2, True)


def test_drop_old_removes_what_other_models_left(filled: Cli) -> None:
    plant_of_another_model()
    kept = filled("embed", "--local", "--json").data["summary"]
    table = filled("embed", "--local").out

    dropped = filled("embed", "--local", "--drop-old", "--json").data["summary"]

    assert (kept["left"], kept["dropped"]) == (COUNT, 0)
    assert "left of other models" in table
    assert (dropped["left"], dropped["dropped"]) == (0, COUNT)
    # What stood alone under the other model is found by this one.
    assert filled("get-similar", "alone 3", "--json").data["matches"][0]["key"] == "alone 3"


def test_a_refused_cut_over_is_exit_code_3_with_its_reason(filled: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(re_embedding, "MOST_TURNS", 1)

    found = filled("embed", "--local", "--drop-old")

    assert found.code == 3
    assert "still entries without a vector" in found.err


def test_a_model_that_is_not_there_is_an_error_with_a_way_out(filled: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_EMBEDDING_MODEL", "distilbert-base-nli-mean-tokens")

    found = filled("embed", "--local")

    assert found.code == 1
    assert "embedding_model" in found.err


def test_an_unreachable_broker_is_exit_code_4_and_queues_nothing(filled: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_BROKER_URL", "redis://:secret@127.0.0.1:1/0")

    found = filled("embed")

    assert found.code == 4
    assert "secret" not in found.err
    assert filled("jobs", "list", "--json").data == []


def test_a_job_can_be_left_found_again_and_cancelled(
    filled: Cli, monkeypatch: pytest.MonkeyPatch, own_redis: OwnRedisFactory
) -> None:
    monkeypatch.setenv("CACHE_BROKER_URL", own_redis().url)

    first = filled("embed", "--check", "--no-wait", "--json").data
    again = filled("embed", "--check", "--timeout", "0.1", "--json")

    assert (again.code, again.data["id"]) == (6, first["id"])
    assert "already" in again.err
    assert filled("jobs", "pause", first["id"], "--json").data["state"] == "paused"
    assert "--check" in filled("jobs", "show", first["id"]).out
    assert "embed" in filled("jobs", "list", "--kind", "embed").out
    assert filled("jobs", "resume", first["id"], "--json").data["state"] == "running"
    assert filled("jobs", "cancel", first["id"], "--json").data["state"] == "cancelled"


@pytest.mark.timeout(120)
def test_a_real_worker_embeds_and_the_command_shows_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_redis: OwnRedisFactory
) -> None:
    with job_world(tmp_path / "world", broker_url=own_redis().url, cache_url=own_redis().url) as world:
        for name, value in world.env.items():
            monkeypatch.setenv(name, value)
        path = tmp_path / "queries.jsonl"
        path.write_text("\n".join(item.model_dump_json() for item in warm_items(30)))
        assert cli("warm", path, "--local", "--no-embed").code == 0
        world.start_worker(queues=("control", "embed"), concurrency=1)

        found = cli("embed", "--check", "--json")
        shown = cli("jobs", "show", found.data["id"]).out

    assert found.code == 0
    assert (found.data["state"], found.data["total"], found.data["done"]) == ("succeeded", 30, 30)
    assert "already there" not in shown
    assert "hashing" in shown


def test_each_way_to_embed_has_a_command_of_its_own(filled: Cli) -> None:
    counted = filled("embed", "plan", "--json").data
    embedded = filled("embed", "run", "--local", "--json").data["summary"]
    checked = filled("embed", "check", "--local", "--json").data["summary"]

    assert (counted["entries"], counted["missing"]) == (COUNT, COUNT)
    assert embedded["embedded"] == COUNT
    assert (checked["checked"], checked.get("embedded", 0)) == (COUNT, 0)


def test_options_before_a_command_are_not_ignored_in_silence(filled: Cli) -> None:
    found = filled("embed", "--all", "run", "--local")

    assert found.code == 2
    assert "behind `embed run`" in found.err
