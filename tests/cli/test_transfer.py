"""`export` and `import-cache`: documents and streams, here and as jobs, and what goes wrong."""

from __future__ import annotations

import asyncio
import io
import json
import stat
from pathlib import Path

import pytest
import yaml

from cache_management.cli.exit_codes import ExitCode
from tests.cache.transfer.shelves import importer_of, line, open_cache, write_stream
from tests.cli.conftest import Cli
from tests.conftest import OwnRedisFactory
from tests.workers.harness import job_world

FORMS = ["json", "yaml", "jsonl", "jsonl.zst"]


def store(cli: Cli, *prompts: str) -> None:
    for prompt in prompts:
        assert cli("set-cache", prompt, f"answer to {prompt}").code == ExitCode.OK


def stored(cli: Cli, prompt: str) -> str | None:
    found = cli("get-cache", prompt, "--json")
    return found.data["response"] if found.code == ExitCode.OK else None


@pytest.mark.parametrize("form", FORMS)
def test_a_cache_goes_out_and_comes_back_in_each_form(cli: Cli, tmp_path: Path, form: str) -> None:
    store(cli, "one", "two", "three")
    file = tmp_path / f"backup.{form}"

    out = cli("export", file, "--json")
    cli("invalidate", "--all", "--no-confirm")
    back = cli("import-cache", file, "--no-confirm", "--json")

    assert (out.code, out.data["summary"]["exported"], out.data["file"]) == (ExitCode.OK, 3, str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (back.code, back.data["state"], back.data["summary"]["added"]) == (ExitCode.OK, "succeeded", 3)
    assert stored(cli, "two") == "answer to two"
    assert cli("get-similar", "the three", "--threshold", "0.1").out.count("three") > 0, "found by meaning"


def test_the_reference_s_own_lines_make_a_json_document_that_people_read(cli: Cli, tmp_path: Path) -> None:
    store(cli, "one", "two")

    assert cli("export", "cache_backup.json").code == ExitCode.OK
    document = json.loads((tmp_path / "cache_backup.json").read_text())

    assert document["namespace"] == "default"
    assert document["embedder"] == "hashing"
    assert {entry["key"]: entry["response"] for entry in document["entries"]} == {
        "one": "answer to one",
        "two": "answer to two",
    }
    assert cli("import-cache", "cache_backup.json", "--no-confirm").code == ExitCode.OK


def test_the_format_option_wins_over_a_name_that_says_nothing(cli: Cli, tmp_path: Path) -> None:
    store(cli, "one")

    assert cli("export", "plain").code == ExitCode.OK
    assert cli("export", "other", "-f", "yaml").code == ExitCode.OK
    assert cli("export", "x.yaml", "-f", "json").code == ExitCode.OK
    refused = cli("export", "x.jsonl", "-f", "json")

    assert json.loads((tmp_path / "plain").read_text())["entries"]
    assert yaml.safe_load((tmp_path / "other").read_text())["entries"][0]["key"] == "one"
    assert (refused.code, "name is that of a stream" in refused.err) == (ExitCode.USAGE, True)
    for name in ("plain", "other", "x.yaml"):
        assert cli("import-cache", name, "--no-confirm").code == ExitCode.OK


@pytest.mark.parametrize("form", FORMS)
def test_only_what_the_filter_matches_goes_out(cli: Cli, tmp_path: Path, form: str) -> None:
    store(cli, "what is a", "what is b", "who is c")

    out = cli("export", tmp_path / f"x.{form}", "-F", "what*", "--json")

    assert (out.data["summary"]["exported"], out.data["summary"]["seen"]) == (2, 3)


@pytest.mark.parametrize("form", FORMS)
def test_replace_leaves_only_what_the_file_holds(cli: Cli, tmp_path: Path, form: str) -> None:
    store(cli, "one", "two")
    cli("export", tmp_path / f"x.{form}")
    store(cli, "three")

    merged = cli("import-cache", tmp_path / f"x.{form}", "--merge", "--no-confirm", "--json")
    kept = stored(cli, "three")
    replaced = cli("import-cache", tmp_path / f"x.{form}", "--replace", "--no-confirm")

    assert (merged.data["summary"]["present"], kept) == (2, "answer to three")
    assert replaced.code == ExitCode.OK
    assert "removed: not in the file" in replaced.out
    assert (stored(cli, "one"), stored(cli, "three")) == ("answer to one", None)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_is_there_is_replaced_only_by_force(cli: Cli, tmp_path: Path, form: str) -> None:
    store(cli, "one")
    file = tmp_path / f"x.{form}"
    file.write_text("somebody's")

    refused = cli("export", file)
    forced = cli("export", file, "--force")

    assert (refused.code, refused.err.count("\n")) == (ExitCode.USAGE, 1)
    assert "--force" in refused.err
    assert forced.code == ExitCode.OK
    assert cli("import-cache", file, "--no-confirm").code == ExitCode.OK


@pytest.mark.parametrize("mode", ["--merge", "--replace"])
def test_what_cannot_be_imported_is_one_clear_line_and_changes_nothing(cli: Cli, tmp_path: Path, mode: str) -> None:
    store(cli, "one")
    write_stream(tmp_path / "damaged.jsonl", [line("a secret")])
    data = (tmp_path / "damaged.jsonl").read_bytes()
    (tmp_path / "damaged.jsonl").write_bytes(data.replace(b"a secret", b"b secret"))
    write_stream(tmp_path / "other.jsonl", [line("a secret")], namespace="other")
    (tmp_path / "warm.json").write_text('[{"prompt": "a secret"}]')

    for name, says in (
        ("absent.json", "no such file"),
        ("damaged.jsonl", "part 1 (lines 2 to 3)"),
        ("other.jsonl", "--from-namespace other"),
        ("warm.json", "cache-cli warm"),
    ):
        refused = cli("import-cache", tmp_path / name, mode, "--no-confirm")
        assert (refused.code, refused.out) == (ExitCode.USAGE, ""), name
        assert says in refused.err
        assert "secret" not in refused.err
    assert stored(cli, "one") == "answer to one"
    assert (
        cli("import-cache", tmp_path / "other.jsonl", "--from-namespace", "other", "--no-confirm").code == ExitCode.OK
    )
    assert stored(cli, "a secret") == "r"


def test_targets_that_cannot_be_written_say_so_before_any_work(cli: Cli, tmp_path: Path) -> None:
    for target, says in ((tmp_path, "is a folder"), (tmp_path / "no" / "x.json", "there is no folder")):
        refused = cli("export", target)
        assert (refused.code, says in refused.err) == (ExitCode.USAGE, True)


def test_nobody_is_asked_without_a_terminal(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(cli, "one")
    cli("export", tmp_path / "x.json")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    refused = cli("import-cache", tmp_path / "x.json", "--replace")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    denied = cli("import-cache", tmp_path / "x.json")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    agreed = cli("import-cache", tmp_path / "x.json")

    assert (refused.code, "--yes" in refused.err) == (ExitCode.USAGE, True)
    assert "Replace the 1 entry of namespace default by 1 entry of" in refused.err
    assert (denied.code, "Nothing was imported" in denied.err) == (ExitCode.FAILED, True)
    assert agreed.code == ExitCode.OK


def test_a_small_store_says_that_it_will_not_keep_all(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_MAX_SIZE", "3")
    write_stream(tmp_path / "x.jsonl", [line(f"q{at}") for at in range(5)])

    done = cli("import-cache", tmp_path / "x.jsonl", "--no-confirm", "--no-embed")

    assert (done.code, "max_size" in done.err) == (ExitCode.OK, True)


def test_a_document_too_large_names_the_stream(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_management.cli.transfer.MAX_ENTRIES", {"json": 1, "yaml": 1})
    store(cli, "one", "two")

    refused = cli("export", tmp_path / "x.json")

    assert (refused.code, ".jsonl.zst" in refused.err) == (ExitCode.USAGE, True)
    assert list(tmp_path.glob("*x.json*")) == []


def test_options_about_jobs_are_refused_where_there_is_none(cli: Cli, tmp_path: Path) -> None:
    store(cli, "one")
    cli("export", tmp_path / "x.jsonl")

    for arguments in (
        ("export", tmp_path / "y.json", "--no-wait"),
        ("export", tmp_path / "y.jsonl", "--local", "--timeout", "3"),
        ("export", tmp_path / "y.jsonl", "--rate", "1000"),
        ("import-cache", tmp_path / "x.jsonl", "--local", "--no-wait", "--no-confirm"),
    ):
        refused = cli(*arguments)
        assert (refused.code, "leave out --no-wait, --timeout and --rate" in refused.err) == (ExitCode.USAGE, True)
    assert not (tmp_path / "y.json").exists()


def test_an_interrupted_replace_is_completed_by_the_next_import(cli: Cli, tmp_path: Path) -> None:
    store(cli, "one", "two")
    write_stream(tmp_path / "x.jsonl", [line("from the file")])
    write_stream(tmp_path / "y.jsonl", [line("merged later")])

    async def interrupt() -> None:
        async with open_cache(url=f"disk://{tmp_path / 'data' / 'cache'}") as cache:
            importer = importer_of(cache, tmp_path / "x.jsonl", replace=True)
            place = importer.begin()
            while place.step != "swap":
                place = await importer.advance(place)
            importer.close()

    asyncio.run(interrupt())
    assert stored(cli, "one") == "answer to one", "nothing that is live was touched"

    assert cli("import-cache", tmp_path / "y.jsonl", "--no-confirm").code == ExitCode.OK

    found = {prompt: stored(cli, prompt) for prompt in ("one", "two", "from the file", "merged later")}
    assert found == {"one": None, "two": None, "from the file": "r", "merged later": "r"}


def test_an_encrypted_store_is_exported_with_a_warning(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cryptography")
    monkeypatch.setenv("CACHE_ENCRYPTION_KEYS", f"k1: {'A' * 43}=")
    store(cli, "one")

    out = cli("export", tmp_path / "x.jsonl")

    assert (out.code, "encrypted and the file is not" in out.err) == (ExitCode.OK, True)


def test_help_says_what_leaves_the_house(cli: Cli) -> None:
    text = " ".join(cli("export", "--help").out.split())

    assert "in the clear" in text
    assert "mode 600" in text


@pytest.mark.timeout(120)
def test_a_real_worker_exports_and_imports_and_the_commands_show_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_redis: OwnRedisFactory
) -> None:
    with job_world(tmp_path / "world", broker_url=own_redis().url, cache_url=own_redis().url) as world:
        for name, value in world.env.items():
            monkeypatch.setenv(name, value)
        store(cli, "one", "two")
        file = tmp_path / "x.jsonl.zst"

        first = cli("export", file, "--no-wait", "--json").data
        again = cli("export", file, "--timeout", "0.1", "--json")
        world.start_worker(queues=("control", "transfer", "embed"), concurrency=1)
        exported = cli("export", file, "--json")
        cli("invalidate", "--all", "--no-confirm")
        imported = cli("import-cache", file, "--replace", "--no-confirm")
        there = cli("export", file)
        wrong = cli("import-cache", file, "--from-namespace", "other", "--no-confirm")
        document = cli("export", tmp_path / "x.json", "--json")
        merged = cli("import-cache", tmp_path / "x.json", "--no-confirm", "--json")

        assert (first["kind"], first["state"]) == ("export", "dispatched")
        assert (again.code, again.data["id"] == first["id"]) == (ExitCode.TIMEOUT, True)
        assert (exported.code, exported.data["id"], exported.data["state"]) == (0, first["id"], "succeeded")
        assert exported.data["params"]["path"] == str(file)
        assert (imported.code, "removed" not in imported.out) == (ExitCode.OK, True)
        assert "makes them findable by meaning" in imported.err
        assert stored(cli, "two") == "answer to two"
        assert (there.code, wrong.code) == (ExitCode.USAGE, ExitCode.USAGE), "said at once, no job was made"
        assert (document.data["summary"]["exported"], merged.data["summary"]["present"]) == (2, 2)
        embed = world.stores.jobs.list(kind="embed")[0]
        assert world.wait_for_job(embed.id).done == 2
        assert [job.kind for job in world.stores.jobs.list()] == ["embed", "import", "export"]


def test_who_took_entries_out_or_brought_them_in_is_in_the_audit_log(cli: Cli) -> None:
    store(cli, "one")
    assert cli("export", "taken.jsonl", "--local").code == ExitCode.OK
    assert cli("import-cache", "taken.jsonl", "--local", "--no-confirm").code == ExitCode.OK

    acts = [(row["action"], row["outcome"]) for row in cli("audit", "tail", "--json").data]
    assert acts[-2:] == [("cache.export", "ok"), ("cache.import", "ok")]
