"""The job protocol: submit, claim, commit, give back. Each method is one transaction.

What makes it safe to run everything twice: a claim moves the shard's fence, and
each commit names the fence it was given and the cursor it started from. A run
that lost its claim, and a commit whose reply was lost, then change 0 rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, func, or_, select, tuple_, update

from cache_management.cache.errors import CorruptRecord, JobError, JobNotFound, MetadataUnavailable
from cache_management.models.base import Clock, Database, read_clock
from cache_management.models.job import (
    LIVE,
    PRIORITY,
    RUNNABLE,
    SCHEDULE_KEY,
    TERMINAL,
    ItemState,
    Job,
    JobInput,
    JobItem,
    JobShard,
    JobState,
)
from cache_management.models.store import claims, commits, submit, views
from cache_management.models.store.lifecycle import (
    behind,
    close_shard,
    lock_job,
    set_state,
    settle,
    wake_follower,
)
from cache_management.models.store.operations import name_slot, take_slot
from cache_management.models.store.reconcile import QueueOf, queue_of, reconcile_job
from cache_management.models.store.results import (
    Action,
    Claim,
    Committed,
    Counts,
    End,
    Event,
    Followed,
    Item,
    ItemOutcome,
    JobView,
    NewItem,
    NewShard,
    Refused,
    Requested,
    Ring,
    Submitted,
)

# In the class below `list` is a method.
Events = list[Event]
Items = list[Item]
Rings = list[Ring]
Views = list[JobView]

_log = logging.getLogger(__name__)
_ITEMS_AT_ONCE = 1000
_DONE: dict[Action, str] = {"cancel": "cancelled", "pause": "paused", "resume": "resumed"}


class JobStore:
    """Every query on jobs that a submitter, a worker or the command line needs."""

    def __init__(self, database: Database, *, clock: Clock = read_clock) -> None:
        self._database, self._clock = database, clock

    # Submitting

    def create(
        self,
        kind: str,
        params: Mapping[str, Any],
        *,
        namespace: str,
        submitted_by: str,
        inputs: Iterable[tuple[bytes, int]] = (),
        idem_key: str | None = None,
        priority: int = PRIORITY,
        deadline_seconds: float = 86_400,
        retry_of: str | None = None,
        total: int | None = None,
    ) -> Submitted:
        """Write a job and its plan shard; publish the ring afterwards.

        Args:
            kind: Names the work, and the queue of its plan and data shards.
            params: JSON; no prompts.
            inputs: Compressed parts, each with the number of items in it.
            idem_key: While a job of this namespace, kind and key lives, that one is returned.
            total: Leave None for jobs with items: the plan counts them.
        """
        with self._database.write() as connection:
            return submit.insert_job(
                connection,
                self._clock(connection),
                kind=kind,
                params=params,
                namespace=namespace,
                submitted_by=submitted_by,
                inputs=inputs,
                idem_key=idem_key,
                priority=priority,
                deadline_seconds=deadline_seconds,
                retry_of=retry_of,
                total=total,
            )

    def create_scheduled(
        self,
        name: str,
        kind: str,
        params: Mapping[str, Any],
        *,
        every_seconds: float,
        offset_seconds: float = 0.0,
        namespace: str,
        submitted_by: str,
        priority: int = PRIORITY,
        deadline_seconds: float = 86_400,
    ) -> Submitted | None:
        """Write the job of the current slot of a schedule, with the slot, all or nothing.

        Two schedulers, a late one and clocks that step then do no harm: a slot gets one job. While the job of an
        earlier slot lives, that one is returned and the slot is spent.

        Args:
            name: Of the schedule; its slots are its own.
            offset_seconds: When in the period a slot begins, counted from 1970-01-01 UTC.

        Returns:
            None when the slot was taken before.
        """
        with self._database.write() as connection:
            now = self._clock(connection)
            slot = take_slot(connection, now, name, every_seconds=every_seconds, offset_seconds=offset_seconds)
            if slot is None:
                return None
            submitted = submit.insert_job(
                connection,
                now,
                kind=kind,
                params=params,
                namespace=namespace,
                submitted_by=submitted_by,
                inputs=(),
                idem_key=f"{SCHEDULE_KEY}{name}",
                priority=priority,
                deadline_seconds=deadline_seconds,
                retry_of=None,
                total=None,
            )
            name_slot(connection, name, slot, submitted.job_id)
            return submitted

    def mark_dispatched(self, ring: Ring) -> None:
        """Note that a ring was published. Changes nothing when it has been answered already."""
        with self._database.write() as connection:
            job = lock_job(connection, ring.job_id)
            if job is None or job.state not in RUNNABLE:
                return
            now = self._clock(connection)
            connection.execute(
                update(JobShard)
                .where(
                    JobShard.job_id == ring.job_id,
                    JobShard.shard == ring.shard,
                    JobShard.fence == ring.fence,
                    JobShard.state == "open",
                    JobShard.lease_owner.is_(None),
                    or_(JobShard.dispatched_at.is_(None), JobShard.dispatched_at < now),
                )
                .values(dispatched_at=now)
            )
            # Only from queued: a cancel that came first must not be overwritten.
            if job.state == "queued":
                set_state(connection, job, "dispatched", now)

    # Working

    def claim(
        self,
        job_id: str,
        shard: int,
        fence: int,
        *,
        owner: str,
        task_id: str,
        lease_seconds: float = 60,
        hard_limit_seconds: float,
        namespace_limit: int | None = None,
    ) -> Claim | Refused:
        """Answer a doorbell: become the one run of this shard, or learn why not.

        Args:
            namespace_limit: How many shards of one namespace may be worked on at once; None: any number.
        """
        with self._database.write() as connection:
            job = lock_job(connection, job_id)
            if job is None:
                return Refused("no such job")
            return claims.take(
                connection,
                job,
                shard,
                fence,
                self._clock(connection),
                owner=owner,
                task_id=task_id,
                lease_seconds=lease_seconds,
                hard_limit_seconds=hard_limit_seconds,
                namespace_limit=namespace_limit,
            )

    def renew(self, claim: Claim) -> bool:
        """Prolong a lease; False when it is lost, or used up by the hard limit."""
        with self._database.write() as connection:
            return claims.renew(connection, claim, self._clock(connection))

    def items(
        self,
        claim: Claim,
        *,
        after: int,
        limit: int,
        up_to: int | None = None,
        states: Sequence[ItemState] = ("pending",),
    ) -> Items:
        """Read the items at positions above `after`, at most up to `up_to`, in order.

        For an embed shard these are the items of the shard it follows; ask for
        those that are `done` (and `skipped`).
        """
        conditions = [
            JobItem.job_id == claim.job_id,
            JobItem.shard == (claim.shard if claim.follows is None else claim.follows),
            JobItem.position > after,
            JobItem.state.in_(states),
        ]
        if up_to is not None:
            conditions.append(JobItem.position <= up_to)
        with self._database.read() as connection:
            return views.items_where(connection, *conditions, limit=limit)

    def followed(self, claim: Claim) -> Followed:
        """Say how far the shard is that an embed shard follows."""
        if claim.follows is None:
            raise ValueError(f"shard {claim.shard} of {claim.job_id} follows no other")
        with self._database.read() as connection:
            row = connection.execute(
                select(JobShard.cursor, JobShard.state).where(
                    JobShard.job_id == claim.job_id, JobShard.shard == claim.follows
                )
            ).one()
        return Followed(cursor=row.cursor, open=row.state == "open")

    def load_input(self, job_id: str, part: int) -> bytes:
        """Read one part of what was submitted.

        Raises:
            CorruptRecord: There is no such part.
        """
        with self._database.read() as connection:
            payload = connection.execute(
                select(JobInput.payload).where(JobInput.job_id == job_id, JobInput.part == part)
            ).scalar_one_or_none()
        if payload is None:
            raise CorruptRecord(f"job {job_id} has no input part {part}")
        return payload

    def items_before(self, job_id: str, part: int) -> int:
        """Count the items in the parts before one."""
        with self._database.read() as connection:
            counted = select(func.coalesce(func.sum(JobInput.items), 0))
            found = connection.execute(counted.where(JobInput.job_id == job_id, JobInput.part < part)).scalar_one()
            return int(found)

    def spent_micro(self, job_id: str) -> int:
        """Return what a job has cost so far, in micro-dollars."""
        with self._database.read() as connection:
            spent = select(func.coalesce(func.sum(JobShard.cost_micro), 0)).where(JobShard.job_id == job_id)
            return int(connection.execute(spent).scalar_one())

    def count_inputs(self, job_id: str) -> int:
        """Count the parts of what was submitted; they are numbered from 0."""
        with self._database.read() as connection:
            return connection.execute(select(func.count()).where(JobInput.job_id == job_id)).scalar_one()

    def commit(
        self,
        claim: Claim,
        *,
        to_cursor: int,
        counts: Counts = Counts(),  # noqa: B008 - frozen
        outcomes: Sequence[ItemOutcome] = (),
        end: End = "continue",
        new_items: Sequence[NewItem] = (),
        new_shards: Sequence[NewShard] = (),
        total: int | None = None,
        summary: Mapping[str, Any] | None = None,
        bookmark: str | None = None,
        new_inputs: Sequence[tuple[int, bytes, int]] = (),
    ) -> Committed | None:
        """Write down what was done since the claim's cursor, all of it or nothing.

        Safe to repeat when the reply was lost. `end` says what comes next: more
        of this chunk, the next chunk ("chunk"), or nothing ("shard"). An embed
        shard that asks to end while its data shard still works waits instead.

        Args:
            outcomes: When given they cover every item counted in `counts`.
            new_items: Of a plan. An item key that is there already keeps its
                position and takes the new input: the last one wins.
            new_shards: Of a plan's last commit.
            new_inputs: Of a plan that found its own source: part, compressed items, how many.
            total: Leave None for jobs with items.
            summary: Merged into the job's summary, key by key.
            bookmark: The next claim finds it; None leaves what is there.

        Returns:
            None when the claim is lost, or this very commit was made before: stop.
        """
        work = commits.Work(
            to_cursor, counts, outcomes, end, new_items, new_shards, total, summary, bookmark, new_inputs
        )
        commits.check(claim, work)
        alone = work.touches_job(claim)
        with self._database.write() as connection:
            job = lock_job(connection, claim.job_id, shared=not alone)
            committed = None if job is None else commits.apply(connection, job, claim, work, self._clock)
        if committed is None or alone or committed.job_state == "running":
            return committed
        # This chunk may have been the last thing that a pause or a cancel waited for.
        return msgspec.structs.replace(committed, job_state=self._settle_after(claim, committed.job_state))

    def release(self, claim: Claim, *, retry_in: float, blame: bool = False, reason: str | None = None) -> Ring | None:
        """Give a claim back because of a passing error; the delivery is given back too.

        Args:
            retry_in: Seconds until the shard may be claimed again.
            blame: The work itself failed. The delivery stays counted, so that three such runs
                lead to going item by item, and past the item that fails.
            reason: What ended the run; a class name, never a text that may quote a prompt.

        Returns:
            What to publish, with `retry_in` as its delay; None when there is
            nothing to ring for (claim lost, or the job no longer runs).
        """
        with self._database.write() as connection:
            released = claims.release(
                connection, claim, self._clock(connection), retry_in=retry_in, blame=blame, reason=reason
            )
        if released is None:
            return None
        state, ring = released
        if state != "running":
            self._settle_after(claim, state)
        return ring

    def fail_shard(self, claim: Claim, reason: str) -> Committed | None:
        """Close a shard that cannot go on; its pending items become dead letters.

        Returns:
            None when the claim is lost.
        """
        with self._database.write() as connection:
            job = lock_job(connection, claim.job_id)
            if job is None:
                return None
            now = self._clock(connection)
            shard = connection.execute(
                select(JobShard.__table__).where(JobShard.job_id == claim.job_id, JobShard.shard == claim.shard)
            ).one()
            if not close_shard(connection, shard, "failed", now, reason=reason, where=claims.held(claim)):
                return None
            connection.execute(update(Job).where(Job.id == claim.job_id).values(last_error=reason))
            rings = wake_follower(connection, job, claim.shard, now) if job.state == "running" else []
            state = settle(connection, lock_job(connection, claim.job_id) or job, now, actor=claim.owner)
        return Committed(job_state=state, cursor=shard.cursor, rings=rings, claim=None)

    def hold(self, claim: Claim, reason: str) -> bool:
        """Give a claim back and pause its job: somebody has to do something before it is resumed.

        Args:
            reason: Says what; shown as the job's last error until it is resumed.

        Returns:
            False when the claim is lost.
        """
        with self._database.write() as connection:
            job = lock_job(connection, claim.job_id)
            if job is None or not claims.give_back(connection, claim, reason, blame=False, dispatched_at=None):
                return False
            now = self._clock(connection)
            if job.state in RUNNABLE:
                detail = {"reason": reason}
                set_state(connection, job, "pausing", now, actor=claim.owner, detail=detail, last_error=reason)
            settle(connection, lock_job(connection, claim.job_id) or job, now, actor=claim.owner)
        return True

    # Steering

    def request(self, job_id: str, action: Action, *, by: str) -> Requested:
        """Cancel, pause or resume a job. Asking for what is under way already changes nothing.

        Raises:
            JobNotFound: No job has this id.
            JobError: The job has ended, or is being cancelled.
        """
        with self._database.write() as connection:
            found = views.find_job(connection, job_id)
            job = lock_job(connection, found.id)
            if job is None:
                raise JobNotFound(job_id)
            now = self._clock(connection)
            rings: Rings = []
            if job.state in TERMINAL and not (action == "cancel" and job.state == "cancelled"):
                raise JobError(f"job {job.id} has ended ({job.state}); it cannot be {_DONE[action]}")
            if job.state == "cancelling" and action != "cancel":
                raise JobError(f"job {job.id} is being cancelled; it cannot be {_DONE[action]}")
            detail = {"by": by}
            if action == "cancel" and job.state not in ("cancelling", *TERMINAL):
                set_state(connection, job, "cancelling", now, actor=by, detail=detail, cancel_reason="user")
            elif action == "pause" and job.state in RUNNABLE:
                set_state(connection, job, "pausing", now, actor=by, detail=detail)
            elif action == "resume" and job.state in ("pausing", "paused"):
                columns = {"last_error": None} if self._is_held(connection, job) else {}
                set_state(connection, job, "running", now, actor=by, detail=detail, **columns)
                rings = self._rings_after_pause(connection, job, now)
            job = lock_job(connection, job.id) or job
            # With no run under way the job need not wait for the reconciler.
            settle(connection, job, now, actor=by)
            return Requested(views.view(connection, views.find_job(connection, job.id)), rings)

    def reconcile(
        self,
        *,
        oldest_sent_at: Mapping[str, datetime] | None = None,
        redispatch_after_seconds: float = 30,
        queue: QueueOf = queue_of,
        publish: Callable[[Rings], object] | None = None,
    ) -> Rings:
        """Look after every live job. Any number may run at once.

        Args:
            oldest_sent_at: By queue, when the oldest message that still waits was
                sent (by the database's clock). A queue that is left out is empty.
            queue: Names the queue of a shard, given the kinds of its job and itself.
            publish: Sends the rings of one job, as soon as they are written down as sent. Without
                it, publish what is returned: whatever ends the pass early loses half a minute.

        Returns:
            Every ring, published or not.
        """
        with self._database.read() as connection:
            live = select(Job.id).where(Job.state.in_(LIVE)).order_by(Job.priority.desc(), Job.id)
            job_ids = connection.execute(live).scalars().all()
        rings: Rings = []
        for job_id in job_ids:
            found: Rings = []
            try:
                with self._database.write() as connection:
                    # Whoever holds the row is at work on the job; the next pass will see it.
                    job = lock_job(connection, job_id, skip_locked=True)
                    if job is not None and job.state in LIVE:
                        found = reconcile_job(
                            connection,
                            job,
                            self._clock(connection),
                            oldest_sent_at=oldest_sent_at or {},
                            redispatch_after_seconds=redispatch_after_seconds,
                            queue=queue,
                        )
            except MetadataUnavailable:
                if not rings:
                    raise
                # These are marked as sent already: better to send them than to lose half a minute.
                _log.warning("the metadata database went away after %d rings", len(rings), exc_info=True)
                break
            rings += found
            if found and publish is not None:
                publish(found)
        return rings

    def finish_if_done(self, job_id: str) -> JobState:
        """Take a job to its end, or to `paused`, if its shards allow it; return its state."""
        with self._database.write() as connection:
            job = lock_job(connection, job_id)
            if job is None:
                raise JobNotFound(job_id)
            return settle(connection, job, self._clock(connection), actor="store")

    # Looking

    def get(self, job_id: str) -> JobView:
        """Show a job, by its id or an unambiguous beginning of it.

        Raises:
            JobNotFound: No job has this id.
            JobError: Several ids begin like this.
        """
        with self._database.read() as connection:
            return views.view(connection, views.find_job(connection, job_id))

    def list(
        self, *, state: JobState | None = None, kind: str | None = None, limit: int = 50, scheduled: bool = True
    ) -> Views:
        """Show jobs, the newest first; without `scheduled` no job of a schedule that goes or went well."""
        with self._database.read() as connection:
            return views.list_jobs(connection, state=state, kind=kind, limit=limit, scheduled=scheduled)

    def count_by_state(self) -> dict[str, int]:
        """Count all jobs, by state; states that no job is in are left out."""
        with self._database.read() as connection:
            rows = connection.execute(select(Job.state, func.count()).group_by(Job.state).order_by(Job.state))
            return {state: int(count) for state, count in rows}

    def events(self, job_id: str, after: int = 0) -> Events:
        """Read a job's timeline after an event's id."""
        with self._database.read() as connection:
            return views.job_events(connection, views.find_job(connection, job_id).id, after)

    def dead_items(self, job_id: str) -> Items:
        """List the dead letters of a job."""
        return list(self.items_of(job_id, states=("dead",)))

    def items_of(self, job_id: str, *, states: Sequence[ItemState] = ()) -> Iterator[Item]:
        """Yield the items of a job in the order of their shards and positions, of some states or of all.

        A page is read at a time: a job may have more items than fit into memory.

        Raises:
            JobNotFound, JobError: As `get`.
        """
        with self._database.read() as connection:
            found = views.find_job(connection, job_id).id
        after = (0, 0)
        while True:
            conditions = [JobItem.job_id == found, tuple_(JobItem.shard, JobItem.position) > after]
            if states:
                conditions.append(JobItem.state.in_(states))
            with self._database.read() as connection:
                page = views.items_where(connection, *conditions, limit=_ITEMS_AT_ONCE)
            yield from page
            if len(page) < _ITEMS_AT_ONCE:
                return
            after = (page[-1].shard, page[-1].position)

    def _settle_after(self, claim: Claim, state: JobState) -> JobState:
        try:
            with self._database.write() as connection:
                job = lock_job(connection, claim.job_id)
                return state if job is None else settle(connection, job, self._clock(connection), actor=claim.owner)
        except MetadataUnavailable:
            # What mattered is written; the reconciler does the rest.
            _log.warning("job %s could not be settled now", claim.job_id, exc_info=True)
            return state

    @staticmethod
    def _is_held(connection: Connection, job: Row[Any]) -> bool:
        """Tell whether a job's last error is why it was held, and no other."""
        reasons = select(JobShard.reason).where(JobShard.job_id == job.id, JobShard.state == "open")
        return job.last_error is not None and job.last_error in connection.execute(reasons).scalars().all()

    @staticmethod
    def _rings_after_pause(connection: Connection, job: Row[Any], now: datetime) -> Rings:
        free = [JobShard.job_id == job.id, JobShard.state == "open", JobShard.lease_owner.is_(None)]
        connection.execute(update(JobShard).where(*free).values(dispatched_at=None))
        rows = connection.execute(
            select(JobShard.shard, JobShard.fence, JobShard.kind).where(
                *free, or_(JobShard.not_before.is_(None), JobShard.not_before <= now), behind()
            )
        )
        return [Ring(job.id, row.shard, row.fence, job.kind, row.kind, job.priority) for row in rows]
