"""The checker itself: planted wrongs are found, odd but right histories are not, and no alarm is ever false."""

from __future__ import annotations

import random

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.faults.cluster.checker import check
from tests.faults.cluster.exhaustive import is_linearizable
from tests.faults.cluster.history import Kind, Operation

MS = 1_000_000
SECOND = 1000 * MS


def op(
    kind: Kind,
    begin: int,
    end: int | None,
    value: str | None = None,
    *,
    key: str = "k",
    ttl: int | None = None,
    refused: bool = False,
) -> Operation:
    return Operation(0, kind, key, begin, end, value, ttl, refused)


def put(value: str, begin: int, end: int | None, **more: int | bool | str) -> Operation:
    return op("set", begin, end, value, **more)  # type: ignore[arg-type]


def get(value: str | None, begin: int, end: int) -> Operation:
    return op("get", begin, end, value)


def delete(begin: int, end: int | None) -> Operation:
    return op("delete", begin, end)


def exists(found: bool, begin: int, end: int) -> Operation:
    return op("exists", begin, end, "" if found else None)


def kinds(operations: list[Operation]) -> set[str]:
    return {violation.kind for violation in check(operations)}


WRONG = {
    "lost": ("lost", [put("a", 0, 1), get(None, 2, 3)]),
    "lost by exists": ("lost", [put("a", 0, 1), exists(False, 2, 3)]),
    "lost after a delete": ("lost", [delete(0, 1), put("a", 2, 3), get(None, 4, 5)]),
    "lost though only read": ("lost", [put("a", 0, None), get("a", 2, 3), get(None, 4, 5)]),
    "lost for a moment": ("lost", [put("a", 0, 1), get(None, 2, 3), get("a", 4, 5)]),
    "lost more often than deleted": (
        "lost",
        [delete(0, None), put("a", 2, 3), get(None, 4, 5), put("b", 6, 7), get(None, 8, 9)],
    ),
    "lost when the delete came before the last sight": (
        "lost",
        [delete(0, 10), put("a", 1, 2), get("a", 11, 12), get(None, 13, 14)],
    ),
    "lost with the life of the one it replaced": (
        "lost",
        [put("a", 0, 1, ttl=SECOND), put("b", 2, 3), get(None, 2 * SECOND, 2 * SECOND + 1)],
    ),
    "lost before the end of its life": (
        "lost",
        [put("a", 0, 1, ttl=SECOND), get(None, 500 * MS, 600 * MS)],
    ),
    "stale": ("stale", [put("a", 0, 1), put("b", 2, 3), get("a", 4, 5)]),
    "stale after a read of the newer": ("stale", [put("a", 0, 1), put("b", 2, None), get("b", 3, 4), get("a", 5, 6)]),
    "a shorter life uncovers the older": (
        "stale",
        [put("a", 0, 1), put("b", 2, 3, ttl=SECOND), get("a", 3 * SECOND, 3 * SECOND + 1)],
    ),
    "resurrected": ("resurrected", [put("a", 0, 1), delete(2, 3), get("a", 4, 5)]),
    "resurrected after an unsure delete that was seen": (
        "resurrected",
        [put("a", 0, 1), delete(2, None), get(None, 4, 5), get("a", 6, 7)],
    ),
    "resurrected by exists": ("resurrected", [put("a", 0, 1), delete(2, 3), exists(True, 4, 5)]),
    "backwards": (
        "backwards",
        [put("a", 0, 10), put("b", 0, 10), get("a", 11, 12), get("b", 13, 14), get("a", 15, 16)],
    ),
    "invented": ("invented", [put("a", 0, 1), get("z", 2, 3)]),
    "invented by exists": ("invented", [exists(True, 0, 1), put("a", 2, 3)]),
    "read before written": ("invented", [get("a", 0, 1), put("a", 2, 3)]),
    "foreign": ("foreign", [put("a", 0, 1, key="other"), get("a", 2, 3)]),
    "denied": ("denied", [put("a", 0, 1, refused=True), get("a", 2, 3)]),
    "expired": ("expired", [put("a", 0, 1, ttl=SECOND), get("a", 2 * SECOND, 2 * SECOND + 1)]),
}

