"""Where the index of a namespace is kept between two starts, and for which store it is right."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

from cache_management.cache.backends.base import Backend
from cache_management.cache.clock import VersionClock
from cache_management.cache.identity import KeySpace, digest
from cache_management.cache.records import Record
from cache_management.cache.vectors.auto import AutoIndex
from cache_management.cache.vectors.snapshot import Restored

_STORE = "store"


class Snapshot:
    """One file for one store, namespace and model.

    A position in a journal means something in that journal only, so the store carries a name of its own: one
    that was emptied, or another one, has another.
    """

    def __init__(
        self, folder: Path, index: AutoIndex, *, backend: Backend, namespace: str, prefix: str, versions: VersionClock
    ) -> None:
        self._path = folder / f"{digest(prefix)}.index"
        self._index = index
        self._backend = backend
        self._record = KeySpace("evd", namespace).to_storage(_STORE)
        self._prefix = prefix
        self._versions = versions

    async def write(self, position: str) -> None:
        """Keep the index as it is at a position of the journal.

        Raises:
            BackendRefused: The file cannot be written.
            BackendUnavailable: The store cannot be asked for its name.
        """
        await self._index.save(self._path, position=position, space=await self._space())

    async def discard(self) -> None:
        """Remove the file: the next start reads everything."""
        await asyncio.to_thread(self._path.unlink, missing_ok=True)

    async def read(self) -> str | None:
        """Fill the index from the file; return its position, or None when there is none that is right.

        Raises:
            BackendUnavailable: The store cannot be asked for its name.
        """
        found = await self._index.load(self._path, space=await self._space())
        return found.position if isinstance(found, Restored) else None

    def members(self) -> Iterator[tuple[str, list[str]]]:
        """Return the partitions of the index and the ids in them."""
        return self._index.members()

    async def _space(self) -> str:
        record = await self._backend.get(self._record)
        if record is None:
            await self._backend.put(self._record, Record(secrets.token_bytes(16), None, self._versions.next()))
            record = await self._backend.get(self._record)
        name = b"" if record is None else record.value
        return f"{self._prefix} {name.hex()}"
