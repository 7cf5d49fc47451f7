from __future__ import annotations

import pytest

from cache_management.cache.one_line import on_one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [("", ""), ("a\n b\t", "a b"), ("12345", "12345"), ("123456", "12345 …"), ("1\n\n4  7", "1 4 …"), ("\n" * 9, " …")],
)
def test_the_beginning_of_a_text_is_shown_on_one_line(text: str, shown: str) -> None:
    assert on_one_line(text, 5) == shown
