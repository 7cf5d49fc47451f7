"""Every query on the metadata tables.

    stores = open_stores("sqlite:////var/lib/cache/metadata.db")
    stores.upgrade()
    submitted = stores.jobs.create("warm", {}, namespace="default", submitted_by="me")

Nothing connects before the first query, and each process that a worker forks
opens connections of its own.
"""

from __future__ import annotations

from datetime import datetime

from cache_management.models.base import Clock, Database, read_clock
from cache_management.models.store import schema
from cache_management.models.store.audit import AuditStore
from cache_management.models.store.census import CensusStore
from cache_management.models.store.jobs import JobStore
from cache_management.models.store.operations import OperationsStore
from cache_management.models.store.pruning import PruningStore

__all__ = ["AuditStore", "CensusStore", "JobStore", "OperationsStore", "PruningStore", "Stores", "open_stores"]


class Stores:
    """The stores of one metadata database."""

    def __init__(self, database: Database, *, clock: Clock = read_clock) -> None:
        self.database = database
        self._clock = clock
        self.jobs = JobStore(database, clock=clock)
        self.audit = AuditStore(database, clock=clock)
        self.operations = OperationsStore(database, clock=clock)
        self.pruning = PruningStore(database, clock=clock)
        self.census = CensusStore(database, clock=clock)

    def upgrade(self) -> None:
        """Bring the tables to this version's revision.

        Raises:
            MetadataUnavailable: The database does not answer.
        """
        schema.upgrade(self.database.url)

    def check(self) -> None:
        """Make sure the tables are at this version's revision.

        Raises:
            MetadataUnavailable: They are not, or the database does not answer.
        """
        schema.check_database(self.database)

    @property
    def is_unmade(self) -> bool:
        """Whether the database is a file that is not there yet: to ask it anything would make an empty one."""
        return self.database.file is not None and not self.database.file.exists()

    def now(self) -> datetime:
        """Return the time by the database's clock, which is the one that counts.

        Raises:
            MetadataUnavailable: The database does not answer.
        """
        with self.database.read() as connection:
            return self._clock(connection)

    def close(self) -> None:
        """Close this process's connections; a later query opens new ones."""
        self.database.close()


def open_stores(url: str, *, clock: Clock = read_clock) -> Stores:
    """Open the stores of a metadata database.

    Args:
        url: `sqlite:////path/to/file.db` or `postgresql://user@host/database`.
        clock: What time it is, asked inside each transaction; tests set their own.

    Raises:
        ConfigurationError: The URL is neither.
    """
    return Stores(Database(url), clock=clock)
