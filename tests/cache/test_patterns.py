from __future__ import annotations

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cache_management.cache.patterns import escape_glob, glob_matcher

PATTERNS = st.text(alphabet="ab*?[]^-\\", max_size=10)
TEXTS = st.text(alphabet="ab]^-\\[*?", max_size=8)
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def slow_glob(pattern: str, text: str) -> bool:
    """Follow the description of a glob literally, trying every possibility."""
    if not pattern:
        return not text
    head = pattern[0]
    if head == "*":
        return any(slow_glob(pattern[1:], text[at:]) for at in range(len(text) + 1))
    if not text:
        return False
    if head == "?":
        return slow_glob(pattern[1:], text[1:])
    if head == "[":
        accepted, rest = _slow_class(pattern[1:], text[0])
        return accepted and slow_glob(rest, text[1:])
    if head == "\\" and len(pattern) > 1:
        return pattern[1] == text[0] and slow_glob(pattern[2:], text[1:])
    return head == text[0] and slow_glob(pattern[1:], text[1:])


def _slow_class(rest: str, char: str) -> tuple[bool, str]:
    negated = rest.startswith("^")
    rest = rest[negated:]
    found = False
    while rest and rest[0] != "]":
        if rest[0] == "\\" and len(rest) > 1:
            found |= rest[1] == char
            rest = rest[2:]
        elif len(rest) > 2 and rest[1] == "-":
            low, high = sorted((rest[0], rest[2]))
            found |= low <= char <= high
            rest = rest[3:]
        else:
            found |= rest[0] == char
            rest = rest[1:]
    return found != negated, rest[1:]


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("*", "", True),
        ("*", "anything\nat all", True),
        ("", "", True),
        ("", "a", False),
        ("user_123_*", "user_123_", True),
        ("user_123_*", "user_12_x", False),
        ("h?llo", "hello", True),
        ("h?llo", "hllo", False),
        ("h[ae]llo", "hallo", True),
        ("h[^e]llo", "hello", False),
        ("h[a-c]llo", "hbllo", True),
        ("h[c-a]llo", "hbllo", True),
        (r"\*", "*", True),
        (r"\*", "x", False),
        ("a*a", "a", False),
        ("a*b*c", "a-b-b-c", True),
        ("[", "[", False),
        ("[a", "a", True),
        ("[]", "", False),
        ("日?語*", "日本語です", True),
        ("?", "🙂", True),
        ("A*", "a", False),
    ],
)
def test_globs_mean_what_redis_users_expect(pattern: str, text: str, expected: bool) -> None:
    assert glob_matcher(pattern)(text) is expected


@settings(max_examples=600)
@given(pattern=PATTERNS, text=TEXTS)
@example("*a*", "a")
@example("a*a", "a")
def test_glob_agrees_with_a_slow_and_obvious_one(pattern: str, text: str) -> None:
    assert glob_matcher(pattern)(text) == slow_glob(pattern, text)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pattern=PATTERNS.filter(bool), texts=st.sets(TEXTS.filter(bool), min_size=1, max_size=12))
def test_glob_selects_the_keys_that_a_real_redis_selects(pattern: str, texts: set[str], redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.flushall()
        for text in texts:
            client.set(text, "", ex=60)

        selected = set(client.keys(pattern))

    assert {text for text in texts if glob_matcher(pattern)(text)} == selected


@given(text=UNICODE, other=UNICODE)
def test_escaped_text_matches_itself_only(text: str, other: str) -> None:
    matches = glob_matcher(escape_glob(text))

    assert matches(text)
    assert matches(other) == (text == other)


@given(pattern=st.text(max_size=12), text=st.text(max_size=12))
def test_any_text_is_a_pattern(pattern: str, text: str) -> None:
    glob_matcher(pattern)(text)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("pattern", ["*a" * 2000 + "b", "*?" * 2000 + "b", "a*" * 2000 + "b", "*[a-z]" * 1000 + "!"])
def test_many_stars_do_not_blow_up(pattern: str) -> None:
    assert not glob_matcher(pattern)("a" * 4000)
