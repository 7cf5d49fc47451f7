"""MiniLM, MPNet, DistilBERT and any other sentence-transformers model, by torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache_management.cache.config import EmbeddingModel
from cache_management.cache.embeddings.grouping import group_by_length
from cache_management.cache.embeddings.model import LoadedModel, ModelEmbedder
from cache_management.cache.embeddings.weights import cannot_load, locate, space_name
from cache_management.cache.errors import EmbedderUnavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_HUB_SECONDS = 5.0


class SentenceTransformerEmbedder(ModelEmbedder):
    """Runs a sentence-transformers model by torch.

    Args:
        model: One of `EmbeddingModel`, a local folder, or a name of the hub.
        device: Where torch runs it, as torch names it ("cpu", "cuda", "cuda:1", "mps"); None takes a
            GPU when torch finds one.
    """

    def __init__(self, model: EmbeddingModel | str = EmbeddingModel.MINILM, *, device: str | None = None) -> None:
        super().__init__(str(model), lambda: load_torch(model, device=device))


def load_torch(name: EmbeddingModel | str, *, device: str | None = None) -> LoadedModel:
    """Load a model into torch; takes seconds.

    Raises:
        EmbedderUnavailable: The weights are missing or cannot be read, or torch has no such device.
    """
    where = locate(name)
    model = open_model(name, where, device=device)
    if isinstance(where, str):
        where = locate(name)  # it was fetched just now: its bytes name it, not its name
    measure = tokenizer_of(model, name, where)
    measure.no_truncation()
    measure.no_padding()
    dims, limit = int(model.get_embedding_dimension() or 0), int(model.max_seq_length or 512)
    return LoadedModel(
        engine="torch",
        encode=lambda texts: _encode(model, measure, limit, dims, texts),
        measure=measure,
        limit=limit,
        unknown_id=unknown_id(model),
        dims=dims,
        space=space_name(where, dims=dims, limit=limit),
        after_fork=_stay_on_one_thread,
    )


def open_model(name: EmbeddingModel | str, where: Path | str, *, device: str | None = None) -> Any:
    """Return the SentenceTransformer of a folder or a name of the hub, ready to encode.

    Raises:
        EmbedderUnavailable: It cannot be loaded.
    """
    # Forked workers and a threaded tokenizer deadlock each other; one text needs no threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if isinstance(where, Path):
        # Read before the import below: with local weights nothing may look for a network.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as exc:
        raise ImportError("Meaning needs a model: pip install 'cache-management[semantic]'") from exc
    if isinstance(where, str):
        _refuse_unreachable(name, where)
    try:
        model = SentenceTransformer(str(where), device=device)
    except (OSError, ValueError, RuntimeError, AssertionError) as exc:  # torch asserts that it was built for CUDA
        raise cannot_load(name, where, exc) from exc
    model.eval()
    return model


def _refuse_unreachable(name: EmbeddingModel | str, where: str) -> None:
    """Ask the hub once whether it knows a model: the library itself asks for more than a minute before it gives up."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(where, timeout=_HUB_SECONDS)
    except Exception as exc:  # whatever its HTTP library raises
        raise cannot_load(name, where, exc) from exc


def tokenizer_of(model: Any, name: EmbeddingModel | str, where: Path | str) -> Any:
    """Return a copy of a model's tokenizer, without torch around it.

    Raises:
        EmbedderUnavailable: It has none that can be copied.
    """
    from tokenizers import Tokenizer

    inner = getattr(model.tokenizer, "backend_tokenizer", None)
    if not isinstance(inner, Tokenizer):
        reason = f"its tokenizer ({type(model.tokenizer).__name__}) is not one of the `tokenizers` library"
        raise EmbedderUnavailable(
            f"the embedding model {str(name)!r} from {where} cannot be used: {reason}; choose a model with one"
        )
    return Tokenizer.from_str(inner.to_str())


def unknown_id(model: Any) -> int | None:
    """Return the id of the token that stands for signs the model does not know."""
    found = getattr(model.tokenizer, "unk_token_id", None)
    return None if found is None else int(found)


def _encode(model: Any, measure: Any, limit: int, dims: int, texts: list[str]) -> NDArray[np.float32]:
    import numpy as np

    rows = np.empty((len(texts), dims), dtype=np.float32)
    counts = [1] if len(texts) == 1 else [min(len(each.ids), limit) for each in measure.encode_batch(texts)]
    for group in group_by_length(counts):
        rows[group] = model.encode(
            [texts[at] for at in group],
            batch_size=len(group),
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
    return rows


def _stay_on_one_thread() -> None:
    import torch

    # The other threads stayed in the parent, and OpenMP would wait for them for ever.
    torch.set_num_threads(1)
