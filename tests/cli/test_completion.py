"""Completion in shells: by click's protocol, and by the script in a real bash."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cache_management.cli.main import _COMMANDS
from cache_management.settings import load_settings
from cache_management.workers.client import JobClient, submit_warm_file
from tests.cli.conftest import Cli

Complete = Callable[..., list[str]]


@pytest.fixture
def complete(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """A function that returns what a shell would offer for the last of some words."""

    def offered(*words: str) -> list[str]:
        monkeypatch.setenv("_CACHE_CLI_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["cache-cli", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        found = cli()
        monkeypatch.delenv("_CACHE_CLI_COMPLETE")
        assert (found.code, found.err) == (0, "")
        return [line.partition(",")[2] for line in found.out.splitlines() if line]

    return offered


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["get-s"], ["get-similar"]),
        ([""], list(_COMMANDS)),
        (["--deb"], ["--debug"]),
        (["jobs", "re"], ["resume", "retry"]),
        (["stats", "--form"], ["--format"]),
        (["stats", "-f", ""], ["json", "table", "yaml"]),
        (["config", "set", "logging."], ["logging.level", "logging.file"]),
        (["completion", "z"], ["zsh"]),
        (["jobs", "show", ""], []),
        (["-c", "nowhere.yaml", "jobs", "show", ""], []),
    ],
)
def test_words_are_completed_and_no_data_is_made(
    complete: Complete, words: list[str], offered: list[str], data_dir: Path
) -> None:
    assert complete(*words) == offered

    assert not data_dir.exists()


def test_jobs_are_completed_from_the_database_that_is_there(complete: Complete, cli: Cli) -> None:
    Path("items.json").write_text('[{"prompt": "q", "response": "a"}]')
    cli("db", "upgrade")
    client = JobClient(load_settings().settings)
    job_id = submit_warm_file(client, Path("items.json")).job_id
    client.close()

    for words in (["jobs", "show"], ["jobs", "cancel"], ["audit", "tail", "--job"]):
        assert complete(*words, job_id[:4]) == [job_id]
    assert complete("jobs", "show", "zz") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(cli: Cli, shell: str) -> None:
    found = cli("completion", shell)

    assert (found.code, found.err) == (0, "")
    assert f"_CACHE_CLI_COMPLETE={shell}_complete" in found.out


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_script_works_in_bash(data_dir: Path, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "cache-cli"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cache_management.cli "$@"\n')
    program.chmod(0o755)
    script = (
        f'PATH={program.parent}:$PATH; eval "$(cache-cli completion bash)";'
        "COMP_WORDS=(cache-cli import); COMP_CWORD=1; _cache_cli_completion cache-cli;"
        'printf "%s\\n" "${COMPREPLY[@]}"; complete -p cache-cli'
    )

    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)

    assert said.stdout.splitlines() == ["import-cache", "complete -o nosort -F _cache_cli_completion cache-cli"]
    assert said.stderr == ""
