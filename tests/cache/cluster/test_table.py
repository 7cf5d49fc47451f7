from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.cluster.slots import SLOTS, changed_slots, first_placement, next_placement
from cache_management.cache.cluster.table import Lists, Table, bits_of, majority, read_table
from cache_management.cache.errors import CorruptRecord

OLD = first_placement(["a", "b", "c"], voters=3)
NEW = next_placement(OLD, ["a", "b", "c", "d"])
TABLE = Table(
    cluster="x",
    epoch=7,
    copies=3,
    placement=NEW.encode(),
    addresses={node: f"{node}:1" for node in "abcd"},
    previous=OLD.encode(),
    moving=bits_of(changed_slots(OLD, NEW)),
    rejoin={"b": 6},
)


def test_a_table_comes_back_as_it_was_written() -> None:
    assert read_table(TABLE.encode()) == TABLE


@given(st.binary(max_size=60))
def test_bytes_of_anybody_are_no_table(stored: bytes) -> None:
    with pytest.raises(CorruptRecord):
        read_table(stored)


@given(st.sets(st.integers(0, SLOTS - 1), max_size=50))
def test_moving_slots_are_those_that_were_given(slots: set[int]) -> None:
    table = msgspec.structs.replace(TABLE, moving=bits_of(slots))

    assert set(table.moving_slots()) == slots
    assert all(table.is_moving(slot) for slot in slots)


def test_a_slot_that_moves_has_both_lists_and_the_others_have_one() -> None:
    lists = Lists(TABLE)
    moving = set(TABLE.moving_slots())

    for slot in range(0, SLOTS, 37):
        wanted = (OLD.voters_of(slot), NEW.voters_of(slot)) if slot in moving else (NEW.voters_of(slot),)
        assert lists.voters(slot) == wanted


@pytest.mark.parametrize(("count", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_any_two_majorities_meet(count: int, needed: int) -> None:
    assert majority(count) == needed
    assert 2 * needed > count
