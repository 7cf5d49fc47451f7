"""An index that all processes share, such as pgvector: it needs no following."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cache_management.cache.vectors.base import VectorIndex


class SharedVectors:
    """Does for a shared index what `Follower` does for one of this process: what is put there all find at once.

    What expires leaves when it is met. A vector is looked for where its scope says, so whoever removes one
    says its scope.
    """

    def __init__(self, index: VectorIndex, *, prefix: str) -> None:
        self._index = index
        self._prefix = prefix

    def partition(self, scope: str) -> str:
        """Return the name of the partition that holds a scope."""
        return f"{self._prefix}{scope}"

    def scopes(self) -> list[str]:
        """Return the scopes that are searched when nobody names one."""
        return [""]

    async def catch_up(self) -> None:
        """Do nothing: it is up to date."""

    async def absent(self, scopes: Mapping[str, str]) -> set[str]:
        """Return those storage keys whose vector is not where its scope says."""
        return await self._index.absent({key: self.partition(scope) for key, scope in scopes.items()})

    async def put(self, rows: Mapping[str, NDArray[np.float32]], scopes: Mapping[str, str]) -> None:
        """Add or replace vectors by storage key; shapes (d,)."""
        for scope in set(scopes.values()):
            keys = [key for key in rows if scopes[key] == scope]
            await self._index.add(self.partition(scope), keys, np.stack([rows[key] for key in keys]))

    async def remove(self, keys: Sequence[str], scopes: Mapping[str, str]) -> None:
        """Forget vectors; keys that are not there are passed over."""
        for scope in set(scopes.values()):
            await self._index.remove(self.partition(scope), [key for key in keys if scopes.get(key) == scope])

    async def aclose(self) -> None:
        """Do nothing: it is kept where it is."""
