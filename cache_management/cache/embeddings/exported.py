"""A model exported to ONNX, as it lies in a folder: what a reader needs, and the proof that it is whole.

<models_dir>/onnx1-<digest of the weights>/
    manifest.json     format, source, space, sums of the files below; written last
    model.onnx        token ids to unit vectors: pooling and normalisation are part of it
    tokenizer.json    cuts off at the model's limit
<models_dir>/onnx1-<digest>.refused    why this model has none, and under which versions that was found
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import msgspec

from cache_management.cache.config import default_data_dir

FORMAT = 1
_MANIFEST, _MODEL, _TOKENIZER = "manifest.json", "model.onnx", "tokenizer.json"


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a reader has to know. `inputs` are names of the graph's inputs, in `space` is the engine not."""

    format: int
    source: str
    space: str
    dims: int
    limit: int
    unknown_id: int | None
    pad_id: int
    pad_type_id: int
    pads_left: bool
    inputs: list[str]
    model_sha256: str
    tokenizer_sha256: str


class Exported(msgspec.Struct, frozen=True):
    """A whole exported model, read and checked."""

    manifest: Manifest
    model: bytes
    tokenizer: str


class _Refused(msgspec.Struct, frozen=True):
    reason: str
    versions: dict[str, str]


def folder_of(source: str, models_dir: Path | None = None) -> Path:
    """Return where the exported model of these weights belongs."""
    return (models_dir or default_data_dir() / "models") / f"onnx{FORMAT}-{source}"


def read_exported(folder: Path, *, source: str) -> Exported | None:
    """Return the exported model of a folder; None when it is absent, torn, changed, or made from other weights."""
    try:
        manifest = msgspec.json.decode((folder / _MANIFEST).read_bytes(), type=Manifest)
        if manifest.format != FORMAT or manifest.source != source:
            return None
        # Checked and used from memory, so that nothing can change between the two.
        model, tokenizer = (folder / _MODEL).read_bytes(), (folder / _TOKENIZER).read_bytes()
    except (OSError, msgspec.DecodeError):
        return None
    sums = (hashlib.sha256(model).hexdigest(), hashlib.sha256(tokenizer).hexdigest())
    if sums != (manifest.model_sha256, manifest.tokenizer_sha256):
        return None
    return Exported(manifest, model, tokenizer.decode())


def write_exported(folder: Path, exported: Exported) -> None:
    """Write the three files into an empty folder, down to the disk."""
    files: Mapping[str, bytes] = {
        _MODEL: exported.model,
        _TOKENIZER: exported.tokenizer.encode(),
        _MANIFEST: msgspec.json.format(msgspec.json.encode(exported.manifest)),
    }
    for name, content in files.items():
        with (folder / name).open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())


def refusal(folder: Path) -> str | None:
    """Return why the libraries installed now could not export this model, when that was tried already."""
    try:
        found = msgspec.json.decode(_refusal_of(folder).read_bytes(), type=_Refused)
    except (OSError, msgspec.DecodeError):
        return None
    return found.reason if found.versions == _versions() else None


def write_refusal(folder: Path, reason: str) -> None:
    """Remember why a model cannot be exported, so that not every start tries it again."""
    _refusal_of(folder).write_bytes(msgspec.json.encode(_Refused(reason, _versions())))


def _refusal_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.refused")


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("torch", "transformers", "sentence-transformers", "onnx", "onnxruntime"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = ""
    return versions
