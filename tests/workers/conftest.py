"""What the tests of jobs stand on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cache.cluster.conftest import nodes as nodes  # noqa: PLC0414 - a fixture is passed on
from tests.cache.cluster.conftest import three_servers as three_servers  # noqa: PLC0414
from tests.workers.inline import Inline


@pytest.fixture
def make_inline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Inline]]:
    """A function that opens a runtime of this process with settings of one's own."""
    made: list[Inline] = []

    def make(**env: str) -> Inline:
        made.append(Inline(tmp_path / "data", monkeypatch, **env))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def inline(make_inline: Callable[..., Inline]) -> Inline:
    """Jobs answered in this process, over a store in memory."""
    return make_inline()
