"""Writes the entries of a namespace to a stream file, some parts at a time.

An `ExportPlace` says where the work stands; any step may run twice: what was written behind the place is cut
off first. The walk is that of `Backend.scan_page`: an entry that is there all the while is written at least
once; one that a server's SCAN shows twice is written twice, which an import does not mind.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from cache_management.cache.identity import digest
from cache_management.cache.patterns import glob_matcher
from cache_management.cache.transfer.lines import PART_BYTES, PART_ENTRIES, Header
from cache_management.cache.transfer.shelf import Shelf
from cache_management.cache.transfer.stream_files import StreamWriter, WritePlace

PAGES_AT_ONCE = 8
_NAMED = 20


class ExportPlace(msgspec.Struct, frozen=True):
    """Where an export stands: the bookmark of its walk, and how much of the file is written for good.

    `named` are digests of the storage keys of the first entries that cannot be read.
    """

    id: str
    step: Literal["entries", "seal", "done"] = "entries"
    scan: str = ""
    seen: int = 0
    unreadable: int = 0
    named: tuple[str, ...] = ()
    written: WritePlace = WritePlace()
    file_bytes: int = 0


class ExportWanted(msgspec.Struct, frozen=True):
    """What is exported, and where to. `pattern` is a shell glob over original keys."""

    target: Path
    program: str
    pattern: str | None = None
    embedder: str | None = None
    replace: bool = False


def owner_of(job_id: str) -> str:
    """Return the id of the export that a job does."""
    return job_id.replace("-", "")


def new_export_id() -> str:
    """Return a name that no other export has."""
    return uuid.uuid4().hex


def header_of(shelf: Shelf, wanted: ExportWanted, export_id: str) -> Header:
    """Return the header of an export that begins now."""
    return Header(
        program=wanted.program,
        id=export_id,
        namespace=shelf.namespace,
        embedder=wanted.embedder,
        created_at=datetime.fromtimestamp(shelf.clock(), UTC),
        pattern=wanted.pattern,
        holds=shelf.holds,
    )


def summary_of_export(place: ExportPlace) -> dict[str, Any]:
    """Return what a person or a script is told of the work."""
    return {
        "step": place.step,
        "seen": place.seen,
        "exported": place.written.entries,
        "unreadable": place.unreadable,
        "unreadable_keys": list(place.named),
        "parts": place.written.parts,
        "bytes": place.file_bytes or place.written.offset,
    }


async def entries_of(shelf: Shelf, pattern: str | None) -> list[dict[str, Any]]:
    """Return the entries of a namespace as JSON objects.

    Raises:
        BackendUnavailable: The store cannot be read.
    """
    matches = None if pattern is None else glob_matcher(pattern)
    found: dict[str, dict[str, Any]] = {}
    bookmark: str | None = ""
    while bookmark is not None:
        names, bookmark = await shelf.backend.scan_page(shelf.keys.prefix, bookmark, PART_ENTRIES)
        async for lines, _ in shelf.read(names, matches=matches):
            for line in lines:
                each = msgspec.json.decode(line)
                del each["type"]
                found[each["key"]] = each
    return list(found.values())


class Exporter:
    """The work of one export. `advance` from place to place until the step is "done"."""

    def __init__(self, shelf: Shelf, wanted: ExportWanted, *, export_id: str) -> None:
        self._shelf = shelf
        self._wanted = wanted
        self._id = export_id
        self._matches = None if wanted.pattern is None else glob_matcher(wanted.pattern)
        self.writer = StreamWriter(wanted.target, owner=export_id)

    async def advance(self, place: ExportPlace, *, pages: int | None = None) -> ExportPlace:
        """Write the next parts, of so many pages of the walk; what is returned is on the disk.

        Raises:
            BackendUnavailable: The store cannot be read; go on from the same place.
            TargetFull: There is no room; go on from the same place when there is.
            TargetLost, InvalidInput: It cannot go on.
        """
        match place.step:
            case "entries":
                return await self._write_entries(place, PAGES_AT_ONCE if pages is None else pages)
            case "seal":
                size = self.writer.finish(place.written, unreadable=place.unreadable, replace=self._wanted.replace)
                return msgspec.structs.replace(place, step="done", file_bytes=size)
            case "done":
                return place

    def close(self) -> None:
        """Close the file; what is written stays, to go on with."""
        self.writer.close()

    async def _write_entries(self, place: ExportPlace, pages: int) -> ExportPlace:
        written = place.written
        if written.offset:
            self.writer.resume(written)
        else:
            written = self.writer.begin(header_of(self._shelf, self._wanted, self._id))
        bookmark = place.scan
        after: str | None = None
        part: list[bytes] = []
        size = seen = 0
        unreadable: list[str] = []
        for _ in range(pages):
            names, after = await self._shelf.backend.scan_page(self._shelf.keys.prefix, bookmark, PART_ENTRIES)
            seen += len(set(names))
            async for lines, unread in self._shelf.read(names, matches=self._matches):
                unreadable += unread
                for line in lines:
                    if len(part) == PART_ENTRIES or (part and size + len(line) > PART_BYTES):
                        written = self.writer.append(part, written)
                        part, size = [], 0
                    part.append(line)
                    size += len(line)
            if after is None:
                break
            bookmark = after
        if part:
            written = self.writer.append(part, written)
        self.writer.sync()
        return msgspec.structs.replace(
            place,
            step="seal" if after is None else "entries",
            scan="" if after is None else bookmark,
            seen=place.seen + seen,
            unreadable=place.unreadable + len(unreadable),
            named=(*place.named, *map(digest, unreadable))[:_NAMED],
            written=written,
        )
