"""The same models by ONNX Runtime: no torch to load, a third of the time for a single text."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache_management.cache.config import EmbeddingModel
from cache_management.cache.embeddings.exported import Exported, Manifest, folder_of, read_exported, refusal
from cache_management.cache.embeddings.grouping import group_by_length
from cache_management.cache.embeddings.model import LoadedModel, ModelEmbedder
from cache_management.cache.embeddings.weights import locate, weights_digest
from cache_management.cache.errors import EmbedderUnavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger("cache_management")

_EXPORT_SECONDS = 900
# A larger batch takes as much CPU for each text or more, and the memory it took once is kept: for MiniLM 84 MB after
# 1,024 tokens, 355 MB after 4,096.
_MOST_TOKENS = 512
_MOST_THREADS = 8


class OnnxEmbedder(ModelEmbedder):
    """Runs a sentence-transformers model by ONNX Runtime, on the processor.

    The model is exported once, which needs torch; from then on nothing loads torch. Its vectors
    are those of `SentenceTransformerEmbedder` (cosine at least 0.9999), in the same space.

    Args:
        model: One of `EmbeddingModel`, a local folder, or a name of the hub.
        models_dir: Where exported models are kept; None for the folder `models` in the data folder.
    """

    def __init__(self, model: EmbeddingModel | str = EmbeddingModel.MINILM, *, models_dir: Path | None = None) -> None:
        super().__init__(str(model), lambda: load_onnx(model, models_dir=models_dir))


def load_onnx(name: EmbeddingModel | str, *, models_dir: Path | None = None) -> LoadedModel:
    """Load a model into ONNX Runtime, exported first when nobody did so yet.

    Raises:
        EmbedderUnavailable: There is no exported model, and none can be made.
        ImportError: ONNX Runtime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("tokenizers") is None:
        raise ImportError("The ONNX engine needs: pip install 'cache-management[onnx]'")
    where = locate(name)
    exported = _find(where, models_dir) or _make(name, where, models_dir)
    return open_exported(exported)


def open_exported(exported: Exported) -> LoadedModel:
    """Return an exported model, ready to encode.

    Raises:
        EmbedderUnavailable: ONNX Runtime cannot read it.
    """
    # Read when the library is imported. Releases since 1.29 send notes about models and their use to
    # their maker, and the thread that does so hangs a forked child when it ends.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "numkong" in sys.modules and "onnxruntime" not in sys.modules:
        # It would take the whole process with it; our own index loads the two in the right order, see vectors/graph.py.
        raise EmbedderUnavailable(
            "ONNX Runtime cannot be loaded after usearch, which somebody imported before: import onnxruntime first"
        )
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that wait in a loop take the processor from the application that asks. Spinning makes a lone short
    # text a third faster on an idle machine, and one of 27 tokens twice as slow on a busy one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    manifest = exported.manifest
    try:
        session = onnxruntime.InferenceSession(exported.model, options, providers=["CPUExecutionProvider"])
        cutting, measure = Tokenizer.from_str(exported.tokenizer), Tokenizer.from_str(exported.tokenizer)
    except Exception as exc:  # both libraries raise classes of their own that share nothing else
        raise EmbedderUnavailable(f"the exported model of {manifest.space} cannot be read: {str(exc)[:200]}") from exc
    # Kept by the session to open itself again for other devices, which nobody asks of it: a second copy of the weights.
    session._model_bytes = None
    measure.no_truncation()
    return LoadedModel(
        engine="onnx",
        encode=lambda texts: _encode(session, cutting, manifest, texts),
        measure=measure,
        limit=manifest.limit,
        unknown_id=manifest.unknown_id,
        dims=manifest.dims,
        space=manifest.space,
    )


def _find(where: Path | str, models_dir: Path | None) -> Exported | None:
    if isinstance(where, str):
        return None
    source = weights_digest(where)
    return read_exported(folder_of(source, models_dir), source=source)


def _make(name: EmbeddingModel | str, where: Path | str, models_dir: Path | None) -> Exported:
    missing = [each for each in ("torch", "sentence_transformers", "onnx") if importlib.util.find_spec(each) is None]
    if missing:
        raise EmbedderUnavailable(
            f"{str(name)!r} has no exported model yet, and making one needs {', '.join(missing)}: "
            "pip install 'cache-management[onnx,semantic]' once, on any machine, and share the folder `models`"
        )
    if reason := _refused(where, models_dir):
        raise EmbedderUnavailable(f"{str(name)!r} cannot be exported to ONNX: {reason}; use engine='torch'")
    logger.info("exporting %s to ONNX; this is done once", name)
    said = _export_elsewhere(name, models_dir)
    where = locate(name)
    if exported := _find(where, models_dir):
        return exported
    reason = _refused(where, models_dir) or said
    raise EmbedderUnavailable(f"{str(name)!r} cannot be exported to ONNX: {reason}; use engine='torch'")


def _refused(where: Path | str, models_dir: Path | None) -> str | None:
    return None if isinstance(where, str) else refusal(folder_of(weights_digest(where), models_dir))


def _export_elsewhere(name: EmbeddingModel | str, models_dir: Path | None) -> str:
    """Export in a process of its own, so that torch does not stay in this one; return what it complained of."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(each for each in sys.path if each),
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "cache_management.cache.embeddings.onnx_export", str(name)]
    command += [] if models_dir is None else [str(models_dir)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=_EXPORT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    return (done.stderr.strip().splitlines() or ["it ended without a word"])[-1][:500]


def _threads() -> int:
    """Return how many threads share one run: as many as processors, as OMP_NUM_THREADS says, or 8."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, _MOST_THREADS)


def _encode(session: Any, tokenizer: Any, manifest: Manifest, texts: list[str]) -> NDArray[np.float32]:
    import numpy as np

    found = tokenizer.encode_batch(texts)
    rows = np.empty((len(texts), manifest.dims), dtype=np.float32)
    counts = [len(each.ids) for each in found]
    for group in group_by_length(counts):
        step = max(1, _MOST_TOKENS // counts[group[0]])
        for at in range(0, len(group), step):
            part = group[at : at + step]
            rows[part] = session.run(None, _inputs(manifest, [found[each] for each in part]))[0]
    return rows


def _inputs(manifest: Manifest, found: list[Any]) -> dict[str, NDArray[np.int64]]:
    import numpy as np

    shape = (len(found), max(len(each.ids) for each in found))
    inputs = {
        "input_ids": np.full(shape, manifest.pad_id, dtype=np.int64),
        "attention_mask": np.zeros(shape, dtype=np.int64),
        "token_type_ids": np.full(shape, manifest.pad_type_id, dtype=np.int64),
    }
    for row, each in enumerate(found):
        place = slice(shape[1] - len(each.ids), None) if manifest.pads_left else slice(len(each.ids))
        inputs["input_ids"][row, place] = each.ids
        inputs["attention_mask"][row, place] = 1
        inputs["token_type_ids"][row, place] = each.type_ids
    return {name: inputs[name] for name in manifest.inputs}
