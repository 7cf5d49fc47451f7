"""Values to bytes and back: the entry inside a record, and the frame around a record.

Frame (disk, Redis), little endian:
    magic "CM", layout u8, flags u8 (0), checksum u64, version i64, expires_at f64 (NaN: never), value
The checksum is XXH3-64 of everything behind it, seeded with the storage key: a flipped bit
is found, and so is a record that ended up under another key.

Value: a MessagePack array, see `EntryFields`, or a byte 1 and that array compressed with zstd. Behind a byte 0
it is the array as it was written first, with the moment in microseconds since 1970.
See docs/design/0001-storage-keys-and-records.md.
"""

from __future__ import annotations

import json
import math
import struct
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import xxhash
import zstandard
from pydantic import BaseModel, JsonValue

from cache_management.cache.clock import Clock
from cache_management.cache.errors import CorruptRecord, EntryTooLarge, InvalidEntry
from cache_management.cache.records import Record
from cache_management.cache.values import CachedResponse

FRAME_LAYOUT = 1
COMPRESS_FROM_BYTES = 100_000

_HEAD = struct.Struct("<2sBBQ")
_BODY = struct.Struct("<qd")
HEAD_BYTES = _HEAD.size + _BODY.size
_ZSTD, _FIRST = b"\x01", b"\x00"  # no array begins with them
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def pack(storage_key: str, record: Record) -> bytes:
    """Return the frame that disk and Redis keep."""
    expires_at = math.nan if record.expires_at is None else record.expires_at
    body = _BODY.pack(record.version, expires_at) + record.value
    return _HEAD.pack(b"CM", FRAME_LAYOUT, 0, _checksum(storage_key, body)) + body


def unpack(storage_key: str, frame: bytes) -> Record:
    """Return the record of a frame.

    Raises:
        CorruptRecord: Too short, foreign, of an unknown layout, or its checksum differs.
    """
    # A damaged file can hand out text or nothing in the place of bytes.
    if not isinstance(frame, bytes) or len(frame) < _HEAD.size + _BODY.size:
        raise CorruptRecord("too short, or no bytes at all")
    magic, layout, flags, checksum = _HEAD.unpack_from(frame)
    if magic != b"CM" or layout != FRAME_LAYOUT or flags:
        raise CorruptRecord(f"magic {magic!r}, layout {layout}, flags {flags} are not of this program")
    body = frame[_HEAD.size :]
    if checksum != _checksum(storage_key, body):
        raise CorruptRecord("the checksum differs")
    version, expires_at = _BODY.unpack_from(body)
    return Record(
        value=body[_BODY.size :],
        expires_at=None if math.isnan(expires_at) else expires_at,
        version=version,
    )


def read_head(start: bytes) -> tuple[int, float | None]:
    """Return version and expiry of a frame of which only the first `HEAD_BYTES` were read, unproven.

    Raises:
        CorruptRecord: It is too short, or no frame of this program.
    """
    if not isinstance(start, bytes) or len(start) < HEAD_BYTES or start[:3] != b"CM" + bytes([FRAME_LAYOUT]):
        raise CorruptRecord("too short, or no frame of this program")
    version, expires_at = _BODY.unpack_from(start, _HEAD.size)
    return version, None if math.isnan(expires_at) else expires_at


def version_bytes(version: int) -> bytes:
    """Return a version as it stands in a frame."""
    return version.to_bytes(8, "little", signed=True)


def _checksum(storage_key: str, body: bytes) -> int:
    return xxhash.xxh3_64_intdigest(body, xxhash.xxh3_64_intdigest(storage_key.encode()))


