"""Reads the metrics of queues, jobs, store and use from where they are kept, when somebody asks.

Nothing is counted in this process: whichever die or begin anew, the numbers stay right, and totals never go
down, also when history is deleted. A source that is down or does not answer in time is left out and says so
by its `_up`. What processes of this machine count into a folder (`metrics.folder`) is told beside it.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from cache_management.cache.errors import MetadataUnavailable
from cache_management.cache.question import Question
from cache_management.metrics.catalogue import families
from cache_management.metrics.cells import read_folder
from cache_management.metrics.families import Family
from cache_management.models.store import Stores, open_stores
from cache_management.models.store.census import Census
from cache_management.models.store.results import Mark
from cache_management.models.usage import DAY_SECONDS, UsageRow
from cache_management.settings import Settings
from cache_management.workers.client import JobClient
from cache_management.workers.metrics import job_families, queue_families, store_families, usage_families
from cache_management.workers.queues import Waiting, read_queues
from cache_management.workers.store_watch import look_at_store

logger = logging.getLogger("cache_management.workers")

_EVER = datetime(2000, 1, 1, tzinfo=UTC)
ANSWER_SECONDS = 4.0
"""How long a source may take: less than the ten seconds that Prometheus waits for all."""


class Exporter:
    """Asks the database and the broker, each at most once at a time.

    Close what is no longer needed.
    """

    def __init__(self, settings: Settings, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._stores: Stores = open_stores(settings.metadata_url)
        self._client = JobClient(settings, stores=self._stores)
        self._database = Question(self._ask_database, "database", answer_seconds)
        self._broker = Question(self._ask_broker, "broker", answer_seconds)
        self._settings = settings
        self._store = Question(
            lambda: look_at_store(settings, timeout_seconds=answer_seconds / 4), "cache store", answer_seconds
        )

    def families(self) -> list[Family]:
        """Return what is to be told now; takes a few seconds at most, also when a source is down."""
        database, broker, store = self._database.ask(), self._broker.ask(), self._store.ask()
        census, marks, usage = database() or (None, None, None)
        return [
            *job_families(census),
            *queue_families(broker(), marks),
            *store_families(store()),
            *usage_families(usage),
            *self._counted(),
        ]

    def close(self) -> None:
        """Close connections."""
        self._client.close()
        self._stores.close()

    def _counted(self) -> list[Family]:
        """Return what processes of this machine counted."""
        folder = self._settings.metrics_folder
        if folder is None:
            return []
        try:
            return families(read_folder(folder)) if folder.is_dir() else []
        except OSError as exc:
            logger.warning("what was counted in %s cannot be read: %s", folder, exc.strerror)
            return []

    def _ask_database(self) -> tuple[Census, list[Mark], list[UsageRow]]:
        if self._stores.is_unmade:
            raise MetadataUnavailable(f"{self._stores.database.shown} is not there yet; who needs it makes it")
        operations = self._stores.operations
        # Days are kept for ever, so their sums never go down.
        usage = operations.usage(since=_EVER, period_seconds=DAY_SECONDS)
        return self._stores.census.take(), operations.marks(), usage

    def _ask_broker(self) -> dict[str, Waiting]:
        return read_queues(self._client.celery)