RIGHT = {
    "nothing was written": [get(None, 0, 1), exists(False, 2, 3)],
    "read while it is written": [put("a", 0, 10), get("a", 1, 2), get("a", 3, 4)],
    "not yet, then written": [put("a", 0, 10), get(None, 1, 2), get("a", 3, 4)],
    "unsure and never seen": [put("a", 0, 1), put("b", 2, None), get("a", 4, 5), get("a", 6, 7)],
    "unsure and seen late": [put("a", 0, 1), put("b", 2, None), get("a", 4, 5), get("b", 6, 7)],
    "unsure overtakes an acknowledged one": [put("a", 0, None), put("b", 2, 3), get("b", 4, 5), get("a", 6, 7)],
    "refused and never seen": [put("a", 0, 1), put("b", 2, 3, refused=True), get("a", 4, 5)],
    "a delete that ran beside the write": [put("a", 0, 10), delete(5, 8), get(None, 12, 13), get(None, 14, 15)],
    "a delete that ran beside the write and lost": [put("a", 0, 10), delete(5, 8), get("a", 12, 13)],
    "an unsure delete that came late": [put("a", 0, 1), delete(2, None), get("a", 4, 5), get(None, 6, 7)],
    "an unsure delete that came very late": [delete(0, None), put("a", 2, 3), get("a", 4, 5), get(None, 6, 7)],
    "one delete, absence read by many": [
        put("a", 0, 1),
        delete(2, 3),
        get(None, 4, 9),
        get(None, 5, 6),
        get(None, 10, 11),
    ],
    "two writes at once": [put("a", 0, 10), put("b", 0, 10), get("a", 1, 2), get("b", 11, 12)],
    "at its end one client still sees it": [
        put("a", 0, 1, ttl=SECOND),
        get("a", 900 * MS, 901 * MS),
        get(None, 950 * MS, 951 * MS),
        get("a", 1000 * MS, 1001 * MS),
        exists(True, 1010 * MS, 1011 * MS),
        get(None, 1020 * MS, 1021 * MS),
    ],
    "an unsure one that expires late": [
        put("a", 0, None, ttl=SECOND),
        get("a", 5 * SECOND, 5 * SECOND + 1),
        get(None, 6 * SECOND, 6 * SECOND + 1),
    ],
    "expired, though exists was the last to see it": [
        put("a", 0, 1, ttl=SECOND),
        exists(True, 800 * MS, 801 * MS),
        get(None, 1500 * MS, 1501 * MS),
    ],
    "ends and begins at one moment": [put("a", 0, 5), put("b", 5, 8), get("a", 8, 9)],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_planted_wrong_is_found_and_named(name: str) -> None:
    expected, operations = WRONG[name]

    assert kinds(operations) == {expected}


@pytest.mark.parametrize("name", RIGHT)
def test_what_only_looks_wrong_is_not_told(name: str) -> None:
    assert kinds(RIGHT[name]) == set()


def test_where_entries_are_evicted_absence_is_right_and_older_values_are_not() -> None:
    lost = WRONG["lost for a moment"][1]
    stale = [put("a", 0, 1), put("b", 2, 3), get(None, 4, 5), get("a", 6, 7)]
    resurrected = [put("a", 0, 1), delete(2, 3), get("a", 4, 5)]

    beside = [put("a", 0, None), get("a", 1, 2), put("b", 3, 4), get("a", 5, 6)]

    assert check(lost, may_evict=True) == []
    assert check(beside, may_evict=True) == []
    assert [each.kind for each in check(stale, may_evict=True)] == ["stale"]
    assert [each.kind for each in check(resurrected, may_evict=True)] == ["resurrected"]


def test_the_same_value_twice_is_no_history_to_check() -> None:
    with pytest.raises(ValueError, match="written twice"):
        check([put("a", 0, 1), put("a", 2, 3)])


@st.composite
def small_histories(draw: st.DrawFn, *, with_deletes: bool) -> list[Operation]:
    """Up to 12 operations at any moments, with any outcome."""
    count = draw(st.integers(2, 12))
    writes = draw(st.integers(1, max(1, count // 2)))
    kinds = ["set"] * writes
    others = ["get", "get", "exists", "delete"] if with_deletes else ["get"]
    kinds += draw(st.lists(st.sampled_from(others), min_size=count - writes, max_size=count - writes))
    # Mostly one after another: wide open intervals explain everything.
    length = draw(st.sampled_from([3, 8, 40]))
    operations = []
    for at, kind in enumerate(kinds):
        begin = draw(st.integers(0, 40))
        end: int | None = begin + 1 + draw(st.integers(0, length))
        value: str | None = None
        if kind == "set":
            value = f"v{at}"
        elif kind == "get":
            value = draw(st.sampled_from([None, *(f"v{each}" for each in range(writes))]))
        elif kind == "exists":
            value = draw(st.sampled_from([None, ""]))
        if kind in ("set", "delete") and draw(st.integers(0, 5)) == 0:
            end = None
        operations.append(op(kind, 2 * begin, None if end is None else 2 * end + 1, value))  # type: ignore[arg-type]
    return operations


@settings(max_examples=1500, deadline=None)
@given(small_histories(with_deletes=True))
def test_an_alarm_is_never_false(operations: list[Operation]) -> None:
    alarms = check(operations)
    is_right = is_linearizable(operations)

    event(f"{'right' if is_right else 'wrong'}, {'alarm' if alarms else 'silence'}")
    assert not (alarms and is_right), alarms


@settings(max_examples=800, deadline=None)
@given(small_histories(with_deletes=False))
def test_without_deletes_nothing_wrong_is_missed(operations: list[Operation]) -> None:
    assert bool(check(operations)) == (not is_linearizable(operations))


def test_a_long_right_history_is_silent_and_a_planted_fault_in_it_is_not() -> None:
    rng = random.Random(7)
    operations: list[Operation] = []
    value: str | None = None
    values: list[str | None] = []
    for at in range(4000):  # each takes effect at its own moment, and lasts much longer than the step
        moment = at * 10
        begin, end = moment - rng.randrange(60), moment + rng.randrange(60)
        match rng.choice(["set", "get", "get", "get", "exists", "delete"]):
            case "set":
                value = f"v{at}"
                unsure = rng.random() < 0.1
                operations.append(put(value, begin, None if unsure else end))
            case "get":
                operations.append(get(value, begin, end))
            case "exists":
                operations.append(exists(value is not None, begin, end))
            case _:
                value = None
                operations.append(delete(begin, end))
        values.append(value)

    assert check(operations) == []
    old = next(each for each in values[1000:] if each is not None)
    last = get(old, 41_000, 41_001)
    assert [violation.operations[-1] for violation in check([*operations, last])][:1] == [last]
