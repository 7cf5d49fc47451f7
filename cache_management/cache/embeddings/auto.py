"""Which engine runs a model when nobody says."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from cache_management.cache.config import EmbeddingModel
from cache_management.cache.embeddings.model import LoadedModel, ModelEmbedder
from cache_management.cache.embeddings.weights import locate
from cache_management.cache.errors import EmbedderUnavailable

logger = logging.getLogger("cache_management")


class AutoEmbedder(ModelEmbedder):
    """Runs a model by ONNX Runtime if it can, else by torch; it decides when the model is loaded."""

    def __init__(self, model: EmbeddingModel | str, *, device: str | None = None, models_dir: Path | None = None):
        super().__init__(str(model), lambda: _load(model, device=device, models_dir=models_dir))


def _load(name: EmbeddingModel | str, *, device: str | None, models_dir: Path | None) -> LoadedModel:
    has_onnx, has_torch = (importlib.util.find_spec(each) for each in ("onnxruntime", "sentence_transformers"))
    if not has_onnx and not has_torch:
        raise ImportError(
            "Meaning needs an engine: pip install 'cache-management[semantic]', or 'cache-management[onnx]' "
            "where the model was exported already"
        )
    # A model of the hub that never came is left to torch, which fetches it; from the next start on it has a folder.
    if has_onnx and (not has_torch or isinstance(locate(name), Path)):
        from cache_management.cache.embeddings.onnx_runtime import load_onnx

        try:
            return load_onnx(name, models_dir=models_dir)
        except EmbedderUnavailable as exc:
            if not has_torch:
                raise
            logger.info("%s runs by torch: %s", name, exc)
    from cache_management.cache.embeddings.sentence_transformers import load_torch

    return load_torch(name, device=device)
