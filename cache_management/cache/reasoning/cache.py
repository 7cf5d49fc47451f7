"""ReasoningCache: whole chains and trees under plain keys, and every step of them, on any backend.

    key     -> a short record that names the problem     (kind rsn, as an entry of the LLM cache is written)
    problem -> its book: steps, results, samples         (kind bok, see book.py)

A read of a result is two round trips, of steps one. Equal steps of a problem are kept once, whoever stored them.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import UTC, datetime
from time import perf_counter
from typing import Self

import msgspec

from cache_management.cache.arguments import check_text
from cache_management.cache.backends import follow_policy, open_backend
from cache_management.cache.backends.base import Backend, Tags
from cache_management.cache.clock import Clock, VersionClock, system_clock
from cache_management.cache.codec import NO_FACTS, Facts, decode_fresh, decode_unknown, encode_entry
from cache_management.cache.compute import as_tags
from cache_management.cache.config import CacheConfig, EvictionPolicy, check_ttl
from cache_management.cache.errors import (
    BackendUnavailable,
    ConfigurationError,
    CorruptRecord,
    InvalidEntry,
    InvalidInput,
)
from cache_management.cache.events import (
    CorruptEvent,
    HitEvent,
    Listener,
    MissEvent,
    RemoveEvent,
    StepsEvent,
    StoreEvent,
    fan_out,
)
from cache_management.cache.identity import KeySpace
from cache_management.cache.invalidation import Selection, by_tag, select, tag_name
from cache_management.cache.patterns import glob_matcher
from cache_management.cache.reasoning.book import Book, StoredResult
from cache_management.cache.reasoning.bookshelf import Bookshelf
from cache_management.cache.reasoning.counting import ReasoningCounter
from cache_management.cache.reasoning.result import ReasoningResult, ReasoningType
from cache_management.cache.reasoning.step_identity import (
    Canonical,
    Conditions,
    canonical_text,
    conditions_of,
    problem_id,
)
from cache_management.cache.reasoning.step_store import (
    StepStore,
    check_life_of_steps,
    restored,
    write_metadata,
)
from cache_management.cache.reasoning.steps import ReasoningStats
from cache_management.cache.reasoning.validation import Finding, Limits, check
from cache_management.cache.records import Record
from cache_management.cache.values import CachedResponse


class Reasoned(msgspec.Struct, frozen=True):
    """A result with what the store knows of it; moments are Unix seconds."""

    key: str
    result: ReasoningResult
    conditions: Conditions
    created_at: float
    expires_at: float | None
    tags: tuple[str, ...] = ()


class ReasoningCache(StepStore):
    """Keeps chains and trees of thoughts under plain keys.

    A store that is down costs a miss and an event, never an exception, unless `config.strict`. Whatever changes single
    steps, and deleting, raises.

    Args:
        config: Where and how long; the default keeps results on disk.
        backend: Replaces the one that `config` names, such as that of an LLMCache or a DistributedCache.
        listener: Hears what happens, see `cache/events.py`.
        clock: Returns Unix seconds.
        canonical: Returns the text by which steps are compared, such as the sorted numbers that are left in a game. By
            default that is the text itself, in Unicode NFC and without white space around it.
        limits: How large a result may be.
    """

    def __init__(
        self,
        config: CacheConfig | None = None,
        *,
        backend: Backend | None = None,
        listener: Listener | None = None,
        clock: Clock = system_clock,
        canonical: Canonical = canonical_text,
        limits: Limits | None = None,
    ) -> None:
        self.config = config or CacheConfig()
        self.namespace = self.config.namespace
        self.stats = ReasoningCounter()
        self.clock = clock
        self._listeners: list[Listener] = [self.stats, listener] if listener else [self.stats]
        self._listener = fan_out(self._listeners)
        self._limits = limits or Limits()
        self._keys = KeySpace("rsn", self.namespace)
        self._versions = VersionClock(clock)
        self.backend = backend or open_backend(self.config, clock=clock, listener=self._listener)
        super().__init__(
            Bookshelf(
                self.backend,
                self.namespace,
                limit_bytes=self.config.max_entry_bytes,
                canonical=canonical,
                clock=clock,
                listener=self._listener,
            ),
            ttl_seconds=check_life_of_steps(self.config.ttl_seconds),
            strict=self.config.strict,
            clock=clock,
            listener=self._listener,
        )

    # Whole results.

    async def set(
        self, key: str, result: ReasoningResult, ttl_seconds: int | None = None, *, tags: Sequence[str] = ()
    ) -> tuple[Finding, ...]:
        """Store a result; return what was noticed and mended.

        Args:
            ttl_seconds: None takes the configured default, -1 never expires.
            tags: Groups that can be invalidated together.

        Raises:
            InvalidReasoning: Steps or nodes do not fit together; names all that is wrong. Nothing was stored.
            InvalidKey, InvalidEntry: The key, the TTL or the size cannot be used. Nothing was stored.
            BackendUnavailable: Only with `strict`.
        """
        started = perf_counter()
        storage_key = self._keys.to_storage(key)
        if not isinstance(result, ReasoningResult):
            raise InvalidEntry(f"a ReasoningResult is stored, not {type(result).__name__}")
        checked = check(result, limits=self._limits)
        words = as_tags(tags)
        if words and not isinstance(self.backend, Tags):
            raise ConfigurationError(f"the {self.backend.name} backend keeps no tags")
        try:
            size, new = await self._store(key, storage_key, checked.result, self.expiry(ttl_seconds), words)
        except BackendUnavailable as exc:
            self._tolerate(exc, "set")
            return checked.warnings
        self._listener(StepsEvent("submitted", self.namespace, len(result.steps)))
        if new:
            self._listener(StepsEvent("stored", self.namespace, new))
        self._listener(StoreEvent(self.namespace, key, size, (perf_counter() - started) * 1000))
        return checked.warnings

    def expiry(self, ttl_seconds: int | None) -> float | None:
        """Return the moment at which what is stored now expires; raise InvalidEntry for a TTL that cannot be used."""
        try:
            ttl = check_ttl(ttl_seconds)
        except ValueError as exc:
            raise InvalidEntry(f"ttl_seconds {ttl_seconds} {exc}") from None
        if ttl is None:
            ttl = self.config.ttl_seconds
        return None if ttl is None or ttl == -1 else self.clock() + ttl

    async def _store(
        self, key: str, storage_key: str, result: ReasoningResult, expires_at: float | None, tags: tuple[str, ...]
    ) -> tuple[int, int]:
        now = self.clock()
        under = conditions_of(result)
        name = problem_id(result.problem)
        pointer = self.pointer(key, name, model=under.model, created_at=now, expires_at=expires_at, tags=tags)

        def change(book: Book) -> int:
            branch = book.opened(under)
            before = len(book.branches[branch].parents)
            book.put(
                key,
                result,
                under,
                metadata=write_metadata(result.metadata),
                step_metadata=lambda each: write_metadata(each.metadata),
                created_at=now,
                expires_at=expires_at,
                tags=tags,
            )
            return len(book.branches[branch].parents) - before

        before = await self._book_name(key, storage_key)
        if tags and isinstance(self.backend, Tags):
            await self.backend.add_tags({tag_name(self.namespace, tag): {storage_key: expires_at} for tag in tags})
        new = await self.shelf.change(result.problem, change)
        await self.backend.put(storage_key, pointer)
        if before is not None and before != name:
            await self.shelf.change_named(before, lambda book: book.remove(key))
        return len(pointer.value), new

    def pointer(
        self,
        key: str,
        name: str,
        *,
        model: str,
        created_at: float,
        expires_at: float | None,
        tags: tuple[str, ...],
    ) -> Record:
        """Return the short record under a key that names the book of a problem."""
        moment = datetime.fromtimestamp(created_at, UTC)
        value = encode_entry(
            key,
            CachedResponse(prompt=key, response=name, model=model, timestamp=moment),
            keep_key=self._keys.is_hashed(self._keys.to_storage(key)),
            limit_bytes=self.config.max_entry_bytes,
            facts=Facts(tags=tags) if tags else NO_FACTS,
        )
        return Record(value, expires_at, self._versions.next())

    def check_key(self, key: str) -> None:
        """Raise InvalidKey when a result cannot be stored under a key."""
        self._keys.to_storage(key)

    async def put_pointers(
        self, name: str, taken: Sequence[tuple[str, str, float, float | None, tuple[str, ...]]]
    ) -> None:
        """Store the records under keys whose results came into a book: key, model, moments and tags of each.

        A key under which a later result of another problem is stored stays that one's.
        """
        places = {self._keys.to_storage(key): key for key, *_ in taken}
        there = await self.backend.get_many(list(places)) if places else {}
        elsewhere = {}
        for storage_key, record in there.items():
            found = self._entry_in(places[storage_key], storage_key, record)
            if found is not None and found.response != name:
                elsewhere[places[storage_key]] = found.timestamp.timestamp()
        records = {}
        tagged: dict[str, dict[str, float | None]] = {}
        for key, model, created_at, expires_at, tags in taken:
            if elsewhere.get(key, -math.inf) >= created_at:
                continue
            storage_key = self._keys.to_storage(key)
            records[storage_key] = self.pointer(
                key, name, model=model, created_at=created_at, expires_at=expires_at, tags=tags
            )
            for tag in tags:
                tagged.setdefault(tag_name(self.namespace, tag), {})[storage_key] = expires_at
        if tagged and isinstance(self.backend, Tags):
            await self.backend.add_tags(tagged)
        if records:
            await self.backend.put_many(records)

    async def get(self, key: str) -> ReasoningResult | None:
        """Return the result stored under a key, or None when it is absent, expired, or not whole any more.

        Raises:
            InvalidKey: The key cannot be used.
            BackendUnavailable: Only with `strict`.
        """
        started = perf_counter()
        storage_key = self._keys.to_storage(key)
        try:
            name = await self._book_name(key, storage_key)
            book = None if name is None else await self.shelf.read(name)
        except BackendUnavailable as exc:
            self._tolerate(exc, "get")
            self._miss("degraded", key, started)
            return None
        stored = None if book is None else book.result_of(key)
        if book is None or stored is None:
            self._miss("absent", key, started)
            return None
        if not self._is_live(stored):
            self._miss("expired", key, started)
            return None
        result = restored(book, stored)
        if result is None:
            self._miss("wrong", key, started)
            return None
        self._hit(key, book, stored, started)
        return result

    async def get_by_problem(
        self, problem: str, *, model: str | None = None, reasoning_type: ReasoningType | None = None
    ) -> ReasoningResult | None:
        """Return the newest result for a problem, whatever key it was stored under; None when there is none.

        Args:
            model, reasoning_type: Take only those.

        Raises:
            BackendUnavailable: Only with `strict`.
        """
        started = perf_counter()
        book = await self._read(problem, "get_by_problem")
        if book is not None:
            for stored in await self._served(book, "get_by_problem", model, reasoning_type):
                result = restored(book, stored)
                if result is not None:
                    self._hit(stored.key, book, stored, started)
                    return result
        self._miss("absent", problem, started)
        return None

    async def list_by_problem(
        self, problem: str, *, model: str | None = None, reasoning_type: ReasoningType | None = None
    ) -> list[Reasoned]:
        """Return all results for a problem, newest first.

        Raises:
            BackendUnavailable: Only with `strict`.
        """
        book = await self._read(problem, "list_by_problem")
        if book is None:
            return []
        found = []
        for stored in await self._served(book, "list_by_problem", model, reasoning_type):
            result = restored(book, stored)
            if result is not None:
                under = book.branches[stored.branch].under
                found.append(Reasoned(stored.key, result, under, stored.created_at, stored.expires_at, stored.tags))
        return found

    async def _served(
        self, book: Book, operation: str, model: str | None, reasoning_type: ReasoningType | None
    ) -> list[StoredResult]:
        """Return the results of a book that may be served, newest first."""
        named = await self._named(book, operation)
        found = []
        for stored in reversed(book.results):  # of one moment the later one is the newer
            under = book.branches[stored.branch].under
            is_wanted = model in (None, under.model) and reasoning_type in (None, under.reasoning_type)
            if is_wanted and stored.key in named and self._is_live(stored):
                found.append(stored)
        return sorted(found, key=lambda stored: -stored.created_at)

    async def _named(self, book: Book, operation: str) -> Collection[str]:
        """Return the keys under which the results of a book are found.

        The record under a key says where its result is. Without it a result could not be deleted by its key any more:
        it was evicted by itself, the writer died in between, or another problem took the key.
        """
        name = problem_id(book.problem)
        keys = {self._keys.to_storage(stored.key): stored.key for stored in book.results}
        try:
            found = await self.backend.get_many(list(keys)) if keys else {}
        except BackendUnavailable as exc:
            self._tolerate(exc, operation)
            return ()
        return {
            keys[storage_key]
            for storage_key, record in found.items()
            if self._name_in(keys[storage_key], storage_key, record) == name
        }

    async def find(self, key: str) -> Reasoned | None:
        """Return the result of a key with what the store knows of it; nobody is told of a hit or a miss.

        Raises:
            BackendUnavailable: The store does not answer.
        """
        name = await self._book_name(key, self._keys.to_storage(key))
        book = None if name is None else await self.shelf.read(name)
        stored = None if book is None else book.result_of(key)
        if book is None or stored is None or not self._is_live(stored):
            return None
        result = restored(book, stored)
        under = book.branches[stored.branch].under
        if result is None:
            return None
        return Reasoned(key, result, under, stored.created_at, stored.expires_at, stored.tags)

    async def exists(self, key: str) -> bool:
        """Tell whether a result is stored under a key that would be served."""
        storage_key = self._keys.to_storage(key)
        try:
            name = await self._book_name(key, storage_key)
            book = None if name is None else await self.shelf.read(name)
        except BackendUnavailable as exc:
            self._tolerate(exc, "exists")
            return False
        stored = None if book is None else book.result_of(key)
        return book is not None and stored is not None and self._is_live(stored) and restored(book, stored) is not None

    async def delete(self, key: str) -> bool:
        """Remove a result; return whether one was there. Its steps go with it, unless others run through them.

        Raises:
            BackendUnavailable: It may still be there.
        """
        storage_key = self._keys.to_storage(key)
        name = await self._book_name(key, storage_key)
        if name is None:
            return False
        was_there = await self._remove_from(name, [key]) > 0
        await self.backend.delete(storage_key)
        if was_there:
            self._listener(RemoveEvent("delete", self.namespace, 1))
        return was_there

    async def forget_problem(self, problem: str) -> bool:
        """Remove all that is known of a problem, whether or not it can be read; return whether something was.

        Raises:
            BackendUnavailable: It may still be there.
        """
        return await self.shelf.forget(problem_id(problem))

    async def list_keys(self, pattern: str = "*") -> list[str]:
        """Return the keys that match a shell glob, sorted.

        Raises:
            BackendUnavailable: Only with `strict`.
        """
        matches = glob_matcher(check_text(pattern, "pattern"))
        try:
            return sorted([key async for key in self._all_keys() if matches(key)])
        except BackendUnavailable as exc:
            self._tolerate(exc, "list_keys")
            return []

    async def _all_keys(self) -> AsyncIterator[str]:
        async for storage_key in self.backend.scan(self._keys.prefix):
            key = self._keys.from_storage(storage_key)
            if key is None:
                record = (await self.backend.inspect_many([storage_key])).get(storage_key)
                key = None if record is None else _long_key(record, self.config.max_entry_bytes)
            if key is not None:
                yield key

    async def invalidate(self, selection: Selection, *, dry_run: bool = False) -> int:
        """Remove the results of a selection; return how many there were. Everything goes with all loose steps, too.

        Raises:
            InvalidInput: The selection says nothing, or something that cannot be.
            BackendUnavailable: Some may still be there.
        """
        if not isinstance(selection, Selection):
            raise InvalidInput(f"selection must be a Selection, not {type(selection).__name__}")
        pages = select(
            selection,
            self.backend,
            self._keys,
            now=self.clock(),
            limit_bytes=self.config.max_entry_bytes,
            corrupt=lambda name, why: self._listener(CorruptEvent(self.backend.name, name, why)),
        )
        removed = 0
        async for page in pages:
            removed += len(page)
            if dry_run:
                continue
            by_book: dict[str, list[str]] = {}
            for each in page:
                name = None if each.key is None else await self._book_name(each.key, each.storage_key)
                if name is not None and each.key is not None:
                    by_book.setdefault(name, []).append(each.key)
            for name, keys in by_book.items():
                await self._remove_from(name, keys)
            await self.backend.delete_many([each.storage_key for each in page])
            tags = by_tag(self.namespace, page)
            if tags and isinstance(self.backend, Tags):
                await self.backend.remove_tags(tags)
        if selection.everything and not dry_run:
            await self._remove_books()
        if removed and not dry_run:
            self._listener(RemoveEvent("delete", self.namespace, removed))
        return removed

    async def _remove_books(self) -> None:
        page: list[str] = []
        async for name in self.backend.scan(self.shelf.prefix):
            page.append(name)
            if len(page) == 500:
                await self.backend.delete_many(page)
                page = []
        if page:
            await self.backend.delete_many(page)

    async def _remove_from(self, name: str, keys: Sequence[str]) -> int:
        return await self.shelf.change_named(name, lambda book: sum([book.remove(key) for key in keys])) or 0

    async def _forget(self, problem: str, keys: Sequence[str]) -> None:
        # A key may be another problem's by now.
        name = problem_id(problem)
        names = {self._keys.to_storage(key): await self._book_name(key, self._keys.to_storage(key)) for key in keys}
        await self.backend.delete_many([storage_key for storage_key, found in names.items() if found == name])

    def listen(self, listener: Listener) -> None:
        """Let somebody more hear what happens."""
        if listener not in self._listeners:
            self._listeners.append(listener)

    def use_eviction_policy(self, policy: EvictionPolicy) -> None:
        """Evict by another policy from now on; see `LLMCache.use_eviction_policy`."""
        self.config = follow_policy(self.backend, self.config, policy)

    async def count(self) -> int:
        """Return how many results are stored; 0 when the store is down, unless `strict`.

        Raises:
            BackendUnavailable: Only with `strict`.
        """
        try:
            return await self.backend.count(self._keys.prefix)
        except BackendUnavailable as exc:
            self._tolerate(exc, "count")
            return 0

    async def get_stats(self) -> ReasoningStats:
        """Return counts of this process; `holdings.holdings_of` tells what the store holds."""
        return self.stats.snapshot(self.backend.name, self.namespace)

    async def ping(self) -> None:
        """Return when the store answers."""
        await self.backend.ping()

    async def aclose(self) -> None:
        """Free connections and files."""
        await self.backend.aclose()

    async def close(self) -> None:
        """Free connections and files."""
        await self.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _book_name(self, key: str, storage_key: str) -> str | None:
        record = self.backend.peek(storage_key) or await self.backend.get(storage_key)
        return None if record is None else self._name_in(key, storage_key, record)

    def _name_in(self, key: str, storage_key: str, record: Record) -> str | None:
        found = self._entry_in(key, storage_key, record)
        return None if found is None else found.response

    def _entry_in(self, key: str, storage_key: str, record: Record) -> CachedResponse | None:
        try:
            found = decode_fresh(key, record.value, limit_bytes=self.config.max_entry_bytes, now=self.clock)
        except CorruptRecord as exc:
            self._listener(CorruptEvent(self.backend.name, storage_key, str(exc)))
            return None
        return None if found is None else found[0]

    def _is_live(self, stored: StoredResult) -> bool:
        return stored.expires_at is None or stored.expires_at > self.clock()

    def _hit(self, key: str, book: Book, stored: StoredResult, started: float) -> None:
        tokens = 0
        if stored.metadata is not None:
            metadata = msgspec.json.decode(book.texts[stored.metadata])
            counted = metadata.get("token_count", metadata.get("tokens", 0))
            tokens = counted if isinstance(counted, int) and counted > 0 else 0
        self._listener(HitEvent("exact", self.namespace, key, tokens, (perf_counter() - started) * 1000))

    def _miss(self, reason: str, key: str, started: float) -> None:
        self._listener(MissEvent(reason, self.namespace, key, (perf_counter() - started) * 1000))


def _long_key(record: Record, limit_bytes: int) -> str | None:
    try:
        return decode_unknown(record.value, limit_bytes=limit_bytes)[0]
    except CorruptRecord:
        return None
