"""Vectors kept by text, so that a repeated question costs no model run."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cache_management.cache.embeddings.base import Embedder, checked_rows
from cache_management.cache.embeddings.vector_file import VectorFile
from cache_management.cache.errors import CacheError, EmbedderUnavailable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector: TypeAlias = NDArray[np.float32]

_FILE_BYTES = 256 * 2**20
_caches: weakref.WeakSet[CachingEmbedder] = weakref.WeakSet()


class CachingEmbedder:
    """An embedder in front of an embedder: the vectors used last stay in memory, and in a file if asked for.

    Safe to share between tasks, threads and event loops, and after a fork. A text that several tasks of
    one loop ask for at a time is embedded once. Rows that cannot be compared are refused.

    Args:
        inner: Turns texts into vectors.
        max_size: Vectors kept in memory; 0 keeps none and still checks what `inner` gives.
        folder: Where vectors are kept for other processes and later starts, by digests of the texts; None
            for memory alone.
        max_file_bytes: What the vectors in that folder may take.
    """

    def __init__(
        self,
        inner: Embedder,
        *,
        max_size: int = 10_000,
        folder: Path | None = None,
        max_file_bytes: int = _FILE_BYTES,
    ) -> None:
        self.model = inner.model
        self._inner = inner
        self._max_size = max_size
        self._vectors: OrderedDict[bytes, Vector] = OrderedDict()
        self._fits: OrderedDict[bytes, bool] = OrderedDict()
        self._flights: dict[bytes, asyncio.Future[Vector | None]] = {}
        self._tasks: set[asyncio.Task[dict[bytes, Vector]]] = set()
        self._lock = threading.Lock()
        self._file = None if folder is None else _SharedFile(VectorFile(folder, max_bytes=max_file_bytes))
        _caches.add(self)

    async def load(self) -> None:
        with _told(self.model):
            await self._inner.load()

    @property
    def dims(self) -> int:
        return self._inner.dims

    @property
    def space(self) -> str:
        return self._inner.space

    def fits(self, text: str) -> bool:
        name = _name(text)
        known = self._fits.get(name)
        if known is None:
            # A repeated question costs a digest instead of a tokenizer.
            with _told(self.model):
                known = self._inner.fits(text)
            with self._lock:
                self._fits[name] = known
                while len(self._fits) > self._max_size:
                    self._fits.popitem(last=False)
        return known

    async def embed(self, texts: Sequence[str]) -> Vector:
        """Return shape (n, dims), float32, rows of length 1.

        Raises:
            EmbedderUnavailable: The model is missing, or gave rows that cannot be compared.
        """
        keys = [_name(text) for text in texts]
        # Taken before the model runs: another call may push them out meanwhile.
        known = self._from_memory(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            known |= await self._embed_missing(missing)
        return np.stack([known[key] for key in keys]) if keys else np.empty((0, self.dims), dtype=np.float32)

    async def embed_anew(self, texts: Sequence[str]) -> Vector:
        """Do what `embed` does, without what is kept; what comes is kept instead."""
        keys = [_name(text) for text in texts]
        found = await self._ask(dict(zip(keys, texts, strict=True)), anew=True) if texts else {}
        return np.stack([found[key] for key in keys]) if keys else np.empty((0, self.dims), dtype=np.float32)

    def close(self) -> None:
        """Write what is waiting, and close the file; it opens again when it is needed."""
        if self._file is not None:
            self._file.close()

    def _from_memory(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        with self._lock:
            known = {}
            for key in keys:
                if key in self._vectors:
                    self._vectors.move_to_end(key)
                    known[key] = self._vectors[key]
            return known

    def _keep(self, vectors: Mapping[bytes, Vector]) -> None:
        with self._lock:
            for key, vector in vectors.items():
                self._vectors[key] = vector
                self._vectors.move_to_end(key)
            while len(self._vectors) > self._max_size:
                self._vectors.popitem(last=False)

    async def _embed_missing(self, missing: Mapping[bytes, str]) -> dict[bytes, Vector]:
        loop = asyncio.get_running_loop()
        joined: dict[bytes, asyncio.Future[Vector | None]] = {}
        own: dict[bytes, asyncio.Future[Vector | None]] = {}
        with self._lock:
            for key in missing:
                flight = self._flights.get(key)
                if flight is not None and flight.get_loop() is loop:
                    joined[key] = flight
                else:
                    self._flights[key] = own[key] = loop.create_future()
        found: dict[bytes, Vector] = {}
        if own:
            # A task of its own: whoever joined goes on when the one that began is cancelled.
            task = loop.create_task(self._fly(own, {key: missing[key] for key in own}))
            self._tasks.add(task)
            task.add_done_callback(self._landed)
            found |= await asyncio.shield(task)
        for key, flight in joined.items():
            vector = await asyncio.shield(flight)
            if vector is not None:
                found[key] = vector
        # Another's call failed, perhaps for another of its texts: ask for ours alone.
        failed = {key: missing[key] for key in joined if key not in found}
        return found | (await self._ask(failed) if failed else {})

    async def _fly(
        self, flights: Mapping[bytes, asyncio.Future[Vector | None]], texts: Mapping[bytes, str]
    ) -> dict[bytes, Vector]:
        found: dict[bytes, Vector] = {}
        try:
            found = await self._ask(texts)
            return found
        finally:
            with self._lock:
                for key, flight in flights.items():
                    if self._flights.get(key) is flight:
                        del self._flights[key]
            for key, flight in flights.items():
                if not flight.done():
                    flight.set_result(found.get(key))

    def _landed(self, task: asyncio.Task[dict[bytes, Vector]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told to whoever waited; if nobody did, nobody needs a warning

    async def _ask(self, texts: Mapping[bytes, str], *, anew: bool = False) -> dict[bytes, Vector]:
        """Return the vectors of texts: from the file, else from the model; keep them."""
        await self.load()
        found: dict[bytes, Vector] = {}
        if self._file is not None and not anew:
            found = await self._file.get_many(list(texts), space=self.space, dims=self.dims)
        rest = {key: text for key, text in texts.items() if key not in found}
        if rest:
            with _told(self.model):
                rows = await self._inner.embed(list(rest.values()))
            rows = checked_rows(rows, model=self.model, texts=len(rest), dims=self.dims)
            # Copied, because a row that is kept would keep its whole batch.
            fresh = {key: row.copy() for key, row in zip(rest, rows, strict=True)}
            if self._file is not None:
                self._file.put_soon(fresh, space=self.space)
            found |= fresh
        self._keep(found)
        return found

    def _came_out_of_a_fork(self) -> None:
        self._lock = threading.Lock()
        self._flights, self._tasks = {}, set()
        if self._file is not None:
            self._file.begin()


@contextmanager
def _told(model: str) -> Iterator[None]:
    """Raise what a model raises as what callers expect: its libraries raise what they like (no memory, a lost device).

    Raises:
        EmbedderUnavailable: The model failed.
    """
    try:
        yield
    except (CacheError, ImportError):
        raise
    except Exception as exc:
        raise EmbedderUnavailable(f"{model} failed: {type(exc).__name__}: {str(exc)[:200]}") from exc


def _all_came_out_of_a_fork() -> None:
    for cache in list(_caches):
        cache._came_out_of_a_fork()


os.register_at_fork(after_in_child=_all_came_out_of_a_fork)


class _SharedFile:
    """A vector file on a thread of its own: a slow disk holds up no event loop."""

    def __init__(self, file: VectorFile) -> None:
        self._file = file
        self.begin()

    def begin(self) -> None:
        """Take a new thread: the old one stayed in the parent of a fork."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cache-vectors")

    async def get_many(self, keys: Sequence[bytes], *, space: str, dims: int) -> dict[bytes, Vector]:
        names = {_in_space(space, key): key for key in keys}
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._thread, lambda: self._file.get_many(list(names), dims=dims))
        return {names[name]: vector for name, vector in found.items()}

    def put_soon(self, vectors: Mapping[bytes, Vector], *, space: str) -> None:
        """Write without holding up whoever waits for the vectors."""
        self._thread.submit(self._file.put_many, {_in_space(space, key): vector for key, vector in vectors.items()})

    def close(self) -> None:
        self._thread.submit(self._file.close).result()


async def embed_anew(embedder: Embedder, texts: Sequence[str]) -> Vector:
    """Return what the model gives for texts now, shape (n, dims), whatever is kept of them.

    Raises:
        EmbedderUnavailable: The model is missing, or gave rows that cannot be compared.
    """
    if isinstance(embedder, CachingEmbedder):
        return await embedder.embed_anew(texts)
    return await embedder.embed(texts)


def _name(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def _in_space(space: str, key: bytes) -> bytes:
    return hashlib.blake2b(key, key=hashlib.blake2b(space.encode()).digest(), digest_size=16).digest()
