"""Caches to export from and to import into, and the whole way between a cache and a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cache_management import CacheConfig, CachedResponse, LLMCache
from cache_management.cache.backends.base import Backend
from cache_management.cache.clock import Clock, system_clock
from cache_management.cache.errors import InvalidInput
from cache_management.cache.manager import CacheManager
from cache_management.cache.transfer.exporting import Exporter, ExportPlace, ExportWanted, new_export_id
from cache_management.cache.transfer.importing import Importer, ImportPlace, ImportWanted
from cache_management.cache.transfer.lines import EntryLine, Header, encode_line, seal_end, seal_header, seal_part
from cache_management.cache.transfer.shelf import Shelf
from cache_management.cache.transfer.sources import open_source

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def open_cache(
    backend: Backend | None = None, *, namespace: str = "default", clock: Clock = system_clock, **config: Any
) -> LLMCache:
    settings = {"url": "memory://", "namespace": namespace, "ttl_seconds": 3600, "timeout_seconds": 20, **config}
    return LLMCache(CacheConfig(strict=True, **settings), backend=backend, clock=clock)


def shelf_of(cache: LLMCache) -> Shelf:
    return CacheManager(cache).shelf()


def answer(text: str, *, prompt: str = "p", age_days: float = 0.0, **fields: Any) -> CachedResponse:
    return CachedResponse(
        prompt=prompt, response=text, model="m", timestamp=NOW - timedelta(days=age_days), token_count=3, **fields
    )


async def fill(cache: LLMCache, count: int, *, start: int = 0, text: str = "answer") -> list[str]:
    """Store so many entries; return their keys."""
    keys = [f"question {at}" for at in range(start, start + count)]
    await cache.set_many({key: answer(f"{text} to {key}", prompt=key) for key in keys})
    return keys


async def contents(cache: LLMCache) -> dict[str, dict[str, Any]]:
    """Return all that a cache holds, by key."""
    return {entry["key"]: entry for entry in await CacheManager(cache).export_entries()}


async def export_to(file: Path, cache: LLMCache, **wanted: Any) -> ExportPlace:
    """Export a whole cache to a stream file."""
    place = ExportPlace(new_export_id())
    exporter = Exporter(shelf_of(cache), ExportWanted(file, "0.0-test", **wanted), export_id=place.id)
    while place.step != "done":
        place = await exporter.advance(place)
    return place


def importer_of(cache: LLMCache, file: Path, **wanted: Any) -> Importer:
    source = open_source(file, entry_limit_bytes=cache.config.max_entry_bytes)
    return Importer(shelf_of(cache), source, ImportWanted(**wanted), where=str(file), keep_written=True)


async def import_from(file: Path, cache: LLMCache, **wanted: Any) -> ImportPlace:
    """Import a whole file."""
    importer = importer_of(cache, file, **wanted)
    try:
        place = importer.begin()
        while place.step != "done":
            place = await importer.advance(place)
    except InvalidInput:
        await importer.abandon(place)
        raise
    finally:
        importer.close()
    return place


def line(key: str, response: str = "r", **fields: Any) -> EntryLine:
    return EntryLine(**{"key": key, "response": response, "timestamp": NOW, "expires_at": None, "version": 5, **fields})


def stream_of(
    parts: Sequence[Iterable[EntryLine | bytes]], *, namespace: str = "default", **header: Any
) -> list[bytes]:
    """Return the blocks of a well-formed stream; a part may hold lines that are no entries."""
    block, seal = seal_header(
        Header(program="0.0-test", id="some-export", namespace=namespace, created_at=NOW, **header)
    )
    blocks = [block]
    entries = 0
    for number, part in enumerate(parts, start=1):
        lines = [each if isinstance(each, bytes) else encode_line(each) for each in part]
        block, seal = seal_part(lines, number, seal)
        blocks.append(block)
        entries += len(lines)
    blocks.append(seal_end(parts=len(parts), entries=entries, unreadable=0, seal=seal))
    return blocks


def write_stream(file: Path, *parts: Iterable[EntryLine | bytes], **header: Any) -> Path:
    """Write a well-formed stream file."""
    file.write_bytes(b"".join(stream_of(parts, **header)))
    return file
