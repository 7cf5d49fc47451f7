"""Labelled pairs of questions: a file of them, checked."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from cache_management.cache.errors import InvalidInput

MAX_PAIRS = 1_000_000
_MAX_BYTES = 2**30
_MAX_TEXT = 100_000
_FIELD_LIMIT = 10 * _MAX_TEXT
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LINES = {".jsonl", ".ndjson"}
_WORDS = ("text_a", "text_b", "label_kind", "source", "category", "trap")
_TRUE = {"1", "true", "yes", "same", "duplicate"}
_FALSE = {"0", "false", "no", "different"}


class LabelledPair(msgspec.Struct, frozen=True):
    """Two questions, and whether one answer serves both.

    `kind` says what the label means and where it comes from: pairs of different kinds are never added
    up. `category` is the kind of trap or paraphrase.
    """

    asked: str
    stored: str
    same: bool
    kind: str = "pairs"
    category: str = "all"


def read_pairs(path: Path) -> list[LabelledPair]:
    """Return the pairs of a CSV, TSV, JSON or JSON Lines file, which may be gzipped; its name says which it is.

    A name that does not is no matter where the text begins as JSON does.

    Each row has `text_a`, `text_b` and `label` (1: one answer serves both, 0: it does not), and may have
    `label_kind`, `source` and `category` (or `trap`).

    Raises:
        InvalidInput: The file cannot be read, or a row is wrong; names the row.
    """
    text = _read(path)
    pairs = []
    for where, row in _rows(text, path):
        pairs.append(_pair(row, f"{path}, {where}"))
        if len(pairs) > MAX_PAIRS:
            raise InvalidInput(f"{path} holds more than {MAX_PAIRS:,} pairs; split it")
    if not pairs:
        raise InvalidInput(f"{path} holds no pairs; a row has text_a, text_b and label")
    return pairs


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
            if data[:2] == b"\x1f\x8b":
                # Bounded, because a small file can hold any size.
                data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(_MAX_BYTES + 1)
    except OSError as exc:
        raise InvalidInput(f"{path} cannot be read: {exc.strerror or exc}") from None
    except (EOFError, zlib.error) as exc:
        raise InvalidInput(f"{path} is no whole gzip file: {exc}") from None
    if len(data) > _MAX_BYTES:
        raise InvalidInput(f"{path} holds more than 1 GiB; split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"{path} is not UTF-8 at byte {exc.start}") from None


def _rows(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    start = text.lstrip()[:1]
    if ending in _DELIMITERS:
        return _csv_rows(text, path, _DELIMITERS[ending])
    if ending == ".json" or (ending not in _LINES and start == "["):
        return _list_rows(text, path)
    if ending in _LINES or start in {"{", ""}:
        return _line_rows(text, path)
    raise InvalidInput(
        f"{path}: its name does not say how to read it, and it is no JSON; name it .csv, .tsv, .json, .jsonl or"
        " .ndjson (with .gz when gzipped)"
    )


def _csv_rows(text: str, path: Path, delimiter: str) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(_FIELD_LIMIT)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    mark = "tab" if delimiter == "\t" else "comma"
    try:
        for row in reader:
            # Under None the csv module files what the header has no name for.
            more = len(row.pop(None, ()))
            if more:
                named = len(reader.fieldnames or ())
                raise InvalidInput(
                    f"{path}, line {reader.line_num} has {named + more} fields, the header {named};"
                    f' where a {mark} belongs to the text, quote it: "Hi, how are you?"'
                )
            yield f"line {reader.line_num}", {name: value for name, value in row.items() if value}
    except csv.Error as exc:
        raise InvalidInput(f"{path}, line {reader.line_num}: {exc}") from None


def _list_rows(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"{path} is no JSON: {str(exc)[:200]}") from None
    if not isinstance(rows, list):
        raise InvalidInput(f"{path} must hold a list of pairs, not {type(rows).__name__}")
    yield from ((f"pair {at}", row) for at, row in enumerate(rows, 1))


def _line_rows(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    for at, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"line {at}", json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise InvalidInput(f"{path}, line {at} is no JSON: {str(exc)[:200]}") from None


def _pair(row: object, where: str) -> LabelledPair:
    if not isinstance(row, Mapping):
        raise InvalidInput(f"{where}: a pair is an object with text_a, text_b and label, not {type(row).__name__}")
    for name in _WORDS:
        _check_unicode(row.get(name), f"{where}: {name}")
    texts = []
    for name in ("text_a", "text_b"):
        text = row.get(name, "")
        if not isinstance(text, str):
            raise InvalidInput(f"{where}: {name} must be text, not {type(text).__name__}")
        if name not in row:
            raise InvalidInput(f"{where}: {name} is missing")
        if len(text) > _MAX_TEXT:
            raise InvalidInput(f"{where}: {name} has {len(text):,} characters; at most {_MAX_TEXT:,} are compared")
        texts.append(text)
    if row.get("label") is None:
        raise InvalidInput(f"{where}: label is missing; write 1 where one answer serves both texts, else 0")
    label = str(row["label"]).strip().lower().removesuffix(".0")
    if label not in _TRUE | _FALSE:
        raise InvalidInput(f"{where}: label {row['label']!r:.40} is neither 1 nor 0")
    kind = ", ".join(str(row[name])[:80] for name in ("label_kind", "source") if row.get(name)) or "pairs"
    category = row.get("category") or row.get("trap") or "all"
    return LabelledPair(texts[0], texts[1], label in _TRUE, kind, str(category)[:80])


def _check_unicode(value: object, what: str) -> None:
    try:
        str(value).encode()
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"{what} is not valid Unicode: half a surrogate pair at character {exc.start}") from None
