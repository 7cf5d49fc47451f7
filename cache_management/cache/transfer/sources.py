"""Where an import reads from: a stream file, or entries that are in memory already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from cache_management import __version__
from cache_management.cache.errors import InvalidInput
from cache_management.cache.transfer.documents import Form, read_document
from cache_management.cache.transfer.lines import (
    PART_BYTES,
    PART_ENTRIES,
    UNREADABLE,
    End,
    EndLine,
    EntryLine,
    Header,
    Part,
    ReadPlace,
    explain,
    line_of,
    seal_header,
    seal_part,
)
from cache_management.cache.transfer.stream_files import ZSTD_MAGIC, FileMark, StreamReader, mark_of

FileForm = Literal["stream"] | Form


class Source(Protocol):
    """Something that is read part by part, any of them again from its place."""

    unit: str  # what the numbers of lines in places count

    @property
    def mark(self) -> FileMark | None:
        """What tells a file from the same one changed."""

    def start(self) -> tuple[Header, ReadPlace]:
        """Return the header, and the place behind it."""

    def read(self, place: ReadPlace) -> Part | End:
        """Return the part at a place, or the end."""

    def is_unchanged(self) -> bool:
        """Tell whether it is still what was opened."""

    def close(self) -> None:
        """Free files."""


class ListSource:
    """Entries in memory. Offsets of places are indices."""

    mark: FileMark | None = None
    unit = "entry"

    def __init__(self, header: Header, entries: Sequence[EntryLine], *, where: str) -> None:
        self._header = header
        self._entries = entries
        self._where = where

    def __len__(self) -> int:
        return len(self._entries)

    @classmethod
    def of_objects(cls, objects: Iterable[Mapping[str, Any]], *, namespace: str) -> ListSource:
        """Take entries that a program has as JSON objects.

        Raises:
            InvalidInput: One of them is no entry; names its number, and repeats nothing of it.
        """
        entries = []
        if isinstance(objects, str | bytes | Mapping) or not isinstance(objects, Iterable):
            raise InvalidInput(f"entries must be a list of objects, not {type(objects).__name__}")
        for number, each in enumerate(objects, start=1):
            if not isinstance(each, Mapping):
                raise InvalidInput(f"entries, entry {number}: an object is needed, not {type(each).__name__}")
            try:
                entries.append(msgspec.convert(dict(each), EntryLine))
            except UNREADABLE as exc:
                raise InvalidInput(f"entries, entry {number}: {explain(exc)}") from None
        header = Header(program=__version__, id="", namespace=namespace, created_at=datetime.now(UTC))
        return cls(header, entries, where="entries")

    def start(self) -> tuple[Header, ReadPlace]:
        _, seal = seal_header(self._header)
        return self._header, ReadPlace(seal=seal)

    def read(self, place: ReadPlace) -> Part | End:
        if place.offset >= len(self._entries):
            return End(EndLine(place.part - 1, place.entries, 0), place)
        entries: list[EntryLine] = []
        lines: list[bytes] = []
        size = 0
        some = self._entries[place.offset : place.offset + PART_ENTRIES]
        for number, entry in enumerate(some, start=place.line):
            line = line_of(entry, where=f"{self._where}, entry {number}")
            if lines and size + len(line) > PART_BYTES:
                break
            entries.append(entry)
            lines.append(line)
            size += len(line)
        block, seal = seal_part(lines, place.part, place.seal)
        behind = ReadPlace(
            offset=place.offset + len(lines),
            line=place.line + len(lines),
            part=place.part + 1,
            entries=place.entries + len(lines),
            seal=seal,
        )
        return Part(entries, block, behind)

    def is_unchanged(self) -> bool:
        return True

    def close(self) -> None:
        return None


def form_of(file: Path) -> FileForm:
    """Tell by its name how an export is written; None of the known endings is a JSON document."""
    name = file.name.lower()
    if name.endswith((".jsonl", ".jsonl.zst")):
        return "stream"
    return "yaml" if name.endswith((".yaml", ".yml")) else "json"


def open_source(file: Path, *, entry_limit_bytes: int) -> Source:
    """Open an export to import it. A name without a known ending is no hint: then its beginning says what it is.

    Raises:
        InvalidInput: It cannot be read, or a document is not what was written.
    """
    mark_of(file)
    form = form_of(file)
    if form == "json" and file.suffix.lower() != ".json":
        form = _form_by_content(file)
    if form == "stream":
        return StreamReader(file, entry_limit_bytes=entry_limit_bytes)
    return ListSource(*read_document(file, form), where=str(file))


def _form_by_content(file: Path) -> FileForm:
    try:
        with file.open("rb") as stream:
            beginning = stream.read(64).lstrip()
    except OSError as exc:
        raise InvalidInput(f"{file}: cannot be read: {exc.strerror}") from None
    if beginning.startswith((ZSTD_MAGIC, b'{"type":"header"')):
        return "stream"
    return "json" if beginning.startswith(b"{") else "yaml"
