"""What monitoring/ holds is written from one source, names metrics that there are, and does what it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import yaml

from cache_management.cache.cluster.standing import NodeStanding
from cache_management.metrics.catalogue import CATALOGUE
from cache_management.metrics.families import Family
from cache_management.models.store.census import Census
from cache_management.models.store.results import Mark
from cache_management.workers.metrics import job_families, queue_families, store_families, usage_families
from cache_management.workers.queues import Waiting
from cache_management.workers.store_watch import StoreView

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "monitoring/rules/cache.yml"
DASHBOARD = json.loads((ROOT / "monitoring/grafana/dashboards/cache.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
PAGE = (ROOT / "docs/metrics.md").read_text()


def of_the_exporter() -> list[Family]:
    """Return every metric that can be told of all: with a database, a broker and a replicated store that answer."""
    return [
        *job_families(Census(kept=[], pruned=[], running={}, expired={}, oldest={})),
        *queue_families({"warm": Waiting()}, [Mark("warm", "w@here", datetime.now(UTC), 1.0)]),
        *store_families(StoreView(1, 2, (NodeStanding("a:1", "member", used_bytes=1),))),
        *usage_families([]),
    ]


LABELS = {family.name: family.labels for family in of_the_exporter()} | {each.name: each.labels for each in CATALOGUE}
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
RECORDS = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
EXPRESSIONS = [
    *(rule["expr"] for group in GROUPS for rule in group["rules"]),
    *(target["expr"] for panel in PANELS for target in panel.get("targets", [])),
]


def named(text: str) -> set[str]:
    """Return the metrics that an expression names."""
    found = re.findall(r"(?<![:\w])cache_\w+", text)
    return {re.sub(r"_(bucket|sum|count)$", "", name) if name not in LABELS else name for name in found}


def rows(heading: str) -> dict[str, str]:
    """Return the labels of the metrics that a table of the page names."""
    table = re.search(rf"^## {heading}\n.*?^\|[-| ]+\n((?:\|[^\n]*\n)+)", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert table, heading
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.group(1).splitlines()]
    return {row[0].strip("`"): row[1] for row in cells}


def test_the_files_are_as_their_source_says() -> None:
    found = subprocess.run(
        [sys.executable, ROOT / "tools/monitoring", "--check"], capture_output=True, text=True, check=False
    )

    assert (found.returncode, found.stderr) == (0, "")


def test_every_metric_that_is_named_exists_and_every_one_is_shown() -> None:
    used = set().union(*map(named, EXPRESSIONS))

    assert used - set(LABELS) == set()
    assert set(LABELS) - used == set()


def test_every_label_that_is_used_exists() -> None:
    for expression in EXPRESSIONS:
        known = {"le"}.union(*(LABELS[name] for name in named(expression)))
        if "cache:" in expression:
            known |= {"kind", "outcome"}
        chosen = re.findall(r"(\w+)=~?\"", expression) + re.split(
            r"[,\s]+", " ".join(re.findall(r"by \(([^)]*)\)", expression))
        )
        assert {label for label in chosen if label} <= known, expression


def test_every_recorded_series_is_recorded() -> None:
    assert {name for text in EXPRESSIONS for name in re.findall(r"cache:\w+:\w+", text)} <= RECORDS


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart
        assert one["x"] + one["w"] <= 24


def test_every_metric_stands_on_the_page_with_its_labels() -> None:
    assert rows("Of all") == {family.name: ", ".join(family.labels) for family in of_the_exporter()}
    assert rows("Of processes") == {metric.name: ", ".join(metric.labels) for metric in CATALOGUE}


def test_every_alert_stands_on_the_page() -> None:
    alerts = {rule["alert"] for group in GROUPS for rule in group["rules"] if "alert" in rule}

    assert set(rows("Alerts")) == alerts


@pytest.mark.skipif(which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_the_rules_well_and_their_alerts_go_off(tmp_path: Path) -> None:
    cases = tmp_path / "rules_test.yml"
    cases.write_text((Path(__file__).parent / "rules_test.yml").read_text().replace("RULES", str(RULES)))

    for arguments in (["check", "rules", str(RULES)], ["test", "rules", str(cases)]):
        said = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stdout + said.stderr
