"""The account of a soak finds what is planted: an account that never complained proves nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from cache_management import CacheConfig, LLMCache
from cache_management.cache.warm_items import WarmItem
from cache_management.models.store.results import Claim, Counts, ItemOutcome, NewItem, NewShard
from tests.soak.accounts import findings
from tests.soak.load import SWEPT, WARM, Load
from tests.soak.provider import answer_to
from tests.workers.harness import JobWorld

PROMPTS = ["one", "two", "three"]


class Soaked:
    """A world at the end of a soak that went well: a warm job, two items done and one dead, and a sweep."""

    def __init__(self, world: JobWorld) -> None:
        self.world = world
        self.load = Load(world, random.Random(0))
        self.load.folder.mkdir()
        self.job_id = self._warm()
        self.load.submitted.append(self.job_id)
        self.load.expected = {(WARM, prompt): answer_to(prompt) for prompt in PROMPTS}
        self.store(WARM, {prompt: answer_to(prompt) for prompt in PROMPTS[:2]})
        self.load.swept = {self.job_id: "swept 1"}
        self.store(SWEPT, {f"swept 1 stays {at}": "x" for at in range(200)})

    def _warm(self) -> str:
        jobs = self.world.stores.jobs
        job_id = jobs.create("warm", {}, namespace=WARM, submitted_by="me").job_id
        plan = jobs.claim(job_id, 0, 0, owner="w", task_id="plan", hard_limit_seconds=90)
        assert isinstance(plan, Claim)
        items = [NewItem(prompt, at + 1, 0, at, 1) for at, prompt in enumerate(PROMPTS)]
        jobs.commit(plan, to_cursor=1, new_items=items, new_shards=[NewShard(1)], end="shard")
        claim = jobs.claim(job_id, 1, 0, owner="w", task_id="data", hard_limit_seconds=90)
        assert isinstance(claim, Claim)
        outcomes = [ItemOutcome(1, "done"), ItemOutcome(2, "done"), ItemOutcome(3, "dead", "too large")]
        jobs.commit(claim, to_cursor=3, outcomes=outcomes, counts=Counts(done=2, failed=1), end="shard")
        return job_id

    def store(self, namespace: str, answers: dict[str, str]) -> None:
        async def work(cache: LLMCache) -> None:
            for key, answer in answers.items():
                await cache.set(key, WarmItem(prompt=key, response=answer).to_response(0.0))

        self.on_cache(namespace, work)

    def on_cache(self, namespace: str, work: Callable[[LLMCache], object]) -> None:
        async def run() -> None:
            async with LLMCache(CacheConfig(url=self.world.settings.url, namespace=namespace)) as cache:
                await work(cache)  # type: ignore[misc]  # a coroutine function

        asyncio.run(run())

    def write(self, *statements: str) -> None:
        with self.world.stores.database.write() as connection:
            for statement in statements:
                connection.execute(text(statement))


@pytest.fixture
def soaked(tmp_path: Path, redis_url: str) -> Iterator[Soaked]:
    world = JobWorld(tmp_path / "world", broker_url="memory://", cache_url=redis_url)
    yield Soaked(world)
    world.close()


def test_a_soak_that_went_well_has_no_findings(soaked: Soaked) -> None:
    assert findings(soaked.world, soaked.load) == []


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["UPDATE jobs SET state = 'running'"], "has not ended"),
        (["UPDATE jobs SET done = 3"], "items are accounted for"),
        (["UPDATE job_shards SET done = done + 1 WHERE kind = 'data'"], "counted as done"),
        (["UPDATE job_items SET state = 'pending' WHERE position = 2"], "pending for ever"),
        (["UPDATE job_items SET reason = NULL"], "have no reason"),
        (["UPDATE jobs SET state = 'failed', last_error = NULL"], "nobody says why"),
        (["DROP TRIGGER audit_log_no_update", "UPDATE audit_log SET actor = 'x' WHERE id = 1"], "chain is broken"),
        (["DROP TRIGGER audit_log_no_delete", "DELETE FROM audit_log WHERE id = 2"], "audit rows say"),
        (["DELETE FROM jobs"], "was accepted and is gone"),
    ],
)
def test_what_does_not_add_up_in_the_database_is_found(soaked: Soaked, statements: list[str], said: str) -> None:
    if "DELETE FROM jobs" in statements:
        soaked.load.swept = {}
    soaked.write(*statements)

    assert any(said in line for line in findings(soaked.world, soaked.load))


def test_what_is_wrong_in_the_store_is_found(soaked: Soaked) -> None:
    soaked.store(WARM, {"one": "another answer", "nobody asked": "this"})
    soaked.on_cache(WARM, lambda cache: cache.delete("two"))
    soaked.on_cache(SWEPT, lambda cache: cache.delete("swept 1 stays 7"))

    found = "\n".join(findings(soaked.world, soaked.load))

    assert "1 wrong answers" in found
    assert "1 entries that nobody submitted" in found
    assert "2 items are done, 1 entries are there" in found
    assert "199 of 200 that stay" in found
