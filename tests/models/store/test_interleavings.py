"""Random lives of one job: lost, doubled and late messages, dead and frozen workers, lost replies.

Hypothesis decides what happens next; the rules below say what must hold whatever
happens. The last tests plant bugs in the store and watch this machine find them.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import event, func, select
from sqlalchemy.exc import IntegrityError

from cache_management.cache.errors import JobError, MetadataUnavailable
from cache_management.models.job import JobItem, JobShard
from cache_management.models.store import Stores, claims, commits, lifecycle, schema
from cache_management.models.store.jobs import JobStore
from cache_management.models.store.results import (
    Claim,
    Counts,
    ItemOutcome,
    NewItem,
    NewShard,
    Refused,
    Ring,
)
from tests.models.acting import HandClock, LossyDatabase

_template: Path | None = None


def empty_database(folder: Path) -> LossyDatabase:
    """Copy a migrated file, which is quicker than to migrate one for each example."""
    global _template
    if _template is None:
        made = Path(tempfile.mkdtemp(prefix="cm-template-"))
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        _template = made / "metadata.db"
        schema.upgrade(f"sqlite:///{_template}")
    shutil.copy(_template, folder / "metadata.db")
    database = LossyDatabase(f"sqlite:///{folder}/metadata.db")

    @event.listens_for(database.engine, "connect")
    def _no_fsync(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    return database


class Message(msgspec.Struct, frozen=True):
    """A doorbell in the queue."""

    ring: Ring
    task_id: str


class Run(msgspec.Struct, eq=False):
    """A worker in the middle of a chunk. It may be frozen for as long as it takes."""

    claim: Claim
    message: Message


PICK = st.integers(0, 7)  # whom it happens to
SIZE = st.integers(1, 2)


class JobLife(RuleBasedStateMachine):
    """One job; at most one thing happens at a time, in any order."""

    may_limit = may_embed = True
    starts_planned = False
    limit: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="cm-life-"))
        self.database = empty_database(self.folder)
        self.clock = HandClock()
        self.jobs = Stores(self.database, clock=self.clock).jobs
        self.queue: list[Message] = []
        self.later: list[Message] = []  # sent again with a delay
        self.runs: list[Run] = []
        self.tasks = 0
        self.ended: str | None = None
        self.cursors: dict[int, int] = {}
        self.newest: dict[int, int] = {}

    @initialize(
        items=st.integers(3, 12),
        different=st.integers(3, 12),
        shards=st.integers(1, 2),
        embed=st.booleans(),
        planned=st.sampled_from([True, True, False]),
        limited=st.booleans(),
    )
    def submit(self, items: int, different: int, shards: int, embed: bool, planned: bool, limited: bool) -> None:
        self.keys, self.shards = [n % different for n in range(items)], shards
        self.embed = embed and self.may_embed
        self.limit = 1 if limited and self.may_limit else None
        submitted = self.jobs.create("warm", {}, namespace="tests", submitted_by="tester")
        self.job_id = submitted.job_id
        assert submitted.ring is not None
        self.post([submitted.ring])
        if planned or self.starts_planned:
            # Most lives begin behind the plan, or few would get far.
            self.deliver(self.queue.pop())
            self.step(self.runs[0], items, "shard")

    # Few rules with choices inside: each is picked as often as the others, and most of a
    # life should be work.

    @rule(pick=PICK, copy=st.booleans())
    @precondition(lambda self: self.queue)
    def deliver_some(self, pick: int, copy: bool) -> None:
        message = self.queue.pop(pick % len(self.queue))
        if copy:
            self.queue.append(message)
        self.deliver(message)

    def post(self, rings: list[Ring]) -> None:
        for ring in rings:
            self.tasks += 1
            self.queue.append(Message(ring, f"task-{self.tasks}"))
            self.jobs.mark_dispatched(ring)

    def deliver(self, message: Message) -> None:
        ring = message.ring
        claim = self.jobs.claim(
            ring.job_id,
            ring.shard,
            ring.fence,
            owner=f"worker of {message.task_id}",
            task_id=message.task_id,
            hard_limit_seconds=90,
            namespace_limit=self.limit,
        )
        if isinstance(claim, Refused) and claim.retry_in is not None:
            self.later.append(message)
        if isinstance(claim, Claim):
            assert claim.fence > self.newest.get(claim.shard, 0), "a fence was given twice"
            self.newest[claim.shard] = claim.fence
            self.runs.append(Run(claim, message))

    @rule(pick=PICK, size=SIZE, reply_lost=st.booleans(), bad=st.booleans())
    @precondition(lambda self: self.runs)
    def work_on(self, pick: int, size: int, reply_lost: bool, bad: bool) -> None:
        self.step(self.chosen(pick), size, "continue", reply_lost=reply_lost, bad=bad)

    @rule(pick=PICK, size=SIZE, reply_lost=st.booleans())
    @precondition(lambda self: self.runs)
    def end_chunk(self, pick: int, size: int, reply_lost: bool) -> None:
        self.step(self.chosen(pick), size, "chunk", reply_lost=reply_lost)

    @rule(pick=PICK, trouble=st.sampled_from(["dies", "is redelivered", "freezes", "waits", "fails", "holds"]))
    @precondition(lambda self: self.runs)
    def trouble(self, pick: int, trouble: str) -> None:
        run = self.chosen(pick)
        if trouble == "freezes":
            if not self.jobs.renew(run.claim):
                self.runs.remove(run)
            self.clock.advance(61)
            return
        self.runs.remove(run)
        if trouble == "is redelivered":
            self.queue.append(run.message)
        elif trouble == "waits":
            ring = self.jobs.release(run.claim, retry_in=20)
            self.post([] if ring is None else [ring])
        elif trouble == "holds":
            self.jobs.hold(run.claim, "somebody has to do something")
        elif trouble == "fails" and run.claim.shard_kind == "embed":
            failed = self.jobs.fail_shard(run.claim, "broken")
            self.post([] if failed is None else failed.rings)

    def chosen(self, pick: int) -> Run:
        return self.runs[pick % len(self.runs)]

    def step(self, run: Run, size: int, end: str, *, reply_lost: bool = False, bad: bool = False) -> None:
        arguments = self.next_commit(run.claim, size, end, bad=bad)
        self.database.lose_reply = reply_lost
        try:
            committed = self.jobs.commit(run.claim, **arguments)
        except MetadataUnavailable:
            # What a worker does: the same commit again. If it was made, there is nothing more to do.
            assert self.jobs.commit(run.claim, **arguments) is None, "a repeated commit took hold"
            committed = None
        finally:
            self.database.lose_reply = False
        if committed is None or committed.claim is None:
            self.runs.remove(run)
        if committed is None:
            return
        assert run.claim.fence == self.newest[run.claim.shard], "a commit took hold under an old claim"
        if self.jobs.get(self.job_id).state != "running":
            assert committed.claim is None, "a run goes on although its job does not run"
            assert committed.rings == [], "a doorbell rings although its job does not run"
        if committed.claim is not None:
            run.claim = committed.claim
        self.post(committed.rings)

    def next_commit(self, claim: Claim, size: int, end: str, *, bad: bool) -> dict[str, Any]:
        if claim.shard_kind == "plan":
            return self.next_plan(claim, size, end)
        if claim.shard_kind == "embed":
            reached = self.jobs.followed(claim)
            items = self.jobs.items(
                claim, after=claim.cursor, limit=size, up_to=reached.cursor, states=("done", "skipped")
            )
            cursor = items[-1].position if len(items) == size else reached.cursor
            over = cursor == reached.cursor and not reached.open
            return {
                "to_cursor": cursor,
                "counts": Counts(done=len(items)),
                "end": "shard" if over else ("chunk" if cursor == claim.cursor else end),
            }
        size = 1 if claim.single else size
        items = self.jobs.items(claim, after=claim.cursor, limit=size + 1)
        taken, more = items[:size], len(items) > size
        state = "dead" if bad else "done"
        return {
            "to_cursor": taken[-1].position if taken else claim.cursor,
            "counts": Counts(failed=len(taken)) if bad else Counts(done=len(taken)),
            "outcomes": [ItemOutcome(item.position, state, "bad" if bad else None) for item in taken],
            "end": end if more else "shard",
        }

    def next_plan(self, claim: Claim, size: int, end: str) -> dict[str, Any]:
        cursor = min(claim.cursor + size, len(self.keys))
        last = cursor == len(self.keys)
        shards: list[NewShard] = []
        if last:
            shards = [NewShard(shard) for shard in range(1, self.shards + 1)]
            if self.embed:
                shards += [NewShard(100 + shard, "embed", shard) for shard in range(1, self.shards + 1)]
        return {
            "to_cursor": cursor,
            "new_items": [
                NewItem(f"key {self.keys[n]}", n + 1, 0, n, 1 + self.keys[n] % self.shards)
                for n in range(claim.cursor, cursor)
            ],
            "new_shards": shards,
            "end": "shard" if last else end,
        }

    @rule(seconds=st.sampled_from([0, 11, 35, 61]), messages_lost=st.sampled_from([True, False, False]))
    @precondition(lambda self: self.ended is None or not (self.queue or self.runs))
    def time_passes(self, seconds: int, messages_lost: bool) -> None:
        self.queue += self.later
        self.later = []
        if messages_lost:
            self.queue.clear()
        self.clock.advance(seconds)
        self.post(self.jobs.reconcile())

    @rule(action=st.sampled_from(["pause", "resume", "resume", "cancel"]))
    @precondition(lambda self: self.ended is None and (self.runs or self.jobs.get(self.job_id).state == "paused"))
    def ask(self, action: Any) -> None:
        with suppress(JobError):
            self.post(self.jobs.request(self.job_id, action, by="user").rings)

    # What must hold

    @invariant()
    def counters_say_what_the_items_say(self) -> None:
        with self.database.read() as connection:
            shards = {
                row.shard: row for row in connection.execute(select(JobShard.__table__).where(JobShard.kind == "data"))
            }
            states = connection.execute(
                select(JobItem.shard, JobItem.state, func.count()).group_by(JobItem.shard, JobItem.state)
            ).all()
        for number, shard in shards.items():
            counted = {state: count for item_shard, state, count in states if item_shard == number}
            assert shard.done == counted.get("done", 0), "an item was counted twice or not at all"
            assert shard.failed == counted.get("dead", 0)
            assert shard.cancelled == counted.get("cancelled", 0)
            assert shard.cursor >= self.cursors.get(number, 0), "a cursor moved back"
            self.cursors[number] = shard.cursor

    @invariant()
    def no_more_shards_are_worked_on_than_may_be(self) -> None:
        live = [shard for shard in self.jobs.get(self.job_id).shards if shard.lease_until is not None]
        working = [shard for shard in live if shard.lease_until >= self.clock.now]
        assert self.limit is None or len(working) <= self.limit, "the namespace is over its limit"

    @invariant()
    def vectors_are_not_counted_twice(self) -> None:
        job = self.jobs.get(self.job_id)
        assert job.embedded + job.embed_failed <= job.done + job.skipped

    @invariant()
    def an_ended_job_stays_as_it_ended(self) -> None:
        job = self.jobs.get(self.job_id)
        if self.ended is not None:
            assert job.state == self.ended
        if job.ended:
            self.ended = job.state
            assert job.done + job.skipped + job.failed + job.cancelled == (job.total or 0)
            assert all(shard.state != "open" and shard.lease_owner is None for shard in job.shards)

    def teardown(self) -> None:
        try:
            if hasattr(self, "job_id"):
                self.live_to_the_end()
        finally:
            self.database.close()
            shutil.rmtree(self.folder)

    def live_to_the_end(self) -> None:
        """Let everything go well from here: the job has to end, with all of its items settled."""
        self.runs.clear()
        self.queue.clear()
        self.later.clear()
        if self.jobs.get(self.job_id).state in ("pausing", "paused"):
            self.jobs.request(self.job_id, "resume", by="user")
        for _ in range(60):
            if self.jobs.get(self.job_id).ended:
                break
            self.clock.advance(61)
            self.post(self.jobs.reconcile())
            while self.queue:
                # The newest first, so that followers run while their data shards still do.
                self.deliver(self.queue.pop())
                while self.runs:
                    self.step(self.runs[0], 2, "chunk")
                self.counters_say_what_the_items_say()
        job = self.jobs.get(self.job_id)
        assert job.ended, f"the job never ends: {job}"
        self.an_ended_job_stays_as_it_ended()
        with self.database.read() as connection:
            pending = connection.execute(select(func.count()).where(JobItem.state == "pending")).scalar_one()
        assert pending == 0, "an item was lost"
        if job.state != "cancelled" and self.embed and all(shard.state == "done" for shard in job.shards):
            assert job.embedded + job.embed_failed == job.done + job.skipped, "a vector was lost, or counted twice"
        assert Stores(self.database).audit.verify() is None


LIVES = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
# A planted bug has to be found, not to be made small.
HUNT = settings(LIVES, max_examples=150, phases=[Phase.generate], report_multiple_bugs=False)


@pytest.mark.timeout(600)
def test_no_order_of_events_counts_an_item_twice_or_loses_one() -> None:
    run_state_machine_as_test(JobLife, settings=LIVES)


class PlainLife(JobLife):
    """Lives of planned jobs without vectors, whose namespace may have all workers: more happens in each of them."""

    may_limit = may_embed = False
    starts_planned = True


class EmbeddingLife(JobLife):
    """The same with vectors."""

    may_limit = False


class TestPlantedBugs:
    """A machine that never failed proves nothing."""

    def find(self, message: str, *, lives: type[JobLife] = PlainLife) -> None:
        with pytest.raises((AssertionError, ValueError, IntegrityError), match=message):
            run_state_machine_as_test(lives, settings=HUNT)

    def test_a_commit_that_does_not_test_the_cursor_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(commits, "mine", claims.held)

        self.find("repeated commit|pending|counted", lives=EmbeddingLife)

    def test_an_embed_shard_that_ends_too_early_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        followed = JobStore.followed
        monkeypatch.setattr(commits, "_may_end", lambda *_: True)
        monkeypatch.setattr(JobStore, "followed", lambda *args: msgspec.structs.replace(followed(*args), open=False))

        self.find("a vector was lost", lives=EmbeddingLife)

    def test_a_closed_shard_that_forgets_its_items_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        close = lifecycle.close_shard

        def close_without_items(connection: Any, shard: Any, *rest: Any, **options: Any) -> bool:
            return close(connection, SimpleNamespace(**{**shard._mapping, "kind": "embed"}), *rest, **options)

        monkeypatch.setattr(lifecycle, "close_shard", close_without_items)

        self.find("total|lost")

    def test_a_commit_that_does_not_test_the_claim_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def shard_and_cursor(claim: Claim) -> list[Any]:
            return [
                JobShard.job_id == claim.job_id,
                JobShard.shard == claim.shard,
                JobShard.cursor == claim.cursor,
            ]

        monkeypatch.setattr(commits, "mine", shard_and_cursor)

        # The table itself refuses to prolong a lease that nobody holds.
        self.find("old claim|repeated|pending|counted|ck_job_shards_lease")

    def test_a_commit_that_does_not_look_at_the_job_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        apply = commits.apply

        def apply_as_if_running(connection: Any, job: Any, *rest: Any) -> Any:
            return apply(connection, SimpleNamespace(**{**job._mapping, "state": "running"}), *rest)

        monkeypatch.setattr(commits, "apply", apply_as_if_running)

        self.find("although its job does not run", lives=EmbeddingLife)

    def test_a_limit_that_does_not_count_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(claims, "_is_busy", lambda *_: False)

        self.find("over its limit", lives=JobLife)
