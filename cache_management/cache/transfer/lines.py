"""What an export consists of, and how it is sealed: pure, no files.

A stream is JSON Lines, UTF-8:

    header    format, version, namespace, ...
    entry     up to PART_ENTRIES of them, then
    part      the number of the part, its entries, and the SHA-256 of the seal before it and of its entry lines
    ...       more parts
    end       how many parts and entries there are, and the SHA-256 of the last seal and of this line without it

The first seal is the SHA-256 of the header, so every byte is under one, and so is the order. A header with
its line, a part with its entries, and the end are a block each; blocks are what is compressed, written
and read at a time. See docs/design/0015-export-format.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from cache_management.cache.codec import encode_metadata
from cache_management.cache.errors import InvalidInput
from cache_management.cache.identity import LAYOUT

FORMAT = "cache-management-export"
FORMAT_VERSION = 1

PART_ENTRIES = 1_000
PART_BYTES = 4 * 2**20
_LATEST = 4e12  # seconds; far behind the year 9999
_MOST = 2**63 - 1

_HELP = "take another copy of the file, or export again"

_Count = Annotated[int, Meta(ge=0, le=_MOST)]
_Moment = Annotated[float, Meta(ge=0, le=_LATEST)]


class Header(msgspec.Struct, tag="header", tag_field="type", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and when entries come from. `embedder` is the model that the cache used; its vectors are not exported.

    `holds` is left out where the entries are answers. "reasoning": each is all that is known of a problem.
    """

    format: str = FORMAT
    version: int = FORMAT_VERSION
    program: str
    id: str
    namespace: str
    layout: str = LAYOUT
    embedder: str | None = None
    created_at: datetime
    pattern: str | None = None
    holds: Literal["reasoning"] | UnsetType = UNSET


class EntryLine(
    msgspec.Struct,
    tag="entry",
    tag_field="type",
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """One entry: all that is needed to store an equal one.

    A `prompt` of None is the key. `expires_at` and `fresh_until` are Unix seconds; an `expires_at` that is left
    out is the life that the importing cache gives, None is for ever. A `version` of None is that of the timestamp.
    """

    key: str
    prompt: str | None = None
    response: str
    model: str = "unknown"
    timestamp: datetime
    token_count: _Count = 0
    metadata: dict[str, Any] = {}
    expires_at: _Moment | UnsetType | None = UNSET
    version: _Count | None = None
    fresh_until: _Moment | None = None
    compute_ms: _Count = 0
    cost_micro: _Count = 0
    tags: tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...] = ()
    scope: str | None = ""


class PartLine(msgspec.Struct, tag="part", tag_field="type", frozen=True, forbid_unknown_fields=True):
    """The seal of a part. Numbers count from 1."""

    number: int
    entries: int
    sha256: str


class EndLine(msgspec.Struct, tag="end", tag_field="type", frozen=True, forbid_unknown_fields=True):
    """The last line. `unreadable` entries of the store could not be exported."""

    parts: int
    entries: int
    unreadable: int
    sha256: str = ""


class ReadPlace(msgspec.Struct, frozen=True):
    """Where a reader stands: behind which byte, before which line and part, after how many entries, and the seal."""

    offset: int = 0
    line: int = 1
    part: int = 1
    entries: int = 0
    seal: str = ""


class Part(msgspec.Struct, frozen=True):
    """A part whose seal held, the block that it stood in, and the place behind it."""

    entries: list[EntryLine]
    block: bytes
    place: ReadPlace


class End(msgspec.Struct, frozen=True):
    """The end, whose seal held."""

    line: EndLine
    place: ReadPlace


class _AnyHeader(msgspec.Struct):
    """What every version of the format begins with."""

    format: str
    version: int
    program: str = "unknown"


_encoder = msgspec.json.Encoder()
_any_header = msgspec.json.Decoder(_AnyHeader)
_header = msgspec.json.Decoder(Header)
_entry = msgspec.json.Decoder(EntryLine)
_mark = msgspec.json.Decoder(PartLine | EndLine)
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError)
"""What decoding raises; `explain` says it in words."""
_MARKS = (b'{"type":"part"', b'{"type":"end"', b'{"type":"header"')

encode_line = _encoder.encode
"""Return a line without its newline."""

decode_entry = _entry.decode
"""Return the entry of a line, or raise one of UNREADABLE."""


def longest_line(entry_limit_bytes: int) -> int:
    """Return how long the line of an entry may be: its text escaped in part, and what stands around it."""
    return 2 * entry_limit_bytes + 2**20


def closes_block(line: bytes) -> bool:
    """Tell whether a line is the last of its block."""
    return line.startswith(_MARKS)


def seal_header(header: Header) -> tuple[bytes, str]:
    """Return the block of a header, and its seal."""
    line = encode_line(header)
    return line + b"\n", hashlib.sha256(line).hexdigest()


def seal_part(lines: Sequence[bytes], number: int, seal: str) -> tuple[bytes, str]:
    """Return the block of a part of encoded entries, and its seal."""
    body = b"".join([line + b"\n" for line in lines])
    sealed = _seal(seal, body)
    return body + encode_line(PartLine(number, len(lines), sealed)) + b"\n", sealed


def seal_end(*, parts: int, entries: int, unreadable: int, seal: str) -> bytes:
    """Return the block of the end."""
    end = EndLine(parts, entries, unreadable)
    return encode_line(msgspec.structs.replace(end, sha256=_seal(seal, encode_line(end)))) + b"\n"


def open_header(block: bytes, *, where: str) -> tuple[Header, str]:
    """Return the header in a block, and its seal.

    Raises:
        InvalidInput: It is none, or of another version.
    """
    line = block.removesuffix(b"\n")
    check_version(line, where=where)
    header: Header = _decode(_header, line, where=f"{where}, line 1")
    check_header(header, where=where)
    return header, hashlib.sha256(line).hexdigest()


