"""What the README says is true: its examples run, its tables are complete, its files exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.main import _COMMANDS
from cache_management.settings import setting_names
from cache_management.workers.messages import PARAMS
from tests.bench import publish

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
REPLICATED = (ROOT / "docs/replicated-cache.md").read_text()
EXAMPLES = [
    pytest.param(example, id=f"{page.name}-{at}")
    for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
    for at, example in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL), start=1
    )
]
EXPECTED = {
    "README.md-1": "Python is a high-level programming language.",
    "README.md-2": "refused by polarity",
    "using.md-1": "gpt-4 on Python",
    "using.md-2": "refused by polarity",
    "using.md-3": "('polarity',)",
    "using.md-4": "refused by second_opinion",
    "using.md-5": "60 km/h\n1",
    "using.md-6": "False\n1 removed",
    "using.md-7": "A language.",
    "metrics.md-1": "50%",
    "metrics.md-2": "# HELP cache_hits_total",
    "metrics.md-3": '"status":"ok"',
}


def table(heading: str, text: str = README) -> list[list[str]]:
    """Return the cells of the first table behind a heading."""
    rows = re.search(rf"^#+ {heading}\n.*?\n((?:\|[^\n]*\n)+)", text, flags=re.MULTILINE | re.DOTALL)
    assert rows, heading
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.group(1).splitlines()[2:]]


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_run(example: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("CACHE_")}

    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
        check=False,
    )

    assert found.returncode == 0, found.stderr
    assert EXPECTED.get(request.node.callspec.id, "") in found.stdout


def test_what_is_expected_of_examples_is_expected_of_some() -> None:
    assert set(EXPECTED) <= {each.id for each in EXAMPLES}


def test_the_settings_table_is_complete() -> None:
    assert sorted(row[0].strip("`") for row in table("Settings")) == sorted(setting_names())


def test_the_exit_codes_are_those_of_the_program() -> None:
    assert {int(row[0]): row[1] for row in table("Command line")} == {code.value: code.meaning for code in ExitCode}


def test_the_speed_table_is_what_was_measured() -> None:
    assert publish.in_readme(README, publish.load(publish.RESULT)) == README, "python -m tests.bench --readme"


def test_every_command_is_named() -> None:
    listed = README.partition("## Command line")[2].partition("| exit code")[0]

    assert [name for name in _COMMANDS if not re.search(rf"`{name}[ `]", listed)] == []


def test_every_promise_names_a_test_that_exists() -> None:
    promises = table("What is promised")
    by_level = table("The replicated cache", REPLICATED)

    assert promises
    assert by_level
    for row in [*promises, *by_level]:
        shown_by = re.findall(r"`([^`]+)`", row[-1])
        assert shown_by, row
        for each in shown_by:
            path, _, name = each.partition("::")
            assert f"def {name}(" in (ROOT / path).read_text() if name else (ROOT / path).is_file(), row


def test_each_level_says_whether_it_gives_a_promise() -> None:
    for promise, *levels, _ in table("The replicated cache", REPLICATED):
        assert [level.partition(":")[0] in ("yes", "no") for level in levels] == [True] * 3, promise


def test_both_commands_stand_on_the_first_screen() -> None:
    first_screen = "\n".join(README.splitlines()[:20])

    assert "make demo" in first_screen
    assert "make test" in first_screen


def test_every_page_is_named_in_the_table_of_what_to_read() -> None:
    assert [page.name for page in ROOT.glob("docs/*.md") if f"(docs/{page.name})" not in README] == []


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")))
def test_files_named_in_the_documentation_exist(page: str) -> None:
    text = (ROOT / page).read_text()

    for name in re.findall(r"`((?:cache|workers|models|cli|services)/[\w/]+\.py)`", text):
        assert (ROOT / "cache_management" / name).is_file(), f"{page} names {name}"
    for name in re.findall(r"`((?:tests|docs)/[\w/]+\.(?:py|md))`", text):
        assert (ROOT / name).is_file(), f"{page} names {name}"
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert f"def {name}(" in (ROOT / path).read_text(), f"{page} names {path}::{name}"


def test_every_kind_of_job_is_described() -> None:
    text = (ROOT / "docs/jobs.md").read_text()

    assert [kind for kind in PARAMS if f"| `{kind}` |" not in text] == []
