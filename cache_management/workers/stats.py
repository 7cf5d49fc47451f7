"""Adds up how the caches are used: from the notes of the applications to the database, each note once."""

from __future__ import annotations

from contextlib import suppress

from celery import Task, shared_task

from cache_management.cache.backends.base import Journal
from cache_management.cache.errors import BackendRefused, JournalGap
from cache_management.cache.usage import STREAM, decode_note, mark_as_read
from cache_management.models.store.results import Claim, Counts
from cache_management.wiring import Platform
from cache_management.workers.chunk import Progress, run_chunk
from cache_management.workers.usage import add_up, stream_of

_NOTES_AT_ONCE = 100  # of 200 keys each: a second of writing to the database


async def rollup(platform: Platform, claim: Claim) -> Progress:
    """Add the next notes; the database keeps how far it got, beside the counts."""
    backend = platform.llm_cache.backend
    if not isinstance(backend, Journal):
        return Progress(to_cursor=claim.cursor, last=True)
    await mark_as_read(backend, platform.llm_cache.clock())
    operations = platform.stores.operations
    stream = stream_of(platform.settings)
    before = operations.usage_cursor(stream)
    try:
        if claim.cursor == 0:
            await _trim(backend, before)
        data, after = await backend.read_after(STREAM, before, limit=_NOTES_AT_ONCE)
    except JournalGap:
        # Notes are gone that nobody counted: no job ran for a week, or the store was emptied.
        operations.count_usage(stream, (before, await backend.tail(STREAM)), {}, {})
        return Progress(to_cursor=claim.cursor + 1, summary={"gap": True}, last=True)
    notes = [note for note in map(decode_note, data) if note is not None]
    amounts, keys = add_up(notes, platform.settings.prices, now=operations.now())
    counted = not data or operations.count_usage(stream, (before, after), amounts, keys)
    return Progress(
        to_cursor=claim.cursor + 1,
        counts=Counts(done=len(notes) if counted else 0, skipped=len(data) - len(notes) if counted else 0),
        last=len(data) < _NOTES_AT_ONCE,
    )


async def _trim(backend: Journal, counted: str) -> None:
    # Up to where the last job ended, and not this one: another database that counts the same store may be a little
    # behind. Who gave the server's user its rights before there was this command is not bothered.
    with suppress(BackendRefused):
        await backend.trim(STREAM, counted)


@shared_task(name="control.rollup", bind=True)
def control_rollup(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Add up how the caches are used."""
    run_chunk(self, job_id, shard, fence, rollup)
