"""Runs `cache-cli` in this process, on a data directory of the test's own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cache_management.cli.main import run
from tests.cache.cluster.conftest import nodes as nodes  # noqa: PLC0414 - a fixture is passed on
from tests.cache.cluster.conftest import three_servers as three_servers  # noqa: PLC0414


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh data directory and working directory; no setting of the caller reaches the test."""
    for name in list(os.environ):
        if name.startswith("CACHE_"):
            monkeypatch.delenv(name)
    folder = tmp_path / "data"
    monkeypatch.setenv("CACHE_DATA_DIR", str(folder))
    monkeypatch.setenv("CACHE_EMBEDDING_MODEL", "hashing")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def cli(data_dir: Path, capfd: pytest.CaptureFixture[str]) -> Cli:
    """A function that runs a command and returns its exit code and output."""

    def invoke(*args: object) -> Result:
        capfd.readouterr()
        code = run([str(arg) for arg in args])
        found = capfd.readouterr()
        assert "Traceback" not in found.err, found.err
        return Result(code, found.out, found.err)

    return invoke
