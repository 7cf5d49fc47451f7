"""What every command has at hand: the settings, the objects made from them, and one way to run a coroutine."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from cache_management.cache.errors import CacheError, ConfigurationError
from cache_management.cache.extras import missing_extra
from cache_management.cli.output import note
from cache_management.logs import FORM_OF_SERVICES, open_log

if TYPE_CHECKING:
    from cache_management.models.store import Stores
    from cache_management.settings import Loaded, Settings
    from cache_management.wiring import Platform
    from cache_management.workers.client import JobClient

T = TypeVar("T")

logger = logging.getLogger("cache_management.cli")


class CliContext:
    """Reads the settings when a command first needs them."""

    def __init__(self, config: Path | None, *, log_level: int | None = None) -> None:
        """Take the options that all commands have; `log_level` is None without -v and -d."""
        self.config = config
        self._log_level = log_level
        self._logs: list[logging.Handler] = []
        self._opened: list[Stores] = []

    @cached_property
    def loaded(self) -> Loaded:
        from cache_management.wiring import read_settings  # not to list the commands

        found = read_settings(self.config)
        self._log_as_set(found)
        logger.debug("settings: file %s, others %s", found.file, found.sources)
        return found

    def begin_logging(self) -> None:
        """Log to standard error what -v and -d ask for, until the settings are known."""
        self._log_to(open_log(None), self._log_level or logging.WARNING)

    def log_as_service(self, level: str | None = None) -> str:
        """Log as something that runs until it is stopped: to logging.file if there is one; return the level.

        Args:
            level: That of an option of the command, which wins over -v and -d, and these over logging.level.

        Raises:
            ConfigurationError: The file cannot be opened.
        """
        given = self.settings.logging
        of_options = None if self._log_level is None else logging.getLevelName(self._log_level)
        wanted = level or of_options or given.level
        handler = open_log(given.file, FORM_OF_SERVICES)
        self._end_logging()
        self._log_to(handler, logging.getLevelName(wanted))
        return wanted

    def _log_as_set(self, loaded: Loaded) -> None:
        """Log into logging.file, too; a person who may not write there still gets what was asked for."""
        given = loaded.settings.logging
        if given.file is not None:
            try:
                self._log_to(
                    open_log(given.file, FORM_OF_SERVICES), self._log_level or logging.getLevelName(given.level)
                )
            except ConfigurationError as exc:
                note(f"Warning: {exc}")
        elif self._log_level is None and "logging.level" in loaded.sources:
            self._end_logging()
            self._log_to(open_log(None), logging.getLevelName(given.level))

    def _log_to(self, handler: logging.Handler, level: int) -> None:
        handler.setLevel(level)
        self._logs.append(handler)
        root = logging.getLogger()
        root.addHandler(handler)
        root.setLevel(min(each.level for each in self._logs))

    def _end_logging(self) -> None:
        while self._logs:
            handler = self._logs.pop()
            logging.getLogger().removeHandler(handler)
            handler.close()
        logging.getLogger().setLevel(logging.WARNING)

    @property
    def config_file(self) -> Path:
        """The configuration file that is read, or would be if it were there."""
        from cache_management.settings import DEFAULT_FILE

        return self.config or Path(os.environ.get("CACHE_CONFIG") or DEFAULT_FILE)

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    def run(self, work: Callable[[Platform], Awaitable[T]]) -> T:
        """Run a coroutine function on a fresh Platform and close it.

        A person wants to know that a store is down, so nothing fails open here.
        """
        import asyncio

        from cache_management.wiring import open_platform

        async def main() -> T:
            settings = self.settings
            patient = {"strict": True, "timeout_seconds": max(2.0, settings.timeout_seconds)}
            platform = open_platform(settings.model_copy(update=patient))
            try:
                return await work(platform)
            finally:
                await platform.aclose()

        return asyncio.run(main())

    def stores(self) -> Stores:
        """Open the metadata database; a SQLite file that is not there yet is made.

        Raises:
            MetadataUnavailable: It does not answer, or its schema is of another version.
        """
        stores = self.unchecked_stores()
        if is_new_sqlite(self.settings.metadata_url):
            stores.upgrade()
        else:
            stores.check()
        return stores

    def unchecked_stores(self) -> Stores:
        """Open the metadata database, whatever its schema."""
        from cache_management.models.store import open_stores

        stores = open_stores(self.settings.metadata_url)
        self._opened.append(stores)
        return stores

    @contextmanager
    def audited(self, action: str, arguments: Mapping[str, object]) -> Iterator[None]:
        """Write into the audit log that somebody did something that no job records, and how it ended.

        Only a digest of the arguments is written. A database that is away, or an installation without one, keeps
        nobody from the work: a note says that it is not in the log.
        """
        try:
            yield
        except BaseException as exc:
            self._record(action, arguments, error=exc)
            raise
        self._record(action, arguments, error=None)

    def _record(self, action: str, arguments: Mapping[str, object], *, error: BaseException | None) -> None:
        try:
            from cache_management.models.store.audit import digest
            from cache_management.workers.client import whoami

            self.stores().audit.append(
                actor=whoami(),
                action=action,
                args_digest=digest({"namespace": self.settings.namespace, **arguments}),
                outcome="ok" if error is None else "failed",
                error_class=None if error is None else _class_of(error),
            )
        except CacheError as exc:
            note(f"This is not in the audit log: {exc}")
        except ImportError as exc:
            missing = missing_extra(exc)
            note(f"This is not in the audit log: {exc if missing is None else f'that needs {missing}'}")

    def client(self) -> JobClient:
        """Return the way to the jobs."""
        from cache_management.workers.client import JobClient

        return JobClient(self.settings, stores=self.stores())

    def close(self) -> None:
        """Close the databases and logs that the command opened."""
        while self._opened:
            self._opened.pop().close()
        self._end_logging()


def is_new_sqlite(url: str) -> bool:
    """Tell whether a metadata URL names a SQLite file that does not exist yet."""
    if not url.startswith("sqlite:///"):
        return False
    file = Path(url.removeprefix("sqlite:///").partition("?")[0])
    return not file.exists() or file.stat().st_size == 0


pass_cli = click.make_pass_decorator(CliContext)


def _class_of(error: BaseException) -> str:
    """Return the class of an error that callers know: not one of a store's own below it."""
    known = (each for each in type(error).__mro__ if each.__module__ == CacheError.__module__)
    return next(known, type(error)).__name__
