"""Where log lines go."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cache_management.cache.errors import ConfigurationError
from cache_management.logs import open_log


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("any", logging.WARNING, "file.py", 1, text, (), None)


def test_a_file_that_was_moved_away_is_opened_anew(tmp_path: Path) -> None:
    file = tmp_path / "cache.log"
    handler = open_log(file)
    handler.emit(record("first"))
    file.rename(tmp_path / "cache.log.1")

    handler.emit(record("second"))
    handler.close()

    assert (tmp_path / "cache.log.1").read_text().endswith("WARNING any: first\n")
    assert file.read_text().endswith("WARNING any: second\n")


def test_no_line_has_the_password_of_a_url(tmp_path: Path) -> None:
    handler = open_log(tmp_path / "cache.log")
    handler.emit(record("cannot reach 'redis://me:hunter2@b:1/0', nor postgresql://me@d/x?password=hunter2; later"))
    handler.close()

    said = (tmp_path / "cache.log").read_text()
    assert "hunter2" not in said
    assert "redis://me:********@b:1/0" in said


@pytest.mark.parametrize("name", ["", "missing/cache.log", "file/cache.log"])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigurationError, match=r"logging\.file: .* cannot be opened"):
        open_log(tmp_path / name)
