"""Texts to vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from cache_management.cache.config import EmbeddingModel
from cache_management.cache.embeddings.base import Embedder
from cache_management.cache.errors import ConfigurationError

Engine = Literal["auto", "onnx", "torch"]
ENGINES: Final[tuple[Engine, ...]] = ("auto", "onnx", "torch")


def open_embedder(
    model: EmbeddingModel | str,
    *,
    engine: Engine = "auto",
    device: str | None = None,
    models_dir: Path | None = None,
) -> Embedder:
    """Return the embedder for a model; nothing is loaded yet.

    Args:
        model: One of `EmbeddingModel`, a local folder, or a name of the hub; `hashing` names the one that
            needs no weights and knows no meaning.
        engine: What runs it. `auto` takes ONNX Runtime where that is installed and the model is exported or
            can be, else torch. Both give the same vectors.
        device: Where torch runs it, as torch names it; anything but `cpu` means torch. None takes a GPU when the
            engine is torch and finds one: `auto` looks for none, so say `engine="torch"` to have it.
        models_dir: Where exported models are kept; None for the folder `models` in the data folder.

    Raises:
        ConfigurationError: There is no such engine, or it cannot run on that device.
    """
    if engine not in ENGINES:
        raise ConfigurationError(f"there is no embedding engine {engine!r}; take one of {', '.join(ENGINES)}")
    if model == "hashing":
        from cache_management.cache.embeddings.hashing import HashingEmbedder

        return HashingEmbedder()
    if engine == "torch" or (engine == "auto" and device not in {None, "cpu"}):
        from cache_management.cache.embeddings.sentence_transformers import SentenceTransformerEmbedder

        return SentenceTransformerEmbedder(model, device=device)
    if device not in {None, "cpu"}:
        raise ConfigurationError(f"engine 'onnx' runs on the processor, not on {device!r}; take engine 'torch'")
    if engine == "onnx":
        from cache_management.cache.embeddings.onnx_runtime import OnnxEmbedder

        return OnnxEmbedder(model, models_dir=models_dir)
    from cache_management.cache.embeddings.auto import AutoEmbedder

    return AutoEmbedder(model, device=device, models_dir=models_dir)
