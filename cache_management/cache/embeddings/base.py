"""Texts to vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Embedder(Protocol):
    """Turns texts into unit vectors.

    `space` names everything that makes two vectors comparable (weights, width, pooling,
    token limit); vectors of different spaces are never compared.
    """

    model: str

    async def load(self) -> None:
        """Load the model now instead of at first use.

        Raises:
            EmbedderUnavailable: The weights or the library are missing.
        """

    @property
    def dims(self) -> int: ...

    @property
    def space(self) -> str: ...

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return shape (n, dims), float32, rows of length 1."""

    def fits(self, text: str) -> bool:
        """Tell whether the model reads the whole text; beyond its limit two texts may look alike."""
