"""Texts to vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from cache_management.cache.errors import EmbedderUnavailable

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


_OFF_UNIT_LENGTH = 0.01
_ROUNDING = 1e-6


def checked_rows(rows: NDArray[np.float32], *, model: str, texts: int, dims: int) -> NDArray[np.float32]:
    """Return what an embedder answered in rows of length 1, when that can be compared at all.

    Cosine similarity is taken as a plain product here, so a vector of another length would pass for a
    likeness that is not there.

    Raises:
        EmbedderUnavailable: Not one row for each text, another width than `dims`, or a row with NaN,
            infinity or another length than 1.
    """
    import numpy as np

    try:
        rows = np.asarray(rows, dtype=np.float32)
    except (TypeError, ValueError) as exc:
        raise EmbedderUnavailable(
            f"the embedding model {model!r} gave no numbers but {type(rows).__name__}; its `embed` must return an array"
            " of one row for each text"
        ) from exc
    if rows.shape != (texts, dims):
        raise EmbedderUnavailable(
            f"the embedding model {model!r} gave an array of shape {rows.shape} for {texts} texts of width {dims}; "
            "its `embed` must return one row of `dims` numbers for each text"
        )
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    wrong = np.flatnonzero(~(np.abs(lengths - 1.0) <= _OFF_UNIT_LENGTH))  # `~`, because NaN compares as false
    if wrong.size:
        row = int(wrong[0])
        raise EmbedderUnavailable(
            f"the embedding model {model!r} gave no unit vector in row {row} of {texts} (length {lengths[row]}); "
            "its `embed` must return finite rows of length 1"
        )
    off = np.abs(lengths - 1.0) > _ROUNDING
    # Half precision is off by thousandths, and an index takes less than that.
    return rows / lengths[:, np.newaxis] if off.any() else rows
