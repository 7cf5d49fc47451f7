"""Reads another cache into an export: of each question the newest answer, and none that stays as it is here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from cache_management.cache.transfer.lines import PART_BYTES, PART_ENTRIES, Header, decode_entry
from cache_management.cache.transfer.shelf import Shelf
from cache_management.cache.transfer.stream_files import StreamWriter, WritePlace
from cache_management.migration_sources.found import Converter, ForeignCache, LeftOut, Report
from cache_management.migration_sources.newest import Kept, Newest

OLDER = "an older answer to the same question"
STAYS = "there already, and nothing says which is newer: what is here stays"
_TELL_EVERY = 500

Tell = Callable[[str, int, int | None], None]
"""Takes what is done, how far it is, and how much that is in all."""


class Gathered(msgspec.Struct, frozen=True):
    """`entries` come along.

    The store `keeps` so many entries, None without such a bound, `held` of them before, and `fresh` ones would come.
    """

    entries: int
    keeps: int | None
    held: int
    fresh: int

    @property
    def is_too_much(self) -> bool:
        """Tell whether the store would not keep all."""
        return self.keeps is not None and self.held + self.fresh > self.keeps


class Gatherer:
    """Writes what comes along.

    Args:
        max_entries: How many entries the store keeps, None without such a bound.
    """

    def __init__(self, shelf: Shelf, converter: Converter, report: Report, *, max_entries: int | None) -> None:
        self._shelf = shelf
        self._converter = converter
        self._report = report
        self._max_entries = max_entries
        self._now = shelf.clock()
        self._counts_fresh = False
        self._fresh = 0

    async def gather(self, cache: ForeignCache, file: Path, header: Header, tell: Tell) -> Gathered:
        """Read all of a cache and write the export, beside which a file of about its size stands meanwhile.

        Raises:
            InvalidInput, BackendUnavailable: The other cache cannot be read.
            TargetFull: There is no room for the file.
        """
        with Newest(file.with_suffix(".lines")) as newest:
            await self._read(cache, newest, tell)
            held = 0
            if self._max_entries is not None:
                held = await self._shelf.backend.count(self._shelf.keys.prefix)
                self._counts_fresh = held + len(newest) > self._max_entries
            entries = await self._write(newest, file, header)
        return Gathered(entries, self._max_entries, held, self._fresh if self._counts_fresh else entries)

    async def _read(self, cache: ForeignCache, newest: Newest, tell: Tell) -> None:
        total = cache.count()
        seen = 0
        for seen, row in enumerate(cache.rows(), start=1):
            line = await self._converter.line(row)
            if line is not None and (older := newest.add(line)) is not None:
                self._report.add(LeftOut(OLDER, older, line.prompt, is_fault=False))
            if seen % _TELL_EVERY == 0:
                tell("read", seen, max(total, seen))
        tell("read", seen, max(total, seen))

    async def _write(self, newest: Newest, file: Path, header: Header) -> int:
        writer = StreamWriter(file, owner=header.id)
        try:
            place = writer.begin(header)
            page: list[Kept] = []
            size = 0
            for kept in newest.lines():
                page.append(kept)
                size += len(kept.encoded)
                if len(page) >= PART_ENTRIES or size >= PART_BYTES:
                    place = await self._append(writer, page, place)
                    page, size = [], 0
            place = await self._append(writer, page, place)
            writer.finish(place, unreadable=0, replace=False)
        finally:
            writer.close()
        return place.entries

    async def _append(self, writer: StreamWriter, page: list[Kept], place: WritePlace) -> WritePlace:
        coming = await self._settled(page)
        return writer.append(coming, place) if coming else place

    async def _settled(self, page: list[Kept]) -> list[bytes]:
        """Return the lines that come along, and look at what is here where that counts."""
        if not self._counts_fresh and all(kept.has_time for kept in page):
            return [kept.encoded for kept in page]
        entries = [decode_entry(kept.encoded) for kept in page]
        records = [self._shelf.record(entry, now=self._now) for entry in entries]
        there = await self._shelf.backend.inspect_many([name for name, _ in records])
        coming = []
        for kept, entry, (name, record) in zip(page, entries, records, strict=True):
            live = there.get(name)
            if live is None or live.is_expired(self._now):
                self._fresh += 1
            elif not kept.has_time and live.version != record.version:
                self._report.add(LeftOut(STAYS, kept.where, entry.prompt or entry.key, is_fault=False))
                continue
            coming.append(kept.encoded)
        return coming
