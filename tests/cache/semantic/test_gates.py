from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.semantic.gates import GATES, negations, number_gate, numbers, polarity_gate, vetoes

WORDS = st.sampled_from(
    [
        *("not", "no", "never", "without", "can't", "safe", "a", "the"),
        *("one", "two", "twenty", "hundred", "thousand", "and", "5", "10", "1,000", "3.5k", "2m", "$", "%"),
    ]
)
SENTENCES = st.lists(WORDS, max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("no numbers here", []),
        ("10 miles", [10]),
        ("1,000 users", [1000]),
        ("1k users", [1000]),
        ("a thousand users", [1000]),
        ("two hundred and five", [205]),
        ("twenty five", [25]),
        ("twenty-five", [25]),
        ("two three", [2, 3]),
        ("2.5 and 2.5", [2.5, 2.5]),
        ("3m people", [3_000_000]),
        ("two million and one", [2_000_001]),
        ("one of them", []),
        ("five thousand three hundred", [5300]),
        ("ten and", [10]),
        ("$30", [30]),
        ("50%", [50]),
        ("version 3.11", [3.11]),
        ("7 days, 7 nights", [7, 7]),
    ],
)
def test_numbers_are_read_however_they_are_written(text: str, found: list[float]) -> None:
    assert sorted(numbers(text).elements()) == sorted(map(str, found))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("it is safe", 0),
        ("it is not safe", 1),
        ("it isn't safe", 1),
        ("it isn’t safe", 1),
        ("never without a reason", 2),
        ("NOTHING can be done", 1),
        ("a knot and a note", 0),
        ("I cannot", 1),
    ],
)
def test_negating_words_are_counted(text: str, count: int) -> None:
    assert negations(text) == count


@pytest.mark.parametrize(
    ("asked", "stored", "refused_by"),
    [
        ("hotels within 10 miles", "hotels within 100 miles", ("number",)),
        ("hotels within 10 miles", "hotels within ten miles", ()),
        ("hotels within 10 miles", "hotels nearby", ()),
        ("is it safe", "is it not safe", ("polarity",)),
        ("is it safe", "isn't it safe", ("polarity",)),
        ("is it not unsafe", "is it never unsafe", ()),
        ("do not wait 5 minutes", "wait 10 minutes", ("number", "polarity")),
        ("top 5 of 10", "top 10 of 5", ()),
        ("5 and 5", "5", ("number",)),
        ("what is python", "what is python", ()),
    ],
)
def test_gate_refuses_what_must_not_be_answered(asked: str, stored: str, refused_by: tuple[str, ...]) -> None:
    assert vetoes(asked, stored) == refused_by


@given(asked=SENTENCES, stored=SENTENCES)
def test_every_gate_is_symmetric(asked: str, stored: str) -> None:
    for name, gate in GATES.items():
        assert gate(asked, stored) == gate(stored, asked), name


@given(text=SENTENCES)
def test_no_gate_refuses_a_text_its_own_answer(text: str) -> None:
    assert vetoes(text, text) == ()


@given(asked=st.text(max_size=40), stored=st.text(max_size=40))
def test_any_text_is_judged_without_a_crash(asked: str, stored: str) -> None:
    assert vetoes(asked, stored) == vetoes(stored, asked)


@pytest.mark.parametrize(
    "text", ["9" * 5000, "9" * 400 + "bn", "billion " * 300, "٣٫٥ ٣٥", "5\u212a", "１０", "1,,,", "1.2.3.4", "²³ ½ Ⅷ"]
)
def test_odd_numbers_do_not_crash(text: str) -> None:
    assert not number_gate(text, text)
    assert not polarity_gate(text, text)


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        ("What is new in Python 3.10?", "What is new in Python 3.1?"),
        ("where is parcel 9007199254740993", "where is parcel 9007199254740992"),
        ("where is parcel 1234567890123456789012", "where is parcel 1234567890123456789013"),
        ("is it -5 degrees", "is it 5 degrees"),
        ("book rooms 1,2", "book rooms 12"),
        ("drivers of the A380", "drivers of the A340"),
    ],
)
def test_numbers_that_look_alike_are_told_apart(asked: str, stored: str) -> None:
    assert "number" in vetoes(asked, stored)
    assert "number" in vetoes(stored, asked)


@pytest.mark.parametrize(
    ("asked", "stored"),
    [("save 1.5k dollars", "save 1,500 dollars"), ("pages 10-20", "pages 10 - 20"), ("007 films", "7 films")],
)
def test_numbers_written_in_other_ways_are_equal(asked: str, stored: str) -> None:
    assert vetoes(asked, stored) == ()
