"""Vectors as records: what stands beside an entry in the shared store.

A vector's storage key holds the space, so vectors of another model are never even read.
Writers note every change in a journal; see follow.py for the reading side.
"""

from __future__ import annotations

from functools import cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from cache_management.cache.errors import CorruptRecord
from cache_management.cache.identity import KeySpace, digest


class StoredVector(msgspec.Struct, frozen=True, array_like=True):
    """One text's vector, and what it leads to.

    `response` is the answer itself when the vector stands alone, and None when the answer
    is an entry of the LLM cache under `key`: then the entry decides whether it is served.
    `scope` is the context it was asked in; a search never leaves its own.
    """

    key: str
    prompt: str
    response: str | None
    vector: bytes
    scope: str = ""

    def as_array(self) -> NDArray[np.float32]:
        """Return shape (d,), float32."""
        return np.frombuffer(self.vector, dtype="<f4")


_CLUSTER_BITS = 6
_OFF_LENGTH = 1e-3


def cluster_of(vector: NDArray[np.float32]) -> int:
    """Return which of 64 parts of the space a vector lies in; near ones mostly share it.

    Source: M. Charikar, "Similarity Estimation Techniques from Rounding Algorithms", 2002.
    """
    return int(np.packbits(_planes(len(vector)) @ vector > 0)[0]) >> (8 - _CLUSTER_BITS)


@cache
def _planes(dims: int) -> NDArray[np.float32]:
    # Seeded: every process must name the parts alike.
    return np.random.default_rng(0).standard_normal((_CLUSTER_BITS, dims), dtype=np.float32)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(StoredVector)


def vector_key(keys: KeySpace, space: str, key: str) -> str:
    """Return the storage key of the vector of an entry."""
    return keys.to_storage(f"{space}/{digest(key)}")


def space_prefix(keys: KeySpace, space: str) -> str:
    """Return what the storage keys of all vectors of one space begin with."""
    return keys.to_storage(f"{space}/")


def space_of(keys: KeySpace, vector_id: str) -> str | None:
    """Return the space that a vector's storage key names, or None when it names none."""
    space, slash, _ = (keys.from_storage(vector_id) or "").rpartition("/")
    return space if slash else None


def journal_name(namespace: str) -> str:
    """Return the journal stream that tells which vectors of a namespace changed."""
    return f"cm1:log:{namespace}:vectors"


def encode_vector(
    key: str, prompt: str, response: str | None, vector: NDArray[np.float32], *, scope: str = ""
) -> bytes:
    """Return the value of a vector's record."""
    return _encoder.encode(StoredVector(key, prompt, response, vector.astype("<f4").tobytes(), scope))


def decode_vector(value: bytes, *, dims: int | None) -> StoredVector:
    """Return the vector of a record's value; with `dims` None, of whatever width.

    Raises:
        CorruptRecord: The bytes are no vector, or none of this width.
    """
    try:
        found = _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise CorruptRecord(f"the vector cannot be decoded: {exc}") from exc
    if dims is None:
        dims = max(1, len(found.vector) // 4)
    if len(found.vector) != 4 * dims:
        raise CorruptRecord(f"the vector has {len(found.vector)} bytes, {4 * dims} were expected")
    # Not a number is not below either bound.
    if not abs(float(np.linalg.norm(found.as_array())) - 1) < _OFF_LENGTH:
        raise CorruptRecord("the vector is not of length 1")
    return found
