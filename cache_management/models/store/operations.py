"""Schedule slots, worker marks and statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from cache_management.models.base import Clock, Database, read_clock
from cache_management.models.operations import HotKey, RateBucket, ScheduleSlot, StatRollup, UsageCursor, WorkerMark
from cache_management.models.store.results import Mark
from cache_management.models.usage import (
    DAY_SECONDS,
    PERIODS_SECONDS,
    USAGE_NAMES,
    Amounts,
    HotKeyView,
    KeyCounts,
    UsageRow,
    period_start,
)

# Enough that a clock set back by an hour or two cannot open a slot again.
_SLOTS_KEPT = 1000
_HOT_KEYS_KEPT = 5000
_LONGEST_BLOCK_SECONDS = 3600.0


def upserting(connection: Connection, table: Any) -> Any:
    """Start an INSERT that knows ON CONFLICT, in the dialect of the connection."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def take_slot(
    connection: Connection, now: datetime, name: str, *, every_seconds: float, offset_seconds: float
) -> int | None:
    """Take the current slot of a schedule inside the caller's transaction; None when another run has it."""
    slot = int((now.timestamp() - offset_seconds) // every_seconds)
    claimed = connection.execute(
        upserting(connection, ScheduleSlot.__table__)
        .values(kind=name, slot=slot, claimed_at=now)
        .on_conflict_do_nothing()
        .returning(ScheduleSlot.slot)
    ).one_or_none()
    if claimed is None:
        return None
    connection.execute(delete(ScheduleSlot).where(ScheduleSlot.kind == name, ScheduleSlot.slot < slot - _SLOTS_KEPT))
    return slot


def name_slot(connection: Connection, name: str, slot: int, job_id: str) -> None:
    """Note which job is the run of a slot."""
    connection.execute(
        update(ScheduleSlot).where(ScheduleSlot.kind == name, ScheduleSlot.slot == slot).values(job_id=job_id)
    )


def add_amounts(connection: Connection, amounts: Amounts, *, periods_seconds: Sequence[int]) -> None:
    """Add amounts to the periods of each length that they fall into, inside the caller's transaction."""
    sums: Counter[tuple[datetime, int, str, str, str]] = Counter()
    for (moment, namespace, model), named in amounts.items():
        for seconds in periods_seconds:
            start = period_start(moment, seconds)
            for name, amount in named.items():
                sums[start, seconds, namespace, model, name] += amount
    if not sums:
        return
    statement = upserting(connection, StatRollup.__table__)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["period_start", "period_seconds", "namespace", "model", "name"],
            set_={"value": StatRollup.value + statement.excluded.value},
        ),
        [
            {
                "period_start": start,
                "period_seconds": seconds,
                "namespace": namespace,
                "model": model,
                "name": name,
                "value": amount,
            }
            # Sorted: two writers that take the same rows in another order would deadlock.
            for (start, seconds, namespace, model, name), amount in sorted(sums.items())
        ],
    )


def _move_cursor(connection: Connection, stream: str, before: str, after: str, now: datetime) -> bool:
    """Move a cursor from where it was read; False when it is elsewhere by now."""
    values = {"cursor": after, "updated_at": now}
    if not before:
        inserted = connection.execute(
            upserting(connection, UsageCursor.__table__)
            .values(stream=stream, **values)
            .on_conflict_do_nothing()
            .returning(UsageCursor.stream)
        ).one_or_none()
        if inserted is not None:
            return True
    where = (UsageCursor.stream == stream, UsageCursor.cursor == before)
    return connection.execute(update(UsageCursor).where(*where).values(values)).rowcount == 1


def _add_hot_keys(connection: Connection, day: datetime, keys: KeyCounts) -> None:
    rows = [
        {"day": day, "namespace": namespace, "key_digest": digest, "hits": hits, "misses": misses}
        for (namespace, digest), (hits, misses) in sorted(keys.items())
    ]
    if not rows:
        return
    statement = upserting(connection, HotKey.__table__)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["day", "namespace", "key_digest"],
            set_={
                "hits": HotKey.hits + statement.excluded.hits,
                "misses": HotKey.misses + statement.excluded.misses,
            },
        ),
        rows,
    )
    for namespace in {namespace for namespace, _ in keys}:
        _trim_hot_keys(connection, day, namespace)


