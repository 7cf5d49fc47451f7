"""One suite, two databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_management.models.store import Stores, schema
from tests.models.acting import Acting, HandClock, LossyDatabase


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/metadata.db"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def database(url: str) -> Iterator[LossyDatabase]:
    """A database with its tables."""
    schema.upgrade(url)
    database = LossyDatabase(url)
    yield database
    database.close()


@pytest.fixture
def stores(database: LossyDatabase, clock: HandClock) -> Stores:
    return Stores(database, clock=clock)


@pytest.fixture
def acting(stores: Stores, clock: HandClock) -> Acting:
    return Acting(stores, clock)
