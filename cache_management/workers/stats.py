"""Adds up how the caches are used: from the notes of the applications to the database, each note once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

from celery import Task, shared_task

from cache_management.cache.backends.base import Journal
from cache_management.cache.errors import JournalGap
from cache_management.cache.identity import digest
from cache_management.cache.prices import price_of
from cache_management.cache.usage import STREAM, UsageNote, decode_note, mark_as_read
from cache_management.models.store.operations import Amounts, KeyCounts
from cache_management.models.store.results import Claim, Counts
from cache_management.settings import Settings
from cache_management.wiring import Platform
from cache_management.workers.chunk import Progress, run_chunk

_NOTES_AT_ONCE = 100  # of 200 keys each: a second of writing to the database
_OLDEST = timedelta(days=8)  # a journal keeps notes for a week


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


def add_up(notes: Sequence[UsageNote], prices: Mapping[str, float], *, now: datetime) -> tuple[Amounts, KeyCounts]:
    """Sum notes by moment, namespace and model, and hits and misses by key.

    What an answer would have cost is its known cost, or else its tokens by the price of its model. `now` is the
    database's time: a moment that it does not know belongs to an application whose clock is wrong.
    """
    amounts: defaultdict[tuple[datetime, str, str], defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    keys: dict[tuple[str, str], tuple[int, int]] = {}
    for note in notes:
        since = min(max(note.since, (now - _OLDEST).timestamp()), now.timestamp())
        # Seconds of one minute are one moment: fewer rows to add to.
        moment = datetime.fromtimestamp(since // 60 * 60, UTC)
        for model, counts in note.models.items():
            into = amounts[moment, note.namespace, model]
            into["hits"] += counts.hits
            into["semantic_hits"] += counts.semantic_hits
            into["misses"] += counts.misses
            into["tokens_saved"] += counts.tokens
            into["saved_micro"] += counts.saved_micro + round(counts.unpriced_tokens * (price_of(model, prices) or 0))
        for key, (hits, misses) in note.keys.items():
            had = keys.get((note.namespace, key), (0, 0))
            keys[note.namespace, key] = (had[0] + hits, had[1] + misses)
    return {at: {name: n for name, n in named.items() if n} for at, named in amounts.items()}, keys


def stream_of(settings: Settings) -> str:
    """Name the journal of a store: stores that share a database have cursors of their own.

    The name stays when a password changes: under another one all notes would be counted again.
    """
    place = f"redis {settings.redis_host.lower()} {settings.redis_port} {settings.redis_db}"
    if settings.backend == "disk":
        place = f"disk {settings.disk_path.expanduser().absolute()}"
    elif settings.url is not None and settings.url.startswith("unix:"):
        socket = urlsplit(settings.url)
        place = f"unix {socket.path} {parse_qs(socket.query).get('db', [settings.redis_db])[-1]}"
    return f"{STREAM}@{digest(place)[:16]}"


@shared_task(name="control.rollup", bind=True)
def control_rollup(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Add up how the caches are used."""
    run_chunk(self, job_id, shard, fence, rollup)
