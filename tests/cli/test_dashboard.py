"""report: what the dashboard shows, as a file."""

from __future__ import annotations

import stat
from pathlib import Path

from tests.cli.conftest import Cli


def test_a_report_is_for_its_owner_alone_for_it_holds_prompts(cli: Cli, tmp_path: Path) -> None:
    page = tmp_path / "week.html"

    found = cli("report", page)

    assert found.code == 0, found.err
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert "<!doctype html>" in page.read_text().lower()
