"""The README's lines for a replicated set on one machine: warmed, watched, broken, repaired; run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cache_management.services.provider import free_port

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
SECTION = README.partition("## Break it, and repair it\n")[2].partition("\n## ")[0]
(LINES,) = re.findall(r"^```bash\n(.*?)^```", SECTION, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_lines_run_and_what_they_break_is_repaired(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("CACHE_")}
    env |= {
        "PATH": f"{Path(sys.executable).parent}:{env['PATH']}",
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "CACHE_METRICS__PORT": str(free_port()),
        "CACHE_EMBEDDING_MODEL": "hashing",  # the model is no part of this, and takes long to load
        "COLUMNS": "200",
    }
    (tmp_path / "questions.json").write_text('[{"prompt": "What is Python?", "response": "A programming language."}]')
    again = 'cache-cli up --nodes 3\ncache-cli get-cache "What is Python?"\ncache-cli warm questions.json\n'
    script = f"set -eu -o pipefail\ntrap 'cache-cli down' EXIT\n{LINES}\n{again}"

    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, env=env, check=False)

    assert found.returncode == 0, found.stdout + found.stderr
    whens = "before, with a node down, at the end, and after all were stopped and started again"
    assert found.stdout.count("A programming language.") == 4, whens
    assert re.search(r'cache_node_state{node="[\d.:]+",state="member"} 1.0', found.stdout)
    assert "The copies on 3 nodes are level." in found.stdout
    assert "Stopped." in found.stdout
