from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cache_management.cache.admission import (
    Controls,
    Refusal,
    freshness,
    life,
    looks_like_refusal,
    may_serve,
    may_store,
    parse_controls,
    should_refresh_early,
)
from cache_management.cache.errors import InvalidInput

# may it be stored


def stored(text: str | None = "Paris.", **more: Any) -> Refusal | None:
    return may_store(text, **{"size_bytes": 10, "limit_bytes": 100, **more})


@pytest.mark.parametrize(
    ("why", "answer"),
    [
        ("no_store", {"controls": Controls(no_store=True)}),
        ("error", {"error": TimeoutError()}),
        ("error", {"error": ""}),
        ("error", {"finish_reason": "error"}),
        *(("non_success", {"status": status}) for status in (100, 199, 300, 304, 400, 429, 500, 529)),
        ("non_success", {"finish_reason": "a word of next year"}),
        ("non_success", {"finish_reason": ""}),
        ("aborted_stream", {"aborted": True}),
        ("aborted_stream", {"finish_reason": "cancelled"}),
        *(("truncated", {"finish_reason": word}) for word in ("length", "max_tokens", "MAX_TOKENS", "incomplete")),
        *(("content_filter", {"finish_reason": word}) for word in ("content_filter", "SAFETY", "RECITATION")),
        ("refusal", {"finish_reason": "refusal"}),
        ("refusal", {"refusal": "I cannot help with that."}),
        ("refusal", {"text": "I'm sorry, but I can't assist with that."}),
        ("empty", {"text": ""}),
        ("empty", {"text": None}),
        ("empty", {"text": " \n\t\u00a0"}),
        ("personalised", {"personalised": True}),
        ("oversize", {"size_bytes": 101}),
    ],
)
def test_each_reason_refuses(why: str, answer: dict[str, Any]) -> None:
    assert stored(**answer) == why


def test_every_reason_has_a_test() -> None:
    (mark,) = test_each_reason_refuses.pytestmark  # type: ignore[attr-defined]

    assert {why for why, _ in mark.args[1]} == {reason.value for reason in Refusal}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"finish_reason": "stop", "status": 200},
        {"finish_reason": "END_TURN", "status": 299},
        {"finish_reason": "stop_sequence", "refusal": ""},
        {"text": None, "has_tool_calls": True, "finish_reason": "tool_calls"},
        {"text": "", "has_tool_calls": True, "finish_reason": "tool_use"},
        {"size_bytes": 100},
        {"controls": Controls(no_cache=True)},
        {"text": "I'm sorry, but I can't assist with that.", "detect_refusals": False},
        {"text": "0"},
    ],
)
def test_a_good_answer_is_stored(answer: dict[str, Any]) -> None:
    assert stored(**answer) is None


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that.",
        "I\u2019m sorry, I can\u2019t help with that request.",
        "I cannot help with that.",
        "Sorry, I am unable to comply.",
        "Unfortunately, I'm not able to assist.",
        "I apologize, but I cannot provide that information.",
        "As an AI language model, I cannot answer that.",
        "  We will not engage in this.",
    ],
)
def test_usual_words_of_a_refusal(text: str) -> None:
    assert looks_like_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "Sorry for the delay: the order ships on Monday.",
        "You cannot help with that form unless you are the owner.",
        "I can help with that.",
        "I can't help but admire the cathedral; it was finished in 1345.",
        "Unfortunately, the shop is closed.",
        'The error "I cannot help with that" means that the filter is on.',
        "I cannot recommend a better book than this one.",
        "I'm sorry, but I can't help with that. " + "Here is what you can do instead. " * 10,
    ],
)
def test_answers_that_are_no_refusal(text: str) -> None:
    assert not looks_like_refusal(text)


@given(text=st.text(max_size=300))
def test_looking_for_a_refusal_never_fails(text: str) -> None:
    assert looks_like_refusal(text) in {True, False}


# controls


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (None, Controls()),
        ({}, Controls()),
        ({"ttl": 60, "s-maxage": 5.5}, Controls(ttl=60, s_maxage=5.5)),
        ({"no-cache": True, "no_store": True}, Controls(no_cache=True, no_store=True)),
        ({"ttl": None, "s_maxage": 0, "namespace": "shop"}, Controls(s_maxage=0, namespace="shop")),
        ({"ttl": -1}, Controls(ttl=-1)),
    ],
)
def test_controls_are_read_in_both_spellings(given_: dict[str, Any] | None, expected: Controls) -> None:
    assert parse_controls(given_) == expected


