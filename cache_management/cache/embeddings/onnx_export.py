"""`python -m cache_management.cache.embeddings.onnx_export MODEL [MODELS_DIR]`: make a model readable without torch.

Runs in a process of its own: torch and what exporting changes in it end with that process.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from cache_management.cache.config import EmbeddingModel
from cache_management.cache.embeddings.exported import (
    FORMAT,
    Exported,
    Manifest,
    folder_of,
    read_exported,
    write_exported,
    write_refusal,
)
from cache_management.cache.embeddings.onnx_runtime import open_exported
from cache_management.cache.embeddings.sentence_transformers import open_model, tokenizer_of, unknown_id
from cache_management.cache.embeddings.weights import locate, space_name, weights_digest
from cache_management.cache.errors import CacheError, EmbedderUnavailable

logger = logging.getLogger("cache_management")

_MODULES = {"Transformer", "Pooling", "Normalize", "Dense", "Dropout", "LayerNorm"}
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_LEAST_COSINE = 0.9999
_OPSET = 17
# Of other number and length than the two texts that the graph is traced with.
_CHECKED_WITH = (
    "What is the capital of France?",
    "",
    "How do I reset my password when I no longer have the telephone that the codes are sent to? " * 3,
    "日本語のプロンプト 🙂 שלום",
    "word " * 2000,
)


class Refused(CacheError):
    """This model cannot be exported by the libraries at hand; another try would end alike."""


def main(arguments: Sequence[str]) -> int:
    """Export the model that the arguments name; return the exit status."""
    name: EmbeddingModel | str = arguments[0]
    if name in set(EmbeddingModel):
        name = EmbeddingModel(name)
    try:
        export(name, models_dir=Path(arguments[1]) if len(arguments) > 1 else None)
    except (CacheError, ImportError, OSError) as exc:
        sys.stderr.write(str(exc).replace("\n", " ") + "\n")
        return 1
    return 0


def export(name: EmbeddingModel | str, *, models_dir: Path | None = None) -> Path:
    """Export a model unless that was done; return its folder. Any number of processes may do so at once.

    Raises:
        EmbedderUnavailable: The model cannot be loaded.
        Refused: It cannot be exported, or its vectors would be others.
    """
    where = locate(name)
    if isinstance(where, str):
        open_model(name, where)  # fetches it
        where = locate(name)
        if isinstance(where, str):
            raise EmbedderUnavailable(
                f"{str(name)!r} did not come into the hub's cache; set embedding_model to a folder"
            )
    source = weights_digest(where)
    folder = folder_of(source, models_dir)
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone(folder):
        if read_exported(folder, source=source) is not None:
            return folder
        try:
            _publish(folder, _export(name, where, source))
        except Refused as exc:
            write_refusal(folder, str(exc))
            raise
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time make this model; the lock ends with its process."""
    with folder.with_name(f"{folder.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _publish(folder: Path, exported: Exported) -> None:
    for left in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(left, ignore_errors=True)  # by a process that was killed: nobody else is here now
    making = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        write_exported(making, exported)
        if folder.exists():
            folder.rename(making / "replaced")  # a folder cannot be renamed onto one that holds something
        making.rename(folder)
        shutil.rmtree(folder / "replaced", ignore_errors=True)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _export(name: EmbeddingModel | str, where: Path, source: str) -> Exported:
    model = open_model(name, where, device="cpu")
    tokenizer = tokenizer_of(model, name, where)
    _refuse_unknown(model)
    limit = int(model.max_seq_length or 512)
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit, direction=model.tokenizer.truncation_side)
    with _attention_in_plain_steps(model):
        inputs, graph = _graph(model)
    text = tokenizer.to_str()
    dims = int(model.get_embedding_dimension() or 0)
    manifest = Manifest(
        format=FORMAT,
        source=source,
        space=space_name(where, dims=dims, limit=limit),
        dims=dims,
        limit=limit,
        unknown_id=unknown_id(model),
        pad_id=int(model.tokenizer.pad_token_id or 0),
        pad_type_id=int(getattr(model.tokenizer, "pad_token_type_id", 0)),
        pads_left=model.tokenizer.padding_side == "left",
        inputs=inputs,
        model_sha256=hashlib.sha256(graph).hexdigest(),
        tokenizer_sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    exported = Exported(manifest, graph, text)
    _refuse_other_vectors(model, exported)
    return _fused(model, exported)


def _refuse_unknown(model: Any) -> None:
    unknown = sorted({type(module).__name__ for module in model} - _MODULES)
    if unknown:
        raise Refused(f"it has modules of kinds that are not known here: {', '.join(unknown)}")
    prompt = (model.prompts or {}).get(model.default_prompt_name)
    if prompt:
        raise Refused(f"it puts {prompt!r} before each text")


@contextmanager
def _attention_in_plain_steps(model: Any) -> Iterator[None]:
    """Let a model be traced as ONNX Runtime's optimizer knows attention: product, scale, mask, softmax, product."""
    changed: list[tuple[Any, str]] = []
    for part in model:
        inner = getattr(part, "auto_model", None)
        before = getattr(getattr(inner, "config", None), "_attn_implementation", None)
        if inner is None or not isinstance(before, str):
            continue
        with suppress(AttributeError, ImportError, ValueError):  # it has no other way
            inner.set_attn_implementation("eager")
            changed.append((inner, before))
    try:
        yield
    finally:
        for inner, before in changed:
            inner.set_attn_implementation(before)


def _fused(model: Any, exported: Exported) -> Exported:
    """Return the model with attention and normalisation as one step each, where ONNX Runtime's optimizer finds them.

    A short text takes a quarter less time: most of the 300 steps are over sooner than the threads
    agree on the next one.
    """
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    with tempfile.TemporaryDirectory(prefix="cm-export-") as folder:
        plain = Path(folder) / "graph.onnx"
        plain.write_bytes(exported.model)
        try:
            from onnxruntime.transformers.optimizer import optimize_model

            graph = optimize_model(
                str(plain),
                model_type="bert",
                num_heads=int(getattr(config, "num_attention_heads", 0) or 0),
                hidden_size=int(getattr(config, "hidden_size", 0) or 0),
                opt_level=0,
            ).model.SerializeToString()
            manifest = replace(exported.manifest, model_sha256=hashlib.sha256(graph).hexdigest())
            fused = replace(exported, model=graph, manifest=manifest)
            _refuse_other_vectors(model, fused)
        except Exception as exc:  # noqa: BLE001 - a graph that the optimizer does not know is as good, only slower
            logger.info("%s keeps its graph as torch wrote it: %s", exported.manifest.space, str(exc)[:200])
            return exported
    return fused


def _graph(model: Any) -> tuple[list[str], bytes]:
    """Return the names of the inputs, and the graph from token ids to unit vectors."""
    import torch

    features = model.preprocess(["one text", "another text, somewhat longer than the first"])
    tensors = {name: value for name, value in features.items() if isinstance(value, torch.Tensor)}
    if set(tensors) - set(_INPUTS):
        raise Refused(f"it wants inputs that are not known here: {', '.join(sorted(set(tensors) - set(_INPUTS)))}")
    inputs = [name for name in _INPUTS if name in tensors]

    class WholeModel(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList(model)

        def forward(self, *tensors: Any) -> Any:
            features: dict[str, Any] = dict(zip(inputs, tensors, strict=True))
            for part in self.parts:
                features = part(features)
            return torch.nn.functional.normalize(features["sentence_embedding"], p=2, dim=-1)

    with tempfile.TemporaryDirectory(prefix="cm-export-") as folder:
        graph = Path(folder) / "graph.onnx"
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of constants in the trace: vectors are compared below instead
                torch.onnx.export(
                    WholeModel().eval(),
                    tuple(tensors[name] for name in inputs),
                    graph,
                    input_names=inputs,
                    output_names=["vectors"],
                    dynamic_axes={name: {0: "texts", 1: "tokens"} for name in inputs} | {"vectors": {0: "texts"}},
                    opset_version=_OPSET,
                    dynamo=False,
                )
        except Exception as exc:  # whatever a model of somebody else does when it is traced
            raise Refused(f"torch cannot export it: {str(exc)[:300]}") from exc
        if len(list(Path(folder).iterdir())) > 1:
            raise Refused("it is larger than the 2 GB that one ONNX file holds")
        return inputs, graph.read_bytes()


def _refuse_other_vectors(model: Any, exported: Exported) -> None:
    wanted = model.encode(
        list(_CHECKED_WITH), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
    )
    try:
        encode = open_exported(exported).encode
        together = encode(list(_CHECKED_WITH))
        alone = [encode([text])[0] for text in _CHECKED_WITH]
    except Exception as exc:
        raise Refused(f"ONNX Runtime cannot run what torch exported: {str(exc)[:300]}") from exc
    least = min(float(row @ other) for rows in (together, alone) for row, other in zip(rows, wanted, strict=True))
    if not least >= _LEAST_COSINE:  # `not`, because it may be NaN
        raise Refused(f"its vectors differ from those of torch: cosine {least:.5f}, wanted {_LEAST_COSINE}")


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(sys.argv[1:]))
