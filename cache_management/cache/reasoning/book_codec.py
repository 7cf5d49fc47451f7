"""A book as bytes, and back.

    1, problem, texts, branches, results    a MessagePack array, see `_Wire`; compressed with zstd behind a byte 1

Node 0 of a branch is its root and is not written; ids of steps are not written either, they follow from the texts.
"""

from __future__ import annotations

from typing import Any

import msgspec
import zstandard

from cache_management.cache.errors import CorruptRecord, EntryTooLarge, InvalidEntry
from cache_management.cache.reasoning.book import Book, Branch, StoredResult
from cache_management.cache.reasoning.samples import HOLE, Samples
from cache_management.cache.reasoning.step_identity import Canonical, Conditions, canonical_text

LAYOUT = 1
_COMPRESS_FROM_BYTES = 200
_ZSTD = b"\x01"


class ForeignBook(CorruptRecord):
    """A book that this process cannot read, and that is none the worse for that."""


class _BranchWire(msgspec.Struct, array_like=True):
    under: tuple[str, str, str, str]
    parents: list[int]
    texts: list[int]
    steps_until: float | None
    scores: dict[int, float] = {}
    final: dict[int, int] = {}
    wrong: dict[int, str] = {}
    hidden: list[int] = []
    states: list[tuple[int, str, Samples]] = []
    costs: dict[int, tuple[int, int]] = {}
    held: list[int] = []


class _Wire(msgspec.Struct, array_like=True):
    layout: int
    problem: str
    texts: list[str]
    branches: list[_BranchWire]
    results: list[StoredResult]


_decoder = msgspec.msgpack.Decoder(_Wire)
_json_decoder = msgspec.json.Decoder(_Wire)


def encode_book(book: Book, *, limit_bytes: int) -> bytes:
    """Return a book as the value of a record.

    Raises:
        InvalidEntry: It is larger than the limit, or holds what cannot be written.
    """
    try:
        encoded = msgspec.msgpack.encode(_wire(book))
    except (UnicodeEncodeError, OverflowError, TypeError) as exc:
        raise InvalidEntry(f"what is to be stored cannot be written: {exc}") from None
    if len(encoded) > limit_bytes:
        raise EntryTooLarge(
            f"what is known of the problem has {len(encoded):,} bytes, the limit is {limit_bytes:,}; raise"
            " max_entry_bytes, or prune steps, to store more"
        )
    if len(encoded) < _COMPRESS_FROM_BYTES:
        return encoded
    packed = _ZSTD + zstandard.ZstdCompressor(level=3).compress(encoded)
    return packed if len(packed) < len(encoded) else encoded


def decode_book(value: bytes, *, namespace: str, limit_bytes: int, canonical: Canonical = canonical_text) -> Book:
    """Return the book of a record's value.

    Raises:
        LargeBook: It would grow over `limit_bytes`.
        CorruptRecord: The bytes are no book, or do not fit together.
    """
    try:
        if value[:1] == _ZSTD:
            size = zstandard.frame_content_size(memoryview(value)[1:])
            if not 0 <= size <= limit_bytes:
                raise ForeignBook(
                    f"the compressed book declares {size:,} bytes, the limit is {limit_bytes:,}: raise max_entry_bytes"
                )
            value = zstandard.ZstdDecompressor().decompress(memoryview(value)[1:], max_output_size=size)
        wire = _decoder.decode(value)
    except (msgspec.DecodeError, zstandard.ZstdError, UnicodeDecodeError, RecursionError) as exc:
        raise CorruptRecord(f"the book cannot be decoded: {exc}") from exc
    return _book(wire, namespace, canonical)


def book_to_json(book: Book) -> str:
    """Return a book as JSON text, for an export."""
    return msgspec.json.encode(_wire(book)).decode()


def book_from_json(text: str, *, namespace: str, canonical: Canonical = canonical_text) -> Book:
    """Return the book of a JSON text.

    Raises:
        CorruptRecord: It is no book, or does not fit together.
    """
    try:
        wire = _json_decoder.decode(text)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise CorruptRecord(f"it is no book: {type(exc).__name__}") from exc
    return _book(wire, namespace, canonical)


