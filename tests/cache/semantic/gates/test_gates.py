from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.errors import InvalidInput
from cache_management.cache.semantic import gates
from tests.cache.semantic.gates.table import REFUSED, SERVED, STILL_SERVED

HOURS = 7200
REFUSALS = [
    pytest.param(gate, *(text.strip() for text in line.split("|")), id=f"{gate}: {line.strip()}")
    for gate, lines in REFUSED.items()
    for line in lines.strip().splitlines()
]
PASSES, LEFT_OPEN = (
    [pytest.param(*(text.strip() for text in line.split("|")), id=line.strip()) for line in lines.strip().splitlines()]
    for lines in (SERVED, STILL_SERVED)
)
WORDS = st.sampled_from(
    [
        *(
            "not",
            "no",
            "never",
            "without",
            "can't",
            "safe",
            "dangerous",
            "a",
            "the",
            "my",
            "your",
            "John's",
            "is",
            "was",
        ),
        *(
            "one",
            "two",
            "twenty",
            "hundred",
            "thousand",
            "and",
            "5",
            "10",
            "1,000",
            "3.5k",
            "2m",
            "$",
            "%",
            "km",
            "EUR",
        ),
        *(
            "Paris",
            "london",
            "gold",
            "platinum",
            "card",
            "close",
            "open",
            "delete",
            "how",
            "do",
            "I",
            "from",
            "to",
            "?",
        ),
        *(
            "in",
            "out",
            "into",
            "on",
            "off",
            "who",
            "did",
            "beat",
            "first",
            "fourth",
            "per",
            "month",
            "half",
            "an",
            "hour",
        ),
        *("me", "all", "every", "any", "tonight", "yesterday", "n't", "before", "after", "get", "rid", "of", "turn"),
        *("March", "2024", "10am", "E1234", "more", "less", "used", "current", "today", "please", "than", ".", "US"),
    ]
)
SENTENCES = st.lists(WORDS, max_size=12).map(" ".join)


@pytest.mark.parametrize(("gate", "asked", "stored"), REFUSALS)
def test_a_gate_refuses_what_another_answer_belongs_to(gate: str, asked: str, stored: str) -> None:
    assert gate in gates.vetoes(asked, stored, age_seconds=HOURS)
    assert gate in gates.vetoes(stored, asked, age_seconds=HOURS)


@pytest.mark.parametrize(("asked", "stored"), PASSES)
def test_one_answer_serves_both(asked: str, stored: str) -> None:
    assert gates.vetoes(asked, stored, age_seconds=0) == ()
    assert gates.vetoes(stored, asked, age_seconds=0) == ()


@pytest.mark.parametrize(("asked", "stored"), LEFT_OPEN)
def test_what_no_gate_sees_yet_is_on_the_list(asked: str, stored: str) -> None:
    assert gates.vetoes(asked, stored, age_seconds=HOURS) == ()


def test_every_gate_has_pairs_of_its_own() -> None:
    assert {gate for gate, lines in REFUSED.items() if lines.strip()} == set(gates.NAMES)


@pytest.mark.parametrize("gate", gates.NAMES)
def test_a_gate_that_is_off_does_not_refuse(gate: str) -> None:
    asked, stored = REFUSED[gate].strip().splitlines()[0].split("|")
    on = gates.vetoes(asked.strip(), stored.strip(), age_seconds=HOURS)

    off = gates.vetoes(asked.strip(), stored.strip(), age_seconds=HOURS, off=[gate])

    assert off == tuple(name for name in on if name != gate)


def test_an_unknown_gate_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'polarity'"):
        gates.vetoes("a", "b", off=["polarty"])


@pytest.mark.parametrize(
    ("age", "refused"), [(0, False), (3600, False), (3601, True), (None, True), (float("nan"), True)]
)
def test_an_answer_about_the_present_grows_old(age: float | None, refused: bool) -> None:
    found = gates.vetoes("What is the latest news?", "What is the latest news?", age_seconds=age)

    assert ("freshness" in found) is refused


def test_a_gate_that_breaks_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(gates, "GATES", {**gates.GATES, "unit": broken})

    assert gates.vetoes("a cat", "a cat") == ("gate_error",)


def test_a_text_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> object:
        raise RecursionError

    monkeypatch.setattr(gates, "facets", broken)

    assert gates.vetoes("a cat", "a cat") == ("gate_error",)


@given(asked=SENTENCES, stored=SENTENCES)
def test_every_gate_is_symmetric(asked: str, stored: str) -> None:
    assert gates.vetoes(asked, stored) == gates.vetoes(stored, asked)


@given(text=SENTENCES)
def test_no_text_is_refused_its_own_answer(text: str) -> None:
    assert gates.vetoes(text, text, age_seconds=0) == ()


@given(asked=st.text(max_size=60), stored=st.text(max_size=60))
def test_any_text_is_judged_without_a_crash(asked: str, stored: str) -> None:
    found = gates.vetoes(asked, stored, age_seconds=0)

    assert found == gates.vetoes(stored, asked, age_seconds=0)
    assert gates.ERROR not in found
    assert set(found) <= set(gates.NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "9" * 5000,
        "_" * 100_000,  # read in no time, or a rule takes the square of it
        "9" * 400 + "bn",
        "billion " * 300,
        "٣٫٥ ٣٥",
        "5\u212a",
        "１０",
        "1,,,",
        "1.2.3.4",
        "²³ ½ Ⅷ",
        "'s",
        "n't",
        "፩ km",
        "US",
        "5 %",
    ],
)
def test_odd_texts_do_not_crash(text: str) -> None:
    assert gates.vetoes(text, text, age_seconds=0) == ()
    assert gates.ERROR not in gates.vetoes(text, "10 miles", age_seconds=0)


@pytest.mark.parametrize(
    ("asked", "stored", "found"),
    [
        ("Wie schließe ich mein Konto?", "Wie eröffne ich ein Konto?", ()),
        ("Wie überweise ich 10 Euro?", "Wie überweise ich 20 Euro?", ("number",)),
        ("如何重置密码？", "如何关闭账户？", ()),
        ("订单 4711 在哪里？", "订单 4712 在哪里？", ("number",)),
        ("كيف أغلق حسابي؟", "كيف أفتح حسابا؟", ()),
        ("Где мой заказ AB123?", "Где мой заказ AB124?", ("id",)),
    ],
)
def test_other_languages_are_compared_by_numbers_and_ids_only(asked: str, stored: str, found: tuple[str, ...]) -> None:
    assert gates.vetoes(asked, stored) == found


LONG = "the quick brown fox jumps over the lazy dog near a river bank in summer " * 30


@pytest.mark.parametrize(
    ("one", "two", "found"),
    [
        ("red wolves", "red wolves", ()),
        ("red wolves", "grey wolves", ("variant",)),
        ("5 wolves", "6 wolves", ("number",)),
    ],
)
def test_what_differs_beyond_the_limit_still_counts(one: str, two: str, found: tuple[str, ...]) -> None:
    assert gates.vetoes(LONG + one, LONG + two) == found
