"""LLMCache: answers under plain keys, on any backend."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Self

import msgspec

from cache_management.cache.admission import life, parse_controls
from cache_management.cache.arguments import check_compute, check_keys, check_life, check_mapping, check_text
from cache_management.cache.backends import follow_policy, open_backend
from cache_management.cache.backends.base import Backend, Journal, Leases, Tags
from cache_management.cache.clock import Clock, VersionClock, system_clock
from cache_management.cache.codec import NO_FACTS, Facts, decode_fresh, decode_stored, encode_entry
from cache_management.cache.compute import Compute, ComputeStream, Computing, Held, Start, Wanted, as_tags
from cache_management.cache.config import CacheBackend, CacheConfig, EvictionPolicy, check_ttl
from cache_management.cache.errors import (
    BackendUnavailable,
    ConfigurationError,
    CorruptRecord,
    InvalidEntry,
    InvalidInput,
)
from cache_management.cache.events import (
    CorruptEvent,
    Event,
    HitEvent,
    Listener,
    MissEvent,
    RemoveEvent,
    StoreEvent,
    UnavailableEvent,
    fan_out,
)
from cache_management.cache.identity import KeySpace, storage_prefix
from cache_management.cache.invalidation import Selected, Selection, by_tag, select, tag_name
from cache_management.cache.near_misses import forget_near_misses
from cache_management.cache.records import Record
from cache_management.cache.removals import Removals
from cache_management.cache.single_flight import SingleFlight
from cache_management.cache.stats import StatsCounter
from cache_management.cache.usage import Usage
from cache_management.cache.values import CachedResponse, CacheStats

logger = logging.getLogger("cache_management")

_QUESTIONS_AT_ONCE = 500


class Entry(msgspec.Struct, frozen=True):
    """A stored response with what the store knows of it.

    `expires_at` is Unix seconds or None; `version` tells which of two writes is newer; `scope` says
    where it may be found by meaning, see `Facts`.
    """

    key: str
    response: CachedResponse
    expires_at: float | None
    version: int
    scope: str | None = ""


class LLMCache:
    """Keeps model answers under plain keys.

    A store that is down costs a miss and an event, never an exception, unless
    `config.strict`. Deleting is different: it raises, because an entry that is believed
    gone must be gone.

    Args:
        config: Where and how long; the default keeps entries on disk.
        backend: Replaces the one that `config` names.
        listener: Hears what happens, see `cache/events.py`.
        clock: Returns Unix seconds.
    """

    def __init__(
        self,
        config: CacheConfig | None = None,
        *,
        backend: Backend | None = None,
        listener: Listener | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self.config = config or CacheConfig()
        self.namespace = self.config.namespace
        self.stats = StatsCounter()
        self.listener = listener
        self._heard_by = [] if listener is None else [listener]
        self._listener: Listener = fan_out([self.stats, listener]) if listener else self.stats
        self.clock = clock
        self._limit_bytes = self.config.max_entry_bytes
        self._stale_seconds = max(self.config.stale_while_revalidate_seconds, self.config.stale_if_error_seconds)
        self._versions = VersionClock(clock)
        self._keys = KeySpace("llm", self.namespace)
        self.backend = backend or open_backend(self.config, clock=clock, listener=self.tell)
        self._removals = Removals(self.backend, self.namespace)
        self.usage = self._count_usage()
        leases = self.backend if isinstance(self.backend, Leases) else None
        self.flights: SingleFlight[CachedResponse] = SingleFlight(leases)
        self._computing = Computing(self, self.flights, clock=clock)

    async def get(self, key: str) -> CachedResponse | None:
        """Return the response stored under a key, or None when it is absent, expired or corrupt.

        Raises:
            InvalidKey: The key cannot be used.
            BackendUnavailable: Only with `strict`.
        """
        started = perf_counter()
        storage_key = self._keys.to_storage(key)
        record = self.backend.peek(storage_key)
        if record is None:
            try:
                record = await self.backend.get(storage_key)
            except BackendUnavailable as exc:
                self._tolerate(exc, "get")
                self.miss("degraded", key, started)
                return None
        if record is None:
            self.miss("absent", key, started)
            return None
        try:
            found = decode_fresh(key, record.value, limit_bytes=self._limit_bytes, now=self.clock)
        except CorruptRecord as exc:
            self._listener(CorruptEvent(self.backend.name, storage_key, str(exc)))
            self.miss("corrupt", key, started)
            return None
        if found is None:
            self.miss("expired", key, started)
            return None
        response, cost_micro = found
        self.hit(key, response, started, cost_micro)
        return response

    async def set(
        self, key: str, response: CachedResponse, ttl_seconds: int | None = None, *, tags: Sequence[str] = ()
    ) -> None:
        """Store a response.

        `ttl_seconds`: None takes the configured default, -1 never expires. `tags` name groups
        that can be invalidated together, see `invalidate`.

        Raises:
            InvalidKey: The key cannot be used.
            InvalidEntry: The response or the TTL cannot be stored.
            BackendUnavailable: Only with `strict`.
        """
        await self.store(key, response, Facts(tags=as_tags(tags)) if tags else NO_FACTS, ttl_seconds)

    async def exists(self, key: str) -> bool:
        """Tell whether a live entry is stored under a key."""
        held = await self.load(key, operation="exists")
        return isinstance(held, Held) and (held.fresh_until is None or held.fresh_until > self.clock())

    async def delete(self, key: str) -> bool:
        """Remove an entry; return whether one was there.

        Raises:
            BackendUnavailable: It may still be there.
        """
        return await self.delete_many([key]) > 0

    async def get_many(self, keys: Iterable[str]) -> dict[str, CachedResponse]:
        """Return the responses that exist, in one call to the store."""
        started = perf_counter()
        storage_keys = {key: self._keys.to_storage(key) for key in check_keys(keys)}
        try:
            records = await self.backend.get_many(list(storage_keys.values()))
        except BackendUnavailable as exc:
            self._tolerate(exc, "get_many")
            for key in storage_keys:
                self.miss("degraded", key, started)
            return {}
        found = {}
        for key, storage_key in storage_keys.items():
            record = records.get(storage_key)
            decoded = "absent" if record is None else self._decode(key, storage_key, record)
            if isinstance(decoded, str):
                self.miss(decoded, key, started)
                continue
            found[key] = decoded[0]
            self.hit(key, decoded[0], started, decoded[1])
        return found

    async def set_many(
        self,
        responses: Mapping[str, CachedResponse],
        ttl_seconds: int | None = None,
        *,
        tags: Sequence[str] = (),
        facts: Facts = NO_FACTS,
    ) -> None:
        """Store responses in one call; nothing is stored when one of them cannot be.

        Raises:
            InvalidKey, InvalidEntry: One of them cannot be stored; the message names it.
            BackendUnavailable: Only with `strict`.
        """
        started = perf_counter()
        records = {}
        sizes = {}
        if tags:
            facts = msgspec.structs.replace(facts, tags=as_tags(tags))
        for key, response in check_mapping(responses, "responses").items():
            storage_key = self._keys.to_storage(key)
            try:
                records[storage_key] = self._encode(key, storage_key, response, ttl_seconds, None, facts)
            except InvalidEntry as exc:
                raise InvalidEntry(f"{_shown(key)}: {exc}") from None
            sizes[key] = len(records[storage_key].value)
        try:
            if facts.tags:
                await self._note_tags(facts.tags, records)
            await self.backend.put_many(records)
        except BackendUnavailable as exc:
            self._tolerate(exc, "set")
            return
        elapsed_ms = (perf_counter() - started) * 1000
        for key, size_bytes in sizes.items():
            self._listener(StoreEvent(self.namespace, key, size_bytes, elapsed_ms))

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Remove entries; return how many were there.

        What is being computed for them is not stored, and who asks from now on computes anew.

        Raises:
            BackendUnavailable: Some may still be there, or come back.
        """
        keys = check_keys(keys)
        storage_keys = [self._keys.to_storage(key) for key in keys]
        if not storage_keys:
            return 0
        failed = await self._note_removal(storage_keys)
        removed = await self.backend.delete_many(storage_keys)
        self._computing.begin_anew(keys)
        if removed:
            self._listener(RemoveEvent("delete", self.namespace, removed))
        if failed is not None:
            raise failed
        return removed

    async def list_keys(self, pattern: str = "*") -> list[str]:
        """Return the keys that match a shell glob, sorted.

        Raises:
            BackendUnavailable: Only with `strict`.
        """
        try:
            pages = self._select(Selection(pattern=check_text(pattern, "pattern")))
            return sorted({each.key async for page in pages for each in page if each.key is not None})
        except BackendUnavailable as exc:
            self._tolerate(exc, "list_keys")
            return []

    async def delete_pattern(self, pattern: str) -> int:
        """Remove the entries whose keys match a shell glob; return how many were there.

        Raises:
            BackendUnavailable: Some may still be there.
        """
        return await self.invalidate(Selection(pattern=check_text(pattern, "pattern")))

    async def invalidate(self, selection: Selection, *, dry_run: bool = False) -> int:
        """Remove the entries of a selection; return how many there were.

        What is being computed under the selection's tag, or under any key when it names no tag, is
        not stored. With `dry_run` nothing is removed.

        Raises:
            InvalidInput: The selection says nothing, or something that cannot be.
            BackendUnavailable: Some may still be there, or come back.
        """
        if not isinstance(selection, Selection):
            raise InvalidInput(f"selection must be a Selection, not {type(selection).__name__}")
        selection.check()
        if dry_run:
            return sum([len(page) async for page in self._select(selection)])
        removed = 0
        # Before the selection is read: what is stored from here on is seen by it or has seen the note.
        tag = selection.tag
        failed = await self._note_removal(None if tag is None else [tag_name(self.namespace, tag)])
        if selection.everything:
            await self._forget_questions()
        async for page in self._select(selection):
            removed += await self.backend.delete_many([each.storage_key for each in page])
            tags = by_tag(self.namespace, page)
            if tags and isinstance(self.backend, Tags):
                await self.backend.remove_tags(tags)
        self._computing.begin_anew()  # which of them would carry the tag is known to nobody yet
        if removed:
            self._listener(RemoveEvent("delete", self.namespace, removed))
        if failed is not None:
            raise failed
        return removed

    async def note_invalidation(self, selection: Selection) -> None:
        """Do what `invalidate` does before it removes, for jobs that remove page by page.

        What is being computed under the selection's tag, or under any key when it names no tag, is not stored.

        Raises:
            BackendUnavailable: It is not noted.
        """
        tag = selection.tag
        failed = await self._note_removal(None if tag is None else [tag_name(self.namespace, tag)])
        if selection.everything:
            await self._forget_questions()
        self._computing.begin_anew()
        if failed is not None:
            raise failed

    async def get_or_compute(
        self,
        key: str,
        compute: Compute,
        *,
        prompt: str | None = None,
        model: str = "unknown",
        ttl_seconds: int | None = None,
        tags: Sequence[str] = (),
        controls: Mapping[str, object] | None = None,
    ) -> CachedResponse:
        """Return what is stored under a key, or compute it once and store it.

        Callers that ask for one key at the same time, in any process, share one computation. Its
        exceptions are the caller's. See `cache/compute.py` for stale answers and early refresh,
        `cache/admission.py` for what is not stored.

        Args:
            compute: Returns text, a CachedResponse or Computed; may be async. A plain function
                runs on a thread.
            prompt, model: For answers that are text alone; the prompt is the key by default.
            controls: `ttl`, `s-maxage`, `no-cache`, `no-store`, in LiteLLM's words.

        Raises:
            InvalidInput: The key, a tag or a control cannot be used.
        """
        check_compute(compute)
        wanted = self._wanted(key, prompt, model, ttl_seconds, tags, controls)
        return await self._computing.run(wanted, compute)

    def stream_or_compute(
        self,
        key: str,
        compute: ComputeStream,
        *,
        prompt: str | None = None,
        model: str = "unknown",
        ttl_seconds: int | None = None,
        tags: Sequence[str] = (),
        controls: Mapping[str, object] | None = None,
    ) -> AsyncIterator[str]:
        """Yield a stored answer in pieces, or the pieces of a computed one as they come.

        A stream is stored when it came to its end; one that failed or was left is not.
        """
        check_compute(compute)
        return self._computing.stream(self._wanted(key, prompt, model, ttl_seconds, tags, controls), compute)

    async def get_stats(self) -> CacheStats:
        """Return counts of this process and the number of entries in the store.

        `total_entries` counts, and `list_keys` lists, also what is past its life and kept for
        `stale_while_revalidate_seconds` or `stale_if_error_seconds`: they read no records.
        """
        try:
            entries = await self.backend.count(self._keys.prefix)
        except BackendUnavailable as exc:
            self._tolerate(exc, "get_stats")
            entries = 0
        counts = self.stats
        return CacheStats(
            total_entries=entries,
            hits=counts.hits,
            misses=counts.misses,
            semantic_hits=counts.semantic_hits,
            stores=counts.stores,
            deletes=counts.deletes,
            evictions=counts.evictions,
            corrupt_records=counts.corrupt_records,
            backend_failures=counts.backend_failures,
            tokens_saved=counts.tokens_saved,
            size_bytes=None,
            backend=self.backend.name,
            namespace=self.namespace,
        )

    async def load_entries(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return entries with their version and expiry, uncounted: for jobs, not for answering.

        What is kept for bad times only is left out, as in `get`.

        Raises:
            BackendUnavailable: Always, also without `strict`.
        """
        now = self.clock()
        return {
            key: Entry(key, held.stored.response, held.expires_at, held.version, held.stored.facts.scope)
            for key, held in (await self.load_many(keys)).items()
            if held.stored.facts.fresh_until is None or held.stored.facts.fresh_until > now
        }

    async def put_records(self, records: Mapping[str, Record]) -> None:
        """Store records made by `encode`: for jobs, which must know that it happened.

        Raises:
            BackendUnavailable: Always, also without `strict`.
        """
        await self.backend.put_many({self._keys.to_storage(key): record for key, record in records.items()})
        for key, record in records.items():
            self._listener(StoreEvent(self.namespace, key, len(record.value), 0.0))

    def encode(
        self,
        key: str,
        response: CachedResponse,
        *,
        ttl_seconds: int | None = None,
        version: int | None = None,
        facts: Facts = NO_FACTS,
    ) -> Record:
        """Return the record that `set` would store; a `version` says that the write belongs to that moment.

        Raises:
            InvalidKey, InvalidEntry: It cannot be stored. The message does not tell the key, which may be
                a prompt: jobs keep the reason.
        """
        return self._encode(key, self._keys.to_storage(key), response, ttl_seconds, version, facts)

    async def load(self, key: str, *, operation: str = "load") -> Held | str:
        """Return an entry with all that is known of it, stale ones too, or why there is none.

        The reasons are "absent", "corrupt" and "degraded" (the store is down).
        """
        storage_key = self._keys.to_storage(key)
        record = self.backend.peek(storage_key)
        if record is None:
            try:
                record = await self.backend.get(storage_key)
            except BackendUnavailable as exc:
                self._tolerate(exc, operation)
                return "degraded"
        if record is None:
            return "absent"
        return self._held(key, storage_key, record) or "corrupt"

    async def load_many(self, keys: Sequence[str]) -> dict[str, Held]:
        """Return those entries that exist, stale ones too, in one call to the store.

        Raises:
            InvalidKey: A key cannot be used.
            BackendUnavailable: Always, also without `strict`.
        """
        storage_keys = {key: self._keys.to_storage(key) for key in keys}
        records = await self.backend.get_many(list(storage_keys.values()))
        found = {}
        for key, storage_key in storage_keys.items():
            record = records.get(storage_key)
            held = None if record is None else self._held(key, storage_key, record)
            if held is not None:
                found[key] = held
        return found

    async def start(self) -> Start:
        """Return the moment at which a computation starts, for `store_computed`."""
        try:
            return Start(self._versions.next(), await self._removals.now())
        except BackendUnavailable as exc:
            self._tolerate(exc, "start")
            return Start(self._versions.next(), None)

    async def store_computed(
        self, key: str, response: CachedResponse, facts: Facts, ttl_seconds: int | None, start: Start
    ) -> str | None:
        """Store what was computed since `start`; return why it was not stored, or None.

        It counts as written at the start: what was stored later, and what was removed, stays so.

        Raises:
            As `set`.
        """
        if start.moment is None:
            return "degraded"
        storage_key = self._keys.to_storage(key)
        names = [storage_key]
        if facts.tags:
            names += [tag_name(self.namespace, tag) for tag in facts.tags]
        try:
            if await self._removals.since(start.moment, names):
                return "removed_meanwhile"
            if await self._version(storage_key) > start.version:
                return "newer_stored"
            await self.store(key, response, facts, ttl_seconds, version=start.version)
            if not await self._removals.since(start.moment, names):
                return None
            # Not what somebody stored since: that is no answer of ours.
            if await self._version(storage_key) == start.version:
                await self.backend.delete(storage_key)
        except BackendUnavailable as exc:
            self._tolerate(exc, "set")
            return "degraded"
        return "removed_meanwhile"

    async def store(
        self,
        key: str,
        response: CachedResponse,
        facts: Facts,
        ttl_seconds: int | None,
        *,
        version: int | None = None,
    ) -> None:
        """Store an entry with what is known of its computation.

        Raises:
            As `set`.
        """
        # Not by way of `set_many`: a dict of one costs as much as storing it.
        started = perf_counter()
        storage_key = self._keys.to_storage(key)
        try:
            record = self._encode(key, storage_key, response, ttl_seconds, version, facts)
        except InvalidEntry as exc:
            raise InvalidEntry(f"{_shown(key)}: {exc}") from None
        try:
            if facts.tags:
                await self._note_tags(facts.tags, {storage_key: record})
            await self.backend.put(storage_key, record)
        except BackendUnavailable as exc:
            self._tolerate(exc, "set")
            return
        if self._listener is self.stats:
            self.stats.stores += 1
            return
        self._listener(StoreEvent(self.namespace, key, len(record.value), (perf_counter() - started) * 1000))

    def hit(self, key: str, response: CachedResponse, started: float, cost_micro: int = 0) -> None:
        """Tell the listeners of a hit; computing it again would have cost so many micro-dollars (0: unknown)."""
        if self.usage is not None:
            self.usage.hit(key, response.model, response.token_count, cost_micro, started)
        if self._listener is self.stats:  # nobody else: an event would cost more than counting it
            self.stats.exact_hit(response.token_count)
            return
        self._listener(HitEvent("exact", self.namespace, key, response.token_count, (perf_counter() - started) * 1000))

    def semantic_hit(self, key: str, response: CachedResponse, started: float, *, asked: str) -> None:
        """Tell the listeners of a hit by meaning, on the entry of a key; `asked` is the key of what was asked."""
        if self.usage is not None:
            self.usage.hit(key, response.model, response.token_count, 0, started, semantic=True, asked=asked)
        elapsed_ms = (perf_counter() - started) * 1000
        self._listener(HitEvent("semantic", self.namespace, key, response.token_count, elapsed_ms))

    def miss(self, reason: str, key: str, started: float) -> None:
        """Tell the listeners of a miss."""
        if self.usage is not None:
            self.usage.miss(key, started)
        if self._listener is self.stats:
            self.stats.misses += 1
            return
        self._listener(MissEvent(reason, self.namespace, key, (perf_counter() - started) * 1000))

    def personal(self, key: str) -> None:
        """Let no job ask for a key: what answers it is meant for one person."""
        if self.usage is not None:
            self.usage.personal(key)

    def listen(self, listener: Listener) -> None:
        """Let somebody more hear what happens; who hears it already hears it once."""
        if listener not in self._heard_by:
            self._heard_by.append(listener)
            self.listener = fan_out(self._heard_by)
            self._listener = fan_out([self.stats, self.listener])

    def use_eviction_policy(self, policy: EvictionPolicy) -> None:
        """Evict by another policy from now on.

        Raises:
            ConfigurationError: There is no such policy, or the store evicts by itself.
        """
        self.config = follow_policy(self.backend, self.config, policy)

    def tell(self, event: Event) -> None:
        """Let the listeners of this cache hear an event."""
        self._listener(event)

    async def aclose(self) -> None:
        """Wait for what is computed in the background, then free connections and files."""
        await self._computing.finish()
        try:
            if self.usage is not None:
                await self.usage.aclose()
        finally:
            await self.backend.aclose()

    async def close(self) -> None:
        """Free connections and files."""
        await self.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def forget_near_misses(self) -> None:
        """Remove what processes told of answers that were near enough and refused: it repeats what was stored.

        Raises:
            BackendUnavailable: It may still be there.
        """
        if self.usage is not None:
            self.usage.forget_near_misses()
            await forget_near_misses(self.backend, self.namespace)

    async def _forget_questions(self) -> None:
        """Remove what was asked: prompts must not outlive the entries of a namespace that is emptied.

        Raises:
            BackendUnavailable: Some may still be there.
        """
        if self.usage is not None:
            self.usage.forget()
        page: list[str] = []
        async for name in self.backend.scan(storage_prefix("ask", self.namespace)):
            page.append(name)
            if len(page) == _QUESTIONS_AT_ONCE:
                await self.backend.delete_many(page)
                page = []
        if page:
            await self.backend.delete_many(page)

    async def _note_removal(self, names: Sequence[str] | None) -> BackendUnavailable | None:
        """Note what is about to be removed, see `Removals.note`; return why it could not be.

        Returned, not raised: a full server that can note nothing still removes. Whoever removes raises it
        then, because what is being computed may bring back what was removed.
        """
        try:
            await self._removals.note(names)
        except BackendUnavailable as exc:
            return exc
        return None

    async def _version(self, storage_key: str) -> int:
        """Return the version of what is stored, -1 when nothing is."""
        record = self.backend.peek(storage_key) or await self.backend.get(storage_key)
        return -1 if record is None else record.version

    def _count_usage(self) -> Usage | None:
        """Count for others only where others can read it: what is in this process ends with it."""
        seconds = self.config.usage_interval_seconds
        if not seconds or self.backend.name == CacheBackend.MEMORY or not isinstance(self.backend, Journal):
            return None
        return Usage(self.backend, self.namespace, interval_seconds=seconds, clock=self.clock)

    def _select(self, selection: Selection) -> AsyncIterator[list[Selected]]:
        return select(
            selection,
            self.backend,
            self._keys,
            now=self.clock(),
            limit_bytes=self._limit_bytes,
            corrupt=lambda name, why: self._listener(CorruptEvent(self.backend.name, name, why)),
        )

    def _encode(  # noqa: PLR0917 - private, `encode` with its defaults filled in
        self,
        key: str,
        storage_key: str,
        response: CachedResponse,
        ttl_seconds: int | None,
        version: int | None,
        facts: Facts,
    ) -> Record:
        if response.__class__ is not CachedResponse and not isinstance(response, CachedResponse):
            raise InvalidEntry(f"a CachedResponse is stored, not {type(response).__name__}")
        try:
            ttl = check_ttl(ttl_seconds)
        except ValueError as exc:
            raise InvalidEntry(f"ttl_seconds {ttl_seconds} {exc}") from None
        if ttl is None:
            ttl = self.config.ttl_seconds
        expires_at = None
        if ttl is not None and ttl != -1:
            jitter = self.config.ttl_jitter
            expires_at = self.clock() + (life(ttl, jitter=jitter, rng=random.random) or 0 if jitter else ttl)
            if self._stale_seconds:
                facts = msgspec.structs.replace(facts, fresh_until=expires_at)
                expires_at += self._stale_seconds
        value = encode_entry(
            key,
            response,
            keep_key=self._keys.is_hashed(storage_key),
            limit_bytes=self._limit_bytes,
            facts=facts,
        )
        return Record(value, expires_at, self._versions.next() if version is None else version, facts.cost_micro)

    def _wanted(  # noqa: PLR0917 - private, one caller's arguments handed on
        self,
        key: str,
        prompt: str | None,
        model: str,
        ttl_seconds: int | None,
        tags: Sequence[str],
        controls: Mapping[str, object] | None,
    ) -> Wanted:
        self._keys.to_storage(key)
        check_life(ttl_seconds)
        check_text(model, "model")
        if prompt is not None:
            check_text(prompt, "prompt")
        parsed = parse_controls(controls)
        if parsed.namespace not in (None, self.namespace):
            raise InvalidInput(
                f"this cache serves namespace {self.namespace!r} only; open another one for {parsed.namespace!r}"
            )
        return Wanted(key, key if prompt is None else prompt, model, ttl_seconds, as_tags(tags), parsed)

    async def _note_tags(self, tags: Sequence[str], records: Mapping[str, Record]) -> None:
        """Note the tags before the entries: an entry that no tag leads to could not be invalidated."""
        if not isinstance(self.backend, Tags):
            raise ConfigurationError(f"the {self.backend.name} backend keeps no tags")
        keys = {storage_key: record.expires_at for storage_key, record in records.items()}
        await self.backend.add_tags({tag_name(self.namespace, tag): keys for tag in tags})

    def _held(self, key: str, storage_key: str, record: Record) -> Held | None:
        try:
            stored = decode_stored(key, record.value, limit_bytes=self._limit_bytes)
        except CorruptRecord as exc:
            self._listener(CorruptEvent(self.backend.name, storage_key, str(exc)))
            return None
        return Held(stored, record.version, record.expires_at)

    def _decode(self, key: str, storage_key: str, record: Record) -> tuple[CachedResponse, int] | str:
        """Return the response of a record with its cost, or why it is not served: "expired" or "corrupt"."""
        try:
            found = decode_fresh(key, record.value, limit_bytes=self._limit_bytes, now=self.clock)
        except CorruptRecord as exc:
            self._listener(CorruptEvent(self.backend.name, storage_key, str(exc)))
            return "corrupt"
        return "expired" if found is None else found

    def _tolerate(self, error: BackendUnavailable, operation: str) -> None:
        self._listener(UnavailableEvent(error.backend, operation, error.reason))
        if self.config.strict:
            raise error


def _shown(key: str) -> str:
    return repr(key if len(key) <= 60 else key[:59] + "…")
