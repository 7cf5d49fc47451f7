"""Export and import: entries to a stream file and back, some parts at a time. See cache/transfer/."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from asyncio import sleep
from collections.abc import Awaitable, Iterator
from pathlib import Path
from time import monotonic
from typing import TypeVar

import msgspec
from celery import Task, shared_task

from cache_management import __version__
from cache_management.cache.errors import BackendRefused, BackendUnavailable, ConfigurationError, InvalidInput
from cache_management.cache.transfer.exporting import (
    PAGES_AT_ONCE,
    Exporter,
    ExportPlace,
    ExportWanted,
    owner_of,
    summary_of_export,
)
from cache_management.cache.transfer.importing import (
    PARTS_AT_ONCE,
    FileChanged,
    Importer,
    ImportPlace,
    ImportWanted,
    summary_of_import,
)
from cache_management.cache.transfer.lines import PART_ENTRIES
from cache_management.cache.transfer.replacing import ImportUnderWay, StageLost
from cache_management.cache.transfer.stream_files import StreamReader, TargetFull, TargetLost, check_target, mark_of
from cache_management.models.store.results import Claim, Counts, NewShard
from cache_management.wiring import Platform
from cache_management.workers import runtime
from cache_management.workers.chunk import ComeBackLater, JobPaused, Progress, ShardFailed, run_chunk
from cache_management.workers.messages import ExportParams, ImportParams

T = TypeVar("T")

_COUNTING_SECONDS = 20.0
_BUSY_SECONDS = 3.0
_LONGEST_REST_SECONDS = 20.0


async def plan_export(platform: Platform, claim: Claim) -> Progress:
    """Make sure that this worker can write the file, count the entries, and open the one shard that writes them."""
    params = ExportParams.model_validate(claim.params)
    try:
        check_target(Path(params.path), replace=params.replace)
    except InvalidInput as exc:
        raise ShardFailed(_seen_from_here(exc)) from exc
    total: int | None = None
    with contextlib.suppress(TimeoutError):  # of a very large store nobody need know it beforehand
        async with asyncio.timeout(_COUNTING_SECONDS):
            shelf = platform.in_namespace(claim.namespace).shelf(of_reasoning=params.reasoning)
            total = await shelf.backend.count(shelf.keys.prefix)
    place = ExportPlace(owner_of(claim.job_id))
    return Progress(
        to_cursor=claim.cursor + 1, total=total, new_shards=[NewShard(1, bookmark=_written(place))], last=True
    )


async def export(platform: Platform, claim: Claim) -> Progress:
    """Write the next parts. The cursor counts steps, the bookmark says how much of the file is written for good."""
    params = ExportParams.model_validate(claim.params)
    here = platform.in_namespace(claim.namespace)
    before = msgspec.json.decode(claim.bookmark or "", type=ExportPlace)
    wanted = ExportWanted(
        Path(params.path),
        __version__,
        pattern=params.pattern,
        embedder=str(platform.settings.embedding_model),
        replace=params.replace,
    )
    exporter = Exporter(here.shelf(of_reasoning=params.reasoning), wanted, export_id=before.id)
    at_once = _parts_of(claim, params.entries_per_second, PAGES_AT_ONCE)
    try:
        after = await _paced(exporter.advance(before, pages=at_once), params.entries_per_second, at_once * PART_ENTRIES)
    except TargetFull as exc:
        raise JobPaused(f"{exc}, then `cache-cli jobs resume {claim.job_id}`") from exc
    except (TargetLost, InvalidInput) as exc:
        exporter.writer.discard()
        raise ShardFailed(_seen_from_here(exc)) from exc
    finally:
        exporter.close()
    done = after.written.entries - before.written.entries
    failed = after.unreadable - before.unreadable
    is_last = after.step == "done"
    return Progress(
        to_cursor=claim.cursor + 1,
        counts=Counts(
            done=done,
            failed=failed,
            skipped=max(0, after.seen - before.seen - done - failed),
            bytes=(after.file_bytes or after.written.offset) - before.written.offset,
        ),
        total=max(after.seen, after.written.entries + after.unreadable) if is_last else None,
        summary=summary_of_export(after),
        bookmark=_written(after),
        last=is_last,
    )


async def verify(platform: Platform, claim: Claim) -> Progress:
    """Verify the next parts of a file, to replace also stage them; behind the last open the shard that imports."""
    params = ImportParams.model_validate(claim.params)
    with _importing(platform, claim, params) as importer:
        before = importer.begin(claim.job_id) if claim.bookmark is None else _place(claim)
        at_once = _parts_of(claim, params.entries_per_second, PARTS_AT_ONCE)
        try:
            after = await _paced(
                importer.advance(before, parts=at_once), params.entries_per_second, at_once * PART_ENTRIES
            )
        except InvalidInput as exc:
            with contextlib.suppress(BackendUnavailable):
                await importer.abandon(before)
            raise ShardFailed(f"nothing was imported: {exc}") from exc
    is_last = after.step != "verify"
    return Progress(
        to_cursor=claim.cursor + 1,
        new_shards=[NewShard(1, bookmark=_written(after))] if is_last else [],
        total=after.tally.entries if is_last else None,
        summary={"step": after.step, "verified": after.tally.entries},
        bookmark=_written(after),
        last=is_last,
    )


async def bring_in(platform: Platform, claim: Claim) -> Progress:
    """Merge the next parts of a file, or go on with replacing. The cursor counts steps."""
    params = ImportParams.model_validate(claim.params)
    before = _place(claim)
    with _importing(platform, claim, params) as importer:
        at_once = _parts_of(claim, params.entries_per_second, PARTS_AT_ONCE)
        after = await _paced(importer.advance(before, parts=at_once), params.entries_per_second, at_once * PART_ENTRIES)
    was, now = before.tally, after.tally
    is_last = after.step == "done"
    summary = {**summary_of_import(after), "replaces": params.replace}
    if is_last and params.embed and now.written and not after.of_reasoning:
        # A job of its own: whoever does this step again finds it, or makes one that finds everything done.
        embed = runtime.current().client.submit_embed(
            namespace=claim.namespace, idem_key=f"import:{claim.job_id}", priority=claim.priority
        )
        summary["embed_job"] = embed.job_id
    if is_last and now.settled < now.entries:
        summary["completed_elsewhere"] = True
    return Progress(
        to_cursor=claim.cursor + 1,
        counts=Counts(
            done=now.written - was.written,
            skipped=(now.settled - now.written) - (was.settled - was.written),
        ),
        summary=summary,
        bookmark=_written(after),
        last=is_last,
    )


@contextlib.contextmanager
def _importing(platform: Platform, claim: Claim, params: ImportParams) -> Iterator[Importer]:
    """Give an importer, close its file, and tell what will not be better at the next try from what may."""
    here = platform.in_namespace(claim.namespace)
    wanted = ImportWanted(replace=params.replace, from_namespace=params.from_namespace)
    file = Path(params.path)
    try:
        mark_of(file)
        reader = StreamReader(file, entry_limit_bytes=here.settings.max_entry_bytes)
    except InvalidInput as exc:
        raise ShardFailed(_seen_from_here(exc)) from exc
    try:
        shelf = here.shelf(of_reasoning=reader.start()[0].holds == "reasoning")
    except InvalidInput as exc:
        reader.close()
        raise ShardFailed(f"nothing was imported: {exc}") from exc
    importer = Importer(shelf, reader, wanted, where=params.path)
    try:
        yield importer
    except ImportUnderWay as exc:
        raise ComeBackLater(str(exc), seconds=_BUSY_SECONDS) from exc
    except (FileChanged, StageLost, ConfigurationError, InvalidInput) as exc:
        raise ShardFailed(str(exc)) from exc
    except BackendUnavailable as exc:
        if isinstance(exc, BackendRefused) or "disk is full" in exc.reason:
            raise JobPaused(f"{exc}; make room, then `cache-cli jobs resume {claim.job_id}`") from exc
        raise
    finally:
        importer.close()


async def _paced(work: Awaitable[T], entries_per_second: float, entries: int) -> T:
    """Do a step, and rest until as many entries may have been handled as it can have handled."""
    started = monotonic()
    found = await work
    if entries_per_second:
        rest = entries / entries_per_second - (monotonic() - started)
        await sleep(min(max(0.0, rest), _LONGEST_REST_SECONDS))
    return found


def _parts_of(claim: Claim, entries_per_second: float, most: int) -> int:
    """Return how many parts a step may handle: at a bounded rate about a second's worth."""
    if claim.single:
        return 1
    return most if not entries_per_second else max(1, min(most, int(entries_per_second / PART_ENTRIES)))


def _seen_from_here(error: Exception) -> str:
    where = f"seen from {socket.gethostname()}, where this worker runs"
    return f"{error} ({where}: is it a file of another machine? Name one that it sees, or give --local)"


def _place(claim: Claim) -> ImportPlace:
    return msgspec.json.decode(claim.bookmark or "", type=ImportPlace)


def _written(place: ExportPlace | ImportPlace) -> str:
    return msgspec.json.encode(place).decode()


@shared_task(name="transfer.plan_export", bind=True)
def transfer_plan_export(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Begin an export."""
    run_chunk(self, job_id, shard, fence, plan_export)


@shared_task(name="transfer.export", bind=True)
def transfer_export(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Write the next parts of an export."""
    run_chunk(self, job_id, shard, fence, export)


@shared_task(name="transfer.verify", bind=True)
def transfer_verify(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Verify the next parts of a file to be imported."""
    run_chunk(self, job_id, shard, fence, verify)


@shared_task(name="transfer.import", bind=True)
def transfer_import(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Bring in the next parts of a file."""
    run_chunk(self, job_id, shard, fence, bring_in)
