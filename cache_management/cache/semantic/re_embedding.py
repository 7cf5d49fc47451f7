"""Embeds the entries of a namespace, a page at a time: those that have no vector of the model, or all of them.

check     of all vectors, only if asked for: see integrity.py
entries   every entry gets its vector; again until a whole turn found nothing to add
others    vectors of other models are counted, or removed: the cut-over

A `Place` says where the work stands. Any step may run twice: what it did once it finds done.
See docs/design/0012-embedding-jobs.md.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from cache_management.cache.clock import Clock, version_at, version_time
from cache_management.cache.errors import CacheError
from cache_management.cache.events import Listener, ignore
from cache_management.cache.semantic.integrity import Held, VectorCare
from cache_management.cache.semantic.matcher import SimilarityMatcher
from cache_management.cache.semantic.stored_entries import StoredEntries, StoredEntry

PAGE = 256
MOST_TURNS = 5
_BATCH = 64  # embedded and stored at a time: a page that is too slow for a worker gets on all the same
_COMPARED = 1_000  # ids are digests, so the first ones of a walk are as good as any
_CLOCKS_DIFFER_SECONDS = 5.0
_READERS_KEEP_UP_SECONDS = 1.0  # twenty times what readers take to hear of a vector


class CutOverRefused(CacheError):
    """The vectors of other models were asked to be removed, and must not be."""


class Wanted(msgspec.Struct, frozen=True):
    """What is to be done. With `all`, vectors that were there before are made anew."""

    check: bool = False
    all: bool = False
    drop_old: bool = False


class Tally(msgspec.Struct, frozen=True):
    """What was done so far.

    Of the entries of the first turn, `present` had their vector, `too_long` are not read whole by the model,
    `exact_only` are not to be found by meaning, `gone` could not be read any more when their turn came.
    `shared` vectors were there and not in the index that all share; they were put there. `left` are vectors of other
    models that are there at the end. The rest is as in `Checked`.
    """

    entries: int = 0
    embedded: int = 0
    present: int = 0
    too_long: int = 0
    exact_only: int = 0
    gone: int = 0
    shared: int = 0
    checked: int = 0
    compared: int = 0
    orphans: int = 0
    foreign: int = 0
    damaged: int = 0
    wrong: int = 0
    unreadable: int = 0
    dropped: int = 0
    left: int = 0

    def plus(self, **more: int) -> Tally:
        """Return it with some counts larger."""
        return msgspec.structs.replace(self, **{name: getattr(self, name) + each for name, each in more.items()})


class Place(msgspec.Struct, frozen=True):
    """Where the work stands: the step, the bookmark of its scan, and what was done so far."""

    step: Literal["check", "entries", "others", "done"]
    born: int  # version at which the work began
    began: int  # version at which this turn began; what is stored later has its writer
    since: int = 0  # version at which the page before this one was done
    scan: str = ""
    turn: int = 1
    added: bool = False  # in this turn, of entries that were there when it began
    added_at: float = 0.0
    tally: Tally = Tally()

    @property
    def is_complete(self) -> bool:
        """Tell whether a whole turn found every entry with its vector."""
        return self.step in ("others", "done") and not self.added


class _There(msgspec.Struct, frozen=True, gc=False):
    """An entry and its vector, which is stored under a name."""

    name: str
    entry: StoredEntry
    held: Held


class Census(msgspec.Struct, frozen=True):
    """What there is: entries by how they can be found, and vectors by space; `space` is the model's own.

    Of `unshared` entries the vector is not in the index that all share.
    """

    space: str
    entries: int
    missing: int
    too_long: int
    exact_only: int
    gone: int
    vectors: dict[str, int]
    unshared: int = 0


def first_place(wanted: Wanted, now: float) -> Place:
    """Return where work begins."""
    began = version_at(now)
    return Place("check" if wanted.check else "entries", born=began, began=began, since=began)


def behind_a_scan(place: Place, now: float) -> Place:
    """Return where to go on when a step has scanned everything."""
    if place.step == "check":
        return msgspec.structs.replace(place, step="entries", scan="", began=version_at(now))
    if place.step == "entries" and place.added and place.turn < MOST_TURNS:
        # A server that is restarted in the middle of a scan may leave keys out: only a turn without finds is proof.
        return msgspec.structs.replace(place, scan="", turn=place.turn + 1, added=False, began=version_at(now))
    return msgspec.structs.replace(place, step="others" if place.step == "entries" else "done", scan="")


def refusal_of_cut_over(place: Place) -> str | None:
    """Say why the vectors of other models must stay, or None when they may go."""
    tally = place.tally
    if not place.is_complete:
        return (
            f"after {place.turn} turns there are still entries without a vector: does a process go on storing with"
            " the former model? The vectors of other models were left; stop it and run this again"
        )
    if tally.gone > tally.entries - tally.gone:
        return (
            f"{tally.gone} of {tally.entries} entries could not be read: are the encryption keys complete? The vectors"
            " of other models were left"
        )
    return None


def summary_of(place: Place) -> dict[str, Any]:
    """Return what a person or a script is told of the work."""
    told = {"step": place.step, "turns": place.turn, "complete": place.is_complete}
    return {**told, **msgspec.structs.asdict(place.tally)}


class ReEmbedding:
    """The work on one namespace. `advance` from place to place until the step is "done".

    Args:
        clock, entry_limit_bytes: Those of the cache whose entries they are.
        keep_up_seconds: How long readers have for the last new vector before those of other models go.
    """

    def __init__(
        self,
        matcher: SimilarityMatcher,
        *,
        clock: Clock,
        entry_limit_bytes: int,
        listener: Listener = ignore,
        keep_up_seconds: float = _READERS_KEEP_UP_SECONDS,
    ) -> None:
        self._matcher = matcher
        self._clock = clock
        self._keep_up_seconds = keep_up_seconds
        self._entries = StoredEntries(
            matcher.backend,
            namespace=matcher.namespace,
            clock=clock,
            limit_bytes=entry_limit_bytes,
            listener=listener,
        )
        self._care = VectorCare(matcher, self._entries, clock=clock, listener=listener)

    async def advance(self, place: Place, wanted: Wanted, *, limit: int = PAGE) -> Place:
        """Do the next page of about `limit` keys.

        Raises:
            EmbedderUnavailable, BackendUnavailable: Part of the page may be done.
            CutOverRefused: Everything is done but what `drop_old` asks for.
        """
        await self._matcher.embedder.load()
        match place.step:
            case "check":
                place, after = await self._check(place, wanted, limit)
            case "entries":
                place, after = await self._embed(place, wanted, limit)
            case "others":
                place, after = await self._look_at_others(place, wanted, limit)
            case "done":
                refusal = refusal_of_cut_over(place) if wanted.drop_old else None
                if refusal is not None:
                    raise CutOverRefused(refusal)
                return place
        now = self._clock()
        place = msgspec.structs.replace(place, since=version_at(now))
        return behind_a_scan(place, now) if after is None else msgspec.structs.replace(place, scan=after)

    async def census(self) -> Census:
        """Count what there is, and change nothing.

        Raises:
            EmbedderUnavailable, BackendUnavailable: It cannot be counted.
        """
        embedder = self._matcher.embedder
        await embedder.load()
        counts: Counter[str] = Counter()
        spaces: Counter[str] = Counter()
        bookmark: str | None = ""
        while bookmark is not None:
            names, bookmark = await self._entries.backend.scan_page(self._entries.prefix, bookmark, PAGE)
            entries = await self._entries.load(names)
            due, there = await self._sorted(list(entries.values()), anew_before=None)
            too_long = sum(not _is_readable(self._matcher, entry) for entry in due)
            counts.update(
                unshared=len(await self._matcher.unshared({each.name: each.held.vector for each in there})),
                entries=len(names),
                missing=len(due) - too_long,
                too_long=too_long,
                exact_only=len(entries) - len(due) - len(there),
                gone=len(names) - len(entries),
            )
        bookmark = ""
        while bookmark is not None:
            names, bookmark = await self._care.names(bookmark, PAGE)
            spaces.update(space for space in map(self._care.space_of, names) if space is not None)
        return Census(
            embedder.space,
            **{name: counts[name] for name in ("entries", "missing", "too_long", "exact_only", "gone", "unshared")},
            vectors=dict(spaces),
        )

    async def aclose(self) -> None:
        """Close what was opened for other models; the matcher is its maker's."""
        await self._care.aclose()

    async def _check(self, place: Place, wanted: Wanted, limit: int) -> tuple[Place, str | None]:
        names, after = await self._care.names(place.scan, limit)
        # What is embedded anew anyway need not be compared.
        compare = 0 if wanted.all else _COMPARED - place.tally.compared
        checked = await self._care.check(names, compare=compare, told_before=_told_before(place))
        found = msgspec.structs.asdict(checked)
        return msgspec.structs.replace(place, tally=place.tally.plus(checked=found.pop("vectors"), **found)), after

    async def _embed(self, place: Place, wanted: Wanted, limit: int) -> tuple[Place, str | None]:
        names, after = await self._entries.backend.scan_page(self._entries.prefix, place.scan, limit)
        names = list(dict.fromkeys(names))
        entries = await self._entries.load(names)
        entries |= await self._entries.load([name for name in names if name not in entries])
        due, there = await self._sorted(list(entries.values()), anew_before=place.born if wanted.all else None)
        findable = len(due) + len(there)
        lacked = await self._matcher.share({each.name: each.held.vector for each in there})
        # This page may be repeated, after a death between a vector and its note.
        again = {each.name: each.held.vector for each in there if each.held.version >= _told_before(place)}
        await self._matcher.tell_again(again)
        # A writer stores the vector a moment after the entry: those of now say nothing of what the scan left out.
        old = [entry for entry in due if entry.version < place.began]
        young = [entry for entry in due if entry.version >= place.began]
        added, too_long = await self._index(old, anew=wanted.all)
        added_young, too_long_young = await self._index(young, anew=wanted.all)
        tally = place.tally.plus(embedded=added + added_young, shared=len(lacked))
        if place.turn == 1:
            too_long += too_long_young
            tally = tally.plus(
                entries=len(names),
                present=findable - added - added_young - too_long,
                too_long=too_long,
                exact_only=len(entries) - findable,
                gone=len(names) - len(entries),
            )
        lacked_old = any(each.name in lacked and each.entry.version < place.began for each in there)
        now = self._clock()
        return msgspec.structs.replace(
            place,
            tally=tally,
            added=place.added or added > 0 or lacked_old,
            added_at=now if again or added + added_young else place.added_at,
        ), after

    async def _sorted(
        self, entries: Sequence[StoredEntry], *, anew_before: int | None
    ) -> tuple[list[StoredEntry], list[_There]]:
        """Return those entries whose vector must be made or written anew, and the others that have one."""
        names = {self._care.store.id_of(entry.key): entry for entry in entries if entry.findable}
        found = await self._care.load(list(names))
        there = [
            _There(name, names[name], held) for name, held in found.items() if _is_of(names[name], held, anew_before)
        ]
        done = {each.name for each in there}
        return [entry for name, entry in names.items() if name not in done], there

    async def _index(self, entries: Sequence[StoredEntry], *, anew: bool) -> tuple[int, int]:
        """Embed entries; return how many vectors were made, and how many texts are too long."""
        added = too_long = 0
        for start in range(0, len(entries), _BATCH):
            batch = [entry.indexable() for entry in entries[start : start + _BATCH]]
            report = await self._matcher.index_entries(batch, anew=anew)
            added += report.added
            too_long += report.too_long
        return added, too_long

    async def _look_at_others(self, place: Place, wanted: Wanted, limit: int) -> tuple[Place, str | None]:
        names, after = await self._care.names(place.scan, limit)
        if wanted.drop_old and refusal_of_cut_over(place) is None:
            # Whoever still asks both models must have heard of the last new vector before the old ones go.
            await asyncio.sleep(max(0.0, place.added_at + self._keep_up_seconds - self._clock()))
            found = await self._care.drop_others(names)
            tally = place.tally.plus(dropped=found.dropped, left=found.kept)
        else:
            tally = place.tally.plus(left=sum(map(self._care.is_of_another_model, names)))
        if self._matcher.index.is_shared:
            # Once more, for answers that stand alone have no entry.
            own = await self._care.store.load([name for name in names if not self._care.is_of_another_model(name)])
            shared = await self._matcher.share({name: vector for name, (vector, _) in own.items()})
            tally = tally.plus(shared=len(shared))
        return msgspec.structs.replace(place, tally=tally), after


def _told_before(place: Place) -> int:
    """Return the version from which on a vector may be one that nobody was told of; clocks of workers differ."""
    return version_at(version_time(place.since) - _CLOCKS_DIFFER_SECONDS)


def _is_of(entry: StoredEntry, held: Held, anew_before: int | None) -> bool:
    """Tell whether a vector is that of its entry as it is now."""
    if anew_before is not None and held.version < anew_before:
        return False
    found = held.vector
    now = (entry.prompt, entry.scope, None, entry.expires_at)
    return (found.prompt, found.scope, found.response, held.expires_at) == now


def _is_readable(matcher: SimilarityMatcher, entry: StoredEntry) -> bool:
    return bool(entry.prompt.strip()) and matcher.embedder.fits(entry.prompt)
