"""Replaces the entries of a namespace by those of a file, so that nobody ever keeps half of it.

    stage     the parts of the file lie in the store's stash, where no read, list or eviction sees them
    commit    a `Swap` is written to the stash: from here it only goes forward, whoever does it
    put       every staged entry becomes live
    remove    what is live and not staged goes, but for what was written since the commit
    drop      the stage is forgotten

The swap says how far it is, so the resumed job, or the next import into the namespace, goes on from there. One
does so at a time: a lease of the store says who. Any step may run twice.
See docs/design/0015-export-format.md.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import msgspec
import zstandard

from cache_management.cache.backends.base import Leases, Stash, Sweepable, Tags
from cache_management.cache.clock import version_time, version_until
from cache_management.cache.codec import decode_fields
from cache_management.cache.errors import CacheError, ConfigurationError, CorruptRecord, InvalidInput
from cache_management.cache.events import RemoveEvent
from cache_management.cache.identity import LAYOUT
from cache_management.cache.invalidation import tag_name
from cache_management.cache.records import Record
from cache_management.cache.removals import Removals
from cache_management.cache.transfer.lines import PART_BYTES, Part, ReadPlace, longest_line, open_part
from cache_management.cache.transfer.shelf import Imported, Shelf
from cache_management.cache.transfer.tally import Tally

STAGE_SECONDS = 2 * 24 * 3600.0
"""How long a stage, and a swap that nobody goes on with, are kept."""

_LEASE_SECONDS = 10.0  # renewed with every part
_PAGE = 1_000
_DROPPED_AT_ONCE = 1_000
_NAMES_AT_ONCE = 500_000  # whose digests are in memory together: 8 bytes each
_CLOCKS_DIFFER_SECONDS = 60.0
_DIGEST_BYTES = 8


class ImportUnderWay(CacheError, TimeoutError):
    """Somebody else replaces the namespace just now."""


class StageLost(CacheError):
    """Staged parts are gone: the server evicts by itself, or nobody went on for too long."""


class Swap(msgspec.Struct, frozen=True):
    """What is committed: which stage becomes live, and how far that is.

    `version` is the last one of the moment of the commit: what was written later is nobody's to replace. `read`
    is the next staged part, `scan` and `turn` say where removing stands.
    """

    id: str
    began: float
    version: int
    whole: ReadPlace
    read: ReadPlace
    step: Literal["put", "remove", "drop", "done"] = "put"
    scan: str = ""
    turn: int = 0
    dropped: int = 0
    is_lost: bool = False
    tally: Tally = Tally()


class Replacing:
    """The work on one namespace. `written` gets the keys of what becomes live, unless it is None."""

    def __init__(self, shelf: Shelf, *, written: list[str] | None = None) -> None:
        self._shelf = shelf
        self._backend = shelf.backend
        self._written = written
        self._prefix = f"{LAYOUT}:stash:{shelf.namespace}:"
        self._lease = f"{LAYOUT}:lease:import:{shelf.namespace}"
        self._me = uuid.uuid4().hex

    @property
    def _stash(self) -> Stash:
        if not isinstance(self._backend, Stash):
            raise ConfigurationError(
                f"the {self._backend.name} backend has no room to stage an import: merge, or give it a Stash"
            )
        return self._backend

    async def stage(self, import_id: str, part: Part, at: ReadPlace, names: Sequence[str]) -> None:
        """Lay down a part that was verified, with the storage keys that it holds.

        Raises:
            BackendUnavailable: It is not staged; nothing that is live was touched.
        """
        packed = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(part.block)
        digests = b"".join(map(_digest, names))
        name = self._piece(import_id, at.part)
        await self._stash.stash(f"{name}:keys", digests, ttl_seconds=STAGE_SECONDS)
        await self._stash.stash(name, packed, ttl_seconds=STAGE_SECONDS)

    async def forget_stage(self, import_id: str, parts: int) -> None:
        """Drop what is staged for an import that was not decided.

        Raises:
            BackendUnavailable: It goes at the end of its time.
        """
        there = await self._load()
        if there is None or there.id != import_id:
            await self._drop_pieces(import_id, range(1, parts + 1))

    async def settle(self, import_id: str, at_once: int) -> bool:
        """Go on with a swap that somebody else left, by so many parts; return True when there is none.

        Raises:
            ImportUnderWay: Somebody is at work on it.
        """
        if not isinstance(self._backend, Stash):
            return True
        left = await self._load()
        if left is None or left.id == import_id or left.step == "done":
            return True
        async with self._alone():
            left = await self._load()
            if left is None or left.id == import_id or left.step == "done":
                return True
            await self._save(await self._advance(left, at_once))
        return False

    async def commit(self, import_id: str, *, start: ReadPlace, whole: ReadPlace, began: float) -> None:
        """Decide that the stage of an import becomes live. May be repeated.

        Raises:
            ImportUnderWay: Somebody else did so first; settle that.
            BackendUnavailable: It may or may not be decided.
        """
        async with self._alone():
            there = await self._load()
            if there is not None and there.id == import_id:
                return
            if there is not None and there.step != "done":
                raise ImportUnderWay("another import replaces this namespace just now")
            # Before: what is being computed from here on is newer than the swap, or has seen the note.
            await Removals(self._backend, self._shelf.namespace).note(None)
            version = version_until(self._shelf.clock())
            await self._save(Swap(id=import_id, began=began, version=version, whole=whole, read=start))

    async def swap(self, import_id: str, at_once: int) -> tuple[Tally | None, bool]:
        """Go on with the swap of an import, by so many parts; return what it did by now, and whether it is done.

        None stands for one that somebody else brought to its end, before another import came.

        Raises:
            ImportUnderWay: Somebody else is at work on it.
            StageLost: It is done as far as it can be.
        """
        async with self._alone():
            swap = await self._load()
            if swap is None or swap.id != import_id:
                return None, True
            if swap.step != "done":
                swap = await self._advance(swap, at_once)
                await self._save(swap)
        if swap.step == "done" and swap.is_lost:
            raise StageLost(
                f"staged parts are gone from the store: of {swap.whole.entries} entries"
                f" {swap.tally.settled} are live, and nothing was removed. Does the server evict by itself"
                " (maxmemory-policy)? Import once more"
            )
        return swap.tally, swap.step == "done"

    async def _advance(self, swap: Swap, at_once: int) -> Swap:
        match swap.step:
            case "put":
                return await self._put(swap, at_once)
            case "remove":
                return await self._remove(swap, at_once)
            case "drop":
                return await self._drop(swap)
            case "done":
                return swap

    async def _put(self, swap: Swap, at_once: int) -> Swap:
        for _ in range(at_once):
            if swap.read.part >= swap.whole.part:
                return msgspec.structs.replace(swap, step="remove")
            part = await self._staged(swap)
            if part is None:
                # Without it nobody knows what else belongs here, so nothing is removed.
                return msgspec.structs.replace(swap, step="drop", is_lost=True)
            try:
                records = self._shelf.records(part, swap.read, now=swap.began, where="stage", unit="line")
            except InvalidInput:  # verified; only a cache with less max_entry_bytes can see that
                return msgspec.structs.replace(swap, step="drop", is_lost=True)
            tally = await self._put_part(records, swap, len(part.entries))
            swap = msgspec.structs.replace(swap, read=part.place, tally=swap.tally.add(tally))
            await self._still_alone()
        return swap

    async def _put_part(self, records: dict[str, Imported], swap: Swap, entries: int) -> Tally:
        live = await self._backend.inspect_many(list(records))
        now = self._shelf.clock()
        counts: Counter[str] = Counter(duplicates=entries - len(records))
        write: dict[str, Record] = {}
        over: list[str] = []
        for name, (_, record, _) in records.items():
            there = live.get(name)
            if there is not None and self._is_since(there, swap):
                counts["newer"] += 1
            elif record.is_expired(now):
                counts["expired"] += 1
                over.append(name)
            elif there is not None and _is_same(there, record):
                counts["present"] += 1
            else:
                counts["updated" if there is not None else "added"] += 1
                write[name] = record
        if over:
            await self._backend.delete_many(over)
        await self._shelf.put(write, {name: records[name].tags for name in write if records[name].tags})
        if self._written is not None:
            self._written += [records[name].key for name in write]
        return Tally(**counts)

    async def _remove(self, swap: Swap, at_once: int) -> Swap:
        turns = max(1, -(-swap.whole.entries // _NAMES_AT_ONCE))
        staged = await self._digests(swap, turns)
        if staged is None:
            return msgspec.structs.replace(swap, step="drop", is_lost=True)
        bookmark: str | None = swap.scan
        tally = swap.tally
        for _ in range(at_once):
            if bookmark is None:
                break
            names, bookmark = await self._backend.scan_page(self._shelf.keys.prefix, bookmark, _PAGE)
            digests = {name: _digest(name) for name in names}
            strangers = [
                name for name, each in digests.items() if _turn(each, turns) == swap.turn and each not in staged
            ]
            removed, kept = await self._remove_strangers(strangers, swap)
            tally = tally.plus(removed=removed, kept=kept)
            await self._still_alone()
        swap = msgspec.structs.replace(swap, scan=bookmark or "", tally=tally)
        if bookmark is not None:
            return swap
        return msgspec.structs.replace(swap, turn=swap.turn + 1, step="drop" if swap.turn + 1 == turns else "remove")

    async def _remove_strangers(self, names: Sequence[str], swap: Swap) -> tuple[int, int]:
        records = await self._backend.inspect_many(names) if names else {}
        kept = {name for name, record in records.items() if record is not None and self._is_since(record, swap)}
        gone = [name for name in records if name not in kept]
        if not gone:
            return 0, len(kept)
        removed = await self._delete(gone, records, swap)
        tags = self._tags_of({name: record for name in gone if (record := records[name]) is not None})
        if tags and isinstance(self._backend, Tags):
            await self._backend.remove_tags(tags)
        self._shelf.tell(RemoveEvent("delete", self._shelf.namespace, removed))
        return removed, len(kept)

    async def _delete(self, names: Sequence[str], records: Mapping[str, Record | None], swap: Swap) -> int:
        """Remove entries, but not what is written under their keys just now."""
        if not isinstance(self._backend, Sweepable):
            return await self._backend.delete_many(names)
        old = [name for name in names if (record := records[name]) is not None and record.version <= swap.version]
        rest = set(names).difference(old)
        removed = len(await self._backend.delete_older(old, swap.version + 1)) if old else 0
        return removed + (await self._backend.delete_many(list(rest)) if rest else 0)

    def _tags_of(self, records: dict[str, Record]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, record in records.items():
            try:
                carried = decode_fields(record.value, limit_bytes=self._shelf.limit_bytes).tags
            except CorruptRecord:
                continue  # whoever removes by tag looks at the entry first
            for tag in carried:
                found.setdefault(tag_name(self._shelf.namespace, tag), []).append(name)
        return found

    async def _drop(self, swap: Swap) -> Swap:
        _forget_digests()
        dropped = min(swap.dropped + _DROPPED_AT_ONCE, swap.whole.part - 1)
        await self._drop_pieces(swap.id, range(swap.dropped + 1, dropped + 1))
        return msgspec.structs.replace(swap, dropped=dropped, step="done" if dropped == swap.whole.part - 1 else "drop")

    async def _drop_pieces(self, import_id: str, numbers: Iterable[int]) -> None:
        pieces = [self._piece(import_id, number) for number in numbers]
        await self._stash.drop_stashed([name for piece in pieces for name in (piece, f"{piece}:keys")])

    def _is_since(self, record: Record, swap: Swap) -> bool:
        """Tell whether a record was written since the commit; of one from a clock far ahead nobody knows."""
        latest = self._shelf.clock() + _CLOCKS_DIFFER_SECONDS
        return record.version > swap.version and version_time(record.version) <= latest

    async def _staged(self, swap: Swap) -> Part | None:
        packed = await self._stash.stashed(self._piece(swap.id, swap.read.part))
        if packed is None:
            return None
        try:
            size = zstandard.frame_content_size(packed)
            if not 0 <= size <= PART_BYTES + longest_line(self._shelf.limit_bytes):
                return None
            block = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
            found = open_part(block, swap.read, where="stage")
        except (zstandard.ZstdError, InvalidInput):
            return None
        return found if isinstance(found, Part) else None

    async def _digests(self, swap: Swap, turns: int) -> _Digests | None:
        """Return the digests of the staged keys of a turn, as many as memory may hold."""
        global _held
        wanted = (swap.id, swap.turn)
        if _held is not None and _held[0] == wanted:
            return _held[1]
        _held = None
        found = _Digests()
        for number in range(1, swap.whole.part):
            digests = await self._stash.stashed(f"{self._piece(swap.id, number)}:keys")
            if digests is None:
                return None
            if not number % 100:
                await self._still_alone()
            found.add(
                each
                for at in range(0, len(digests), _DIGEST_BYTES)
                if _turn(each := digests[at : at + _DIGEST_BYTES], turns) == swap.turn
            )
        _held = (wanted, found)
        return found

    async def _load(self) -> Swap | None:
        piece = await self._stash.stashed(f"{self._prefix}swap")
        if piece is None:
            return None
        try:
            return msgspec.json.decode(piece, type=Swap)
        except msgspec.MsgspecError:
            raise CacheError(
                f"an import of another version of this program is left unfinished in namespace {self._shelf.namespace}:"
                " finish it with that one"
            ) from None

    async def _save(self, swap: Swap) -> None:
        await self._stash.stash(f"{self._prefix}swap", msgspec.json.encode(swap), ttl_seconds=STAGE_SECONDS)

    def _piece(self, import_id: str, number: int) -> str:
        return f"{self._prefix}{import_id}:{number}"

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Hold the lease of the namespace.

        Raises:
            ImportUnderWay: Somebody else holds it; one that died does for ten seconds.
        """
        if not isinstance(self._backend, Leases):
            yield
            return
        if await self._backend.acquire(self._lease, owner=self._me, ttl_seconds=_LEASE_SECONDS) is None:
            raise ImportUnderWay(f"another import is at work on namespace {self._shelf.namespace}")
        try:
            yield
        finally:
            await self._backend.release(self._lease, owner=self._me)

    async def _still_alone(self) -> None:
        if isinstance(self._backend, Leases) and not await self._backend.renew(
            self._lease, owner=self._me, ttl_seconds=_LEASE_SECONDS
        ):
            raise ImportUnderWay(f"another import is at work on namespace {self._shelf.namespace}")


class _Digests:
    """Digests in little more memory than they need themselves."""

    def __init__(self) -> None:
        self._buckets = [bytearray() for _ in range(1024)]

    def add(self, digests: Iterable[bytes]) -> None:
        for each in digests:
            self._bucket(each).extend(each)

    def __contains__(self, digest: bytes) -> bool:
        bucket = self._bucket(digest)
        at = bucket.find(digest)
        while at >= 0 and at % _DIGEST_BYTES:
            at = bucket.find(digest, at + 1)
        return at >= 0

    def _bucket(self, digest: bytes) -> bytearray:
        return self._buckets[(digest[0] << 2) | (digest[1] & 3)]


_held: tuple[tuple[str, int], _Digests] | None = None
"""Of the swap that this process works on: reading them anew at each step would take longer than the step."""


def _forget_digests() -> None:
    global _held
    _held = None


def _digest(storage_key: str) -> bytes:
    return hashlib.blake2b(storage_key.encode(), digest_size=_DIGEST_BYTES).digest()


def _turn(digest: bytes, turns: int) -> int:
    return int.from_bytes(digest[2:6], "little") % turns


def _is_same(one: Record, other: Record) -> bool:
    return (one.value, one.expires_at, one.version) == (other.value, other.expires_at, other.version)
