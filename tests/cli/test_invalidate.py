from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def filled(cli: Cli) -> Cli:
    pairs = [
        {"prompt": key, "response": "r", "model": model, "timestamp": "2020-01-01T00:00:00Z"}
        for key, model in [("user_1_a", "gpt-4"), ("user_1_b", "claude"), ("user_2_a", "gpt-4")]
    ]
    Path("pairs.json").write_text(json.dumps(pairs))
    assert cli("warm", "pairs.json", "--local", "--no-embed").code == 0
    return cli


@pytest.mark.parametrize(
    ("args", "removed"),
    [
        (["--pattern", "user_1_*"], 2),
        (["--pattern", "_a$", "--regex"], 2),
        (["--older-than", "3600"], 0),
        (["--older-than", "0"], 3),
        (["--model", "claude"], 1),
        (["--model", "gpt-4", "-p", "user_1*"], 1),
        (["--tag", "none"], 0),
        (["--all"], 3),
    ],
)
def test_just_what_is_asked_for_goes(filled: Cli, args: list[str], removed: int) -> None:
    assert filled("invalidate", *args, "--dry-run", "--json").data == {"would_remove": removed}
    assert filled("stats", "--json").data["total_entries"] == 3

    assert filled("invalidate", *args, "--no-confirm", "--json").data == {"removed": removed}

    assert filled("stats", "--json").data["total_entries"] == 3 - removed


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "say what shall go"),
        (["--all", "--pattern", "x"], "say what shall go"),
        (["--regex"], "--pattern"),
        (["--pattern", "(", "--regex"], "no regular expression"),
        (["--older-than", "-1"], "0 or more"),
    ],
)
def test_nonsense_is_exit_code_2_and_removes_nothing(filled: Cli, args: list[str], says: str) -> None:
    found = filled("invalidate", *args, "--no-confirm")

    assert (found.code, says in found.err) == (2, True)
    assert filled("stats", "--json").data["total_entries"] == 3


def test_without_an_answer_nothing_is_removed(filled: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))

    found = filled("invalidate", "--all")

    assert (found.code, "--yes" in found.err) == (2, True)
    assert filled("stats", "--json").data["total_entries"] == 3


def test_an_answer_may_come_from_a_pipe(filled: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))

    found = filled("invalidate", "--all", "--json")

    assert (found.code, '"removed": 3' in found.out) == (0, True)


def test_yes_is_another_word_for_no_confirm(filled: Cli) -> None:
    assert filled("invalidate", "--all", "--yes", "--json").data == {"removed": 3}


def test_who_removed_something_by_hand_is_in_the_audit_log(filled: Cli) -> None:
    filled("invalidate", "--pattern", "user_1_*", "--no-confirm")

    (row,) = [row for row in filled("audit", "tail", "--json").data if row["action"] == "cache.invalidate"]
    assert (row["outcome"], row["error_class"], row["job_id"]) == ("ok", None, None)
    assert "user_1" not in json.dumps(row)


def test_a_failed_attempt_is_in_the_audit_log_with_its_error(filled: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_URL", "redis://127.0.0.1:1/0")

    assert filled("invalidate", "--all", "--no-confirm").code == 7

    row = filled("audit", "tail", "--json").data[-1]
    assert (row["action"], row["outcome"], row["error_class"]) == ("cache.invalidate", "failed", "BackendUnavailable")


def test_a_database_that_is_away_keeps_nobody_from_removing(filled: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_METADATA_URL", "postgresql://nobody@127.0.0.1:1/none")

    found = filled("invalidate", "--all", "--no-confirm", "--json")

    assert (found.code, found.data) == (0, {"removed": 3})
    assert "not in the audit log" in found.err
