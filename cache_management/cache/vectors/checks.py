"""What may enter an index. Checked before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cache_management.cache.errors import InvalidInput

_TOLERANCE = 1e-3


def checked_rows(ids: Sequence[str], vectors: NDArray[np.float32], width: int | None) -> NDArray[np.float32]:
    """Return vectors as shape (n, d), float32, contiguous; `width` is that of the partition, if it has one.

    Raises:
        InvalidInput: A row is not finite, not of length 1 or of another width, or ids and rows do not pair up.
    """
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise InvalidInput(f"vectors have the shape {rows.shape}; give one row for each id")
    if len(ids) != len(rows):
        raise InvalidInput(f"{len(ids)} ids for {len(rows)} vectors; give one row for each id")
    if width is not None:
        _check_width(rows.shape[1], width, "vector")
    # Squares may overflow to infinity, which is no length of 1 either.
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        wrong = np.flatnonzero(~(np.abs(lengths - 1.0) <= _TOLERANCE))  # "not <=", because NaN compares as false
    if len(wrong):
        at = int(wrong[0])
        raise InvalidInput(f"the vector of {ids[at]!r} {_flaw(rows[at], float(lengths[at]))}")
    return rows


def checked_query(query: NDArray[np.float32], width: int | None) -> NDArray[np.float32]:
    """Return a query as shape (d,), float32, contiguous; `width` is that of the partition, if it has one.

    Raises:
        InvalidInput: It is not finite, not of length 1, or of another width.
    """
    row = np.ascontiguousarray(query, dtype=np.float32)
    if row.ndim != 1:
        raise InvalidInput(f"the query has the shape {row.shape}; give one vector")
    if width is not None:
        _check_width(len(row), width, "query")
    with np.errstate(over="ignore", invalid="ignore"):
        length = float(np.sqrt(row @ row))
    if not abs(length - 1.0) <= _TOLERANCE:
        raise InvalidInput(f"the query {_flaw(row, length)}")
    return row


def _check_width(found: int, width: int, what: str) -> None:
    if found != width:
        raise InvalidInput(
            f"the {what} has width {found}, the partition {width}: vectors of one partition come from one model"
        )


def _flaw(row: NDArray[np.float32], length: float) -> str:
    if not np.isfinite(row).all():
        return "is not finite; the model that made it is broken"
    return f"has length {length:.6g}; divide it by its length"
