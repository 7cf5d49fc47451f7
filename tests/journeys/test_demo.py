"""`make demo` as a newcomer runs it: real broker, real workers, real model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_shows_hits_and_refusals_and_cleans_up(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("CACHE_")}
    env |= {"TMPDIR": str(tmp_path), "COLUMNS": "120"}

    found = subprocess.run(
        [sys.executable, "-m", "cache_management.cli", "demo"], capture_output=True, text=True, env=env, check=False
    )

    assert found.returncode == 0, found.stdout + found.stderr
    assert "300 of 300" in found.stdout
    assert "24 of 24 paraphrases answered" in found.stdout
    assert "18 of 18 near-misses refused" in found.stdout
    for gate in ("number differs", "entity differs", "polarity differs"):
        assert gate in found.stdout, "the closest of each gate is shown"
    assert "The audit log is intact." in found.stdout
    assert not list(tmp_path.glob("cache-demo-*")), "the demo left its data behind"
