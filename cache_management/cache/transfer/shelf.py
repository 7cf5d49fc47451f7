"""The entries of one namespace, as a transfer reads and writes them: records to lines and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, NamedTuple, cast

import msgspec
from msgspec import UNSET, UnsetType

from cache_management.cache.backends.base import Backend, Tags
from cache_management.cache.clock import Clock, version_at
from cache_management.cache.codec import EntryFields, decode_fields, encode_fields, encode_metadata
from cache_management.cache.errors import ConfigurationError, CorruptRecord, InvalidEntry, InvalidInput
from cache_management.cache.events import CorruptEvent, Listener, StoreEvent, ignore
from cache_management.cache.identity import KeySpace, Kind
from cache_management.cache.invalidation import tag_name
from cache_management.cache.records import Record
from cache_management.cache.transfer.lines import (
    UNREADABLE,
    EntryLine,
    Part,
    ReadPlace,
    decode_entry,
    encode_line,
    explain,
    longest_line,
)

MAX_DEPTH = 100
"""How deeply metadata may be nested: what is read at one depth of calls must be readable at every other."""

_BYTES_AT_ONCE = 2 * 2**20
_MOST_AT_ONCE = 500


Verdict = Literal["added", "updated", "present", "newer", "expired"]


class Imported(NamedTuple):
    """What is written for an entry of a file."""

    key: str
    record: Record
    tags: tuple[str, ...]


class Shelf:
    """The entries of a namespace in a store, with what the cache that serves them is configured to.

    Args:
        limit_bytes: The `max_entry_bytes` of the cache.
        ttl_seconds: The life of entries that do not say theirs; None or -1 is for ever.
    """

    kind: ClassVar[Kind] = "llm"
    holds: ClassVar[Literal["reasoning"] | UnsetType] = UNSET

    def __init__(
        self,
        backend: Backend,
        *,
        namespace: str,
        clock: Clock,
        limit_bytes: int,
        ttl_seconds: int | None,
        listener: Listener = ignore,
    ) -> None:
        self.backend = backend
        self.namespace = namespace
        self.keys = KeySpace(self.kind, namespace)
        self.clock = clock
        self.limit_bytes = limit_bytes
        self._ttl_seconds = None if ttl_seconds == -1 else ttl_seconds
        self.tell = listener
        self._bytes_each = _BYTES_AT_ONCE / 32  # not known yet: a few at first

    async def read(
        self, names: Sequence[str], *, matches: Callable[[str], bool] | None = None
    ) -> AsyncIterator[tuple[list[bytes], list[str]]]:
        """Yield the encoded entries of storage keys, and the storage keys of those that cannot be read.

        However large they are, a bounded number of bytes comes at a time. `matches` chooses by original key.

        Raises:
            BackendUnavailable: The store cannot be read.
        """
        left = list(dict.fromkeys(names))
        if matches is not None:
            left = [name for name in left if self.may_match(name, matches)]
        while left:
            count = max(1, min(_MOST_AT_ONCE, int(_BYTES_AT_ONCE / self._bytes_each)))
            some, left = left[:count], left[count:]
            records = await self.backend.inspect_many(some)
            self._bytes_each = 1 + sum(0 if each is None else len(each.value) for each in records.values()) / count
            lines: list[bytes] = []
            unreadable: list[str] = []
            for name, record in records.items():
                if record is None:
                    unreadable.append(name)
                    continue
                try:
                    line = self._line(name, record, matches)
                except CorruptRecord as exc:
                    self.tell(CorruptEvent(self.backend.name, name, str(exc)))
                    unreadable.append(name)
                    continue
                if line is not None:
                    lines.append(line)
            yield lines, unreadable

    def may_match(self, name: str, matches: Callable[[str], bool]) -> bool:
        """Tell by a storage key alone whether an entry may be wanted."""
        return (key := self.keys.from_storage(name)) is None or matches(key)

    def verdict(self, live: Record | None, new: Record, *, now: float) -> Verdict:
        """Say what becomes of an entry that is merged, by what stands in the store; what cannot be read is nothing."""
        if new.is_expired(now):
            return "expired"
        if live is None:
            return "added"
        if live.version > new.version:
            return "newer"
        return "updated" if live.version < new.version else "present"

    def _line(self, name: str, record: Record, matches: Callable[[str], bool] | None) -> bytes | None:
        """Return an encoded entry, or None for one that is not wanted.

        Raises:
            CorruptRecord: It is no entry, or none that could be imported again.
        """
        fields = decode_fields(record.value, limit_bytes=self.limit_bytes)
        key = self.keys.from_storage(name)
        if key is None:
            key = fields.key
        elif fields.key not in (None, key):
            raise CorruptRecord("the record belongs to another key")
        if key is None:
            raise CorruptRecord("the record does not say its key")
        if matches is not None and not matches(key):
            return None
        # As it stands there; only a line break would be one too many.
        metadata: Any = msgspec.Raw(fields.metadata.replace(b"\n", b" ")) if fields.metadata else {}
        line = EntryLine(
            key=key,
            prompt=fields.prompt,
            response=fields.response,
            model=fields.model,
            timestamp=cast("datetime", fields.timestamp),
            token_count=fields.token_count,
            metadata=metadata,
            expires_at=record.expires_at,
            version=max(0, record.version),
            fresh_until=None if fields.fresh_until_us is None else fields.fresh_until_us / 1_000_000,
            compute_ms=fields.compute_ms,
            cost_micro=fields.cost_micro,
            tags=fields.tags,
            scope=fields.scope,
        )
        return self._written(line)

    def _written(self, line: EntryLine) -> bytes:
        """Return an encoded entry that was read back: an export that cannot be imported is none.

        Raises:
            CorruptRecord: It could not be imported again.
        """
        try:
            encoded = encode_line(line)
            self.record(decode_entry(encoded), now=self.clock())
        except (InvalidInput, *UNREADABLE) as exc:
            reason = str(exc) if isinstance(exc, InvalidInput) else explain(exc)
            raise CorruptRecord(f"it could not be imported again: {reason}") from None
        if len(encoded) > longest_line(self.limit_bytes):
            raise CorruptRecord("it is too long for a line of an export")
        return encoded

    def record(self, line: EntryLine, *, now: float) -> tuple[str, Record]:
        """Return the storage key and the record of an entry that is imported at `now`.

        Nothing is written after now, so a version beyond it is brought down: one from a wrong clock, or a
        made-up one, would stand above everything that is stored later.

        Raises:
            InvalidInput: It cannot be stored. The message does not repeat it: it may be a prompt.
        """
        name = self.keys.to_storage(line.key)
        try:
            timestamp = line.timestamp.astimezone(UTC)  # a naive one is local time, as everywhere
        except (OverflowError, ValueError):
            raise InvalidEntry("its timestamp lies outside the years 1 to 9999 in UTC") from None
        metadata = b""
        if line.metadata:
            metadata = encode_metadata(line.metadata)
            if _may_be_deep(metadata) and _depth(line.metadata) > MAX_DEPTH:
                raise InvalidEntry(f"its metadata is nested more than {MAX_DEPTH} levels deep")
        expires_at: float | None
        if isinstance(line.expires_at, msgspec.UnsetType):
            expires_at = None if self._ttl_seconds is None else now + self._ttl_seconds
        else:
            expires_at = line.expires_at
        version = version_at(max(0.0, timestamp.timestamp())) if line.version is None else line.version
        value = encode_fields(
            EntryFields(
                response=line.response,
                model=line.model,
                timestamp=timestamp,
                token_count=line.token_count,
                prompt=None if line.prompt == line.key else line.prompt,
                key=line.key if self.keys.is_hashed(name) else None,
                metadata=metadata,
                fresh_until_us=None if line.fresh_until is None else round(line.fresh_until * 1_000_000),
                compute_ms=line.compute_ms,
                cost_micro=line.cost_micro,
                tags=line.tags,
                scope=line.scope,
            ),
            limit_bytes=self.limit_bytes,
        )
        return name, Record(value, expires_at, min(version, version_at(now)), line.cost_micro)

    def records(self, part: Part, at: ReadPlace, *, now: float, where: str, unit: str) -> dict[str, Imported]:
        """Return what the entries of a part become, by storage key; of equal keys the later entry.

        Raises:
            InvalidInput: One of them cannot be stored; names its line, and repeats nothing of it.
        """
        found: dict[str, Imported] = {}
        for number, entry in enumerate(part.entries, start=at.line):
            try:
                name, record = self.record(entry, now=now)
            except InvalidInput as exc:
                raise InvalidInput(f"{where}, {unit} {number}: {exc}") from None
            found[name] = Imported(entry.key, record, entry.tags)
        return found

    async def put(self, records: Mapping[str, Record], tags: Mapping[str, Sequence[str]]) -> None:
        """Store records by storage key, those in `tags` with their tags.

        Raises:
            BackendUnavailable: Some may be stored.
        """
        if not records:
            return
        if tags:
            # Before the entries: one that no tag leads to could not be invalidated.
            await self._note_tags(records, tags)
        await self.backend.put_many(records)
        for name, record in records.items():
            self.tell(StoreEvent(self.namespace, self.keys.from_storage(name) or name, len(record.value), 0.0))

    async def _note_tags(self, records: Mapping[str, Record], tags: Mapping[str, Sequence[str]]) -> None:
        if not isinstance(self.backend, Tags):
            raise ConfigurationError(f"the {self.backend.name} backend keeps no tags")
        by_tag: dict[str, dict[str, float | None]] = {}
        for name, carried in tags.items():
            for tag in carried:
                by_tag.setdefault(tag_name(self.namespace, tag), {})[name] = records[name].expires_at
        await self.backend.add_tags(by_tag)


def _may_be_deep(metadata: bytes) -> bool:
    return metadata.count(b"[") + metadata.count(b"{") > MAX_DEPTH


def _depth(value: Any) -> int:
    """Return how deeply lists and objects are nested, without calling itself."""
    depth = 0
    level: list[Any] = [value]
    while level:
        level = [
            inner
            for each in level
            if isinstance(each, dict | list | tuple)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        depth += 1
    return depth - 1
