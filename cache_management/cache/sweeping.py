"""Removes from a store what goes first, what is past its life and what was chosen, a page at a time; or only counts it.

expired    what the store itself knows to be past its life
policy     what goes first, while the store is above its bounds
stale      entries past their life that are kept for bad times longer than the configuration asks for now
tags       names under tags whose entry is gone
vectors    vectors whose entry is gone
chosen     a selection: by key, age, tag or model

A `Place` says where the work stands. Any step may run twice. What was stored after the work began is never removed:
its version says so, and store and deletion look at it in one move. See docs/design/0014-eviction-jobs.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.clock import version_at, version_time
from cache_management.cache.codec import decode_stored, decode_unknown
from cache_management.cache.errors import ConfigurationError, CorruptRecord, InvalidInput
from cache_management.cache.events import CorruptEvent, RemoveEvent
from cache_management.cache.identity import KeySpace
from cache_management.cache.invalidation import Chooser, Selected, Selection, by_tag, tag_name
from cache_management.cache.llm import LLMCache
from cache_management.cache.records import Head, Record

PAGE = 500
SAMPLED = 5
_TAGS_AT_ONCE = 50
_MOST_WAITS = 60
_WAIT_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 1.0
# A writer notes the tags of an entry before it stores the entry: what is not there yet may be about to come.
_TAG_BEFORE_ENTRY_SECONDS = 1.0

Reason = Literal["expired", "policy", "stale", "tags", "vectors", "chosen"]
Sleep = Callable[[float], Awaitable[object]]


class Wanted(msgspec.Struct, frozen=True):
    """What is to be removed.

    `leftovers` are stale entries beyond what the configuration keeps, and tags and vectors of entries that are gone;
    with `stale` all entries go that are kept for bad times only. `before` is the version from which on nothing is
    removed, that of the moment at which the work begins where nobody says.
    """

    policy: bool = False
    expired: bool = False
    leftovers: bool = False
    stale: bool = False
    selection: Selection | None = None
    before: int | None = None

    def check(self) -> None:
        """Raise InvalidInput when nothing is wanted, or something cannot be."""
        if self.selection is not None:
            self.selection.check()
        elif not (self.policy or self.expired or self.leftovers or self.stale):
            raise InvalidInput("say what shall go: by policy, what is expired, leftovers, or a selection")

    @property
    def steps(self) -> tuple[Reason, ...]:
        """Return what is to be done, in order."""
        asked: list[tuple[Reason, bool]] = [
            ("expired", self.expired),
            ("policy", self.policy),
            ("stale", self.leftovers or self.stale),
            ("tags", self.leftovers),
            ("vectors", self.leftovers),
            ("chosen", self.selection is not None),
        ]
        return tuple(reason for reason, is_wanted in asked if is_wanted)


class Count(msgspec.Struct, frozen=True):
    """How much of something, in bytes too where they are known, and when it was stored (Unix seconds)."""

    entries: int = 0
    size_bytes: int = 0
    oldest: float | None = None
    newest: float | None = None

    def plus(self, entries: int, size_bytes: int = 0, moments: Iterable[float] = ()) -> Count:
        """Return it with more."""
        known = [moment for moment in (self.oldest, self.newest, *moments) if moment is not None]
        return Count(
            self.entries + entries, self.size_bytes + size_bytes, min(known, default=None), max(known, default=None)
        )


class Place(msgspec.Struct, frozen=True):
    """Where the work stands: the step, the bookmarks of its scans, and what was removed (or, dry, found) so far.

    `looked` names were looked at. `kept` were chosen and stay, because they were stored after the work began.
    `names` led nowhere: under tags, in the queue of a policy. `planned` is how much a plan found.
    """

    step: Reason | Literal["done"]
    before: int
    scan: str = ""
    aim: dict[str, int] | None = None
    waits: int = 0
    tags: tuple[str, ...] = ()
    more_tags: str | None = ""
    found: dict[str, Count] = {}
    looked: int = 0
    names: int = 0
    kept: int = 0
    planned: Count = Count()

    @property
    def total(self) -> Count:
        """Return what was removed or found, for all reasons together."""
        all_found = self.found.values()
        return Count(sum(each.entries for each in all_found), sum(each.size_bytes for each in all_found))

    def plus(self, reason: Reason, heads: Sequence[Head], **changes: Any) -> Place:
        """Return it with more that was removed or found."""
        return self.plus_count(reason, len(heads), sum(each.size_bytes for each in heads), _moments(heads), **changes)

    def plus_count(
        self, reason: Reason, entries: int, size_bytes: int = 0, moments: Iterable[float] = (), **changes: Any
    ) -> Place:
        """Do what `plus` does where no heads are known."""
        if entries or size_bytes:
            count = self.found.get(reason, Count()).plus(entries, size_bytes, moments)
            changes["found"] = {**self.found, reason: count}
        return msgspec.structs.replace(self, **changes)


def begins_at(wanted: Wanted, now: float) -> int:
    """Return the version from which on nothing is removed."""
    # What was stored in this very millisecond was stored before.
    return version_at(now + 0.001) if wanted.before is None else wanted.before


def first_place(wanted: Wanted, before: int) -> Place:
    """Return where work begins."""
    return Place(wanted.steps[0], before)


def behind_a_step(place: Place, wanted: Wanted) -> Place:
    """Return where to go on when a step has done all it can."""
    steps: tuple[Reason | Literal["done"], ...] = (*wanted.steps, "done")
    following = steps[steps.index(place.step) + 1]
    return Place(
        following,
        place.before,
        found=place.found,
        looked=place.looked,
        names=place.names,
        kept=place.kept,
        planned=place.planned,
    )


def summary_of(place: Place) -> dict[str, Any]:
    """Return what a person or a script is told of the work; keys are not in it."""
    told: dict[str, Any] = {"step": place.step, "looked_at": place.looked, "names": place.names, "kept": place.kept}
    for reason, count in place.found.items():
        told |= {reason: count.entries, f"{reason}_bytes": count.size_bytes}
    return told


class Sweeping:
    """The work on one namespace's store. `advance` from place to place until the step is "done".

    "expired" and "policy" are about the whole store, whatever its namespaces.

    Args:
        dry: Remove nothing, only count; `samples` then holds some of the keys, by reason.
        keys_per_second: How many names are looked at in a second at most; 0 is no bound.

    Raises:
        ConfigurationError: The store cannot be swept.
    """

    def __init__(
        self, cache: LLMCache, *, dry: bool = False, keys_per_second: float = 0, sleep: Sleep = asyncio.sleep
    ) -> None:
        if not isinstance(cache.backend, FullBackend):
            raise ConfigurationError(f"the {cache.backend.name} backend cannot be swept from outside")
        self.samples: dict[str, list[str]] = {}
        self._cache = cache
        self._backend: FullBackend = cache.backend
        self._dry = dry
        self._keys_per_second = keys_per_second
        self._sleep = sleep
        self._keys = KeySpace("llm", cache.namespace)
        config = cache.config
        self._kept_stale_seconds = max(config.stale_while_revalidate_seconds, config.stale_if_error_seconds)
        self._limit_bytes = config.max_entry_bytes

    def begin(self, wanted: Wanted) -> Place:
        """Return where work begins.

        Raises:
            InvalidInput: Nothing is wanted, or something cannot be.
        """
        wanted.check()
        return first_place(wanted, begins_at(wanted, self._cache.clock()))

    async def advance(self, place: Place, wanted: Wanted, *, limit: int = PAGE) -> Place:
        """Do the next page of about `limit` names.

        Raises:
            InvalidInput: The regular expression takes too long; of what comes behind nothing is removed.
            BackendRefused: The store does not let itself be swept.
            BackendUnavailable: Part of the page may be done.
        """
        started, looked = time.monotonic(), place.looked
        if self._keys_per_second:
            limit = max(1, min(limit, int(self._keys_per_second)))
        place = await self._advance(place, wanted, limit)
        if self._keys_per_second:
            # At most a second, and a little: whoever stops the work waits for the end of a page.
            pause = (place.looked - looked) / self._keys_per_second - (time.monotonic() - started)
            await self._sleep(min(max(0.0, pause), _LONGEST_PAUSE_SECONDS))
        return place

    async def _advance(self, place: Place, wanted: Wanted, limit: int) -> Place:
        match place.step:
            case "expired":
                place, is_done = await self._drop_expired(place, limit)
            case "policy":
                place, is_done = await self._sweep(place, limit)
            case "stale":
                place, is_done = await self._drop_stale(place, limit, all_of_them=wanted.stale)
            case "tags":
                place, is_done = await self._clear_tags(place, limit)
            case "vectors":
                place, is_done = await self._drop_vectors(place, limit)
            case "chosen":
                place, is_done = await self._remove_chosen(place, wanted.selection or Selection(), limit)
            case "done":
                return place
        return behind_a_step(place, wanted) if is_done else place

    async def _drop_expired(self, place: Place, limit: int) -> tuple[Place, bool]:
        if self._dry:
            surplus = await self._backend.surplus()
            return place.plus_count("expired", surplus.expired, surplus.expired_bytes), True
        swept, after = await self._backend.drop_expired(place.scan, limit)
        place = place.plus_count(
            "expired",
            swept.entries,
            swept.size_bytes,
            looked=place.looked + max(swept.entries, limit if after else 0),
            names=place.names + swept.names,
            scan=after or "",
        )
        return place, after is None

    async def _sweep(self, place: Place, limit: int) -> tuple[Place, bool]:
        aim = place.aim
        if aim is None:
            surplus = await self._backend.surplus()
            aim = surplus.aim
            if not aim:
                return place, True
            if self._dry:
                victims = await self._backend.victims(aim, SAMPLED)
                self._sample("policy", victims)
                moments = _moments((await self._backend.heads(victims)).values())
                return place.plus_count("policy", surplus.entries, surplus.size_bytes, moments), True
        swept = await self._backend.sweep(aim, limit)
        if swept.is_busy:
            # One that died leaves its right for a moment; one that lives does the work.
            await self._sleep(_WAIT_SECONDS)
            return msgspec.structs.replace(place, aim=aim, waits=place.waits + 1), place.waits >= _MOST_WAITS
        place = place.plus_count(
            "policy", swept.entries, swept.size_bytes, aim=aim, waits=0, looked=place.looked + swept.entries
        )
        return place, swept.is_done

    async def _drop_stale(self, place: Place, limit: int, *, all_of_them: bool) -> tuple[Place, bool]:
        names, after = await self._backend.scan_page(self._keys.prefix, place.scan, limit)
        over = self._cache.clock() - (0 if all_of_them else self._kept_stale_seconds)
        records = await self._inspect(names)
        heads = {
            name: Head(record.version, record.expires_at, len(record.value))
            for name, record in records.items()
            if self._fresh_until(name, record) <= over
        }
        return await self._take_out("stale", heads, place, after, looked=len(names))

    def _fresh_until(self, name: str, record: Record) -> float:
        try:
            key = self._keys.from_storage(name)
            if key is None:
                key, _ = decode_unknown(record.value, limit_bytes=self._limit_bytes)
            found = decode_stored(key, record.value, limit_bytes=self._limit_bytes).facts.fresh_until
        except CorruptRecord as exc:
            self._tell_corrupt(name, str(exc))
            found = None
        return float("inf") if found is None else found

    async def _clear_tags(self, place: Place, limit: int) -> tuple[Place, bool]:
        """Look at names under the next tags, and drop those whose entry is not there at two looks."""
        prefix = tag_name(self._cache.namespace, "")
        tags, scan, more = place.tags, place.scan, place.more_tags
        under: dict[str, list[str]] = {}
        looked = 0
        while looked < limit and (tags or more is not None):
            if not tags:
                found, more = await self._backend.tags_page(prefix, more or "", _TAGS_AT_ONCE)
                tags = tuple(dict.fromkeys(found))
                looked += 1
                continue
            page, after = await self._backend.tagged_page(tags[0], scan, limit)
            under.setdefault(tags[0], []).extend(page)
            looked += 1 + len(page)
            tags, scan = (tags[1:], "") if after is None else (tags, after)
        gone = await self._without_entry(under)
        if gone and not self._dry:
            await self._sleep(_TAG_BEFORE_ENTRY_SECONDS)
            gone = await self._without_entry(gone)
            await self._backend.remove_tags(gone)
        dropped = sum(map(len, gone.values()))
        place = msgspec.structs.replace(
            place, tags=tags, scan=scan, more_tags=more, looked=place.looked + looked, names=place.names + dropped
        )
        return place, not tags and more is None

    async def _without_entry(self, under: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        there = await self._backend.heads(list({name for names in under.values() for name in names}))
        gone = {tag: [name for name in dict.fromkeys(names) if name not in there] for tag, names in under.items()}
        return {tag: names for tag, names in gone.items() if names}

    async def _drop_vectors(self, place: Place, limit: int) -> tuple[Place, bool]:
        try:
            from cache_management.cache.semantic.stored_vectors import decode_vector, journal_name
        except ImportError:  # nothing that compares meaning is installed, and nobody else's vectors can be read
            return place, True
        names, after = await self._backend.scan_page(KeySpace("vec", self._cache.namespace).prefix, place.scan, limit)
        records = await self._inspect(names)
        owners = {}
        for name, record in records.items():
            try:
                vector = decode_vector(record.value, dims=None)
            except CorruptRecord as exc:
                self._tell_corrupt(name, str(exc))
                continue
            if vector.response is None:  # else it stands alone
                owners[name] = self._keys.to_storage(vector.key)
        # Behind the vectors: an entry that is not there now was there before its vector was.
        there = await self._backend.heads(list(set(owners.values())))
        heads = {
            name: Head(records[name].version, records[name].expires_at, len(records[name].value))
            for name, owner in owners.items()
            if owner not in there
        }

        async def tell(removed: Sequence[str]) -> None:
            await self._backend.append(journal_name(self._cache.namespace), [name.encode() for name in removed])

        return await self._take_out("vectors", heads, place, after, looked=len(names), tell=tell)

    async def _inspect(self, names: Sequence[str]) -> dict[str, Record]:
        """Return records without counting it as a use; what cannot be read is left out."""
        found = await self._backend.inspect_many(names) if names else {}
        return {name: record for name, record in found.items() if record is not None}

    async def _remove_chosen(self, place: Place, selection: Selection, limit: int) -> tuple[Place, bool]:
        backend = self._backend
        if not self._dry and not place.scan:
            # Before anything is read: what is stored from here on is newer, or has seen the note.
            await self._cache.note_invalidation(selection)
        if selection.tag is not None:
            page = backend.tagged_page(tag_name(self._cache.namespace, selection.tag), place.scan, limit)
        else:
            page = backend.scan_page(self._keys.prefix, place.scan, limit)
        names, after = await page
        chooser = Chooser(
            selection,
            backend,
            self._keys,
            # Not the time of this page: an age counts from when the work was asked for.
            now=min(self._cache.clock(), version_time(place.before)),
            limit_bytes=self._limit_bytes,
            corrupt=self._tell_corrupt,
        )
        own = [
            name for name in dict.fromkeys(names) if name.startswith(self._keys.prefix)
        ]  # a tag is shared with others
        chosen = {each.storage_key: each for each in await chooser.choose(own)}
        heads = await backend.heads(list(chosen))

        async def forget_tags(removed: Sequence[str]) -> None:
            tags = by_tag(self._cache.namespace, [chosen[name] for name in removed])
            if tags:
                await backend.remove_tags(tags)

        return await self._take_out("chosen", heads, place, after, looked=len(names), tell=forget_tags, keys=chosen)

    async def _take_out(
        self,
        reason: Reason,
        heads: Mapping[str, Head],
        place: Place,
        after: str | None,
        *,
        looked: int,
        tell: Callable[[Sequence[str]], Awaitable[None]] | None = None,
        keys: Mapping[str, Selected] | None = None,
    ) -> tuple[Place, bool]:
        """Remove what is older than the work, or count it, and return the place behind the page."""
        old = [name for name, head in heads.items() if head.version < place.before]
        kept = len(heads) - len(old)
        if self._dry:
            self._sample(reason, old, keys)
        elif old:
            removed = await self._backend.delete_older(old, place.before)
            if tell is not None and removed:
                await tell(removed)
            if removed and reason != "vectors":
                self._cache.tell(
                    RemoveEvent("delete" if reason == "chosen" else "expired", self._cache.namespace, len(removed))
                )
            # What is neither removed nor there any more went by itself; what is there was stored meanwhile.
            missed = [name for name in old if name not in set(removed)]
            kept += len(await self._backend.heads(missed)) if missed else 0
            old = removed
        place = place.plus(
            reason,
            [heads[name] for name in old],
            scan=after or "",
            looked=place.looked + looked,
            kept=place.kept + kept,
        )
        return place, after is None

    def _sample(self, reason: Reason, names: Sequence[str], keys: Mapping[str, Selected] | None = None) -> None:
        sample = self.samples.setdefault(reason, [])
        for name in names[: SAMPLED - len(sample)]:
            known = keys[name].key if keys and name in keys else None
            sample.append(known or self._keys.from_storage(name) or name)

    def _tell_corrupt(self, name: str, why: str) -> None:
        self._cache.tell(CorruptEvent(self._backend.name, name, why))


def _moments(heads: Iterable[Head]) -> list[float]:
    """Return when records were stored, as far as their heads tell."""
    return [version_time(each.version) for each in heads if each.version > 0]
