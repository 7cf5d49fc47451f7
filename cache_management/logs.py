"""Where log lines go: to standard error, or to a file that somebody else rotates."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from cache_management.cache.errors import ConfigurationError
from cache_management.cache.redact import hide_passwords

FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"
FORM_OF_SERVICES = "%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s"


class _Formatter(logging.Formatter):
    """Leaves the passwords of URLs out, whoever logs them."""

    def format(self, record: logging.LogRecord) -> str:
        return hide_passwords(super().format(record))


def open_log(file: Path | None, form: str = FORM) -> logging.Handler:
    """Return what writes log lines to a file, or to standard error.

    Several processes may write to one file. One that was moved away, such as by logrotate, is opened anew.

    Raises:
        ConfigurationError: The file cannot be opened.
    """
    # Five lines at INFO for whatever opens the database, and none of them says anything.
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        from logging.handlers import WatchedFileHandler

        try:
            handler = WatchedFileHandler(file.expanduser(), encoding="utf-8")
        except OSError as exc:
            raise ConfigurationError(
                f"logging.file: {file} cannot be opened: {exc.strerror or exc}; name a file that this account may write"
            ) from exc
    handler.setFormatter(_Formatter(form))
    return handler
