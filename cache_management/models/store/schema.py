"""Move a metadata database between schema revisions, and say which one it has."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, inspect, text

import cache_management
from cache_management.cache.errors import MetadataUnavailable
from cache_management.models import audit, job, operations
from cache_management.models.base import Base, Database

if TYPE_CHECKING:
    from alembic.config import Config

# Importing a table's module is what puts it into Base.metadata.
TABLE_MODULES = (audit, job, operations)
_MIGRATIONS = Path(cache_management.__file__).parent / "migrations"
# Any number will do, as long as nothing else in this database takes it.
_UPGRADE_LOCK = 0x6361_6368_6501


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database up to a revision; two at once run one after the other.

    One that a newer version upgraded stays as it is, if this version can work with it.

    Raises:
        MetadataUnavailable: It is newer than that, or does not answer.
    """

    from alembic import command

    def act(config: Config) -> None:
        if not _is_served(current(config.attributes["connection"]), shown=Database(url).shown):
            command.upgrade(config, revision)

    _migrate(url, act)


def downgrade(url: str, revision: str) -> None:
    """Take the database down to a revision; `base` removes every table of ours."""
    from alembic import command

    _migrate(url, lambda config: command.downgrade(config, revision))


def wanted() -> str:
    """Name the revision that this version of the package works with."""
    known = revisions()
    if not known:
        raise RuntimeError("the package holds no migrations: its installation is incomplete")
    return known[0]


def revisions() -> list[str]:
    """Name the revisions that this version knows, the newest first."""
    # By their files: whoever opens the database asks, and Alembic takes as long to load as all the rest.
    found = (_MIGRATIONS / "versions").glob("[0-9]*_*.py")
    return sorted((file.name.partition("_")[0] for file in found), reverse=True)


def current(connection: Connection) -> str | None:
    """Name the revision a database is at; None when it has no tables of ours."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def check(url: str) -> None:
    """Make sure this version can work with the database: it is at the right revision, or at the next one.

    A migration only adds, so that programs of the version before go on while others are upgraded: docs/upgrading.md.

    Raises:
        MetadataUnavailable: It is not, or does not answer.
    """
    database = Database(url)
    try:
        check_database(database)
    finally:
        database.close()


def check_database(database: Database) -> None:
    """Do what `check` does, on connections that are already there."""
    path = database.file
    if path is not None and not path.exists():
        found = None
    else:
        with database.read() as connection:
            found = current(connection)
    if not _is_served(found, shown=database.shown) and found != wanted():
        raise MetadataUnavailable(
            f"metadata database {database.shown} is at revision {found or 'none'}, this version needs {wanted()}; "
            "run `cache-cli db upgrade`"
        )


def _is_served(found: str | None, *, shown: str) -> bool:
    """Tell whether a database is newer than this version, and near enough.

    Raises:
        MetadataUnavailable: It is too new.
    """
    if found is None or found in revisions():
        return False
    if found.isdecimal() and int(found) == int(wanted()) + 1:
        return True
    raise MetadataUnavailable(
        f"metadata database {shown} is at revision {found}, and this version works with {wanted()} and the next one; "
        "install the version that upgraded the database"
    )


def drift(url: str) -> list[Any]:
    """List how the tables differ from the models; empty when a migration is not missing."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    database = Database(url)
    try:
        with database.read() as connection:
            context = MigrationContext.configure(
                connection, opts={"compare_type": True, "compare_server_default": True}
            )
            return list(compare_metadata(context, Base.metadata))
    finally:
        database.close()


def _config() -> Config:
    # Paths from the package, so that an installed wheel can upgrade too.
    from alembic.config import Config

    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _migrate(url: str, action: Any) -> None:
    database = Database(url, answer_seconds=None)  # a large table is rewritten
    config = _config()
    try:
        with database.write() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
            config.attributes["connection"] = connection
            action(config)
    finally:
        database.close()
