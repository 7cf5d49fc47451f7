"""What an adapter says where its framework is not installed."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("adapter", "framework"), [("langchain", "langchain_core"), ("litellm", "litellm"), ("dspy", "dspy")]
)
def test_a_missing_framework_names_its_extra(monkeypatch: pytest.MonkeyPatch, adapter: str, framework: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == framework]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, framework, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, f"cache_management.adapters.{adapter}", raising=False)

    with pytest.raises(ImportError, match=rf"cache-management\[{adapter}\]"):
        importlib.import_module(f"cache_management.adapters.{adapter}")


def test_importing_the_package_of_adapters_needs_none() -> None:
    assert importlib.import_module("cache_management.adapters").__doc__
