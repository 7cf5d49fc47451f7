"""Random lives of one job: lost, doubled and late messages, dead and frozen workers, lost replies.

Hypothesis decides what happens next; the rules below say what must hold whatever
happens. The last tests plant bugs in the store and watch this machine find them.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import event, func, select

from cache_management.cache.errors import JobError, MetadataUnavailable
from cache_management.models.job import JobItem, JobShard
from cache_management.models.store import Stores, claims, commits, lifecycle, schema
from cache_management.models.store.jobs import JobStore
from cache_management.models.store.results import (
    Claim,
    Committed,
    Counts,
    ItemOutcome,
    NewItem,
    NewShard,
    Ring,
)
from tests.models.acting import HandClock, LossyDatabase

_template: Path | None = None


def empty_database(folder: Path) -> LossyDatabase:
    """Copy a migrated file, which is quicker than to migrate one for each example."""
    global _template
    if _template is None:
        _template = Path(tempfile.mkdtemp(prefix="cm-template-")) / "metadata.db"
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
    over: bool = False


class JobLife(RuleBasedStateMachine):
    """One job; at most one thing happens at a time, in any order."""

    messages = Bundle("messages")
    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="cm-life-"))
        self.database = empty_database(self.folder)
        self.clock = HandClock()
        self.jobs = Stores(self.database, clock=self.clock).jobs
        self.tasks = 0
        self.ended: str | None = None
        self.cursors: dict[int, int] = {}
        self.stopping = False

    @initialize(
        target=messages,
        items=st.integers(3, 12),
        different=st.integers(3, 12),
        shards=st.integers(1, 2),
        embed=st.booleans(),
        planned=st.sampled_from([True, True, False]),
    )
    def submit(self, items: int, different: int, shards: int, embed: bool, planned: bool) -> Any:
        self.keys, self.shards, self.embed = [n % different for n in range(items)], shards, embed
        submitted = self.jobs.create("warm", {}, namespace="tests", submitted_by="tester")
        self.job_id = submitted.job_id
        assert submitted.ring is not None
        (message,) = self.post([submitted.ring]).values
        # Most lives begin behind the plan, or few would get far.
        return self.step(self.deliver(message), items, "shard") if planned else message

    def post(self, rings: list[Ring], *, keep: bool = True) -> Any:
        if not keep:
            return multiple()
        for ring in rings:
            self.jobs.mark_dispatched(ring)
        self.tasks += len(rings)
        return multiple(*(Message(ring, f"task-{self.tasks}-{n}") for n, ring in enumerate(rings)))

    # Messages: delivered, doubled, lost

    @rule(target=runs, message=messages)
    def deliver_and_keep_a_copy(self, message: Message) -> Any:
        return self.deliver(message)

    @rule(target=runs, message=consumes(messages))
    def deliver_once(self, message: Message) -> Any:
        return self.deliver(message)

    @rule(target=messages, message=consumes(messages), steps=st.integers(0, 2))
    def answer_well(self, message: Message, steps: int) -> Any:
        run, posted = self.deliver(message), []
        for end in ["continue"] * steps + ["chunk"]:
            posted += self.step(run, 1, end).values if isinstance(run, Run) else []
        return multiple(*posted)

    def deliver(self, message: Message) -> Any:
        ring = message.ring
        claim = self.jobs.claim(
            ring.job_id,
            ring.shard,
            ring.fence,
            owner=f"worker of {message.task_id}",
            task_id=message.task_id,
            hard_limit_seconds=90,
        )
        return Run(claim, message) if isinstance(claim, Claim) else multiple()

    # Runs: work, end, die, freeze (by not being chosen), meet a passing error

    @rule(target=messages, run=runs, size=st.integers(1, 2), reply_lost=st.booleans(), bad=st.booleans())
    def work_on(self, run: Run, size: int, reply_lost: bool, bad: bool) -> Any:
        return self.step(run, size, "continue", reply_lost=reply_lost, bad=bad)

    @rule(target=messages, run=runs, size=st.integers(1, 2), reply_lost=st.booleans())
    def end_chunk(self, run: Run, size: int, reply_lost: bool) -> Any:
        return self.step(run, size, "chunk", reply_lost=reply_lost)

    @rule(target=messages, run=consumes(runs))
    def die(self, run: Run) -> Any:
        run.over = True
        return run.message

    @rule(run=runs)
    def renew(self, run: Run) -> None:
        if not run.over and not self.jobs.renew(run.claim):
            run.over = True

    @rule(target=messages, run=runs, seconds=st.sampled_from([2, 40]))
    def meet_a_passing_error(self, run: Run, seconds: int) -> Any:
        if run.over:
            return multiple()
        run.over = True
        ring = self.jobs.release(run.claim, retry_in=seconds)
        return multiple() if ring is None else self.post([ring])

    @rule(target=messages, run=runs)
    @precondition(lambda self: not self.stopping)
    def fail(self, run: Run) -> Any:
        if run.over or run.claim.shard_kind == "plan":
            return multiple()
        run.over = True
        failed = self.jobs.fail_shard(run.claim, "broken")
        return multiple() if failed is None else self.post(failed.rings)

    def step(self, run: Run, size: int, end: str, *, reply_lost: bool = False, bad: bool = False) -> Any:
        if run.over:
            return multiple()
        arguments = self.next_commit(run.claim, size, end, bad=bad)
        self.database.lose_reply = reply_lost
        try:
            committed = self.jobs.commit(run.claim, **arguments)
        except MetadataUnavailable:
            # What a worker does: the same commit again. If it was made, there is nothing more to do.
            assert self.jobs.commit(run.claim, **arguments) is None
            committed = None
        finally:
            self.database.lose_reply = False
        return self.after(run, committed)

    def after(self, run: Run, committed: Committed | None) -> Any:
        if committed is not None and self.jobs.get(self.job_id).state != "running":
            assert committed.claim is None, "a run goes on although its job does not run"
            assert committed.rings == []
        if committed is None or committed.claim is None:
            run.over = True
        else:
            run.claim = committed.claim
        return multiple() if committed is None else self.post(committed.rings)

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

    # The world: time, the reconciler, the user

    @rule(seconds=st.sampled_from([3, 11, 35, 61, 120]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(target=messages, published=st.sampled_from([True, True, False]))
    def reconcile(self, published: bool) -> Any:
        return self.post(self.jobs.reconcile(), keep=published)

    @rule(target=messages, action=st.sampled_from(["pause", "resume", "resume", "resume", "cancel"]))
    def ask(self, action: Any) -> Any:
        try:
            requested = self.jobs.request(self.job_id, action, by="user")
        except JobError:
            return multiple()
        return self.post(requested.rings)

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
        self.stopping = True
        if self.jobs.get(self.job_id).state in ("pausing", "paused"):
            self.jobs.request(self.job_id, "resume", by="user")
        for _ in range(60):
            if self.jobs.get(self.job_id).ended:
                break
            self.clock.advance(61)
            todo = list(self.post(self.jobs.reconcile()).values)
            while todo:
                run = self.deliver(todo.pop())
                while isinstance(run, Run) and not run.over:
                    todo += self.step(run, 2, "chunk").values
                self.counters_say_what_the_items_say()
        job = self.jobs.get(self.job_id)
        assert job.ended, f"the job never ends: {job}"
        self.an_ended_job_stays_as_it_ended()
        with self.database.read() as connection:
            pending = connection.execute(select(func.count()).where(JobItem.state == "pending")).scalar_one()
        assert pending == 0, "an item was lost"
        if job.state != "cancelled" and self.embed and all(shard.state == "done" for shard in job.shards):
            assert job.embedded + job.embed_failed == job.done + job.skipped, "a vector was lost"
        assert Stores(self.database).audit.verify() is None


LIVES = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
# A planted bug has to be found, not to be made small.
HUNT = settings(LIVES, max_examples=300, phases=[Phase.generate], report_multiple_bugs=False)


@pytest.mark.timeout(600)
def test_no_order_of_events_counts_an_item_twice_or_loses_one() -> None:
    run_state_machine_as_test(JobLife, settings=LIVES)


class TestPlantedBugs:
    """A machine that never failed proves nothing."""

    def find(self, message: str) -> None:
        with pytest.raises((AssertionError, ValueError), match=message):
            run_state_machine_as_test(JobLife, settings=HUNT)

    def test_a_commit_that_does_not_test_the_cursor_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(commits, "mine", claims.held)

        self.find("commit|pending|counted twice")

    def test_an_embed_shard_that_ends_too_early_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        followed = JobStore.followed
        monkeypatch.setattr(commits, "_may_end", lambda *_: True)
        monkeypatch.setattr(JobStore, "followed", lambda *args: msgspec.structs.replace(followed(*args), open=False))

        self.find("a vector was lost")

    def test_a_closed_shard_that_forgets_its_items_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        close = lifecycle.close_shard

        def close_without_items(connection: Any, shard: Any, *rest: Any, **options: Any) -> bool:
            return close(connection, SimpleNamespace(**{**shard._mapping, "kind": "embed"}), *rest, **options)

        monkeypatch.setattr(lifecycle, "close_shard", close_without_items)

        self.find("total|lost")
