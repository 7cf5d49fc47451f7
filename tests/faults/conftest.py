"""What the fault tests stand on: private servers and workers that may be killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import OwnRedisFactory
from tests.workers.harness import JobWorld, job_world


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., JobWorld]]:
    """A function that opens job worlds; their workers end with the test."""
    with ExitStack() as stack:
        yield lambda **urls: stack.enter_context(job_world(tmp_path / "world", **urls))


@pytest.fixture
def broker(own_redis: OwnRedisFactory) -> Any:
    """A private broker with an append-only file."""
    return own_redis(appendonly=True)


@pytest.fixture
def node(own_redis: OwnRedisFactory) -> Any:
    """A private cache node."""
    return own_redis()
