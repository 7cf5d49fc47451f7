from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CACHE_EMBEDDING_MODEL", "hashing")
    rows = [
        {"prompt": f"how do I reset password {at % 5}", "response": "by the link", "model": "m", "cost_usd": 0.01}
        for at in range(20)
    ]
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "no answer"}]))
    return path


def test_configurations_stand_beside_each_other(cli: Cli, log: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"

    found = cli(
        "simulate", log, "--exact", "-t", "0.7", "-t", "0.9", "--max-size", 2, "--max-size", 100, "--html", page
    )

    assert found.code == 0, found.err
    assert "20 requests replayed" in found.out
    assert found.out.count("exact only") == 2
    assert "1 row is left out: no answer" in found.err
    text = page.read_text()
    assert text.count("<svg") == 2
    assert "1 row is left out: no answer" in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_numbers_are_told_as_json(cli: Cli, log: Path) -> None:
    found = cli("simulate", log, "--exact", "--json").data

    (scene,) = found["scenarios"]
    assert (scene["exact"], scene["hit_rate"], scene["saved_usd"]) == (15, 0.75, 0.15)
    assert found["left_out"] == {"no answer": 1}


def test_a_page_is_not_written_over_any_log_that_is_read(cli: Cli, log: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(log.read_text())
    before = other.read_text()

    found = cli("simulate", log, other, "--exact", "--html", other)

    assert (found.code, "is the file that is read too" in found.err) == (2, True)
    assert other.read_text() == before


def test_too_many_configurations_are_refused(cli: Cli, log: Path) -> None:
    sizes = [word for size in range(1, 70) for word in ("--max-size", size)]

    found = cli("simulate", log, *sizes)

    assert (found.code, "too many at once" in found.err) == (2, True)


def test_it_is_said_which_rows_have_no_time_of_their_own(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [{"prompt": "a", "response": "b", "timestamp": 1_700_000_000}, {"prompt": "z", "response": "b"}]
    rows.append({"prompt": "a", "response": "b", "timestamp": 1_700_100_000})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    found = cli("simulate", path, "--exact", "--ttl", 10)
    as_json = cli("simulate", path, "--exact", "--ttl", 10, "--json")
    path.write_text(json.dumps({"prompt": "a", "response": "b"}))
    without = cli("simulate", path, "--exact")

    assert "0.0%" in found.out
    assert "1 row has no time: the row before says it" in found.err
    assert (as_json.data["untimed"], as_json.data["scenarios"][0]["exact"]) == (1, 0)
    assert "No row has a time: a request comes each second" in without.err


def test_it_is_said_which_rows_name_no_model(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    row = {"type": "GENERATION", "input": "What is TTL?", "output": "Time to live."}
    path.write_text("".join(json.dumps(each) + "\n" for each in [row, row | {"model": "m"}]))

    found = cli("simulate", path, "--exact")

    assert "1 row names no model" in found.err
    assert cli("simulate", path, "--exact", "--json").data["without_model"] == 1


def test_it_is_said_what_the_cache_would_not_keep(cli: Cli, tmp_path: Path) -> None:
    path, page = tmp_path / "log.jsonl", tmp_path / "page.html"
    row = {"prompt": "a", "response": "b", "model": "m", "finish_reason": "length"}
    path.write_text(f"{json.dumps(row)}\n" * 2)

    found = cli("simulate", path, "--exact", "--html", page)

    assert "2 answers were not kept: truncated" in found.err
    assert "2 answers were not kept: truncated" in page.read_text()


def test_limits_and_gates_are_those_of_the_configuration(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    rows = [{"prompt": f"what is the price of {at} apples", "response": "A" * 5000, "model": "m"} for at in (2, 3, 2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def counts(*options: object) -> tuple[int, int]:
        (scene,) = cli("simulate", path, *options, "--json").data["scenarios"]
        return scene["exact"], scene["semantic"]

    free, gated = counts("--exact"), counts("-t", 0.5)
    monkeypatch.setenv("CACHE_SEMANTIC__GATES_OFF", "number,freshness,edited")
    ungated = counts("-t", 0.5)
    said = cli("simulate", path, "-t", 0.5).err
    monkeypatch.setenv("CACHE_MEMORY_LIMIT", "7000")
    tight = counts("--exact")
    monkeypatch.setenv("CACHE_MAX_ENTRY_BYTES", "2000")
    small = counts("--exact")

    assert (free, gated, ungated) == ((1, 0), (1, 0), (1, 1))
    assert "Gates that the configuration leaves off: number, freshness, edited" in said
    assert (tight, small) == ((0, 0), (0, 0))


def test_labels_that_part_equal_requests_are_said(cli: Cli, tmp_path: Path) -> None:
    path, page = tmp_path / "log.jsonl", tmp_path / "page.html"
    rows = [{"prompt": "a", "response": name, "model": "m", "group": name} for name in ("x", "y", "x", "y")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    found = cli("simulate", path, "--exact", "--html", page)

    assert "none, 2 exact of other labels" in found.out
    assert "2 exact hits have another label than what answers them" in found.err
    assert "2 exact hits have another label than what answers them" in page.read_text()
    assert cli("simulate", path, "--exact", "--json").data["scenarios"][0]["conflicts"] == 2
