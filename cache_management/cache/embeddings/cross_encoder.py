"""A cross-encoder as second opinion: a model that reads two texts together and scores them."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

from cache_management.cache.errors import EmbedderUnavailable, InvalidInput


class CrossEncoderOpinion:
    """Says whether two questions mean the same, by a cross-encoder of sentence-transformers.

    Give it to `CacheManager(second_opinion=...)`. The library and the weights load at first use.

    Args:
        model: A folder with the weights, or a name of the hub.
        at_least: The score from which they mean the same; each model has a scale of its own.
        device: torch's, such as "cuda".

    Raises:
        InvalidInput: The folder does not exist, or the score is no number.
    """

    def __init__(self, model: str | Path, *, at_least: float = 0.5, device: str | None = None) -> None:
        if not math.isfinite(at_least):
            raise InvalidInput(f"at_least must be a score that the model can give, not {at_least}")
        self.model = str(model)
        if self.model.startswith((".", "/", "~")) and not Path(self.model).expanduser().is_dir():
            raise InvalidInput(f"the cross-encoder folder {self.model!r} does not exist")
        self.at_least = at_least
        self._device = device
        self._lock = threading.Lock()
        self._loaded: Any = None

    def __call__(self, asked: str, stored: str) -> bool:
        """Return whether one answer serves both. Blocks while the model runs.

        Raises:
            EmbedderUnavailable: The model cannot be loaded.
        """
        return self.score(asked, stored) >= self.at_least

    def score(self, asked: str, stored: str) -> float:
        """Return what the model says: for most models 0 to 1, the more the better.

        Raises:
            EmbedderUnavailable: The model cannot be loaded.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return float(self._loaded.predict([(asked, stored)], show_progress_bar=False)[0])

    def _load(self) -> Any:
        try:
            from sentence_transformers import CrossEncoder
        except ImportError as exc:
            raise EmbedderUnavailable("A cross-encoder needs: pip install 'cache-management[semantic]'") from exc
        try:
            return CrossEncoder(self.model, device=self._device, local_files_only=Path(self.model).exists())
        except Exception as exc:  # the library raises what its many parts raise
            raise EmbedderUnavailable(
                f"the cross-encoder {self.model!r} cannot be loaded: {str(exc)[:200]}; give a folder with its weights"
            ) from exc
