"""Exporting models of other kinds, which files are trusted, and many exporters at once."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cache_management.cache.embeddings import exported as files
from cache_management.cache.embeddings import open_embedder
from cache_management.cache.embeddings.exported import Exported, Manifest, read_exported, write_exported
from cache_management.cache.embeddings.onnx_runtime import OnnxEmbedder
from cache_management.cache.embeddings.sentence_transformers import SentenceTransformerEmbedder
from cache_management.cache.errors import EmbedderUnavailable
from tests.conftest import MODEL_PACKAGES as NEEDED
from tests.contracts.embedder import VARIED

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::ResourceWarning"
    ),
]
needs_torch = pytest.mark.skipif(not all(map(find_spec, NEEDED)), reason="needs the extras `onnx` and `semantic`")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "word", "a", "what", "is", "of", "france", "?", "##s"]


def tiny(folder: Path, kind: str, *then: Any, limit: int = 16, prompts: dict[str, str] | None = None) -> Path:
    """Save a model with one layer and weights drawn once for all."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    torch.manual_seed(7)
    inner = Tokenizer(models.WordPiece({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    shape = {"vocab_size": len(WORDS), "max_position_embeddings": 40, "pad_token_id": 0}
    config, model = {
        "bert": (transformers.BertConfig, transformers.BertModel),
        "mpnet": (transformers.MPNetConfig, transformers.MPNetModel),
        "distilbert": (transformers.DistilBertConfig, transformers.DistilBertModel),
    }[kind]
    if kind == "distilbert":
        shape |= {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64}
    else:
        shape |= {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    plain = folder.with_name(f"{folder.name}-plain")
    model(config(**shape)).save_pretrained(plain)
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if kind == "bert" else [])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=limit, model_input_names=names, **special
    ).save_pretrained(plain)
    SentenceTransformer(
        modules=[Transformer(str(plain), max_seq_length=limit), *then],
        prompts=prompts,
        default_prompt_name=next(iter(prompts), None) if prompts else None,
    ).save(str(folder))
    return folder


def pooling(mode: Any) -> Any:
    from sentence_transformers.models import Pooling

    return Pooling(32, pooling_mode=mode)


def dense() -> Any:
    from sentence_transformers.models import Dense

    return Dense(32, 12)


def normalize() -> Any:
    from sentence_transformers.models import Normalize

    return Normalize()


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "then"),
    [
        ("bert", lambda: [pooling("mean")]),
        ("bert", lambda: [pooling("cls"), normalize()]),
        ("mpnet", lambda: [pooling("max"), normalize()]),
        ("mpnet", lambda: [pooling("mean")]),
        ("distilbert", lambda: [pooling("mean"), dense()]),
        ("distilbert", lambda: [pooling(("mean", "max"))]),
        ("bert", lambda: [pooling("mean_sqrt_len_tokens")]),
    ],
)
async def test_model_of_any_known_kind_has_the_vectors_of_torch(
    kind: str, then: Callable[[], list[Any]], tmp_path: Path
) -> None:
    from cache_management.cache.embeddings.onnx_export import export

    name = str(tiny(tmp_path / "m", kind, *then()))
    export(name, models_dir=tmp_path / "models")
    onnx, torch = OnnxEmbedder(name, models_dir=tmp_path / "models"), SentenceTransformerEmbedder(name)
    texts = [*VARIED, "what is the word?", "the words of france"]

    ours, theirs = await onnx.embed(texts), await torch.embed(texts)

    assert np.einsum("ij,ij->i", ours, theirs).min() >= 0.9999
    assert (onnx.space, onnx.dims) == (torch.space, torch.dims)
    assert [onnx.fits(text) for text in texts] == [torch.fits(text) for text in texts]


@needs_torch
@pytest.mark.slow
async def test_model_that_cannot_be_exported_says_why_and_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cache_management.cache.embeddings.onnx_export import Refused, export

    name = str(tiny(tmp_path / "m", "bert", pooling("mean"), prompts={"query": "what is "}))

    with pytest.raises(Refused, match="it puts 'what is ' before each text"):
        export(name, models_dir=tmp_path / "models")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it was tried again"))
    with pytest.raises(EmbedderUnavailable, match=r"cannot be exported to ONNX: it puts .*use engine='torch'"):
        await open_embedder(name, engine="onnx", models_dir=tmp_path / "models").load()
    embedder = open_embedder(name, models_dir=tmp_path / "models")
    assert (await embedder.embed(["the word"])).shape == (1, 32)
    assert embedder.engine == "torch"  # type: ignore[attr-defined]


@needs_torch
@pytest.mark.slow
def test_kinds_of_modules_that_are_not_known_are_refused(tmp_path: Path) -> None:
    from sentence_transformers.models import CNN

    from cache_management.cache.embeddings.onnx_export import Refused, export

    name = str(tiny(tmp_path / "m", "bert", CNN(32, 32), pooling("mean")))

    with pytest.raises(Refused, match="kinds that are not known here: CNN"):
        export(name, models_dir=tmp_path / "models")


@needs_torch
@pytest.mark.slow
def test_graph_with_other_vectors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cache_management.cache.embeddings import onnx_export

    name = str(tiny(tmp_path / "m", "bert", pooling("mean")))
    monkeypatch.setattr(onnx_export, "_LEAST_COSINE", 1.01)

    with pytest.raises(onnx_export.Refused, match="its vectors differ from those of torch: cosine"):
        onnx_export.export(name, models_dir=tmp_path / "models")
    assert not list((tmp_path / "models").glob("*/model.onnx"))


