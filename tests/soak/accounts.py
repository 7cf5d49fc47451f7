"""The account of a soak: every job, every item, every act. Whatever does not add up is a finding."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter

import zstandard
from sqlalchemy import func, select

from cache_management import CacheConfig, LLMCache
from cache_management.models.audit import AuditEntry
from cache_management.models.job import ROUTINE_KINDS, TERMINAL, Job, JobItem, JobShard
from cache_management.models.store import Stores
from cache_management.models.store.results import JobView
from tests.soak.load import EXPORTED, SWEPT, TARGETS, Load
from tests.soak.provider import answer_to
from tests.workers.harness import JobWorld


def findings(world: JobWorld, load: Load) -> list[str]:
    """Return what is wrong at the end of a soak; an empty list is what it is run for."""
    stores = world.stores
    found = _every_job(stores, load) + _every_item(stores) + _audit(stores)
    found += asyncio.run(_entries(world, load)) + asyncio.run(_swept(world, load))
    return found + _exported(stores, load) + asyncio.run(_imported(world, load))


def states(stores: Stores) -> Counter[str]:
    """Count jobs by kind and state, for people."""
    return Counter(f"{job.kind} {job.state}" for job in stores.jobs.list(limit=100_000))


def _every_job(stores: Stores, load: Load) -> list[str]:
    found = []
    jobs = {job.id: job for job in stores.jobs.list(limit=100_000)}
    found += [f"job {job_id} was accepted and is gone" for job_id in load.submitted if job_id not in jobs]
    for job in jobs.values():
        if not job.ended:
            found.append(f"job {job.id} ({job.kind}) has not ended: {job.state}, {job.shards}")
            continue
        if job.state == "failed" and job.last_error is None:
            found.append(f"job {job.id} ({job.kind}) failed and nobody says why")
        if job.kind == "warm":
            found += _sums(job)
    return found


def _sums(job: JobView) -> list[str]:
    settled = job.done + job.skipped + job.failed + job.cancelled
    if job.total is not None and settled != job.total:
        return [f"job {job.id}: {settled} of {job.total} items are accounted for"]
    return []


def _every_item(stores: Stores) -> list[str]:
    """Count the items again, one by one, and compare with what the shards counted as they went."""
    found = []
    counters = {
        "done": JobShard.done,
        "skipped": JobShard.skipped,
        "dead": JobShard.failed,
        "cancelled": JobShard.cancelled,
    }
    with stores.database.read() as connection:
        rows = connection.execute(
            select(JobItem.job_id, JobItem.state, func.count()).group_by(JobItem.job_id, JobItem.state)
        ).all()
        counted = {(job_id, state): count for job_id, state, count in rows}
        for state, counter in counters.items():
            sums = connection.execute(
                select(JobShard.job_id, func.sum(counter)).where(JobShard.kind == "data").group_by(JobShard.job_id)
            ).all()
            for job_id, total in sums:
                kind = connection.execute(select(Job.kind).where(Job.id == job_id)).scalar_one()
                if kind == "warm" and counted.get((job_id, state), 0) != total:
                    found.append(f"job {job_id}: {total} counted as {state}, {counted.get((job_id, state), 0)} are")
        found += [
            f"job {job_id}: {count} items are pending for ever"
            for (job_id, state), count in counted.items()
            if state == "pending"
        ]
        silent = connection.execute(
            select(func.count()).where(JobItem.state == "dead", JobItem.reason.is_(None))
        ).scalar_one()
    return [*found, *([f"{silent} dead letters have no reason"] if silent else [])]


def _audit(stores: Stores) -> list[str]:
    """The chain holds, and each job has one row for its submit and one for its end."""
    broken = stores.audit.verify()
    found = [] if broken is None else [f"the audit chain is broken at entry {broken}"]
    with stores.database.read() as connection:
        jobs = connection.execute(select(Job.id, Job.state).where(Job.kind.not_in(ROUTINE_KINDS))).all()
        rows = connection.execute(
            select(AuditEntry.job_id, AuditEntry.action, func.count()).group_by(AuditEntry.job_id, AuditEntry.action)
        ).all()
    acts = {(job_id, action): count for job_id, action, count in rows}
    ends = [f"job.{state}" for state in TERMINAL]
    for job_id, state in jobs:
        if acts.get((job_id, "job.submit")) != 1:
            found.append(f"job {job_id} has {acts.get((job_id, 'job.submit'), 0)} audit rows for its submit")
        ended = {action: acts[job_id, action] for action in ends if (job_id, action) in acts}
        if ended != {f"job.{state}": 1}:
            found.append(f"job {job_id} is {state}, its audit rows say {ended}")
    return found


async def _entries(world: JobWorld, load: Load) -> list[str]:
    """What a job called done stands in the store, and nothing stands there that nobody answered."""
    found = []
    for namespace in sorted({namespace for namespace, _ in load.expected}):
        answers = {prompt: answer for (where, prompt), answer in load.expected.items() if where == namespace}
        config = CacheConfig(url=world.settings.url, namespace=namespace, strict=True, timeout_seconds=10)
        async with LLMCache(config) as cache:
            held = await cache.get_many(list(answers))
            foreign = set(await cache.list_keys()) - set(answers)
        wrong = [prompt for prompt, response in held.items() if response.response != answers[prompt]]
        found += [f"{namespace}: {len(wrong)} wrong answers, such as {wrong[:3]}"] if wrong else []
        found += [f"{namespace}: {len(foreign)} entries that nobody submitted"] if foreign else []
        done = _items_done(world.stores, namespace)
        if len(held) < done:
            found.append(f"{namespace}: {done} items are done, {len(held)} entries are there")
    return found


def _items_done(stores: Stores, namespace: str) -> int:
    """Count distinct items of a namespace that a job called done."""
    with stores.database.read() as connection:
        query = (
            select(func.count(JobItem.item_key.distinct()))
            .join(Job, Job.id == JobItem.job_id)
            .where(Job.namespace == namespace, JobItem.state == "done")
        )
        return int(connection.execute(query).scalar_one())


async def _swept(world: JobWorld, load: Load) -> list[str]:
    """What an evict job was told to remove is gone when it succeeded, and the rest is there."""
    found = []
    config = CacheConfig(url=world.settings.url, namespace=SWEPT, strict=True, timeout_seconds=10)
    async with LLMCache(config) as cache:
        for job_id, name in load.swept.items():
            stay = len(await cache.list_keys(f"{name} stays *"))
            go = len(await cache.list_keys(f"{name} goes *"))
            state = world.stores.jobs.get(job_id).state
            if stay != 200 or (state == "succeeded" and go):
                found.append(f"evict job {job_id} is {state}: {go} of 200 left that go, {stay} of 200 that stay")
    return found


def _exported(stores: Stores, load: Load) -> list[str]:
    """A file that a job wrote is whole, by a reader of our own; of any other job nothing is left."""
    found = []
    for job_id, path in load.exports.items():
        state = stores.jobs.get(job_id).state
        if state != "succeeded":
            found += [f"export job {job_id} is {state}, and {path.name} is there"] if path.exists() else []
            continue
        with (
            path.open("rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream,
        ):
            lines = [json.loads(line) for line in io.BufferedReader(stream)]
        entries = {line["key"]: line["response"] for line in lines if line["type"] == "entry"}
        whole = lines[0]["type"] == "header" and lines[-1]["type"] == "end"
        if not whole or entries != {key: answer_to(key) for key in (f"kept {at}" for at in range(EXPORTED))}:
            found.append(f"export job {job_id}: {path.name} holds {len(entries)} entries, whole: {whole}")
    return found


async def _imported(world: JobWorld, load: Load) -> list[str]:
    """A namespace into which an import went well holds all of it and nothing else."""
    found = []
    for target in TARGETS:
        states = {world.stores.jobs.get(job_id).state for job_id, where in load.imports.items() if where == target}
        config = CacheConfig(url=world.settings.url, namespace=target, strict=True, timeout_seconds=10)
        async with LLMCache(config) as cache:
            held = await cache.get_many(await cache.list_keys())
        wrong = [key for key, response in held.items() if response.response != answer_to(key)]
        if wrong or len(held) > EXPORTED or ("succeeded" in states and len(held) != EXPORTED):
            found.append(f"{target}: import jobs are {states}, {len(held)} of {EXPORTED} are there, wrong: {wrong[:3]}")
    return found
