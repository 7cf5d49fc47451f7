from __future__ import annotations

import math

import pytest

from cache_management.cache.cluster.slots import SLOTS, first_placement
from tests.bench.cluster_simulation import (
    PAGE,
    Cluster,
    Row,
    as_markdown,
    even_up_to,
    failures,
    main,
    most_of,
    repair,
    report,
    sizing,
)


def assert_agree(rows: list[Row]) -> None:
    for row in rows:
        if not math.isnan(row.simulated):
            assert math.isclose(row.simulated, row.formula, rel_tol=row.tolerance), row


@pytest.mark.parametrize("cluster", [Cluster(40, 1e7, 2), Cluster(25, 1e6, 1)])
def test_what_is_drawn_agrees_with_the_formulae(cluster: Cluster) -> None:
    for rows in report(cluster, drawn=2000).values():
        assert_agree(rows)


@pytest.mark.parametrize("replicas", [0, 1, 2, 4])
def test_losses_that_are_often_drawn_agree_closely(replicas: int) -> None:
    rows = failures(Cluster(30, 1e6, replicas), mtbf_hours=20, repair_hours=2, drawn=6000)

    assert_agree(rows)
    assert all(row.tolerance < 0.4 and not math.isnan(row.simulated) for row in rows)


def test_a_short_outage_leaves_most_slots_alike() -> None:
    rows = repair(Cluster(40, 1e6, 2), outage_minutes=20, writes_a_second=10)

    assert_agree(rows)
    assert 0.4 < next(row for row in rows if row.what == "slots that differ").simulated / (SLOTS * 3 / 40) < 0.6


def test_first_places_are_within_3_percent_up_to_500_nodes() -> None:
    firsts = [load.first for load in first_placement([str(at) for at in range(500)], voters=3).load().values()]

    assert max(firsts) * 500 / SLOTS <= 1.03
    assert even_up_to(SLOTS) >= 500
    assert most_of(SLOTS, even_up_to(SLOTS) + 1) > 1.03


def test_a_cluster_of_one_copy_cannot_be_filled_again() -> None:
    assert math.isnan(sizing(1e6, replicas=0).rebuild_seconds)
    assert sizing(1e6, replicas=1).nodes == sizing(1e6, replicas=2).nodes == 3
    assert sizing(1e9, replicas=2).nodes > 3


def test_capacity_page_shows_what_the_script_finds(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--nodes", "10", "--keys", "1e5", "--failures", "100", "--json"])

    assert '"first places, most / mean"' in capsys.readouterr().out
    assert as_markdown({}).strip() in PAGE.read_text()  # tables and sizes; the draws take longer
