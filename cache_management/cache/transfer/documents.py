"""Small caches as one JSON or YAML document, to be looked at and edited by people.

The fields are those of the header of a stream, then `entries`, then `sha256`: that of the entries as a stream
would hold them, so it does not matter how the document is laid out. Whoever edits entries writes `null` there;
left out it must not be, because a YAML document that is cut off is a YAML document.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from cache_management.cache.errors import InvalidInput
from cache_management.cache.identity import LAYOUT
from cache_management.cache.transfer.lines import (
    FORMAT,
    FORMAT_VERSION,
    UNREADABLE,
    EntryLine,
    Header,
    check_header,
    check_version,
    decode_entry,
    digest_of_entries,
    encode_line,
    explain,
)
from cache_management.cache.transfer.stream_files import StreamWriter, mark_of

Form = Literal["json", "yaml"]

MAX_ENTRIES = {"json": 100_000, "yaml": 10_000}
MAX_BYTES = {"json": 128 * 2**20, "yaml": 32 * 2**20}
_STREAM = "a stream has no limit: name a .jsonl.zst"
_DEEPEST_YAML = 200
_ENTRY_TAG = b'{"type":"entry",'


class Document(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A document as it is read."""

    format: str = FORMAT
    version: int = FORMAT_VERSION
    program: str = "unknown"
    id: str = ""
    namespace: str
    layout: str = LAYOUT
    embedder: str | None = None
    created_at: datetime | None = None
    pattern: str | None = None
    holds: Literal["reasoning"] | UnsetType = UNSET
    unreadable: int = 0
    entries: list[EntryLine]
    sha256: str | None


_decoder = msgspec.json.Decoder(Document)


class TooLargeForDocument(InvalidInput):
    """The cache does not fit into one document."""

    def __init__(self, form: Form, what: str) -> None:
        super().__init__(
            f"a {form.upper()} document takes at most {MAX_ENTRIES[form]:,} entries and {MAX_BYTES[form]:,} bytes,"
            f" there are {what}; {_STREAM}"
        )


class DocumentBuilder:
    """Gathers entries for one document, each key once."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self._lines: dict[str, bytes] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, lines: Sequence[bytes]) -> None:
        """Take encoded entries.

        Raises:
            TooLargeForDocument: They are too many or too large for one document.
        """
        for line in lines:
            key = decode_entry(line).key
            self._bytes += len(line) - len(self._lines.get(key, b""))
            self._lines[key] = line
        if len(self._lines) > MAX_ENTRIES[self.form]:
            raise TooLargeForDocument(self.form, f"more than {MAX_ENTRIES[self.form]:,} entries")
        if self._bytes > MAX_BYTES[self.form]:
            raise TooLargeForDocument(self.form, f"more than {MAX_BYTES[self.form]:,} bytes")

    def build(self, header: Header, *, unreadable: int) -> bytes:
        """Return the document."""
        head = {name: value for name, value in msgspec.to_builtins(header).items() if name != "type"}
        tail = {
            "unreadable": unreadable,
            "sha256": digest_of_entries([decode_entry(line) for line in self._lines.values()]),
        }
        objects = [b"{" + line.removeprefix(_ENTRY_TAG) for line in self._lines.values()]
        if self.form == "json":
            parts = [f'  "{name}": '.encode() + encode_line(value) for name, value in head.items()]
            entries = b",\n    ".join(objects)
            parts.append(b'  "entries": [\n    ' + entries + b"\n  ]" if objects else b'  "entries": []')
            parts += [f'  "{name}": '.encode() + encode_line(value) for name, value in tail.items()]
            return b"{\n" + b",\n".join(parts) + b"\n}\n"
        import yaml

        whole = {**head, "entries": [msgspec.json.decode(each) for each in objects], **tail}
        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        return yaml.dump(whole, Dumper=dumper, sort_keys=False, allow_unicode=True, encoding="utf-8", width=120)


def write_document(target: Path, data: bytes, *, owner: str, replace: bool) -> None:
    """Write a document, whole or not at all, readable for nobody else.

    Raises:
        InvalidInput: The target is there, and is not to be replaced.
        TargetFull, TargetLost: It cannot be written.
    """
    writer = StreamWriter(target, owner=owner)
    try:
        writer.write_whole(data, replace=replace)
    finally:
        writer.discard()


def read_document(file: Path, form: Form) -> tuple[Header, list[EntryLine]]:
    """Return what a document holds.

    Raises:
        InvalidInput: It is no document that this program reads, is too large, or is not what was written.
    """
    data = _read(file, form)
    shown = str(file)
    if form == "json":
        check_version(data, where=shown)
        found = _as_document(lambda: _decoder.decode(data), shown)
    else:
        loaded = _load_yaml(data, shown)
        head = (
            {name: loaded[name] for name in ("format", "version", "program") if name in loaded}
            if isinstance(loaded, dict)
            else None
        )
        check_version(_as_json(head), where=shown)
        found = _as_document(lambda: msgspec.convert(loaded, Document), shown)
    header = Header(
        program=found.program,
        id=found.id,
        namespace=found.namespace,
        layout=found.layout,
        embedder=found.embedder,
        created_at=found.created_at or datetime.fromtimestamp(0).astimezone(),
        pattern=found.pattern,
        holds=found.holds,
    )
    check_header(header, where=shown)
    if len(found.entries) > MAX_ENTRIES[form]:
        raise InvalidInput(f"{shown}: {TooLargeForDocument(form, f'{len(found.entries):,} entries')}")
    if found.sha256 is not None and found.sha256 != digest_of_entries(found.entries, where=shown):
        raise InvalidInput(
            f"{shown}: its entries are not what was written; take another copy, or make sha256 null if you changed them"
            " on purpose"
        )
    return header, found.entries


def _read(file: Path, form: Form) -> bytes:
    mark = mark_of(file)
    if mark.size > MAX_BYTES[form] + 2**20:
        raise InvalidInput(f"{file}: {TooLargeForDocument(form, f'{mark.size:,} bytes')}")
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES[form] + 2**20 + 1)
    except OSError as exc:
        raise InvalidInput(f"{file}: cannot be read: {exc.strerror}") from None
    if not data.strip():
        raise InvalidInput(f"{file}: the file is empty")
    return data


def _as_document(decode: Callable[[], Document], shown: str) -> Document:
    try:
        return decode()
    except UNREADABLE as exc:
        raise InvalidInput(f"{shown}: {explain(exc)}") from None


def _as_json(value: Any) -> bytes:
    try:
        return encode_line(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return b"null"


def _load_yaml(data: bytes, shown: str) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = data.decode()
        depth = 0
        # First what it consists of: aliases can make a few lines into gigabytes, and nesting can end the process.
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise InvalidInput(f"{shown}, {_line_of(event)}: aliases are not read; write out what they stand for")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _DEEPEST_YAML:
                    raise InvalidInput(f"{shown}, {_line_of(event)}: it is nested too deeply")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
        return yaml.load(text, Loader=loader)  # noqa: S506 - a safe one
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None) or getattr(exc, "context_mark", None)
        where = f"{shown}, line {mark.line + 1}" if mark is not None else shown
        raise InvalidInput(f"{where}: it is no YAML that can be read") from None
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"{shown}: byte {exc.start} is not UTF-8") from None
    except (ValueError, RecursionError, OverflowError) as exc:
        if isinstance(exc, InvalidInput):
            raise
        raise InvalidInput(f"{shown}: it holds a number or a moment that cannot be, or is nested too deeply") from None


def _line_of(event: Any) -> str:
    return f"line {event.start_mark.line + 1}"
