"""Every error that this package raises on purpose.

    CacheError
    ├── ConfigurationError        a setting is wrong; names the key, the value and the fix
    ├── InvalidInput              an argument, a file or a line of it cannot be used
    │   ├── InvalidKey            a key or namespace cannot be used
    │   └── InvalidEntry          a value cannot be stored: not JSON, nested too deeply, ...
    │       └── EntryTooLarge     it is larger than max_entry_bytes
    ├── BackendUnavailable        a store did not answer in time
    │   ├── BackendRefused        it is there, and refused: full, read-only, not permitted
    │   └── WrongServer           it is there, and of another kind than the settings say
    ├── CorruptRecord             stored bytes failed their check; readers turn it into a miss
    ├── JournalGap                a reader fell behind what the journal still holds
    ├── EmbedderUnavailable       the embedding model cannot be loaded
    ├── ProviderBusy              whoever answers prompts cannot now: ask again later
    ├── ProviderRefused           it will not answer this prompt
    ├── JobError                  a job cannot be submitted, found or changed
    │   ├── JobNotFound
    │   └── BrokerUnavailable     the task queue cannot be reached
    ├── MetadataUnavailable       the metadata database cannot be reached
    └── ServerStartError          an embedded server did not start

Callers catch a class, never a message. A miss is a value, not an error.
"""

from __future__ import annotations

from collections.abc import Sequence


class CacheError(Exception):
    """Base of everything raised here."""


class ConfigurationError(CacheError):
    """A setting is unknown, has a wrong value, or contradicts another one.

    `problems` holds each key that is wrong ("" for none in particular) and what is wrong about it, where that is known.
    """

    def __init__(self, text: str, *, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(text)
        self.problems = tuple(problems)


class InvalidInput(CacheError, ValueError):
    """What the caller gave cannot be used; nothing was changed."""


class InvalidKey(InvalidInput):
    """A key or a namespace cannot be used."""


class InvalidEntry(InvalidInput):
    """A value cannot be stored."""


class EntryTooLarge(InvalidEntry):
    """A value is larger than `max_entry_bytes`."""


class BackendUnavailable(CacheError):
    """A store did not answer within its budget."""

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__(f"{backend} is unavailable: {reason}; check that it runs, and the settings that name it")
        self.backend = backend
        self.reason = reason


class BackendRefused(BackendUnavailable):
    """A store answers, and did not do this: it is full, read-only, or does not permit it."""

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__(backend, f"it refused: {reason}")


class WrongServer(BackendUnavailable):
    """What answers is of another kind than the settings say, such as a node of a cluster for a single server."""


class QuorumNotReached(BackendUnavailable):
    """Too few nodes of a replicated cache answered.

    `indeterminate`: a write may have been stored on some, and may be seen later; else nothing of it was.
    """

    def __init__(self, reason: str, *, indeterminate: bool) -> None:
        super().__init__("the replicated cache", reason)
        self.args = (f"the replicated cache is unavailable: {reason}",)
        self.indeterminate = indeterminate


class CorruptRecord(CacheError):
    """Stored bytes are not what was written."""


class JournalGap(CacheError):
    """The journal no longer holds what follows a cursor: read everything again."""


class EmbedderUnavailable(CacheError):
    """The embedding model cannot be loaded."""


class ProviderBusy(CacheError):
    """Whoever answers prompts cannot now: too many questions, an outage. Ask again later."""

    def __init__(self, reason: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"the provider cannot answer now: {reason}")
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class ProviderStuck(ProviderBusy):
    """It gave no answer in time, or broke down: an outage, or else this question, which must not be tried for ever."""


class ProviderRefused(CacheError):
    """Whoever answers prompts will not answer this one, however often it is asked."""


class JobError(CacheError):
    """A job cannot be submitted or changed."""


class JobNotFound(JobError):
    """No job has this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id!r}; `cache-cli jobs list` shows the jobs there are")
        self.job_id = job_id


class BrokerUnavailable(JobError):
    """The task queue cannot be reached."""


class MetadataUnavailable(CacheError):
    """The metadata database cannot be reached, or its schema is not at the right revision."""


class ServerStartError(CacheError):
    """A server that this program starts did not come up."""
