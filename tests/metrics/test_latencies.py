from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.metrics.latencies import BOUNDS, BUCKETS, LE, Distribution, bucket_of

seconds = st.floats(1e-7, 1e5, exclude_min=True)


def distribution(values: list[float]) -> Distribution:
    counts = Counter(map(bucket_of, values))
    return Distribution([float(counts[bucket]) for bucket in range(BUCKETS)], sum(values))


@given(st.lists(seconds, min_size=1), st.floats(0, 1))
def test_a_quantile_is_that_of_numpy_within_one_per_cent(values: list[float], share: float) -> None:
    assert distribution(values).quantile(share) == pytest.approx(np.quantile(values, share), rel=0.01)


@given(st.lists(seconds), st.lists(seconds))
def test_what_two_processes_measured_is_added_up(one: list[float], other: list[float]) -> None:
    left, right = distribution(one), distribution(other)

    both = Distribution([a + b for a, b in zip(left.counts, right.counts, strict=True)], 0.0)

    assert both.counts == distribution(one + other).counts


@given(st.lists(st.one_of(seconds, st.sampled_from(LE))))
def test_prometheus_is_told_exactly_how_many_are_at_most_a_bound(values: list[float]) -> None:
    told = dict(distribution(values).cumulative())

    assert [told[repr(le)] for le in LE] == [sum(value <= le for value in values) for le in LE]
    assert told["+Inf"] == len(values)


def test_buckets_grow_by_two_per_cent_at_most() -> None:
    assert max(high / low for low, high in pairwise(BOUNDS)) <= 1.02 + 1e-9


@pytest.mark.parametrize(("value", "most"), [(0.0, 1e-7), (1e9, 1e5)])
def test_what_lies_outside_is_counted_at_the_edge(value: float, most: float) -> None:
    assert 0 <= distribution([value]).quantile(0.5) <= most
    assert distribution([value]).count == 1


def test_without_any_all_is_zero() -> None:
    assert (distribution([]).quantile(0.99), distribution([]).mean_seconds) == (0.0, 0.0)
