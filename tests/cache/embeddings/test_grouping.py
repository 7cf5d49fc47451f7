"""Texts of about equal length go through the model together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.embeddings.grouping import group_by_length

counts = st.lists(st.integers(1, 512), max_size=200)


@given(counts)
def test_every_text_is_in_one_group(token_counts: list[int]) -> None:
    groups = group_by_length(token_counts)

    assert sorted(at for group in groups for at in group) == list(range(len(token_counts)))


@given(counts)
def test_no_group_is_large_or_padded_by_more_than_a_quarter_and_two(token_counts: list[int]) -> None:
    for group in group_by_length(token_counts):
        longest, shortest = token_counts[group[0]], token_counts[group[-1]]
        assert len(group) <= 64
        assert shortest >= 0.8 * longest - 2


def test_equal_lengths_share_groups() -> None:
    assert [len(group) for group in group_by_length([7] * 100)] == [64, 36]
