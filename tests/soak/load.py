"""What a soak submits: jobs of every kind, and people who change their minds about them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache_management import CacheConfig, LLMCache
from cache_management.cache.errors import BackendUnavailable, JobError, MetadataUnavailable
from cache_management.cache.warm_items import WarmItem
from cache_management.models.store.results import Submitted
from cache_management.workers.client import JobClient
from tests.soak.provider import REFUSED, answer_to
from tests.workers.harness import JobWorld

LARGE = "x" * 30_000
MAX_ENTRY_BYTES = 20_000
MOST_LIVE = 12
WARM, ASKED, SWEPT, SOURCE = "warm", "asked", "swept", "source"
EXPORTED = 500
TARGETS = ("target-0", "target-1", "target-2")


class Load:
    """Submits jobs, one after another, and remembers what each of them promised."""

    def __init__(self, world: JobWorld, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._number = 0
        self.submitted: list[str] = []
        self.expected: dict[tuple[str, str], str] = {}  # what may stand under a key of a namespace, if anything
        self.swept: dict[str, str] = {}  # what an evict job was to remove, by job
        self.exports: dict[str, Path] = {}  # where an export job writes, by job
        self.imports: dict[str, str] = {}  # into which namespace an import job reads, by job
        self.refusals = 0
        self.folder = world.folder / "exports"
        self._base = self.folder / "base.jsonl.zst"
        self._kinds: list[Callable[[JobClient], Submitted]] = [
            self.warm,
            self.warm,
            self.ask,
            self.evict,
            self.embed,
            self.export,
            self.bring_in,
            lambda client: client.submit("stats", {}),
            lambda client: client.submit("prune", {"jobs_days": 365}),
            lambda client: client.submit("audit-verify", {}),
        ]

    def prepare(self) -> None:
        """Store what is exported, and export it once for the imports, before anything is hurt."""
        self.folder.mkdir()
        asyncio.run(self._store(SOURCE, [f"kept {at}" for at in range(EXPORTED)]))
        job_id = self._world.client.submit("export", {"path": str(self._base)}, namespace=SOURCE).job_id
        assert self._world.wait_for_job(job_id).state == "succeeded"

    def go_on(self) -> None:
        """Submit one more job, or do something to one there is; what cannot be reached now is let be."""
        try:
            if self._live() < MOST_LIVE and self._rng.random() < 0.6:
                self._submit()
            elif self.submitted:
                self._interfere()
        except (MetadataUnavailable, BackendUnavailable):
            self.refusals += 1

    def warm(self, client: JobClient) -> Submitted:
        """Answers in a file: some too large to be stored, some prompts twice."""
        name = self._next("given")
        items = []
        for at in range(self._rng.randint(20, 300)):
            prompt = f"{name} item {at}"
            items.append(WarmItem(prompt=prompt, response=answer_to(prompt), token_count=3))
        for each in self._rng.sample(range(len(items)), 2):
            items[each] = items[each].model_copy(update={"response": LARGE})
        items.append(items[-1])
        self._expect(WARM, items)
        again = {"idem_key": name} if self._rng.random() < 0.3 else {}
        options: dict[str, Any] = {"namespace": WARM, "batch_size": self._rng.choice([1, 5, 50]), **again}
        submitted = client.submit_warm(items, **options)
        if again:
            twice = client.submit_warm(items, **options)
            assert twice.job_id == submitted.job_id or not twice.created, "one key gave two live jobs"
        return submitted

    def ask(self, client: JobClient) -> Submitted:
        """Prompts without an answer, of which the provider refuses one."""
        name = self._next("asked")
        items = [WarmItem(prompt=f"{name} item {at}") for at in range(self._rng.randint(5, 40))]
        items.append(WarmItem(prompt=f"{name} {REFUSED}"))
        self._expect(ASKED, items)
        return client.submit_warm(items, namespace=ASKED)

    def evict(self, client: JobClient) -> Submitted:
        """Entries that this process stores, half of which shall go."""
        name = self._next("swept")
        for half in ("goes", "stays"):
            asyncio.run(self._store(SWEPT, [f"{name} {half} {at}" for at in range(200)]))
        submitted = client.submit("evict", {"pattern": f"{name} goes *"}, namespace=SWEPT)
        self.swept[submitted.job_id] = name
        return submitted

    def embed(self, client: JobClient) -> Submitted:
        return client.submit_embed(namespace=WARM)

    def export(self, client: JobClient) -> Submitted:
        path = self.folder / f"{self._next('export')}.jsonl.zst"
        submitted = client.submit("export", {"path": str(path)}, namespace=SOURCE)
        self.exports[submitted.job_id] = path
        return submitted

    def bring_in(self, client: JobClient) -> Submitted:
        """Merge or replace; two may have the same namespace as their target."""
        target = self._rng.choice(TARGETS)
        params = {
            "path": str(self._base),
            "replace": self._rng.random() < 0.5,
            "from_namespace": SOURCE,
            "embed": False,
        }
        submitted = client.submit("import", params, namespace=target)
        self.imports[submitted.job_id] = target
        return submitted

    async def _store(self, namespace: str, keys: list[str]) -> None:
        config = CacheConfig(url=self._world.settings.url, namespace=namespace, strict=True, timeout_seconds=5)
        async with LLMCache(config) as cache:
            responses = {key: WarmItem(prompt=key, response=answer_to(key)).to_response(0.0) for key in keys}
            await cache.set_many(responses, -1)

    def _next(self, kind: str) -> str:
        self._number += 1
        return f"{kind} {self._number}"

    def _expect(self, namespace: str, items: list[WarmItem]) -> None:
        self.expected |= {(namespace, item.prompt): answer_to(item.prompt) for item in items}

    def _live(self) -> int:
        return sum(not job.ended for job in self._world.stores.jobs.list(limit=50))

    def _submit(self) -> None:
        make = self._rng.choice(self._kinds)
        self.submitted.append(make(self._world.client).job_id)

    def _interfere(self) -> None:
        """Do what a person does: pause, go on, cancel, try again."""
        client = self._world.client
        job_id = self._rng.choice(self.submitted[-30:])
        act = self._rng.choice(["pause", "resume", "resume", "resume", "cancel", "retry"])
        with contextlib.suppress(JobError):
            if act == "retry":
                self.submitted.append(client.retry(job_id, failed_only=self._rng.random() < 0.5).job_id)
            elif act != "cancel" or self._rng.random() < 0.3:
                client.request(job_id, act)  # type: ignore[arg-type]  # one of the three
