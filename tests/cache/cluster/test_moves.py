"""Slots are switched to their new lists only by the move that they were copied for."""

from __future__ import annotations

import msgspec

from cache_management.cache.cluster.moves import _switched
from cache_management.cache.cluster.slots import SLOTS, changed_slots, first_placement, next_placement
from cache_management.cache.cluster.table import Table, bits_of

THREE = first_placement(["a", "b", "c"], voters=3)
FOUR = next_placement(THREE, ["a", "b", "c", "d"])
FIVE = next_placement(FOUR, ["a", "b", "c", "d", "e"])
MOVES_TO_FOUR = Table(
    cluster="one",
    epoch=2,
    copies=3,
    placement=FOUR.encode(),
    addresses={name: name for name in "abcde"},
    previous=THREE.encode(),
    moving=bits_of(changed_slots(THREE, FOUR)),
)
MOVES_TO_FIVE = msgspec.structs.replace(
    MOVES_TO_FOUR,
    epoch=9,
    placement=FIVE.encode(),
    previous=FOUR.encode(),
    moving=bits_of(changed_slots(FOUR, FIVE)),
)


def test_slots_that_were_copied_are_switched() -> None:
    slots = frozenset(MOVES_TO_FOUR.moving_slots()[:100])

    later = _switched(msgspec.structs.replace(MOVES_TO_FOUR, epoch=4), copied=MOVES_TO_FOUR, slots=slots)

    assert not slots.intersection(later.moving_slots())
    assert len(later.moving_slots()) == len(MOVES_TO_FOUR.moving_slots()) - 100


def test_what_was_copied_for_a_move_that_is_over_switches_nothing_of_the_next() -> None:
    # Whoever copied stood still meanwhile, and others finished that move and began another one of the same slots.
    assert _switched(MOVES_TO_FIVE, copied=MOVES_TO_FOUR, slots=frozenset(range(SLOTS))) is MOVES_TO_FIVE
