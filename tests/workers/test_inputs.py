"""Submitted items survive the way through the database."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.errors import CorruptRecord
from cache_management.cache.warm_items import AskedItem, WarmItem
from cache_management.workers.inputs import ITEMS_PER_PART, _compress, pack_inputs, unpack_inputs
from tests.workers.harness import warm_items

items = st.builds(
    WarmItem,
    prompt=st.text(min_size=1),
    response=st.text(),
    model=st.text(),
    token_count=st.integers(0, 2**40),
    metadata=st.dictionaries(st.text(), st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text()),
    ttl_seconds=st.none() | st.just(-1) | st.integers(1, 2**30),
    key=st.none() | st.text(min_size=1),
)


def as_asked(given_items: list[WarmItem]) -> list[AskedItem]:
    """Items as a worker has them, who may ask for what they lack."""
    return [AskedItem(**item.model_dump()) for item in given_items]


@given(st.lists(items, max_size=20))
def test_items_come_back_as_they_went_in(given_items: list[WarmItem]) -> None:
    found = [item for payload, _ in pack_inputs(given_items) for item in unpack_inputs(payload)]

    assert found == as_asked(given_items)


def test_parts_are_bounded_and_count_their_items() -> None:
    parts = list(pack_inputs(warm_items(2 * ITEMS_PER_PART + 1)))

    assert [count for _, count in parts] == [ITEMS_PER_PART, ITEMS_PER_PART, 1]


def test_large_items_end_a_part_early() -> None:
    large = [WarmItem(prompt=f"q{at}", response="x" * 3_000_000) for at in range(5)]

    assert [count for _, count in pack_inputs(large)] == [2, 2, 1]


@given(st.binary(max_size=200))
def test_what_is_no_part_is_corrupt_and_never_another_error(payload: bytes) -> None:
    with pytest.raises(CorruptRecord):
        unpack_inputs(payload)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"prompt": 1, "response": "my secret"}', "prompt: string_type"),
        (b'{"response": "my secret"}', "prompt: missing"),
        (b'my secret {"', "item: json_invalid"),
        (b'{"prompt": "q", "response": "a", "my secret": 1}', "item: extra_forbidden"),
    ],
)
def test_a_part_that_is_wrong_names_the_field_and_quotes_nothing(line: bytes, says: str) -> None:
    with pytest.raises(CorruptRecord) as raised:
        unpack_inputs(_compress([line]))

    assert says in str(raised.value)
    assert "secret" not in "".join(traceback.format_exception(raised.value))


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_is_corrupt_or_harmless(at: int, bit: int) -> None:
    (payload, _), *_ = pack_inputs(warm_items(3))
    damaged = bytearray(payload)
    damaged[at % len(damaged)] ^= 1 << bit

    try:
        found = unpack_inputs(bytes(damaged))
    except CorruptRecord:
        return
    assert found == as_asked(warm_items(3))