def steps_of(folder: Path) -> list[str]:
    import onnx

    return [node.op_type for node in onnx.load(str(folder / "model.onnx")).graph.node]


@needs_torch
@pytest.mark.slow
def test_attention_is_one_step_of_the_graph(tmp_path: Path) -> None:
    from cache_management.cache.embeddings.onnx_export import export

    folder = export(str(tiny(tmp_path / "m", "bert", pooling("mean"))), models_dir=tmp_path / "models")

    assert {"Attention", "SkipLayerNormalization"} <= set(steps_of(folder))
    assert "Softmax" not in steps_of(folder)


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize("harm", ["raises", "gives other vectors", "is not there"])
def test_graph_that_the_optimizer_spoils_stays_as_it_was(
    harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.transformers import optimizer

    from cache_management.cache.embeddings.onnx_export import export

    whole = optimizer.optimize_model

    def spoil(*args: Any, **kwargs: Any) -> Any:
        if harm == "raises":
            raise KeyError("layer")
        made = whole(*args, **kwargs)
        for weights in made.model.graph.initializer:
            weights.raw_data = bytes(len(weights.raw_data))
        return made

    if harm == "is not there":
        monkeypatch.delattr(optimizer, "optimize_model")
    else:
        monkeypatch.setattr(optimizer, "optimize_model", spoil)

    folder = export(str(tiny(tmp_path / "m", "bert", pooling("mean"))), models_dir=tmp_path / "models")

    assert "Softmax" in steps_of(folder)


@needs_torch
@pytest.mark.slow
def test_many_exporters_at_once_make_one_whole_model(tmp_path: Path) -> None:
    name = str(tiny(tmp_path / "m", "bert", pooling("mean")))
    command = [sys.executable, "-W", "ignore", "-m", "cache_management.cache.embeddings.onnx_export"]

    processes = [subprocess.Popen([*command, name, str(tmp_path / "models")]) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]

    (folder,) = (path for path in (tmp_path / "models").iterdir() if path.is_dir())
    assert read_exported(folder, source=folder.name.partition("-")[2]) is not None


@needs_torch
@pytest.mark.slow
def test_torn_model_and_what_a_killed_exporter_left_are_replaced(tmp_path: Path) -> None:
    from cache_management.cache.embeddings.onnx_export import export

    name = str(tiny(tmp_path / "m", "bert", pooling("mean")))
    folder = export(name, models_dir=tmp_path / "models")
    source = folder.name.partition("-")[2]
    with (folder / "model.onnx").open("r+b") as stream:
        stream.truncate(1000)
    left = folder.with_name(f".{folder.name}-half")
    left.mkdir()

    assert read_exported(folder, source=source) is None
    assert export(name, models_dir=tmp_path / "models") == folder

    assert read_exported(folder, source=source) is not None
    assert not left.exists()
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx", "tokenizer.json"]


def an_exported_model(folder: Path) -> Path:
    model, tokenizer = b"a graph", "{}"
    manifest = Manifest(
        format=files.FORMAT,
        source="5eed",
        space="bert-5eed-4-16",
        dims=4,
        limit=16,
        unknown_id=1,
        pad_id=0,
        pad_type_id=0,
        pads_left=False,
        inputs=["input_ids"],
        model_sha256=hashlib.sha256(model).hexdigest(),
        tokenizer_sha256=hashlib.sha256(tokenizer.encode()).hexdigest(),
    )
    folder.mkdir()
    write_exported(folder, Exported(manifest, model, tokenizer))
    return folder


def test_whole_model_is_read(tmp_path: Path) -> None:
    found = read_exported(an_exported_model(tmp_path / "m"), source="5eed")

    assert found is not None
    assert (found.model, found.tokenizer, found.manifest.dims) == (b"a graph", "{}", 4)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "tokenizer.json"])
@pytest.mark.parametrize("harm", ["absent", "torn", "changed", "empty"])
def test_model_that_is_not_whole_is_not_trusted(name: str, harm: str, tmp_path: Path) -> None:
    file = an_exported_model(tmp_path / "m") / name
    content = file.read_bytes()

    if harm == "absent":
        file.unlink()
    else:
        file.write_bytes({"torn": content[:-1], "changed": b"?" + content[1:], "empty": b""}[harm])

    assert read_exported(file.parent, source="5eed") is None


@pytest.mark.parametrize("changed", [{"format": 0}, {"source": "0ther"}, {"new": 1}, {"dims": "wide"}])
def test_model_of_other_weights_or_another_version_is_not_taken(changed: dict[str, object], tmp_path: Path) -> None:
    folder = an_exported_model(tmp_path / "m")
    manifest = json.loads((folder / "manifest.json").read_bytes())

    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest | changed))

    assert read_exported(folder, source="5eed") is None


def test_missing_folder_holds_no_model(tmp_path: Path) -> None:
    assert read_exported(tmp_path / "nowhere", source="5eed") is None


def test_refusal_counts_for_the_libraries_that_were_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_refusal(tmp_path / "m", "it is odd")
    assert files.refusal(tmp_path / "m") == "it is odd"

    monkeypatch.setattr(files, "_versions", lambda: {"torch": "99"})

    assert files.refusal(tmp_path / "m") is None
    assert files.refusal(tmp_path / "another") is None
    shutil.copy(__file__, tmp_path / "broken.refused")
    assert files.refusal(tmp_path / "broken") is None
