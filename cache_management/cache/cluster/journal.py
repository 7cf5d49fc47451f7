"""Streams of notes that a majority of their slot's voters keeps.

A note is appended at every voter, under an id of its own. A reader reads a majority and passes each note on once; its
cursor has a place for each voter, and the ids of notes that it has seen at some of them and not yet at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from cache_management.cache.backends.redis_connection import Argument
from cache_management.cache.cluster.envelope import is_version, moment_of
from cache_management.cache.cluster.membership import Membership
from cache_management.cache.cluster.node import Node
from cache_management.cache.cluster.slots import slot_of
from cache_management.cache.cluster.voters import ask_enough
from cache_management.cache.errors import JournalGap

STREAM = "j:"
_NOTES_KEPT = 100_000
_LIFE_MS = 7 * 24 * 3600 * 1000
_PENDING_MS = 3600 * 1000  # a note that a voter has not shown by then it never got
_AT_ONCE = 500


class _Place(msgspec.Struct, frozen=True, array_like=True):
    """How far a voter was read: since which admission, and the id of its last entry ("" before the first)."""

    admission: str
    entry: str


class _Cursor(msgspec.Struct, frozen=True):
    """How far a stream was read. `pending`: notes passed on that some voter has still to show, and who showed them."""

    places: dict[str, _Place]
    pending: dict[str, list[str]] = {}

    def text(self) -> str:
        return msgspec.json.encode(self).decode()


class _Page(msgspec.Struct, frozen=True):
    """What one voter holds behind a place; `is_gap`: it cannot tell."""

    admission: str
    notes: list[tuple[str, str, bytes]]  # entry, note_id ("" for what is none), note
    is_gap: bool = False
    last: str = ""


class ReplicatedJournal:
    """The journal of a replicated cache."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    async def append(self, stream: str, items: Sequence[bytes]) -> str:
        membership = self._membership
        await membership.connect()
        if not items:
            return await self.tail(stream)
        places: dict[str, _Place] = {}
        for start in range(0, len(items), _AT_ONCE):
            words: list[Argument] = [_NOTES_KEPT, _LIFE_MS]
            for item in items[start : start + _AT_ONCE]:
                words += [membership.versions.next(), item]

            def ask(node: Node, words: Sequence[Argument] = words) -> asyncio.Future[bytes]:
                return node.run("note", [STREAM + stream], words)

            answers = await ask_enough(membership, slot_of(stream), ask)
            places = {node.id: _Place(node.admission, entry.decode()) for node, entry in answers.items()}
        return _Cursor(places).text()

    async def tail(self, stream: str) -> str:
        pages = await self._ask(stream, lambda node: self._newest(node, stream))
        places = {node.id: _Place(page.admission, page.last) for node, page in pages.items()}
        return _Cursor(places).text() if any(place.entry for place in places.values()) else ""

    async def read_after(self, stream: str, cursor: str, *, limit: int) -> tuple[list[bytes], str]:
        held = _read_cursor(stream, cursor)
        await self._membership.connect()
        # Before the others: what a voter that was away holds up to here, they hold too, and are read to their ends.
        tails = {}
        if cursor and any(node.id not in held.places for node in self._voters(stream)):
            tails = await self._ask(stream, lambda node: self._newest(node, stream))
        pages = await self._ask(stream, lambda node: self._page(node, stream, held, limit))
        usable = {node: page for node, page in pages.items() if not page.is_gap}
        if not self._membership.route(slot_of(stream)).agree(usable):
            raise JournalGap(f"stream {stream!r} no longer holds what follows the cursor at enough of its nodes")
        places: dict[str, _Place] = {}
        pending = {note_id: set(shown) for note_id, shown in held.pending.items()}
        passed: dict[str, bytes] = {}
        is_at_end = True
        for node, page in usable.items():
            place = held.places.get(node.id, _Place("", "")).entry
            for entry, note_id, note in page.notes:
                if not note_id:
                    place = entry
                    continue
                if note_id not in pending:
                    if len(passed) >= limit:
                        is_at_end = False
                        break
                    passed[note_id] = note
                    pending[note_id] = set()
                pending[note_id].add(node.id)
                place = entry
            is_at_end &= len(page.notes) < limit
            places[node.id] = _Place(page.admission, place)
        if is_at_end:
            for node, tail in tails.items():
                places.setdefault(node.id, _Place(tail.admission, tail.last))
        oldest = self._membership.now_ms() - _PENDING_MS
        left = {
            note_id: sorted(shown)
            for note_id, shown in pending.items()
            if not shown.issuperset(places) and moment_of(note_id.encode()) > oldest
        }
        notes = [passed[note_id] for note_id in sorted(passed)]
        if not notes and not cursor:
            return [], ""
        return notes, _Cursor(places, left).text()

    async def trim(self, stream: str, cursor: str) -> None:
        held = _read_cursor(stream, cursor)
        if held.places:
            await ask_enough(
                self._membership,
                slot_of(stream),
                lambda node: asyncio.ensure_future(_trim(node, stream, held.places.get(node.id))),
            )

    def _voters(self, stream: str) -> Sequence[Node]:
        return self._membership.route(slot_of(stream)).nodes

    async def _ask(self, stream: str, call: Callable[[Node], Coroutine[Any, Any, _Page]]) -> dict[Node, _Page]:
        await self._membership.connect()
        return await ask_enough(self._membership, slot_of(stream), lambda node: asyncio.ensure_future(call(node)))

    async def _newest(self, node: Node, stream: str) -> _Page:
        (rows,) = await node.marked(("XREVRANGE", STREAM + stream, "+", "-", "COUNT", 1))
        return _Page(node.admission, [], last=rows[0][0].decode() if rows else "")

    async def _page(self, node: Node, stream: str, held: _Cursor, limit: int) -> _Page:
        admission = node.admission
        place = held.places.get(node.id)
        if held.places and (place is None or place.admission != admission):
            # It was away, or was restarted and brought up to date: its entries have other places now.
            return _Page(admission, [], is_gap=True)
        entry = place.entry if place is not None else ""
        (rows,) = await node.marked(("XRANGE", STREAM + stream, entry or "-", "+", "COUNT", limit + 1))
        if entry:
            if not rows or rows[0][0].decode() != entry:
                return _Page(admission, [], is_gap=True)
            rows = rows[1:]
        elif rows:
            (about,) = await node.marked(("XINFO", "STREAM", STREAM + stream))
            length = about[b"length"]
            if length >= _NOTES_KEPT or length != about.get(b"entries-added", length):
                return _Page(admission, [], is_gap=True)
        return _Page(admission, [(row[0].decode(), *_note_of(row)) for row in rows[:limit]])


async def _trim(node: Node, stream: str, place: _Place | None) -> None:
    # Of a voter that was restarted, or joined, since it was read nobody knows how far: the next cursor says it.
    if place is not None and place.entry and place.admission == node.admission:
        await node.only("XTRIM", STREAM + stream, "MINID", "~", place.entry)


def note_in(row: Any) -> tuple[bytes, bytes] | None:
    """Return the id and the note of an entry of a stream; None for what this program did not write."""
    fields = row[1]
    if not fields or len(fields) != 4 or fields[0] != b"n" or fields[2] != b"i" or not is_version(fields[1]):
        return None
    return fields[1], fields[3]


def _note_of(row: Any) -> tuple[str, bytes]:
    found = note_in(row)
    return (found[0].decode(), found[1]) if found else ("", b"")


def _read_cursor(stream: str, cursor: str) -> _Cursor:
    if not cursor:
        return _Cursor({})
    try:
        return msgspec.json.decode(cursor, type=_Cursor)
    except msgspec.MsgspecError:
        raise JournalGap(f"stream {stream!r} never gave this cursor") from None
