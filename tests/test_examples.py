"""The apps of examples/ run as they stand, and say what their page says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples"
SAYS = {
    "support_bot.py": ["7 questions, 4 calls of the model", "hit rate 43%"],
    "rag_follow_ups.py": ["the leave policy changes: 2 answers go", "3 calls before the change, 1 after it"],
    "agent_with_tools.py": ["with one tool less: miss", "model 2, weather 1, book 2"],
    "tree_of_thoughts.py": ["interrupted after 3 questions", "4 4 10 -> 4 6 -> 24", "questions in all"],
    "nightly_warm_up.py": ["warmed 3, failed 0", "semantic", "0 stored, 3 skipped; 0 calls by day"],
}


def test_every_app_is_run_and_stands_on_the_page() -> None:
    apps = {path.name for path in FOLDER.glob("*.py")} - {"fake_model.py"}
    page = (FOLDER / "README.md").read_text()

    assert apps == set(SAYS)
    assert [name for name in apps if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize("name", SAYS)
def test_an_app_says_what_it_should(name: str, tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("CACHE_")}

    found = subprocess.run(
        [sys.executable, "-W", "error", FOLDER / name],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
        check=False,
    )

    assert found.returncode == 0, found.stderr
    for said in SAYS[name]:
        assert said in found.stdout, found.stdout
    if name == "tree_of_thoughts.py":
        counts = [int(word) for word in found.stdout.split() if word.isdigit()][-2:]
        assert counts[0] == counts[1], "nothing is asked twice"
