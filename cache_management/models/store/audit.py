"""Append to the audit chain and check it."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select, text

from cache_management import __version__
from cache_management.cache.errors import CorruptRecord
from cache_management.models.audit import AuditEntry
from cache_management.models.base import Clock, Database, read_clock
from cache_management.models.job import VERIFYING_KIND, Job
from cache_management.models.store.results import AuditRecord

GENESIS = "0" * 64
# Any number will do, as long as nothing else in this database takes it.
_CHAIN_LOCK = 0x6361_6368_6502
_PAGE = 500
_UNREADABLE = (ValueError, TypeError)  # a value that no version of ours wrote, such as a moment that is none
_TABLE = AuditEntry.__table__


def digest(value: Any) -> str:
    """Fingerprint arguments for the log, which must not hold them."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def append(
    connection: Connection,
    now: datetime,
    *,
    actor: str,
    action: str,
    job_id: str | None = None,
    args_digest: str | None = None,
    outcome: str = "ok",
    error_class: str | None = None,
) -> AuditRecord:
    """Add a row inside the caller's transaction; call it last, it takes the chain's lock.

    Until that transaction ends every other appender waits.
    """
    if connection.dialect.name == "postgresql":
        # SQLite needs none: its writers are one at a time already.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CHAIN_LOCK})
    last = connection.execute(
        select(AuditEntry.id, AuditEntry.hash).order_by(AuditEntry.id.desc()).limit(1)
    ).one_or_none()
    row: dict[str, Any] = {
        "id": last.id + 1 if last else 1,
        "at": now,
        "client_at": datetime.now(UTC),
        "actor": actor,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": __version__,
        "action": action,
        "job_id": job_id,
        "args_digest": args_digest,
        "outcome": outcome,
        "error_class": error_class,
        "prev_hash": last.hash if last else GENESIS,
    }
    row["hash"] = _link(row)
    connection.execute(insert(AuditEntry), row)
    return AuditRecord(**row)


class Verified(msgspec.Struct, frozen=True):
    """How far a walk along the chain came: the last id and hash that hold, and the first broken id, if there is one."""

    id: int
    hash: str
    broken: int | None = None
    is_over: bool = False


class AuditStore:
    """Read the audit log, and add to it what is not part of another transaction."""

    def __init__(self, database: Database, *, clock: Clock = read_clock) -> None:
        self._database, self._clock = database, clock

    def append(
        self,
        *,
        actor: str,
        action: str,
        job_id: str | None = None,
        args_digest: str | None = None,
        outcome: str = "ok",
        error_class: str | None = None,
    ) -> AuditRecord:
        """Add a row in a transaction of its own."""
        with self._database.write() as connection:
            return append(
                connection,
                self._clock(connection),
                actor=actor,
                action=action,
                job_id=job_id,
                args_digest=args_digest,
                outcome=outcome,
                error_class=error_class,
            )

    def tail(self, n: int = 20, *, job_id: str | None = None) -> list[AuditRecord]:
        """Read the last rows (of one job), oldest first."""
        query = select(_TABLE).order_by(AuditEntry.id.desc()).limit(n)
        if job_id is not None:
            query = query.where(AuditEntry.job_id == job_id)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [AuditRecord(**row) for row in reversed(rows)]

    def head(self) -> tuple[int, str]:
        """Give the last id and hash. Kept elsewhere, they show a cut-off end of the log."""
        last = self.tail(1)
        return (last[0].id, last[0].hash) if last else (0, GENESIS)

    def verify(self, *, head: tuple[int, str] | None = None) -> int | None:
        """Walk the chain.

        Args:
            head: What `head()` said earlier; a log that lost its end is whole in itself.

        Returns:
            The first broken id (a changed row, or the one after which rows are
            missing), or None.
        """
        walk = Verified(0, GENESIS)
        while not walk.is_over:
            walk = self.verify_page(walk, head=head)
        return walk.broken

    def verify_page(self, after: Verified, *, head: tuple[int, str] | None = None, limit: int = _PAGE) -> Verified:
        """Go on with a walk along the chain that came as far as `after`; begin with `Verified(0, GENESIS)`."""
        at, previous = after.id, after.hash
        try:
            rows = self._page(at, limit)
        except _UNREADABLE:
            if limit > 1:  # the entries before it may hold
                return self.verify_page(after, head=head, limit=limit // 2)
            return Verified(at, previous, broken=at + 1, is_over=True)
        for row in rows:
            content = dict(row)
            found = content.pop("hash")
            if row["id"] != at + 1 or row["prev_hash"] != previous or found != _link(content):
                return Verified(at, previous, broken=min(at + 1, int(row["id"])), is_over=True)
            if head is not None and row["id"] == head[0] and found != head[1]:
                return Verified(at, previous, broken=head[0], is_over=True)
            at, previous = at + 1, found
        is_over = len(rows) < limit
        lost_its_end = is_over and head is not None and head[0] > at
        return Verified(at, previous, broken=at + 1 if lost_its_end else None, is_over=is_over)

    def rows(self, *, after: int = 0) -> Iterator[AuditRecord]:
        """Yield the log in order, from behind an id; a page is read at a time: it may be longer than memory.

        Raises:
            CorruptRecord: An entry cannot be read.
        """
        while page := self._readable_page(after):
            for row in page:
                yield AuditRecord(**row)
            after = page[-1]["id"]

    def proven(self) -> tuple[int, str] | None:
        """Give the head that the last job saw which checked the log and found it whole; None before the first one."""
        query = select(Job.summary).where(Job.kind == VERIFYING_KIND, Job.state == "succeeded")
        with self._database.read() as connection:
            summary = connection.execute(query.order_by(Job.finished_at.desc()).limit(1)).scalar_one_or_none()
        return (summary["head_id"], summary["head_hash"]) if summary else None

    def _readable_page(self, after: int) -> list[dict[str, Any]]:
        try:
            return self._page(after, _PAGE)
        except _UNREADABLE as exc:
            raise CorruptRecord(
                f"the audit log cannot be read behind entry {after}, within {_PAGE} entries: a value in it was changed"
                " (`cache-cli audit verify` names the entry)"
            ) from exc

    def _page(self, after: int, limit: int) -> list[dict[str, Any]]:
        query = select(_TABLE).where(AuditEntry.id > after).order_by(AuditEntry.id).limit(limit)
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def _link(row: dict[str, Any]) -> str:
    content = {name: value for name, value in row.items() if name not in ("hash", "prev_hash")}
    return hashlib.sha256(row["prev_hash"].encode() + _canonical(content)).hexdigest()


def _canonical(value: Any) -> bytes:
    # Sorted keys and UTC moments: the same bytes, whichever database kept the row.
    return msgspec.json.encode(value, order="deterministic")
