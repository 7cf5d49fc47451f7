"""docs/runbook.md has a chapter for every alert, a row for every event, and commands as they can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from cache_management.settings import setting_names
from tests.cli.conftest import Cli
from tests.cli.conftest import cli as cli  # noqa: PLC0414 - a fixture is passed on
from tests.cli.conftest import data_dir as data_dir  # noqa: PLC0414

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGE = (DOCS / "runbook.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line.startswith("cache-cli ")]


def chapters() -> dict[str, str]:
    parts = re.split(r"^### (.+)\n", PAGE, flags=re.MULTILINE)
    return {name: body.partition("\n## ")[0] for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def test_every_alert_has_a_chapter_that_says_how_to_know_that_it_is_over() -> None:
    rules = (ROOT / "monitoring" / "rules" / "cache.yml").read_text()
    named = {name for name in chapters() if name.startswith("Cache")}

    assert named == set(re.findall(r"\balert: (\w+)", rules))
    for name, body in chapters().items():
        assert "**See" in body, name
        assert re.search(r"look\*\*|\*\*Look|look and do", body), name
        assert "**Do**" in body or "do** [" in body, name
        assert "* **Over** " in body, name


def test_every_event_of_the_jobs_has_a_row() -> None:
    def events(page: str) -> list[str]:
        table = re.search(r"^\| event \|.*\n\|[-| ]+\n((?:\|.*\n)+)", page, flags=re.MULTILINE)
        assert table
        return [row.strip("|").split("|")[0].strip() for row in table.group(1).splitlines()]

    assert events(PAGE) == events((DOCS / "jobs.md").read_text())


def test_links_lead_to_chapters() -> None:
    anchors = {re.sub(r"[^\w -]", "", name).lower().replace(" ", "-") for name in chapters()}

    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors


def test_the_settings_that_are_named_exist() -> None:
    known = set(setting_names())
    dotted = set(re.findall(r"`((?:semantic|distributed|provider|metrics|jobs)\.\w+)", PAGE))

    assert dotted <= known
    assert {"max_size", "ttl_seconds", "similarity_threshold", "near_max_size", "usage_interval_seconds"} <= known


def test_the_first_block_runs_on_a_first_run(cli: Cli) -> None:
    for command in commands(BLOCKS[0]):
        _, *words = shlex.split(command)
        found = cli(*words, *(["--no-model"] if words == ["doctor"] else []))

        assert found.code == 0, (command, found.err)
