"""The audit log: who did what to which job. Append-only and hash-chained."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from cache_management.models.base import Base


class AuditEntry(Base):
    """One act. Digests and lengths, never a prompt or an answer.

    `id` counts from 1 without gaps, so that a removed row shows. Triggers refuse
    UPDATE, DELETE and TRUNCATE; whoever owns the table can still drop them, and
    then only the chain, compared with a head kept elsewhere, tells.
    """

    __tablename__ = "audit_log"
    __table_args__ = (Index("ix_audit_log_job_id", "job_id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    client_at: Mapped[datetime]
    actor: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    version: Mapped[str]
    action: Mapped[str]
    job_id: Mapped[str | None]
    args_digest: Mapped[str | None]
    outcome: Mapped[str]
    error_class: Mapped[str | None]
    prev_hash: Mapped[str]
    hash: Mapped[str]
