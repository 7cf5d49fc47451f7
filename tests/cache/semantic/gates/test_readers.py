"""What the gates read of a text: numbers, dates, identifiers, base forms."""

from __future__ import annotations

import pytest

from cache_management.cache.semantic.gates import facets, lexicon


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("no numbers here", []),
        ("10 of them", ["10"]),
        ("1,000 users", ["1000"]),
        ("1k users", ["1000"]),
        ("a thousand users", ["1000"]),
        ("1.5 million users", ["1500000"]),
        ("two hundred and five", ["205"]),
        ("twenty-five", ["25"]),
        ("two three", ["2", "3"]),
        ("3m people", ["3000000"]),
        ("two million and one", ["2000001"]),
        ("one of them", []),
        ("five thousand three hundred", ["5300"]),
        ("ten and", ["10"]),
        ("-5 of it", ["-5"]),
        ("pages 10-20", ["10", "20"]),
        ("007 films", ["7"]),
        ("version 3.10", ["3.10"]),
        ("World War II", ["2"]),
        ("the fifth of them", ["5"]),
        ("1234567890123456789012 parcels", ["1234567890123456789012"]),
    ],
)
def test_numbers_are_read_however_they_are_written(text: str, found: list[str]) -> None:
    assert [amount.value for amount in facets(text).quantities] == found


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("2 km", "2,000 metres"),
        ("90 minutes", "1.5 hours"),
        ("$30", "30 dollars"),
        ("30 USD", "$30.00"),
        ("50%", "50 percent"),
        ("1 kg", "1000 g"),
        ("2 years", "24 months"),
    ],
)
def test_equal_amounts_in_other_units_are_equal(one: str, two: str) -> None:
    ours, theirs = facets(one).quantities, facets(two).quantities

    assert [(amount.value, amount.unit) for amount in ours] == [(amount.value, amount.unit) for amount in theirs]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("on March 5", {("month", "3"), ("day", "5")}),
        ("on 5 March", {("month", "3"), ("day", "5")}),
        ("2024-03-05", {("year", "2024"), ("month", "3"), ("day", "5"), ("both", "3 5")}),
        ("5/3/2024", {("year", "2024"), ("both", "3 5")}),
        ("at 2pm", {("time", "14:00")}),
        ("at 14:00", {("time", "14:00")}),
        ("on Monday", {("weekday", "1")}),
        ("may I march on", set()),
        ("since May", {("month", "5")}),
    ],
)
def test_dates_are_read_by_their_parts(text: str, found: set[tuple[str, str]]) -> None:
    assert set(facets(text).dates) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("error E1234!", ("e1234",)),
        ("see https://example.com/a.", ("https://example.com/a",)),
        ("mail ann@example.com", ("ann@example.com",)),
        ("edit /etc/hosts", ("/etc/hosts",)),
        ("10kg and 5k and 3rd", ()),
    ],
)
def test_identifiers_are_read_whole(text: str, found: tuple[str, ...]) -> None:
    assert facets(text).ids == found


@pytest.mark.parametrize(
    ("word", "base"),
    [
        ("went", "go"),
        ("policies", "policy"),
        ("running", "run"),
        ("closed", "close"),
        ("longest", "long"),
        ("apps", "app"),
        ("glass", "glass"),
        ("interest", "interest"),
        ("qwxyz", "qwxyz"),
    ],
)
def test_base_forms(word: str, base: str) -> None:
    assert lexicon.lemma(word) == base


@pytest.mark.parametrize(
    ("one", "two"),
    [("freeze", "unfreeze"), ("safe", "dangerous"), ("lend", "borrow"), ("useful", "useless"), ("legal", "illegal")],
)
def test_opposites(one: str, two: str) -> None:
    assert lexicon.opposites(one, two)
    assert lexicon.opposites(two, one)
    assert not lexicon.synonyms(one, two)


@pytest.mark.parametrize(("one", "two"), [("inform", "form"), ("income", "come"), ("car", "car")])
def test_a_prefix_alone_makes_no_opposite(one: str, two: str) -> None:
    assert not lexicon.opposites(one, two)


def test_sisters_are_kinds_of_one_thing() -> None:
    assert lexicon.sisters("dog", "lizard")
    assert lexicon.sisters("breakfast", "dinner")
    assert not lexicon.sisters("car", "automobile")
    assert not lexicon.sisters("poodle", "dog")
    assert not lexicon.sisters("car", "honesty")


def test_facets_are_read_once() -> None:
    assert facets("Where is my parcel?") is facets("Where is my parcel?")


def test_values_are_read_with_what_tells_them_apart() -> None:
    placed = facets("Move 5 kg from B12 to B14 on 9 March").placed

    assert [each.value for each in placed] == ["5000", "b12", "b14", "9 march"]
    assert [sorted(each.ties) for each in placed] == [["<move", "in gram"], ["<from"], ["<to"], ["<on"]]
    assert [each.link for each in placed] == ["", "from", "to", "on"]


@pytest.mark.parametrize("text", ["", "no value", "only 5 of them", "which one of them", "a plan for one child"])
def test_one_value_has_nothing_to_change_places_with(text: str) -> None:
    assert facets(text).placed == ()
