"""Pages that are written from the sources are as the sources say, and name all there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cache_management

ROOT = Path(__file__).resolve().parent.parent
API = (ROOT / "docs/api.md").read_text()


@pytest.mark.parametrize("tool", ["api-reference"])
def test_a_written_page_is_up_to_date(tool: str) -> None:
    found = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, "--check"], capture_output=True, text=True, check=False
    )

    assert (found.returncode, found.stderr) == (0, "")


def test_every_public_name_stands_in_the_reference() -> None:
    assert set(cache_management.__all__) <= set(re.findall(r"^### `([^`.]+)`$", API, flags=re.MULTILINE))


@pytest.mark.parametrize("module", ["errors", "events"])
def test_every_error_and_event_stands_there(module: str) -> None:
    source = (ROOT / f"cache_management/cache/{module}.py").read_text()
    section = API.partition(f"## {module.capitalize()}\n")[2]

    assert [
        name for name in re.findall(r"^class ([A-Z]\w+)", source, flags=re.M) if f"| `{name}` |" not in section
    ] == []