def check_version(line: bytes, *, where: str) -> None:
    """Raise InvalidInput unless something says that it is an export that this program reads."""
    try:
        found = _any_header.decode(line)
    except UNREADABLE:
        found = None
    if found is None or found.format != FORMAT:
        raise InvalidInput(
            f"{where}: this is no export (it does not begin with the header of one); `cache-cli warm` reads files of"
            " prompts and responses"
        )
    if found.version != FORMAT_VERSION:
        raise InvalidInput(
            f"{where}: the file is of format {found.version}, written by program {_shown(found.program)}; this program"
            f" reads format {FORMAT_VERSION}: use a newer one to import it"
        )


def check_header(header: Header, *, where: str) -> None:
    """Raise InvalidInput when the keys of an export are not this program's."""
    if header.layout != LAYOUT:
        raise InvalidInput(
            f"{where}: its keys are of layout {_shown(header.layout)}, this program's are {LAYOUT}: import it with the"
            " program that wrote it"
        )


def open_part(block: bytes, place: ReadPlace, *, where: str) -> Part | End:
    """Return the part, or the end, that a block at a place holds; the place behind it keeps the offset.

    Raises:
        InvalidInput: Its seal does not hold, or a line is none; names the line.
    """
    *lines, rest = block.split(b"\n")
    if rest or not lines:
        raise InvalidInput(f"{where}, line {place.line + len(lines)}: the file is cut off; {_HELP}")
    last = lines.pop()
    at = f"{where}, line {place.line + len(lines)}"
    mark = _decode(_mark, last, where=at)
    if isinstance(mark, EndLine):
        if lines:
            raise InvalidInput(f"{at}: the end stands in the middle of a part; {_HELP}")
        return _open_end(mark, place, where=at)
    body = memoryview(block)[: len(block) - len(last) - 1]
    seal = _seal(place.seal, body)
    # Before the entries are looked at: what is not as it was written need not be explained line by line.
    if (mark.number, mark.entries, mark.sha256) != (place.part, len(lines), seal):
        raise InvalidInput(
            f"{where}, part {place.part} (lines {place.line} to {place.line + len(lines)}): it is not what was written:"
            f" damaged, changed or missing in part; {_HELP}"
        )
    entries = []
    for number, line in enumerate(lines, start=place.line):
        try:
            entries.append(decode_entry(line))
        except UNREADABLE as exc:
            raise InvalidInput(f"{where}, line {number}: {explain(exc)}") from None
    behind = ReadPlace(
        offset=place.offset,
        line=place.line + len(lines) + 1,
        part=place.part + 1,
        entries=place.entries + len(lines),
        seal=seal,
    )
    return Part(entries, block, behind)


def _open_end(end: EndLine, place: ReadPlace, *, where: str) -> End:
    unsealed = msgspec.structs.replace(end, sha256="")
    if end.sha256 != _seal(place.seal, encode_line(unsealed)):
        raise InvalidInput(f"{where}: the end does not belong to what stands before it; {_HELP}")
    if (end.parts, end.entries) != (place.part - 1, place.entries):
        raise InvalidInput(
            f"{where}: {place.part - 1} parts with {place.entries} entries were read, and there should be {end.parts}"
            f" with {end.entries}; {_HELP}"
        )
    return End(end, msgspec.structs.replace(place, line=place.line + 1))


def digest_of_entries(entries: Sequence[EntryLine], *, where: str = "entries") -> str:
    """Return the SHA-256 of entries as they stand in a stream, however their document is laid out.

    Raises:
        InvalidInput: One of them is nothing that a stream could hold; names its number.
    """
    found = hashlib.sha256()
    for number, entry in enumerate(entries, start=1):
        found.update(line_of(entry, where=f"{where}, entry {number}") + b"\n")
    return found.hexdigest()


def line_of(entry: EntryLine, *, where: str) -> bytes:
    """Return the line of an entry that comes from somewhere else than a stream.

    Raises:
        InvalidInput: It is nothing that a stream could hold.
    """
    try:
        # As a record keeps it: a document may lay out numbers and texts in other ways.
        metadata: Any = msgspec.Raw(encode_metadata(entry.metadata)) if entry.metadata else {}
        return encode_line(msgspec.structs.replace(entry, metadata=metadata))
    except InvalidInput as exc:
        raise InvalidInput(f"{where}: {exc}") from None
    except UnicodeEncodeError:
        raise InvalidInput(f"{where}: it holds text that is not valid Unicode") from None


def _seal(before: str, data: bytes | memoryview) -> str:
    found = hashlib.sha256(bytes.fromhex(before))
    found.update(data)
    return found.hexdigest()


def _decode(decoder: msgspec.json.Decoder[Any], line: bytes, *, where: str) -> Any:
    try:
        return decoder.decode(line)
    except UNREADABLE as exc:
        raise InvalidInput(f"{where}: {explain(exc)}; {_HELP}") from None


_QUOTED = re.compile(r"Invalid value '.*'", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_PLAIN_NAME = re.compile(r"[a-z_0-9]{1,40}")


def explain(error: Exception) -> str:
    """Say why something could not be decoded, without repeating anything of it: it may be a prompt."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    if not isinstance(error, msgspec.MsgspecError):
        return "it holds a number or a moment that cannot be"
    text = _QUOTED.sub("an unknown value", str(error))
    unknown = _UNKNOWN_FIELD.search(text)
    if unknown is not None:
        name = unknown[1] if _PLAIN_NAME.fullmatch(unknown[1]) else "?"
        return f"it has a field that this program does not know ({name})"
    return text[:1].lower() + text[1:]


def _shown(text: str) -> str:
    return repr(text[:40])