def _trim_hot_keys(connection: Connection, day: datetime, namespace: str) -> None:
    """Keep the keys of a day from growing without bound: past the limit those that are asked for least go.

    What goes is counted from 0 when it comes again (lossy counting): the top is right, the rest is near.
    """
    here = (HotKey.day == day, HotKey.namespace == namespace)
    count = connection.execute(select(func.count()).select_from(HotKey).where(*here)).scalar_one()
    if count <= _HOT_KEYS_KEPT:
        return
    least = (
        select(HotKey.key_digest)
        .where(*here)
        .order_by(HotKey.hits + HotKey.misses, HotKey.key_digest)
        .limit(count - _HOT_KEYS_KEPT // 2)
    )
    connection.execute(delete(HotKey).where(*here, HotKey.key_digest.in_(least)))


class OperationsStore:
    """What beat, workers and the roll-up job keep."""

    def __init__(self, database: Database, *, clock: Clock = read_clock) -> None:
        self._database, self._clock = database, clock

    def claim_slot(self, kind: str, period_seconds: float) -> bool:
        """Take the current slot of a periodic run; False when another run has it.

        Two beats, a late beat and clocks that step then do no harm.
        """
        with self._database.write() as connection:
            now = self._clock(connection)
            return take_slot(connection, now, kind, every_seconds=period_seconds, offset_seconds=0) is not None

    def touch_mark(self, queue: str, worker: str) -> None:
        """Note that a worker just took something from a queue."""
        with self._database.write() as connection:
            now = self._clock(connection)
            connection.execute(
                upserting(connection, WorkerMark.__table__)
                .values(queue=queue, worker=worker, seen_at=now)
                .on_conflict_do_update(index_elements=["queue", "worker"], set_={"seen_at": now})
            )

    def marks(self) -> list[Mark]:
        """List when each worker last took something, the freshest first."""
        with self._database.read() as connection:
            now = self._clock(connection)
            rows = connection.execute(
                select(WorkerMark.queue, WorkerMark.worker, WorkerMark.seen_at).order_by(
                    WorkerMark.seen_at.desc(), WorkerMark.queue, WorkerMark.worker
                )
            ).all()
        return [
            Mark(queue, worker, seen_at, max(0.0, (now - seen_at).total_seconds())) for queue, worker, seen_at in rows
        ]

    def forget_marks(self, *, older_than_seconds: float) -> int:
        """Drop the marks of workers long gone; return how many."""
        with self._database.write() as connection:
            limit = self._clock(connection) - timedelta(seconds=older_than_seconds)
            return connection.execute(delete(WorkerMark).where(WorkerMark.seen_at < limit)).rowcount

    def add_stats(
        self, amounts: Mapping[str, int], *, namespace: str = "", model: str = "", period_seconds: int = 60
    ) -> None:
        """Add amounts, by name, to the current period."""
        with self._database.write() as connection:
            add_amounts(
                connection, {(self._clock(connection), namespace, model): amounts}, periods_seconds=[period_seconds]
            )

    def take_tokens(self, name: str, *, rate_per_second: float, burst: int, patience_seconds: float = 0.0) -> float:
        """Take a token of a bucket that all workers share; return in how many seconds it may be used.

        A bucket holds up to `burst` tokens and gains `rate_per_second`; a rate of 0 gives tokens without end. One that
        comes within `patience_seconds` is taken before it is there, so that nobody has to ask again; when it would take
        longer, or the bucket is blocked for longer, none is taken.
        """
        with self._database.write() as connection:
            now = self._clock(connection)
            table = RateBucket.__table__
            connection.execute(
                upserting(connection, table)
                .values(name=name, tokens=float(burst), filled_at=now)
                .on_conflict_do_nothing()
            )
            row = connection.execute(select(table).where(table.c.name == name).with_for_update()).one()
            wait = 0.0
            if row.blocked_until is not None:
                blocked = float((row.blocked_until - now).total_seconds())
                # Longer than any block: the database's clock was set back.
                if 0 < blocked <= _LONGEST_BLOCK_SECONDS:
                    wait = blocked
            if not rate_per_second:
                return wait
            elapsed = max(0.0, (now - row.filled_at).total_seconds())
            tokens = min(float(burst), row.tokens + elapsed * rate_per_second)
            wait = max(wait, float((1 - tokens) / rate_per_second))
            left = tokens - 1 if wait <= patience_seconds else tokens
            connection.execute(update(RateBucket).where(RateBucket.name == name).values(tokens=left, filled_at=now))
            return wait

    def block_bucket(self, name: str, seconds: float) -> None:
        """Let nobody take a token for a while, an hour at most; a longer block stays."""
        with self._database.write() as connection:
            now = self._clock(connection)
            until = now + timedelta(seconds=min(seconds, _LONGEST_BLOCK_SECONDS))
            beyond = now + timedelta(seconds=_LONGEST_BLOCK_SECONDS)
            connection.execute(
                upserting(connection, RateBucket.__table__)
                .values(name=name, tokens=0.0, filled_at=now, blocked_until=until)
                .on_conflict_do_update(
                    index_elements=["name"],
                    set_={"blocked_until": until},
                    where=or_(
                        RateBucket.blocked_until.is_(None),
                        RateBucket.blocked_until < until,
                        RateBucket.blocked_until > beyond,
                    ),
                )
            )

    def usage_cursor(self, stream: str) -> str:
        """Return how far the notes of a stream are counted; "" is the beginning."""
        with self._database.read() as connection:
            return (
                connection.execute(select(UsageCursor.cursor).where(UsageCursor.stream == stream)).scalar_one_or_none()
                or ""
            )

    def count_usage(self, stream: str, moved: tuple[str, str], amounts: Amounts, keys: KeyCounts) -> bool:
        """Add what was read from a stream between two cursors; all of it once, or nothing.

        Returns:
            False when somebody else has moved the cursor: what was read is counted already.
        """
        before, after = moved
        with self._database.write() as connection:
            now = self._clock(connection)
            if not _move_cursor(connection, stream, before, after, now):
                return False
            add_amounts(connection, amounts, periods_seconds=PERIODS_SECONDS)
            _add_hot_keys(connection, period_start(now, DAY_SECONDS), keys)
            return True

    def hot_keys(
        self, *, namespace: str | None, since: datetime, by: Literal["hits", "misses"] = "hits", limit: int = 20
    ) -> list[HotKeyView]:
        """List the keys of a namespace, or of all, with most hits or misses over the days since `since`."""
        hits, misses = func.sum(HotKey.hits), func.sum(HotKey.misses)
        order = hits if by == "hits" else misses
        query = (
            select(HotKey.key_digest, hits, misses, HotKey.namespace)
            .where(HotKey.day >= since)
            .group_by(HotKey.namespace, HotKey.key_digest)
            .having(order > 0)
            .order_by(order.desc(), HotKey.key_digest)
            .limit(limit)
        )
        if namespace is not None:
            query = query.where(HotKey.namespace == namespace)
        with self._database.read() as connection:
            return [HotKeyView(key, int(hit), int(miss), where) for key, hit, miss, where in connection.execute(query)]

    def usage(self, *, since: datetime, period_seconds: int = 3600) -> list[UsageRow]:
        """Sum what happened by namespace and model, over periods of one length that begin at `since` or later."""
        query = (
            select(StatRollup.namespace, StatRollup.model, StatRollup.name, func.sum(StatRollup.value))
            .where(StatRollup.period_seconds == period_seconds, StatRollup.period_start >= since)
            .group_by(StatRollup.namespace, StatRollup.model, StatRollup.name)
        )
        found: dict[tuple[str, str], dict[str, int]] = {}
        with self._database.read() as connection:
            for namespace, model, name, value in connection.execute(query):
                found.setdefault((namespace, model), {})[name] = int(value)
        return [
            UsageRow(namespace, model, **{name: named.get(name, 0) for name in USAGE_NAMES})
            for (namespace, model), named in sorted(found.items())
        ]

    def usage_over_time(
        self, *, since: datetime, period_seconds: int, namespace: str | None
    ) -> list[tuple[datetime, dict[str, int]]]:
        """Sum what happened in a namespace, or in all, by period, the oldest first; empty periods are left out."""
        query = (
            select(StatRollup.period_start, StatRollup.name, func.sum(StatRollup.value))
            .where(
                StatRollup.period_seconds == period_seconds,
                StatRollup.period_start >= since,
                StatRollup.name.in_(USAGE_NAMES),
            )
            .group_by(StatRollup.period_start, StatRollup.name)
        )
        if namespace is not None:
            query = query.where(StatRollup.namespace == namespace)
        found: dict[datetime, dict[str, int]] = {}
        with self._database.read() as connection:
            for start, name, value in connection.execute(query):
                found.setdefault(start, {})[name] = int(value)
        return sorted(found.items())

    def now(self) -> datetime:
        """Return the database's time."""
        with self._database.read() as connection:
            return self._clock(connection)

    def sum_stats(
        self, *, since: datetime | None = None, until: datetime | None = None, namespace: str | None = None
    ) -> dict[str, int]:
        """Sum amounts by name over periods that begin at `since` or later and before `until`."""
        query = select(StatRollup.name, func.sum(StatRollup.value)).group_by(StatRollup.name)
        if since is not None:
            query = query.where(StatRollup.period_start >= since)
        if until is not None:
            query = query.where(StatRollup.period_start < until)
        if namespace is not None:
            query = query.where(StatRollup.namespace == namespace)
        with self._database.read() as connection:
            return {name: int(total) for name, total in connection.execute(query)}
