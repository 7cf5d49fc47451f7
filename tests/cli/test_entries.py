"""set-cache, get-cache, get-similar."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from cache_management import CacheConfig, CachedResponse, LLMCache
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.settings import load_settings
from cache_management.wiring import open_platform
from tests.cli.conftest import Cli


def test_what_was_set_is_got(cli: Cli) -> None:
    assert cli("set-cache", "What is AI?", "Artificial intelligence", "-m", "gpt-4", "--ttl", 7200).code == 0

    found = cli("get-cache", "What is AI?")

    assert (found.code, found.out) == (0, "Artificial intelligence\n")


def test_the_data_folder_is_for_its_owner_alone(cli: Cli, data_dir: Path) -> None:
    cli("set-cache", "q", "a")

    assert [folder.stat().st_mode & 0o777 for folder in (data_dir, data_dir / "cache")] == [0o700, 0o700]


def test_an_entry_set_on_the_command_line_is_found_by_the_library_and_the_other_way_round(
    cli: Cli, data_dir: Path
) -> None:
    cli("set-cache", "from the shell", "yes", "-M", '{"user": "alice"}')

    async def read_and_write() -> None:
        async with LLMCache(CacheConfig(disk_path=data_dir / "cache")) as cache:
            found = await cache.get("from the shell")
            assert found is not None
            assert found.metadata == {"user": "alice"}
            await cache.set("from the app", found)

    asyncio.run(read_and_write())
    assert cli("get-cache", "from the app").out == "yes\n"


def test_metadata_that_would_be_served_in_the_place_of_the_response_is_refused(cli: Cli) -> None:
    found = cli("set-cache", "q", "4", "-M", '{"gateway": {"api": "chat", "body": {}}}')

    assert (found.code, "--metadata may not hold 'gateway'" in found.err) == (2, True)


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_formats_hold_the_whole_entry(cli: Cli, form: str) -> None:
    cli("set-cache", "q", "ünïcode ✓", "-m", "m1")

    found = cli("get-cache", "q", "--format", form)

    data = found.data if form == "json" else yaml.safe_load(found.out)
    assert (data["prompt"], data["response"], data["model"]) == ("q", "ünïcode ✓", "m1")


def test_a_miss_is_exit_code_1_and_prints_nothing_to_scripts(cli: Cli) -> None:
    found = cli("get-cache", "nobody asked this")

    assert (found.code, found.out) == (1, "")
    assert "no entry" in found.err


def test_another_model_is_a_miss_when_one_insists(cli: Cli) -> None:
    cli("set-cache", "q", "a", "-m", "gpt-4")

    assert cli("get-cache", "q", "-m", "gpt-4").code == 0
    assert cli("get-cache", "q", "-m", "claude").code == 1


def test_what_an_app_stored_for_a_model_is_got_with_it(cli: Cli) -> None:
    async def store() -> None:
        answer = CachedResponse(prompt="q", response="of the app", model="gpt-4-0613", timestamp=datetime.now(UTC))
        platform = open_platform(load_settings().settings)
        await platform.manager.store("q", answer, model="gpt-4")
        await platform.aclose()

    asyncio.run(store())

    assert cli("get-cache", "q", "-m", "gpt-4").out == "of the app\n"
    assert cli("get-cache", "q", "-m", "claude").code == 1
    assert cli("get-cache", "q").code == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("set-cache", "", "a"), "must not be empty"),
        (("set-cache", "q", "a", "--ttl", "0"), "ttl_seconds 0"),
        (("set-cache", "q", "a", "--ttl", "soon"), "soon"),
        (("set-cache", "q", "a", "-M", "{"), "not JSON"),
        (("set-cache", "q", "a", "-M", "[1]"), "must be a JSON object"),
        (("set-cache", "q" * 70_000, "a"), "70,000 bytes"),
        (("get-similar", "q", "-t", "1.5"), "1.5"),
        (("get-similar", "q", "-l", "0"), "0"),
        (("set-cash", "q", "a"), "Did you mean one of: 'get-cache', 'set-cache'"),
    ],
)
def test_bad_input_is_exit_code_2_and_stores_nothing(cli: Cli, args: tuple[str, ...], says: str) -> None:
    found = cli(*args)

    assert found.code == 2
    assert says in found.err
    assert cli("stats", "--json").data["total_entries"] == 0


def test_similar_prompts_are_listed_with_their_vetoes(cli: Cli) -> None:
    cli("set-cache", "is it safe to swim here", "yes")

    found = cli("get-similar", "is it not safe to swim here", "-t", "0.5", "--json")

    assert found.code == 0
    (match,) = found.data["matches"]
    assert (match["prompt"], match["vetoes"]) == ("is it safe to swim here", ["polarity"])


def test_what_only_another_context_holds_is_not_said_to_be_served(cli: Cli) -> None:
    async def store() -> None:
        patient = {"strict": True, "timeout_seconds": 10.0}
        platform = open_platform(load_settings().settings.model_copy(update=patient))
        await platform.manager.store("what is a black hole", "a region", model="gpt-4", system="Be brief.")
        await platform.aclose()

    asyncio.run(store())
    cli("set-cache", "a black hole, what is it", "dark")

    found = cli("get-similar", "what is a black hole", "-t", "0.5")
    data = cli("get-similar", "what is a black hole", "-t", "0.5", "--json").data["matches"]

    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in found.out.splitlines() if line.startswith("│")]
    assert rows == [["1.000", "in its context", "another, answer of gpt-4"], [rows[1][0], "yes", "prompt alone"]]
    assert [(each["model"], each["is_alone"]) for each in data] == [("gpt-4", False), ("gpt-4", True)]


def test_nothing_similar_is_exit_code_1(cli: Cli) -> None:
    cli("set-cache", "alpha beta", "1")

    assert cli("get-similar", "something else entirely", "-t", "0.99").code == 1


@pytest.mark.parametrize("text", [" ", "word " * 2_000])
def test_a_text_that_the_model_does_not_read_is_said_to_be_found_exactly_only(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(HashingEmbedder, "fits", lambda _, text: len(text) < 1_000)

    found = cli("get-similar", text)

    assert found.code == 1
    assert "can be found exactly only" in found.err
    assert "No stored prompt" not in found.err


def test_a_cache_that_is_down_is_exit_code_7(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_URL", "redis://127.0.0.1:1/0")

    found = cli("get-cache", "q")

    assert found.code == 7
    assert "127.0.0.1:1" in found.err


def test_a_prompt_with_brackets_is_shown_as_it_is(cli: Cli) -> None:
    cli("set-cache", "what is [/b] in [bold]markup[/bold]", "an end")

    found = cli("get-similar", "what is [/b] in [bold]markup[/bold]")

    assert found.code == 0, found.err
    assert "Similar to 'what is [/b] in [bold]markup[/bold]'" in found.out


def test_a_stored_text_comes_out_as_it_is_in_a_pipe_and_harmless_on_a_terminal(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\x1b[31mred\x1b[0m\ttab\rback\x07"
    cli("set-cache", "q", text)

    assert cli("get-cache", "q").out == text + "\n"

    monkeypatch.setattr("cache_management.cli.output._watched", lambda **_: True)
    assert cli("get-cache", "q").out == "�[31mred�[0m\ttab�back�\n"