def _wire(book: Book) -> _Wire:
    return _Wire(LAYOUT, book.problem, book.texts, [_branch_wire(each) for each in book.branches], book.results)


def _book(wire: _Wire, namespace: str, canonical: Canonical) -> Book:
    if wire.layout != LAYOUT:
        raise ForeignBook(f"the book has layout {wire.layout}, this program knows {LAYOUT}: use a newer one")
    _check(wire)
    book = Book(wire.problem, namespace, canonical=canonical)
    book.texts = wire.texts
    book.branches = [_branch(each) for each in wire.branches]
    book.results = wire.results
    return book


def _branch_wire(of: Branch) -> _BranchWire:
    return _BranchWire(
        msgspec.structs.astuple(of.under),
        of.parents[1:],
        of.texts[1:],
        of.steps_until,
        of.scores,
        of.final,
        of.wrong,
        sorted(of.hidden),
        [(node, prompt, state) for (node, prompt), state in of.states.items()],
        of.costs,
        sorted(of.held),
    )


def _branch(wire: _BranchWire) -> Branch:
    under: Any = wire.under
    of = Branch(Conditions(*under))
    of.parents = [-1, *wire.parents]
    of.texts = [-1, *wire.texts]
    of.steps_until = wire.steps_until
    of.scores, of.costs = wire.scores, wire.costs
    of.final, of.wrong, of.hidden = wire.final, wire.wrong, set(wire.hidden)
    of.held = set(wire.held)
    of.states = {(node, prompt): state for node, prompt, state in wire.states}
    return of


def _check(wire: _Wire) -> None:
    """Refuse what would lead a walk astray; each node lies behind its parent, so that none is its own ancestor."""
    texts = len(wire.texts)
    for of in wire.branches:
        nodes = len(of.parents) + 1
        numbers = [
            *of.scores,
            *of.costs,
            *of.final,
            *of.wrong,
            *of.hidden,
            *of.held,
            *(node for node, _, _ in of.states),
        ]
        is_sound = (
            len(of.texts) == len(of.parents)
            and all(0 <= parent <= at for at, parent in enumerate(of.parents))
            and all(0 <= text < texts for text in of.texts)
            and all(0 <= node < nodes for node in numbers)
            and all(-1 <= text < texts for text in of.final.values())
            and all(text == HOLE or 0 <= text < texts for _, _, state in of.states for text in state.texts)
            and of.under[0] in ("cot", "tot")
        )
        if not is_sound:
            raise CorruptRecord("the steps of the book do not fit together")
    for result in wire.results:
        if not (0 <= result.branch < len(wire.branches)) or not _is_sound(result, wire.branches[result.branch], texts):
            raise CorruptRecord("a result of the book does not fit its steps")


def _is_sound(result: StoredResult, of: _BranchWire, texts: int) -> bool:
    count = len(result.nodes)
    used = [result.answer, result.metadata, result.problem, *result.rationales, *result.ids, *result.raw.values()]
    used += result.step_metadata.values()
    listed = [child for each in result.children.values() for child in each]
    return (
        all(0 < node <= len(of.parents) for node in result.nodes)
        and all(text is None or 0 <= text < texts for text in used)
        and all(-texts <= child < count for child in listed)
        and all(0 <= at < count for at in (*result.children, *result.raw, *result.step_metadata))
        and all(
            not column or len(column) == count
            for column in (result.numbers, result.rationales, result.scores, result.ids)
        )
        and (
            result.parents == []
            if of.under[0] == "cot"
            else len(result.parents) == count and _is_forest(result.parents)
        )
    )


def _is_forest(parents: list[int]) -> bool:
    """Tell whether parents lead to roots, from wherever one begins."""
    sure = [False] * len(parents)
    for start in range(len(parents)):
        path: list[int] = []
        at = start
        while at >= 0 and not sure[at]:
            if at >= len(parents) or len(path) > len(parents):
                return False
            path.append(at)
            at = parents[at]
            if at >= len(parents):
                return False
        for each in path:
            sure[each] = True
    return True
