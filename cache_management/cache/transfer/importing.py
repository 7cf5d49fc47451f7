"""Brings the entries of an export into a namespace: everything is verified before anything is changed.

    verify    every part is read, its seal compared, each entry made into the record that would be stored
    settle    a swap that somebody left unfinished is brought to its end
    merge     entries that are absent, or older by version, are written
    swap      only with `replace`, where verify has staged every part in the store: see replacing.py

An `ImportPlace` says where the work stands; any step may run twice: what it did once it finds done.
See docs/design/0015-export-format.md.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from cache_management.cache.errors import CacheError, InvalidInput
from cache_management.cache.records import Record
from cache_management.cache.transfer.lines import End, Header, Part, ReadPlace
from cache_management.cache.transfer.replacing import Replacing
from cache_management.cache.transfer.shelf import Imported, Shelf
from cache_management.cache.transfer.sources import Source
from cache_management.cache.transfer.stream_files import FileMark
from cache_management.cache.transfer.tally import Tally

PARTS_AT_ONCE = 8


class FileChanged(CacheError):
    """A file is no longer the one that was verified."""


class ImportPlace(msgspec.Struct, frozen=True):
    """Where an import stands. `began` is Unix seconds; `whole` is the place at the end of what was verified."""

    id: str
    began: float
    step: Literal["verify", "settle", "merge", "swap", "done"] = "verify"
    read: ReadPlace = ReadPlace()
    whole: ReadPlace | None = None
    mark: FileMark | None = None
    tally: Tally = Tally()
    of_reasoning: bool = False


class ImportWanted(msgspec.Struct, frozen=True):
    """What is to become of the entries. `from_namespace` names the one that the file may be of, besides the own."""

    replace: bool = False
    from_namespace: str | None = None


def check_namespace_of(header: Header, *, into: str, wanted: ImportWanted, where: str) -> None:
    """Raise InvalidInput unless the entries of an export may come into a namespace."""
    expected = into if wanted.from_namespace is None else wanted.from_namespace
    if header.namespace == expected:
        return
    found = repr(header.namespace[:64])
    if wanted.from_namespace is not None:
        raise InvalidInput(f"{where}: it holds namespace {found}, not {expected!r}")
    raise InvalidInput(
        f"{where}: it holds namespace {found}, and this is {into!r}: choose that namespace (`namespace:` or"
        f" CACHE_NAMESPACE), or give --from-namespace {header.namespace[:64]} to bring its entries into this one"
    )


def check_holds(header: Header, shelf: Shelf, *, wanted: ImportWanted, where: str) -> None:
    """Raise InvalidInput unless the entries of an export are of the kind that a shelf takes."""
    if header.holds != shelf.holds:
        found, other = ("answers", "reasoning") if header.holds is UNSET else ("reasoning", "answers")
        raise InvalidInput(f"{where}: it holds {found}, and this import is of {other}")
    if wanted.replace and header.holds == "reasoning":
        raise InvalidInput(
            f"{where}: reasoning is merged, and cannot replace a namespace: empty that first"
            " (`cache-cli invalidate --all`)"
        )


def summary_of_import(place: ImportPlace) -> dict[str, Any]:
    """Return what a person or a script is told of the work."""
    return {"step": place.step, **msgspec.structs.asdict(place.tally)}


class Importer:
    """The work of one import. `advance` from place to place until the step is "done".

    `written` gathers the keys of what was written, for whoever makes them findable by meaning and empties it;
    it stays empty unless `keep_written`.
    """

    def __init__(
        self, shelf: Shelf, source: Source, wanted: ImportWanted, *, where: str, keep_written: bool = False
    ) -> None:
        self._shelf = shelf
        self._source = source
        self._wanted = wanted
        self._where = where
        self.written: list[str] = []
        self._replacing = Replacing(shelf, written=self.written if keep_written else None)
        self._keep_written = keep_written

    def begin(self, import_id: str | None = None) -> ImportPlace:
        """Return the place where it begins: now, under a name that no other import has."""
        return ImportPlace(import_id or uuid.uuid4().hex, self._shelf.clock())

    async def advance(self, place: ImportPlace, *, parts: int | None = None) -> ImportPlace:
        """Do the next parts, so many of them.

        Raises:
            InvalidInput: The file cannot be imported; nothing was changed.
            FileChanged: It is not what was verified; what was merged by then stays.
            ImportUnderWay: Somebody else replaces this namespace just now; go on from the same place later.
            BackendUnavailable: Go on from the same place.
        """
        at_once = PARTS_AT_ONCE if parts is None else parts
        match place.step:
            case "verify":
                return await self._verify(place, at_once)
            case "settle":
                return await self._settle(place, at_once)
            case "merge":
                return await self._merge(place, at_once)
            case "swap":
                tally, is_done = await self._replacing.swap(place.id, at_once)
                tally = (
                    place.tally
                    if tally is None
                    else msgspec.structs.replace(
                        tally, entries=place.tally.entries, unreadable_there=place.tally.unreadable_there
                    )
                )
                return msgspec.structs.replace(place, step="done" if is_done else "swap", tally=tally)
            case "done":
                return place

    async def abandon(self, place: ImportPlace) -> None:
        """Forget what is staged for an import that goes no further; a decided one is left to whoever completes it.

        Raises:
            BackendUnavailable: It goes at the end of its time.
        """
        if self._wanted.replace and place.step in ("verify", "settle"):
            # The step that failed may have staged more than its place says.
            last = place.read.part + PARTS_AT_ONCE if place.whole is None else place.whole.part
            await self._replacing.forget_stage(place.id, last)

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    async def _verify(self, place: ImportPlace, at_once: int) -> ImportPlace:
        if place.read.offset == 0 and place.read.part == 1:
            header, start = self._source.start()
            check_namespace_of(header, into=self._shelf.namespace, wanted=self._wanted, where=self._where)
            check_holds(header, self._shelf, wanted=self._wanted, where=self._where)
            of_reasoning = header.holds == "reasoning"
            place = msgspec.structs.replace(place, read=start, mark=self._source.mark, of_reasoning=of_reasoning)
        self._check_unchanged(place)
        for _ in range(at_once):
            found = self._source.read(place.read)
            if isinstance(found, End):
                return self._verified(place, found)
            records = self._records(found, place)
            if self._wanted.replace:
                await self._replacing.stage(place.id, found, place.read, list(records))
            place = msgspec.structs.replace(place, read=found.place, tally=place.tally.plus(entries=len(found.entries)))
        return place

    def _verified(self, place: ImportPlace, end: End) -> ImportPlace:
        tally = place.tally.plus(unreadable_there=end.line.unreadable)
        _, start = self._source.start()
        self._check_unchanged(place)
        return msgspec.structs.replace(place, step="settle", whole=end.place, read=start, tally=tally)

    async def _settle(self, place: ImportPlace, at_once: int) -> ImportPlace:
        if not await self._replacing.settle(place.id, at_once):
            return place
        if not self._wanted.replace:
            return msgspec.structs.replace(place, step="merge")
        whole = place.whole or ReadPlace()
        await self._replacing.commit(place.id, start=place.read, whole=whole, began=place.began)
        return msgspec.structs.replace(place, step="swap")

    async def _merge(self, place: ImportPlace, at_once: int) -> ImportPlace:
        self._check_unchanged(place)
        for _ in range(at_once):
            try:
                found = self._source.read(place.read)
            except InvalidInput as exc:
                raise self._changed() from exc
            if isinstance(found, End):
                if found.place != place.whole:
                    raise self._changed()
                return msgspec.structs.replace(place, step="done")
            tally = await self._merge_part(self._records(found, place), len(found.entries))
            self._check_unchanged(place)
            place = msgspec.structs.replace(place, read=found.place, tally=place.tally.add(tally))
        return place

    async def _merge_part(self, records: Mapping[str, Imported], entries: int) -> Tally:
        live = await self._shelf.backend.inspect_many(list(records))
        now = self._shelf.clock()
        counts: Counter[str] = Counter(duplicates=entries - len(records))
        write: dict[str, Record] = {}
        for name, (_, record, _) in records.items():
            verdict = self._shelf.verdict(live.get(name), record, now=now)
            counts[verdict] += 1
            if verdict in ("added", "updated"):
                write[name] = record
        await self._shelf.put(write, {name: records[name].tags for name in write if records[name].tags})
        if self._keep_written:
            self.written += [records[name].key for name in write]
        return Tally(**counts)

    def _records(self, part: Part, place: ImportPlace) -> dict[str, Imported]:
        return self._shelf.records(part, place.read, now=place.began, where=self._where, unit=self._source.unit)

    def _check_unchanged(self, place: ImportPlace) -> None:
        if self._source.mark != place.mark or not self._source.is_unchanged():
            if place.step == "verify":
                raise InvalidInput(f"{self._where}: the file changed while it was read; nothing was imported")
            raise self._changed()

    def _changed(self) -> FileChanged:
        return FileChanged(
            f"{self._where}: the file is no longer the one that was verified; what was merged by now stays: import it"
            " once more when nobody writes to it"
        )
