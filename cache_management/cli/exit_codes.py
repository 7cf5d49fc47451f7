"""What a command returns to the shell. Scripts hold on to these: they do not change."""

from __future__ import annotations

from enum import IntEnum

from cache_management.cache.errors import (
    BackendUnavailable,
    BrokerUnavailable,
    CacheError,
    ConfigurationError,
    InvalidInput,
    MetadataUnavailable,
    WrongServer,
)


class ExitCode(IntEnum):
    """One meaning each; the README's table is checked against the docstrings below."""

    OK = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3
    BROKER = 4
    DATABASE = 5
    TIMEOUT = 6
    CACHE = 7
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """Say it in words."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILED: (
        "it failed, the job failed, was cancelled or is paused, nothing was found, or a check found a fault"
    ),
    ExitCode.USAGE: "wrong usage, input or configuration; nothing was changed",
    ExitCode.PARTIAL: "the job ended, some of its items failed",
    ExitCode.BROKER: "the broker cannot be reached",
    ExitCode.DATABASE: "the metadata database cannot be reached, or has another schema",
    ExitCode.TIMEOUT: "waiting took too long; the job goes on",
    ExitCode.CACHE: "the cache store cannot be reached",
    ExitCode.INTERRUPTED: "interrupted; a submitted job goes on",
}


def code_of(error: CacheError) -> ExitCode:
    """Return the code that an error ends a command with."""
    match error:
        case InvalidInput() | ConfigurationError():
            return ExitCode.USAGE
        case BrokerUnavailable():
            return ExitCode.BROKER
        case MetadataUnavailable():
            return ExitCode.DATABASE
        case BackendUnavailable():
            return ExitCode.USAGE if _is_of_another_kind(error) else ExitCode.CACHE
        case _:
            return ExitCode.FAILED


def _is_of_another_kind(error: BaseException | None) -> bool:
    """Tell whether a store is away because the settings name a server of another kind: no waiting mends that."""
    while error is not None:
        if isinstance(error, WrongServer):
            return True
        error = error.__cause__
    return False
