"""An embedder over a model that one of the engines loaded."""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cache_management.cache.embeddings.micro_batch import MicroBatcher
from cache_management.cache.errors import EmbedderUnavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# English has about four characters a token: a prefix this much longer than the limit tells nearly always.
_CHARACTERS_A_TOKEN = 12
_MOST_CHARACTERS_A_TOKEN = 100  # of the longest word that WordPiece knows; a text beyond would be spaces, or no words
_RETRY_SECONDS = 10.0  # between two attempts to load a model that is not there
_embedders: weakref.WeakSet[ModelEmbedder] = weakref.WeakSet()


class LoadedModel(NamedTuple):
    """A model in memory.

    `encode` returns shape (n, dims), float32, rows of length 1. `measure` is a tokenizer of its own
    that cuts nothing off: the one that `encode` uses keeps truncation as state. `after_fork` makes
    the model usable in a forked child; None says that it has to be loaded again there.
    """

    engine: Literal["onnx", "torch"]
    encode: Callable[[list[str]], NDArray[np.float32]]
    measure: Any
    limit: int
    unknown_id: int | None
    dims: int
    space: str
    after_fork: Callable[[], None] | None = None


class ModelEmbedder:
    """Runs a model on a thread of its own, so that the event loop stays free.

    The library and the weights load at first use; that they are not there is believed for ten seconds.
    Single texts that are asked for while the model runs go through it together.
    """

    def __init__(self, model: str, load: Callable[[], LoadedModel]) -> None:
        self.model = model
        self._load = load
        self._loaded: LoadedModel | None = None
        self._failure: Exception | None = None
        self._retry_at = 0.0
        self._begin()
        _embedders.add(self)

    async def load(self) -> None:
        if self._loaded is None:
            await self._batches.run(self._model)

    @property
    def engine(self) -> Literal["onnx", "torch"]:
        """What runs the model; loads it when that was not done yet."""
        return self._model().engine

    @property
    def dims(self) -> int:
        return self._model().dims

    @property
    def space(self) -> str:
        return self._model().space

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return shape (n, dims), float32, rows of length 1.

        Raises:
            EmbedderUnavailable: The weights or the library are missing.
        """
        await self.load()
        return await self._batches.embed(texts)

    def fits(self, text: str) -> bool:
        """Tell whether the model reads the whole text: not cut off, and no sign of it unknown.

        Two texts whose only difference is an unknown sign have the same vector.
        """
        loaded = self._model()
        if not text.isascii() and not _is_unicode(text):
            return False
        if len(text) > loaded.limit * _MOST_CHARACTERS_A_TOKEN:
            return False  # a text without spaces is one unknown token: reading all of it takes seconds
        most = loaded.limit * _CHARACTERS_A_TOKEN
        if len(text) > most and not _reads_whole(loaded, text[:most], slack=8):
            return False  # without the time that a whole book takes
        return _reads_whole(loaded, text)

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        return self._model().encode([text if _is_unicode(text) else _mended(text) for text in texts])

    def _model(self) -> LoadedModel:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load_now()
            return self._loaded

    def _load_now(self) -> LoadedModel:
        if self._failure is not None and time.monotonic() < self._retry_at:
            # A look takes as long as a network that does not answer; not every caller shall wait for that.
            raise EmbedderUnavailable(str(self._failure)) from self._failure
        try:
            loaded = self._load()
        except (EmbedderUnavailable, ImportError) as exc:
            self._failure, self._retry_at = exc, time.monotonic() + _RETRY_SECONDS
            raise
        self._failure = None
        return loaded

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._batches = MicroBatcher(self._encode)

    def _came_out_of_a_fork(self) -> None:
        # The thread stayed in the parent, and so did whoever held the lock.
        self._begin()
        loaded = self._loaded
        if loaded is None:
            return
        if loaded.after_fork is not None:
            loaded.after_fork()
            return
        # Kept for ever: its threads did not come along, and a destructor would wait for them without end.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(loaded))
        self._loaded = None


def _all_came_out_of_a_fork() -> None:
    for embedder in list(_embedders):
        embedder._came_out_of_a_fork()


os.register_at_fork(after_in_child=_all_came_out_of_a_fork)


def _reads_whole(loaded: LoadedModel, text: str, *, slack: int = 0) -> bool:
    """Tell whether a text fits. A prefix that ends inside a word may have a few tokens more: `slack`."""
    ids = loaded.measure.encode(text).ids
    if len(ids) > loaded.limit + slack:
        return False
    return slack > 0 or loaded.unknown_id not in ids


def _is_unicode(text: str) -> bool:
    """Tell whether a text can be written down: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mended(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