@pytest.mark.parametrize(
    ("given_", "error"),
    [
        ({"no-stor": True}, r"^unknown cache control 'no-stor'; did you mean 'no-store'\?$"),
        ({"max_age": 5}, r"^unknown cache control 'max_age'; did you mean 's-maxage'\?$"),
        ({"qqq": 1}, r"^unknown cache control 'qqq'; there are ttl, s-maxage, no-cache, no-store, namespace$"),
        ({"no-store": True, "no_store": True}, r"^the cache control 'no_store' is given twice$"),
        ({"no-store": "yes"}, r"^cache control no-store must be True or False, not 'yes'$"),
        ({"no-cache": None, "no-store": 1}, r"^cache control no-cache must be True or False, not None$"),
        ({"ttl": "60"}, r"^cache control ttl must be a whole number of seconds, or -1 for ever, not '60'$"),
        ({"ttl": 60, "s-maxage": "x"}, r"^cache control s-maxage must be seconds from 0, not 'x'$"),
        ({"namespace": 5}, r"^cache control namespace must be text, not 5$"),
        (["no-store"], r"^cache controls must be a mapping such as {'ttl': 60}, not list$"),
        ("no-store", r"^cache controls must be a mapping such as {'ttl': 60}, not str$"),
        ({"ttl": 0}, r"^cache control ttl: must be positive"),
        ({"s-maxage": -1}, r"^cache control s-maxage: must be seconds from 0, not -1"),
        ({"s-maxage": math.nan}, r"^cache control s-maxage: must be seconds from 0, not nan"),
        ({"namespace": "a:b"}, r"^namespace 'a:b' cannot be used"),
    ],
)
def test_wrong_controls_are_named(given_: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        parse_controls(given_)


# may it be served


@pytest.mark.parametrize(
    ("age", "controls", "max_age", "why"),
    [
        (0, None, None, None),
        (1e9, Controls(), None, None),
        (0, Controls(no_cache=True), None, "bypass"),
        (5, Controls(s_maxage=5), None, None),
        (5.1, Controls(s_maxage=5), None, "expired"),
        (0.1, Controls(s_maxage=0), None, "expired"),
        (5, Controls(s_maxage=9), 4, "expired"),
        (5, None, 4, "expired"),
        (4, None, 4, None),
        (-3, Controls(s_maxage=5), None, None),
        (math.nan, Controls(s_maxage=5), None, "expired"),
        (1, Controls(no_store=True, ttl=0), None, None),
    ],
)
def test_may_serve(age: float, controls: Controls | None, max_age: float | None, why: str | None) -> None:
    assert may_serve(age, controls, max_age_seconds=max_age) == why


# for how long


@given(ttl=st.floats(1e-3, 1e9), jitter=st.floats(0, 0.999), chance=st.floats(0, 1, exclude_max=True))
def test_life_is_only_shortened_and_within_the_fraction(ttl: float, jitter: float, chance: float) -> None:
    found = life(ttl, jitter=jitter, rng=lambda: chance)

    assert found is not None
    assert ttl * (1 - jitter) * (1 - 1e-12) <= found <= ttl
    assert found > 0


def test_life_spreads_what_is_stored_together() -> None:
    rng = random.Random(7).random

    lives = [life(100, jitter=0.2, rng=rng) for _ in range(1000)]

    assert min(lives) < 82  # type: ignore[type-var,operator]
    assert max(lives) > 98  # type: ignore[type-var,operator]
    assert life(100, jitter=0, rng=rng) == 100
    assert life(None, jitter=0.2, rng=rng) is None


@pytest.mark.parametrize(("ttl", "jitter"), [(60, 1), (60, -0.1), (60, math.nan), (0, 0.1), (-1, 0.1), (math.nan, 0.1)])
def test_life_refuses_what_makes_no_sense(ttl: float, jitter: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        life(ttl, jitter=jitter, rng=lambda: 0.5)


def test_early_refresh_follows_the_published_formula() -> None:
    # exp(-1): the lead is exactly delta * beta.
    chance = math.exp(-1)

    def refreshes(now: float, beta: float = 1) -> bool:
        return should_refresh_early(now, 100, delta_seconds=3, beta=beta, random_value=chance)

    assert not refreshes(96.9)
    assert refreshes(97.1)
    assert refreshes(94.1, beta=2)
    assert not refreshes(99.9, beta=0)
    assert refreshes(100, beta=0)


def test_early_refresh_happens_as_often_as_it_should() -> None:
    rng = random.Random(3)
    draws = [should_refresh_early(98, 100, delta_seconds=2, beta=1, random_value=rng.random()) for _ in range(20_000)]

    assert sum(draws) / len(draws) == pytest.approx(math.exp(-1), abs=0.015)


@given(
    now=st.floats(0, 1e10),
    expires_at=st.floats(0, 1e10),
    delta=st.floats(0, 1e4),
    beta=st.floats(0, 10),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_early_refresh_never_fails_and_never_misses_an_expired_entry(
    now: float, expires_at: float, delta: float, beta: float, chance: float
) -> None:
    found = should_refresh_early(now, expires_at, delta_seconds=delta, beta=beta, random_value=chance)

    assert found or now < expires_at
    assert not should_refresh_early(now, None, delta_seconds=delta, beta=beta, random_value=chance)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (0, "fresh"),
        (10, "fresh"),
        (99.9, "fresh"),
        (100, "stale_usable"),
        (109.9, "stale_usable"),
        (110, "stale_if_error"),
        (159.9, "stale_if_error"),
        (160, "expired"),
    ],
)
def test_freshness_in_the_order_of_time(now: float, expected: str) -> None:
    assert freshness(now, 10, 100, stale_while_revalidate_s=10, stale_if_error_s=60) == expected


def test_freshness_without_windows_or_end() -> None:
    assert freshness(100, 10, 100) == "expired"
    assert freshness(1e12, 10, None) == "fresh"
    assert freshness(105, 10, 100, stale_while_revalidate_s=10) == "stale_usable"
    assert freshness(105, 10, 100, stale_if_error_s=10) == "stale_if_error"


def test_an_entry_stored_after_its_end_is_not_fresh_when_the_clock_is_set_back() -> None:
    assert freshness(50, 200, 100) == "expired"


@given(
    stored_at=st.floats(0, 1e10),
    ttl=st.floats(0.001, 1e6),
    one=st.floats(0, 1e7),
    other=st.floats(0, 1e7),
    windows=st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)),
)
def test_an_entry_never_becomes_fresher(
    stored_at: float, ttl: float, one: float, other: float, windows: tuple[float, float]
) -> None:
    assume(one <= other)
    order = ["fresh", "stale_usable", "stale_if_error", "expired"]

    earlier, later = (
        freshness(
            stored_at + age,
            stored_at,
            stored_at + ttl,
            stale_while_revalidate_s=windows[0],
            stale_if_error_s=windows[1],
        )
        for age in (one, other)
    )

    assert order.index(earlier) <= order.index(later)
