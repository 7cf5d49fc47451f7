"""`migrate`: the whole way from another library's cache to a hit here."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cache_management.cache.manager import CacheManager
from cache_management.cli.exit_codes import ExitCode
from cache_management.migration_sources.gathering import OLDER, STAYS
from cache_management.migration_sources.gptcache import GPTCacheStore
from tests.cli.conftest import Cli
from tests.migration_sources.stores import generation, gptcache, langchain


def questions(file: Path) -> Path:
    return gptcache(
        file,
        [
            ("How many transfers are free each month?", [("Ten.", 0)]),
            ("What is a loan?", [("Money lent.", 0)]),
            ("Draw it", [("aGk=", 1)]),
        ],
    )


def test_a_gptcache_comes_along_once_and_is_found_exactly_and_by_meaning(cli: Cli, tmp_path: Path) -> None:
    questions(tmp_path / "sqlite.db")

    first = cli("migrate", tmp_path, "--from", "gptcache", "--no-confirm", "--json")
    again = cli("migrate", tmp_path, "--from", "gptcache", "--no-confirm", "--json")

    assert (first.code, first.data["state"], first.data["summary"]["added"]) == (ExitCode.PARTIAL, "partial", 2)
    assert first.data["left_out"]["an image as the answer"] == {"count": 1, "such_as": ["question 3: 'Draw it'"]}
    assert (again.data["summary"]["added"], again.data["summary"]["present"]) == (0, 2)
    assert cli("get-cache", "What is a loan?", "--json").data["response"] == "Money lent."
    assert "Ten." in cli("get-similar", "Each month, how many transfers are free?", "--threshold", "0.5").out


def test_a_dry_run_says_everything_and_changes_nothing(cli: Cli, tmp_path: Path) -> None:
    questions(tmp_path / "sqlite.db")

    found = cli("migrate", tmp_path, "--from", "gptcache", "--dry-run")

    assert found.code == ExitCode.PARTIAL
    assert "an image as the answer" in found.out
    assert "Nothing was changed." in found.err
    assert cli("get-cache", "What is a loan?").code == ExitCode.FAILED


def test_what_all_of_it_was_asked_with_can_be_said(cli: Cli, tmp_path: Path) -> None:
    file = gptcache(tmp_path / "sqlite.db", [("What is a loan?", [("Money lent.", 0)])])
    request = ["-m", "gpt-4", "-s", "Be brief.", "--params", '{"temperature": 0}']

    assert cli("migrate", file, "--from", "gptcache", "--yes", *request).code == ExitCode.OK

    assert cli("explain", "What is a loan?", *request).code == ExitCode.OK
    assert "hit: exact" in cli("explain", "What is a loan?", *request).out
    assert "cache-cli explain" in cli("get-cache", "What is a loan?", "-m", "gpt-4").err
    assert "hit" not in cli("explain", "What is a loan?").out.partition("\n")[0]


def test_what_was_brought_for_a_model_is_got_with_it(cli: Cli, tmp_path: Path) -> None:
    file = gptcache(tmp_path / "sqlite.db", [("What is a loan?", [("Money lent.", 0)])])

    cli("migrate", file, "--from", "gptcache", "--yes", "-m", "gpt-4")

    assert cli("get-cache", "What is a loan?", "-m", "gpt-4").out == "Money lent.\n"


def test_a_langchain_app_goes_on_with_its_answers(cli: Cli, tmp_path: Path, data_dir: Path) -> None:
    pytest.importorskip("langchain_core")
    from langchain_core.language_models import FakeListChatModel
    from langchain_core.load import dumps
    from langchain_core.messages import AIMessage, HumanMessage
    from langchain_core.outputs import ChatGeneration

    from cache_management import sync
    from cache_management.adapters.langchain import ManagedCache
    from cache_management.settings import load_settings

    model = FakeListChatModel(responses=["never said"])
    prompt = dumps([HumanMessage("What is a loan?")])
    answer = dumps(ChatGeneration(message=AIMessage("Money lent.")))
    file = langchain(tmp_path / "x.db", [(prompt, model._get_llm_string(), 0, answer)])

    assert cli("migrate", file, "--from", "langchain-sqlite", "--yes").code == ExitCode.OK

    with sync.CacheManager(sync.LLMCache(load_settings().settings)) as manager:
        model.cache = ManagedCache(manager)
        assert model.invoke("What is a loan?").content == "Money lent."
    refused = cli("migrate", file, "--from", "langchain-sqlite", "--yes", "-m", "gpt-4")
    assert (refused.code, "leave out --model" in refused.err) == (ExitCode.USAGE, True)


@pytest.mark.keeps_keys
def test_a_redisvl_cache_comes_along_with_its_lives(cli: Cli, redis_url: str) -> None:
    from redis import Redis

    with Redis.from_url(redis_url) as client:
        for number, more in enumerate([{}, {"country": "no"}]):
            fields = {"prompt": f"question {number}", "response": "answer", "updated_at": 1.7e9, **more}
            client.hset(f"llmcache:{number}", mapping=fields)
        client.expire("llmcache:0", 600)

    found = cli("migrate", redis_url, "--from", "redisvl", "--no-confirm", "--json")

    assert (found.code, found.data["summary"]["added"]) == (ExitCode.PARTIAL, 1)
    assert cli("export", "out.json").code == ExitCode.OK
    (entry,) = json.loads(Path("out.json").read_text())["entries"]
    assert entry["key"] == "question 0"
    assert entry["expires_at"] is not None


@pytest.mark.keeps_keys
def test_a_langchain_app_on_redisvl_goes_on_with_its_answers(cli: Cli, redis_url: str, data_dir: Path) -> None:
    pytest.importorskip("langchain_core")
    from langchain_core.load import dumps
    from langchain_core.outputs import Generation
    from redis import Redis

    from cache_management import sync
    from cache_management.adapters.langchain import ManagedCache
    from cache_management.settings import load_settings

    fields = {
        "prompt": "What is a loan?",
        "response": json.dumps([dumps(Generation(text="Money lent."))]),
        "metadata": json.dumps({"llm_string": "the model"}),
    }
    with Redis.from_url(redis_url) as client:
        client.hset("llmcache:1", mapping=fields)

    # Said of the rest of such a cache; LangChain says itself what it asked with.
    found = cli("migrate", redis_url, "--from", "redisvl", "--yes", "-m", "gpt-4", "-s", "Be brief.")

    assert found.code == ExitCode.OK
    with sync.CacheManager(sync.LLMCache(load_settings().settings)) as manager:
        assert ManagedCache(manager).lookup("What is a loan?", "the model") == [Generation(text="Money lent.")]
    for asked in ([], ["-m", "gpt-4", "-s", "Be brief."]):
        assert "hit" not in cli("explain", "What is a loan?", *asked).out.partition("\n")[0]


def test_an_answer_to_langchain_is_never_served_as_a_text(cli: Cli, tmp_path: Path) -> None:
    file = gptcache(tmp_path / "sqlite.db", [("What is a loan?", [(json.dumps([generation("Money lent.")]), 0)])])

    assert cli("migrate", file, "--from", "gptcache", "--yes").code == ExitCode.PARTIAL
    assert cli("get-cache", "What is a loan?").code == ExitCode.FAILED


def test_a_store_that_cannot_keep_all_is_told_before_and_after(cli: Cli, tmp_path: Path) -> None:
    file = gptcache(tmp_path / "sqlite.db", [(f"question {number}", [("a", 0)]) for number in range(12)])
    (tmp_path / "cache_config.yaml").write_text("max_size: 10\n")
    cli("set-cache", "the app's own", "a")
    cli("set-cache", "question 3", "a newer one")

    before = cli("migrate", file, "--from", "gptcache", "--dry-run", "--json")
    done = cli("migrate", file, "--from", "gptcache", "--yes")

    assert (before.code, before.data["store"]) == (ExitCode.PARTIAL, {"keeps": 10, "holds": 2, "fresh": 11})
    told = "keeps at most 10 entries of a namespace (max_size) and holds 2; 11 more are too many by 3"
    assert told in before.err
    assert told in done.err
    assert (done.code, "3 entries did not stay" in done.err) == (ExitCode.PARTIAL, True)


def test_a_full_store_that_has_all_of_it_already_is_no_trouble(cli: Cli, tmp_path: Path) -> None:
    file = gptcache(tmp_path / "sqlite.db", [(f"question {number}", [("a", 0)]) for number in range(10)])
    (tmp_path / "cache_config.yaml").write_text("max_size: 10\n")

    codes = [cli("migrate", file, "--from", "gptcache", "--yes") for _ in range(2)]

    assert [(each.code, "max_size" in each.err) for each in codes] == [(ExitCode.OK, False)] * 2


def test_a_copied_file_does_not_bring_older_answers_back(cli: Cli, tmp_path: Path) -> None:
    file = langchain(tmp_path / "x.db", [("What is a loan?", "llm", 0, generation("The old answer."))])
    before = [cli("migrate", file, "--from", "langchain-sqlite", "--yes", "--json") for _ in range(2)]
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE full_llm_cache SET response = ?", (generation("Another."),))
        connection.execute("INSERT INTO full_llm_cache VALUES ('q', 'llm', 0, ?)", (generation("New."),))
    connection.close()
    os.utime(file, (2e9, 2e9))

    tried = cli("migrate", file, "--from", "langchain-sqlite", "--dry-run", "--json")
    after = cli("migrate", file, "--from", "langchain-sqlite", "--yes", "--json")

    assert [(each.code, each.data["summary"]["present"]) for each in before] == [(ExitCode.OK, 0), (ExitCode.OK, 1)]
    assert tried.data["left_out"] == after.data["left_out"]
    assert {why: each["count"] for why, each in after.data["left_out"].items()} == {STAYS: 1}
    assert (after.code, after.data["summary"]["added"], after.data["summary"]["updated"]) == (ExitCode.OK, 1, 0)
    cli("export", "out.json")
    answers = {each["response"] for each in json.loads(Path("out.json").read_text())["entries"]}
    assert answers == {"The old answer.", "New."}


def test_of_two_answers_to_one_question_the_newest_comes(cli: Cli, tmp_path: Path) -> None:
    file = gptcache(tmp_path / "sqlite.db", [("q", [("new", 0)]), ("q", [("old", 0)]), ("q", [("older", 0)])])
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE gptcache_question SET create_on = '2026-02-02 03:04:05' WHERE id = 1")
        connection.execute("UPDATE gptcache_question SET create_on = '2026-01-01 03:04:05' WHERE id = 3")
    connection.close()

    tried = cli("migrate", file, "--from", "gptcache", "--dry-run", "--json")
    done = cli("migrate", file, "--from", "gptcache", "--yes", "--json")

    assert (tried.code, tried.data["found"]) == (ExitCode.OK, 1)
    assert {why: each["count"] for why, each in tried.data["left_out"].items()} == {OLDER: 2}
    assert tried.data["left_out"] == done.data["left_out"]
    assert (done.data["summary"]["added"], done.data["summary"]["duplicates"]) == (1, 0)
    assert cli("get-cache", "q").out == "new\n"


def test_without_meaning_nothing_of_vectors_is_loaded(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = questions(tmp_path / "sqlite.db")
    monkeypatch.setitem(sys.modules, "cache_management.cache.semantic.matcher", None)

    assert cli("migrate", file, "--from", "gptcache", "--no-embed", "--dry-run").code == ExitCode.PARTIAL
    assert cli("migrate", file, "--from", "gptcache", "--no-embed", "--yes").code == ExitCode.PARTIAL
    assert cli("get-cache", "What is a loan?").out == "Money lent.\n"


def test_what_cannot_be_stored_is_left_out_and_the_rest_comes(cli: Cli, tmp_path: Path) -> None:
    file = gptcache(tmp_path / "sqlite.db", [("big", [("a" * 3000, 0)]), ("small", [("a", 0)])])
    (tmp_path / "cache_config.yaml").write_text("max_entry_bytes: 1000\n")

    found = cli("migrate", file, "--from", "gptcache", "--no-confirm", "--json")

    assert found.code == ExitCode.PARTIAL
    assert found.data["left_out"]["cannot be stored: larger than max_entry_bytes"]["count"] == 1
    assert cli("get-cache", "small").code == ExitCode.OK


def test_what_was_deleted_over_there_is_no_fault(cli: Cli, tmp_path: Path) -> None:
    file = gptcache(tmp_path / "sqlite.db", [("gone", [("a", 0)]), ("here", [("a", 0)])], deleted=[1])

    assert cli("migrate", file, "--from", "gptcache", "--no-confirm").code == ExitCode.OK


def test_nothing_to_bring_in_is_said(cli: Cli, tmp_path: Path) -> None:
    found = cli("migrate", gptcache(tmp_path / "sqlite.db", []), "--from", "gptcache")

    assert (found.code, "nothing to bring in" in found.err) == (ExitCode.OK, True)


@pytest.mark.parametrize(("zone", "answer"), [("UTC", "theirs"), ("Asia/Tokyo", "ours")])
def test_the_zone_of_the_writer_decides_which_answer_is_newer(cli: Cli, tmp_path: Path, zone: str, answer: str) -> None:
    ours = gptcache(tmp_path / "ours.db", [("q", [("ours", 0)])])
    theirs = gptcache(tmp_path / "theirs.db", [("q", [("theirs", 0)])])
    with sqlite3.connect(theirs) as connection:
        connection.execute("UPDATE gptcache_question SET create_on = '2026-01-02 05:04:05'")
    connection.close()

    cli("migrate", ours, "--from", "gptcache", "--yes", "--timezone", "UTC")
    cli("migrate", theirs, "--from", "gptcache", "--yes", "--timezone", zone)

    assert cli("get-cache", "q").out == f"{answer}\n"


def test_ctrl_c_ends_the_reading_at_once(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = questions(tmp_path / "sqlite.db")
    rows, read = GPTCacheStore.rows, []

    def interrupted(store: GPTCacheStore) -> Iterator[Any]:
        for row in rows(store):
            read.append(row)
            signal.raise_signal(signal.SIGINT)
            yield row

    monkeypatch.setattr(GPTCacheStore, "rows", interrupted)
    found = cli("migrate", file, "--from", "gptcache", "--yes")

    assert (found.code, len(read)) == (ExitCode.INTERRUPTED, 1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert cli("get-cache", "What is a loan?").code == ExitCode.FAILED


def test_ctrl_c_while_importing_says_what_stays(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = questions(tmp_path / "sqlite.db")

    async def interrupted(manager: CacheManager, keys: list[str]) -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(CacheManager, "index", interrupted)
        stopped = cli("migrate", file, "--from", "gptcache", "--yes")
    again = cli("migrate", file, "--from", "gptcache", "--yes", "--json")

    assert (stopped.code, "What was imported by now stays" in stopped.err) == (ExitCode.INTERRUPTED, True)
    assert "cache-cli embed" in stopped.err
    assert again.data["summary"]["present"] == 2


def test_a_prefix_that_no_key_has_is_wrong_usage(cli: Cli, redis_url: str) -> None:
    found = cli("migrate", redis_url, "--from", "redisvl", "--prefix", "typo")

    assert (found.code, "no key begins with 'typo:'" in found.err) == (ExitCode.USAGE, True)


def test_troubles_have_their_codes(cli: Cli, tmp_path: Path) -> None:
    for zone in ("Mars/Olympus", "/etc/passwd", "Europe"):
        assert cli("migrate", tmp_path, "--from", "gptcache", "--timezone", zone).code == ExitCode.USAGE
    assert cli("migrate", tmp_path, "--from", "langchain-sqlite", "--timezone", "UTC").code == ExitCode.USAGE
    assert cli("migrate", tmp_path / "none.db", "--from", "gptcache").code == ExitCode.USAGE
    assert cli("migrate", tmp_path, "--from", "redisvl").code == ExitCode.USAGE
    assert cli("migrate", "redis://127.0.0.1:1", "--from", "redisvl").code == ExitCode.CACHE
    assert cli("migrate", tmp_path, "--from", "other").code == ExitCode.USAGE
