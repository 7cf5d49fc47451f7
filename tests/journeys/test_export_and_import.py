"""A cache goes to a file and comes back: the manual's own lines, and the reference's calls."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cache_management import CacheConfig, CachedResponse, CacheManager, LLMCache
from cache_management.cli.exit_codes import ExitCode
from tests.cli.conftest import Cli, cli, data_dir
from tests.conftest import PROJECT_ROOT

__all__ = ["cli", "data_dir"]  # fixtures of the command line

_SECTION = (PROJECT_ROOT / "docs" / "export.md").read_text()
_BLOCK = _SECTION.partition("```bash")[2].partition("```")[0]
LINES = re.findall(r"^cache-cli ([^#\n]+?)\s*(?:#.*)?$", _BLOCK, flags=re.MULTILINE)


def test_the_readme_s_lines_are_true(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_NAMESPACE", "staging")
    cli("set-cache", "What is staging?", "Where things are tried.")
    cli("export", "staging.jsonl.zst")
    monkeypatch.delenv("CACHE_NAMESPACE")
    for prompt in ("What is Python?", "Who made it?"):
        cli("set-cache", prompt, f"The answer to {prompt}")

    assert len(LINES) == 5
    for line in LINES:
        if "--replace" in line:
            cli("set-cache", "not in the file", "goes")
        arguments = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line)]
        asks = ["--no-confirm"] if arguments[0] == "import-cache" else []
        done = cli(*arguments, *asks)
        assert done.code == ExitCode.OK, (line, done.err)

    questions = Path("questions.json").read_text()
    assert ("What is Python?" in questions, "Who made it?" in questions) == (True, False)
    assert cli("get-cache", "not in the file").code == ExitCode.FAILED
    assert "Where things are tried." in cli("get-cache", "What is staging?").out
    assert "The answer to Who made it?" in cli("get-cache", "Who made it?").out


async def test_a_program_carries_entries_from_cache_to_cache() -> None:
    answer = CachedResponse(
        prompt="What is Python?", response="A language.", model="gpt-4", timestamp=datetime.now(UTC)
    )
    async with (
        CacheManager(LLMCache(CacheConfig(url="memory://"))) as there,
        CacheManager(LLMCache(CacheConfig(url="memory://"))) as here,
    ):
        await there.set_llm_cache("What is Python?", answer)

        entries = await there.export_entries()
        await here.import_entries(entries)

        assert await here.get_llm_cache("What is Python?") == answer
        assert await here.export_entries() == entries
