from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cache_management.cache.errors import CorruptRecord
from cache_management.cache.identity import KeySpace
from cache_management.cache.semantic.stored_vectors import (
    decode_vector,
    encode_vector,
    journal_name,
    space_prefix,
    vector_key,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(key=TEXT, prompt=TEXT, response=st.none() | TEXT, numbers=st.lists(st.floats(width=32), min_size=4, max_size=4))
def test_vector_comes_back_as_it_went_in(key: str, prompt: str, response: str | None, numbers: list[float]) -> None:
    row = np.array(numbers, dtype=np.float32)
    with np.errstate(all="ignore"):
        row /= np.linalg.norm(row)
    stored = encode_vector(key, prompt, response, row, scope="s")
    if not np.isfinite(row).all() or not abs(np.linalg.norm(row) - 1) < 1e-4:
        with pytest.raises(CorruptRecord, match="not of length 1"):
            decode_vector(stored, dims=4)
        return

    found = decode_vector(stored, dims=4)

    assert (found.key, found.prompt, found.response, found.scope) == (key, prompt, response, "s")
    assert found.as_array().tobytes() == row.tobytes()


@given(st.binary(max_size=60))
@example(b"\x94" + b"\xa1a" * 2 + b"\xc0" + b"\xc4\x04" + b"\x00" * 4 + b"\x91" * 50_000)
@example(b"\x95" + b"\xa1a" * 2 + b"\xc0" + b"\xc4\x04" + b"\x00" * 4 + b"\x91" * 50_000)
def test_random_bytes_are_a_corrupt_vector_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(CorruptRecord):
        decode_vector(data, dims=1)


def test_vector_of_another_width_is_corrupt() -> None:
    stored = encode_vector("k", "p", None, np.ones(8, dtype=np.float32))

    with pytest.raises(CorruptRecord, match="32 bytes, 16 were expected"):
        decode_vector(stored, dims=4)


def test_vectors_of_spaces_and_namespaces_are_named_apart() -> None:
    ours, theirs = KeySpace("vec", "a"), KeySpace("vec", "b")

    names = {vector_key(keys, space, "k") for keys in (ours, theirs) for space in ("m-64", "m-6", "m-64-x")}

    assert len(names) == 6
    assert [name for name in names if name.startswith(space_prefix(ours, "m-64"))] == [vector_key(ours, "m-64", "k")]
    assert journal_name("a") != journal_name("b")