class EntryFields(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The stored form of a CachedResponse. Fields are only ever added at the end.

    `prompt` is None when it equals the key; `key` is None when the storage key holds it. `metadata` is JSON.
    """

    response: str
    model: str
    timestamp: datetime | int
    token_count: int
    prompt: str | None
    key: str | None
    metadata: bytes = b""
    fresh_until_us: int | None = None
    compute_ms: int = 0
    cost_micro: int = 0
    tags: tuple[str, ...] = ()
    scope: str | None = ""


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What the cache keeps of an entry beside the response.

    `fresh_until` is Unix seconds; None: as long as the record lives. `compute_seconds` and
    `cost_micro` (micro-dollars) are what computing it took; 0 means unknown. `scope` names the
    context in which a search by meaning may find it: "" is a prompt alone, None is never.
    """

    fresh_until: float | None = None
    compute_seconds: float = 0.0
    cost_micro: int = 0
    tags: tuple[str, ...] = ()
    scope: str | None = ""


class Stored(NamedTuple):
    """A decoded entry."""

    response: CachedResponse
    facts: Facts


NO_FACTS = Facts()

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(EntryFields)
_PLAIN = 6  # fields of an entry without metadata and facts
_PLAIN_REST = EntryFields.__struct_defaults__
_FIELDS = set(CachedResponse.model_fields)
# A frozen model has no other way in. The descriptors themselves: looking them up by name costs as much again.
_new: Any = object.__new__
_set_fields: Any = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_set_extra: Any = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private: Any = BaseModel.__dict__["__pydantic_private__"].__set__


def encode_entry(
    key: str, response: CachedResponse, *, keep_key: bool, limit_bytes: int, facts: Facts = NO_FACTS
) -> bytes:
    """Return the value of a record.

    `keep_key` keeps the original key inside, for records whose storage key is a hash.

    Raises:
        InvalidEntry: Larger than `limit_bytes`, not valid Unicode, or metadata that is not JSON.
    """
    fields: tuple[Any, ...] = (
        response.response,
        response.model,
        response.timestamp,
        response.token_count,
        None if response.prompt == key else response.prompt,
        key if keep_key else None,
    )
    if response.metadata or facts is not NO_FACTS:
        fields += (
            encode_metadata(response.metadata) if response.metadata else b"",
            None if facts.fresh_until is None else round(facts.fresh_until * 1_000_000),
            round(facts.compute_seconds * 1000),
            facts.cost_micro,
            facts.tags,
            facts.scope,
        )
    return _encode(fields, limit_bytes)


def encode_fields(fields: EntryFields, *, limit_bytes: int) -> bytes:
    """Return the value of a record with these fields.

    Raises:
        InvalidEntry: Larger than `limit_bytes`, or not valid Unicode.
    """
    values: tuple[Any, ...] = msgspec.structs.astuple(fields)
    # As `encode_entry` writes it.
    return _encode(values[:_PLAIN] if values[_PLAIN:] == _PLAIN_REST else values, limit_bytes)


def decode_fields(value: bytes, *, limit_bytes: int) -> EntryFields:
    """Return what stands in a record's value; the metadata is JSON that can be decoded.

    Raises:
        CorruptRecord: The bytes are no entry, or would grow over `limit_bytes`.
    """
    entry = _decode(value, limit_bytes)
    if entry.metadata:
        _decode_json(entry.metadata)
    moment = entry.timestamp
    return entry if moment.__class__ is datetime else msgspec.structs.replace(entry, timestamp=_first_moment(moment))


def _encode(fields: tuple[Any, ...], limit_bytes: int) -> bytes:
    try:
        encoded = _encoder.encode(fields)
    except UnicodeEncodeError as exc:
        raise InvalidEntry(f"the entry holds text that is not valid Unicode: {exc.reason}") from None
    except OverflowError:
        raise InvalidEntry(f"token_count {fields[3]} does not fit into 64 bits") from None
    if len(encoded) > limit_bytes:
        raise EntryTooLarge(
            f"the entry has {len(encoded):,} bytes, the limit is {limit_bytes:,}; raise max_entry_bytes to store it"
        )
    if len(encoded) < COMPRESS_FROM_BYTES:
        return encoded
    return _ZSTD + zstandard.ZstdCompressor(level=1).compress(encoded)


def decode_stored(key: str, value: bytes, *, limit_bytes: int) -> Stored:
    """Return response and facts of a record's value.

    Raises:
        CorruptRecord: The bytes are no entry, would grow over `limit_bytes`, or belong to another key.
    """
    entry = _decode(value, limit_bytes)
    if entry.key is not None and entry.key != key:
        raise CorruptRecord("the record belongs to another key")
    facts = Facts(
        fresh_until=None if entry.fresh_until_us is None else entry.fresh_until_us / 1_000_000,
        compute_seconds=entry.compute_ms / 1000,
        cost_micro=entry.cost_micro,
        tags=entry.tags,
        scope=entry.scope,
    )
    return Stored(_to_response(entry, key), facts)


def decode_fresh(key: str, value: bytes, *, limit_bytes: int, now: Clock) -> tuple[CachedResponse, int] | None:
    """Return the response of a record's value and its cost, or None when it is kept for bad times only.

    The cost is in micro-dollars, 0 when it is unknown.

    Raises:
        CorruptRecord: As `decode_stored`.
    """
    entry = _decode(value, limit_bytes)
    if entry.key is not None and entry.key != key:
        raise CorruptRecord("the record belongs to another key")
    if entry.fresh_until_us is not None and entry.fresh_until_us <= now() * 1_000_000:
        return None
    return _to_response(entry, key), entry.cost_micro


def decode_unknown(value: bytes, *, limit_bytes: int) -> tuple[str, CachedResponse]:
    """Return the original key and the response of a record that was stored with `keep_key`.

    Raises:
        CorruptRecord: The bytes are no entry, or hold no key.
    """
    entry = _decode(value, limit_bytes)
    if entry.key is None:
        raise CorruptRecord("the record does not say its key")
    return entry.key, _to_response(entry, entry.key)


def _decode(value: bytes, limit_bytes: int) -> EntryFields:
    form = value[:1]
    try:
        if form == _ZSTD:
            return _decoder.decode(_decompress(memoryview(value)[1:], limit_bytes))
        return _decoder.decode(value if form != _FIRST else memoryview(value)[1:])
    except (msgspec.DecodeError, zstandard.ZstdError, UnicodeDecodeError, RecursionError) as exc:
        raise CorruptRecord(f"the entry cannot be decoded: {exc}") from exc


def _decompress(data: memoryview, limit_bytes: int) -> bytes:
    # Asked first, because a small frame can declare any size and the memory is taken before reading.
    size = zstandard.frame_content_size(data)
    if not 0 <= size <= limit_bytes:
        raise CorruptRecord(f"the compressed entry declares {size:,} bytes, the limit is {limit_bytes:,}")
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)


