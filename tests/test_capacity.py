"""tools/capacity: its formulae against a simulation, and docs/capacity.md against the tool."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    loader = SourceFileLoader("capacity_tool", str(ROOT / "tools/capacity"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


def test_the_page_holds_the_plans_of_the_tool(tool: ModuleType) -> None:
    assert tool.plans() in (ROOT / "docs/capacity.md").read_text()


@pytest.mark.parametrize("exponent", [0.7, 1.0])
@pytest.mark.parametrize("size", [20, 200, 1000, 2000])
def test_the_formula_of_the_hit_rate_is_what_a_simulation_finds(tool: ModuleType, size: int, exponent: float) -> None:
    assert tool.che(2000, size, exponent) == pytest.approx(
        tool.simulated(2000, size, exponent, requests=60_000), abs=0.015
    )


def test_more_entries_take_more_and_the_most_demanding_part_decides(tool: ModuleType) -> None:
    def nodes(**wanted: float) -> float:
        return next(line.value for line in tool.plan(tool.Wanted(**{"entries": 1e6} | wanted)) if line.what == "nodes")

    assert nodes() == 3
    assert nodes(entries=1e9) > nodes(entries=1e8) > 3
    assert nodes(lookups=1e6) > 3
    assert nodes(answer_bytes=1e6, lookups=5_000) > 3
    assert nodes(replicas=0) == 1


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--entries", "many", "argument --entries: 'many' is no number above 0"),
        ("--fill", "0", "argument --fill: '0' is nothing; take a share above 0"),
    ],
)
def test_a_figure_that_is_none_is_named(option: str, value: str, said: str) -> None:
    found = subprocess.run(
        [sys.executable, ROOT / "tools/capacity", option, value], capture_output=True, text=True, check=False
    )

    assert found.returncode == 2
    assert said in found.stderr