def _to_response(entry: EntryFields, key: str) -> CachedResponse:
    # Trusted: it was validated when it was stored and its checksum held. Validation would cost
    # more than the whole lookup, and so would pydantic's own way around it.
    found: CachedResponse = _new(CachedResponse)
    fields = found.__dict__
    fields["prompt"] = key if entry.prompt is None else entry.prompt
    fields["response"] = entry.response
    fields["model"] = entry.model
    moment = entry.timestamp
    fields["timestamp"] = moment if moment.__class__ is datetime else _first_moment(moment)
    fields["token_count"] = entry.token_count
    fields["metadata"] = _decode_json(entry.metadata) if entry.metadata else {}
    _set_fields(found, _FIELDS)
    _set_extra(found, None)
    _set_private(found, None)
    return found


def _first_moment(microseconds: Any) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError as exc:
        raise CorruptRecord(f"the entry is dated {microseconds} microseconds from 1970") from exc


def encode_metadata(value: object) -> bytes:
    """Return metadata as it stands in a record.

    Raises:
        InvalidEntry: It is not JSON.
    """
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidEntry(f"metadata must be JSON: {exc}") from None


def _decode_json(data: bytes) -> dict[str, JsonValue]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise CorruptRecord(f"the metadata cannot be decoded: {exc}") from exc
    if not isinstance(found, dict):
        raise CorruptRecord("the metadata is no object")
    return found
